/*
 * A vDSO in miniature: the structs of a stock kernel's vvar and just enough code to read each of them. The compiler's
 * own debug information is the struct layout; macros move everything that a page layout states, so that a test can
 * build an image that contradicts what it claims to be.
 */
typedef unsigned char u8;
typedef unsigned int u32;
typedef int s32;
typedef unsigned long long u64;

enum vdso_clock_mode {
    VDSO_CLOCKMODE_NONE, VDSO_CLOCKMODE_TSC, VDSO_CLOCKMODE_PVCLOCK, VDSO_CLOCKMODE_HVCLOCK,
    VDSO_CLOCKMODE_TIMENS = 0x7fffffff,
};
struct vdso_timestamp { u64 sec, nsec; };
struct timens_offset { long long sec; u64 nsec; };
#define CLOCK_FIELDS                                                                                                   \
    u32 seq; s32 clock_mode; u64 cycle_last; u64 mask; u32 mult, shift;                                                \
    union { struct vdso_timestamp basetime[12]; struct timens_offset offset[12]; };
#ifdef PADDED
#define PADDING u64 padding;
#else
#define PADDING
#endif
struct vdso_rng_data { u64 generation; u8 is_ready; };
struct pvclock_vcpu_time_info {
    u32 version, pad0; u64 tsc_timestamp, system_time; u32 tsc_to_system_mul; signed char tsc_shift; u8 flags, pad[2];
};
struct pvclock_vsyscall_time_info { struct pvclock_vcpu_time_info pvti; } __attribute__((aligned(64)));
struct ms_hyperv_tsc_page { u32 tsc_sequence, reserved1; u64 tsc_scale, tsc_offset; };

#ifdef GENERIC_STORE
struct vdso_clock { CLOCK_FIELDS PADDING };
struct vdso_time_data {
    struct vdso_clock clock_data[2], aux_clock_data[8];
    s32 tz_minuteswest, tz_dsttime;
    u32 hrtimer_res;
};
#ifndef UNSTATED
enum vdso_pages { VDSO_TIME_PAGE_OFFSET, VDSO_TIMENS_PAGE_OFFSET, VDSO_RNG_PAGE_OFFSET, VDSO_NR_PAGES = 4 };
#endif
#define CLOCKS(page) AT(struct vdso_time_data, page)->clock_data
#define GLOBALS(page) AT(struct vdso_time_data, page)
#else
struct vdso_data { CLOCK_FIELDS s32 tz_minuteswest, tz_dsttime; u32 hrtimer_res; PADDING };
#define vdso_clock vdso_data
#define CLOCKS(page) AT(struct vdso_data, page)
#define GLOBALS(page) AT(struct vdso_data, page)
#endif

extern const char __ehdr_start[] __attribute__((visibility("hidden")));
#define AT(type, address) ((const volatile type *)(__ehdr_start + (address)))
#define TIME (TIME_PAGE + DATA)
#define TIMENS (TIMENS_PAGE + DATA)
#define PVCLOCK AT(struct pvclock_vsyscall_time_info, PVCLOCK_PAGE)
#define HVCLOCK AT(struct ms_hyperv_tsc_page, HVCLOCK_PAGE)

static inline __attribute__((always_inline))
u64 read_clock(const volatile struct vdso_clock *vd, int clock, u64 *result) {
    u64 cycles;
    u32 seq;
    do {
        seq = vd->seq;
        switch (vd->clock_mode) {
        case VDSO_CLOCKMODE_TSC: cycles = __builtin_ia32_rdtsc(); break;
        case VDSO_CLOCKMODE_PVCLOCK:
            cycles = PVCLOCK->pvti.version + PVCLOCK->pvti.tsc_timestamp + PVCLOCK->pvti.tsc_to_system_mul;
            cycles <<= PVCLOCK->pvti.tsc_shift & PVCLOCK->pvti.flags;
            break;
        case VDSO_CLOCKMODE_HVCLOCK: cycles = HVCLOCK->tsc_sequence + HVCLOCK->tsc_scale; break;
        default: return -1;
        }
        cycles = ((cycles - vd->cycle_last) & vd->mask) * vd->mult >> vd->shift;
        result[0] = vd->basetime[clock].sec;
        result[1] = vd->basetime[clock].nsec + cycles;
    } while (vd->seq != seq);
    return 0;
}

/* One copy for each clock, so that its address is a constant: a computed one would be no evidence. */
u64 __vdso_clock_gettime(int clock, u64 *result) {
    return clock == 4 ? read_clock(&CLOCKS(TIME)[1], clock, result) : read_clock(&CLOCKS(TIME)[0], clock, result);
}

u64 __vdso_time(void) {
    const volatile struct vdso_clock *vd = CLOCKS(TIME);
#ifdef TIMENS_PAGE
    /* As in a kernel, a plain access: compilers fold it into the comparison. */
    if (((const struct vdso_clock *)CLOCKS(TIME))->clock_mode == VDSO_CLOCKMODE_TIMENS)
        return vd->basetime[0].sec + CLOCKS(TIMENS)->offset[0].sec;
#endif
    return vd->basetime[0].sec;
}

u32 __vdso_clock_getres(void) { return GLOBALS(TIME)->hrtimer_res; }

u64 __vdso_getrandom(void) {
    const volatile struct vdso_rng_data *rng = AT(struct vdso_rng_data, RNG);
    return rng->is_ready ? rng->generation : 0;
}
