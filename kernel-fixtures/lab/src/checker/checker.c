/*
 * The checker: 16 threads that call every function of the vDSO as programs do, through the C
 * library, and hold each value against system calls that they make themselves.
 *
 *     checker PAGE...
 *
 * For each further page there is a child that does the same. A page is a file that the checker
 * shares with the lab (struct page; mod.rs has the same layout). It is counted there how often each
 * function was called, how often an answer was wrong, and how far each thread has come, so that a
 * thread that stands still shows.
 *
 * A spinning thread makes a burst of calls between two system calls. No value may be earlier than
 * the one before it, the first not earlier than the system call before the burst, the last not
 * later than the one behind it. So each value lies between two system calls, and the thread is
 * inside of the vDSO most of its time: that is where a checkpoint is to find it.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum function {
	MONOTONIC, REALTIME, MONOTONIC_COARSE, REALTIME_COARSE, MONOTONIC_RAW, BOOTTIME, TAI,
	GETTIMEOFDAY, TIME, GETRES, GETCPU, GETRANDOM, FUNCTIONS
};

enum { THREADS = 16, BURST = 64, RANDOM = 64, MESSAGES = 56, MESSAGE = 128, MAGIC = 0x6b636568636c6162 };

struct page {
	_Atomic uint64_t magic;              /* set when all threads have begun */
	_Atomic uint64_t begun;
	_Atomic uint64_t epoch;              /* set by the watcher: one more with each restore */
	_Atomic uint64_t ticks;
	_Atomic uint64_t handled;            /* signals */
	_Atomic uint64_t messages;
	_Atomic uint64_t randoms;            /* of this epoch */
	_Atomic uint64_t workers;            /* that are counted in `progress` */
	_Atomic uint64_t calls[FUNCTIONS];
	_Atomic uint64_t wrong[FUNCTIONS];
	_Atomic uint64_t progress[THREADS];
	_Atomic uint64_t random[RANDOM];     /* the first ones of this epoch */
	char padding[128];
	char message[MESSAGES][MESSAGE];
};
_Static_assert(sizeof(struct page) == 8192, "as mod.rs has it");

static struct page *page;
static int pipe_ends[2];

typedef struct timespec instant;

static const struct clock {
	enum function function;
	clockid_t id;
	/* The kernel tells the vDSO of a tick an instant before its own system calls know of it, so a
	 * coarse clock's upper bound is the clock that does not wait for ticks. */
	clockid_t bound;
} clocks[] = {
	{MONOTONIC, CLOCK_MONOTONIC, CLOCK_MONOTONIC},
	{REALTIME, CLOCK_REALTIME, CLOCK_REALTIME},
	{MONOTONIC_COARSE, CLOCK_MONOTONIC_COARSE, CLOCK_MONOTONIC},
	{REALTIME_COARSE, CLOCK_REALTIME_COARSE, CLOCK_REALTIME},
	{MONOTONIC_RAW, CLOCK_MONOTONIC_RAW, CLOCK_MONOTONIC_RAW},
	{BOOTTIME, CLOCK_BOOTTIME, CLOCK_BOOTTIME},
	{TAI, CLOCK_TAI, CLOCK_TAI},
};
enum { CLOCKS = sizeof clocks / sizeof *clocks };

/* ---- system calls by their instruction: the C library has no part in them */

static long call(long number, long a, long b, long c)
{
	long result;
	__asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
	return result;
}

static instant kernel_time(clockid_t id)
{
	instant now = {0, 0};
	call(SYS_clock_gettime, id, (long)&now, 0);
	return now;
}

static instant kernel_resolution(clockid_t id)
{
	instant resolution = {0, 0};
	call(SYS_clock_getres, id, (long)&resolution, 0);
	return resolution;
}

static instant kernel_day(void)
{
	struct timeval now = {0, 0};
	call(SYS_gettimeofday, (long)&now, 0, 0);
	return (instant){now.tv_sec, now.tv_usec};
}

/* ---- counting */

static int earlier(instant a, instant b)
{
	return a.tv_sec < b.tv_sec || (a.tv_sec == b.tv_sec && a.tv_nsec < b.tv_nsec);
}

static void called(enum function function, uint64_t calls)
{
	atomic_fetch_add(&page->calls[function], calls);
}

static void wrong(enum function function, const char *format, ...)
{
	atomic_fetch_add(&page->wrong[function], 1);
	uint64_t place = atomic_fetch_add(&page->messages, 1);
	if (place >= MESSAGES)
		return;
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(page->message[place], MESSAGE, format, arguments);
	va_end(arguments);
}

static void wrong_time(enum function function, const char *what, int code, instant found, instant low, instant high)
{
	wrong(function, "%s %d: %ld.%09ld between %ld.%09ld and %ld.%09ld", what, code, (long)found.tv_sec,
	      found.tv_nsec, (long)low.tv_sec, low.tv_nsec, (long)high.tv_sec, high.tv_nsec);
}

/* ---- the vDSO's functions by their own addresses, as runtimes without a C library call them */

static int (*direct_gettime)(clockid_t, instant *);
static int (*direct_getres)(clockid_t, instant *);
static long (*direct_getcpu)(unsigned *, unsigned *, void *);

static void *find(const char *name)
{
	uintptr_t base = getauxval(AT_SYSINFO_EHDR), bias = 0;
	if (!base)
		return NULL;
	const ElfW(Ehdr) *header = (const void *)base;
	const ElfW(Phdr) *segment = (const void *)(base + header->e_phoff);
	const ElfW(Dyn) *dynamic = NULL;
	for (int i = 0; i < header->e_phnum; i++) {
		if (segment[i].p_type == PT_LOAD)
			bias = base - segment[i].p_vaddr;
		if (segment[i].p_type == PT_DYNAMIC)
			dynamic = (const void *)(base + segment[i].p_offset);
	}
	const ElfW(Sym) *symbols = NULL;
	const char *strings = NULL;
	for (; dynamic && dynamic->d_tag; dynamic++) {
		if (dynamic->d_tag == DT_SYMTAB)
			symbols = (const void *)(bias + dynamic->d_un.d_ptr);
		if (dynamic->d_tag == DT_STRTAB)
			strings = (const void *)(bias + dynamic->d_un.d_ptr);
	}
	/* The names follow the symbols in every vDSO there is. */
	for (const ElfW(Sym) *symbol = symbols; symbol && (const char *)(symbol + 1) <= strings; symbol++)
		if (!strcmp(strings + symbol->st_name, name))
			return (void *)(bias + symbol->st_value);
	return NULL;
}

/* ---- checks of one call */

static void check_clock(const struct clock *clock, int (*function)(clockid_t, instant *), const char *how)
{
	instant before = kernel_time(clock->id), found = {-1, -1};
	int code = function(clock->id, &found);
	instant after = kernel_time(clock->bound);
	called(clock->function, 1);
	if (code || earlier(found, before) || earlier(after, found) || found.tv_nsec > 999999999)
		wrong_time(clock->function, how, code, found, before, after);
}

static void check_resolution(clockid_t id, int (*function)(clockid_t, instant *), const char *how)
{
	instant found = {-1, -1}, expected = kernel_resolution(id);
	int code = function(id, &found);
	called(GETRES, 1);
	if (code || found.tv_sec != expected.tv_sec || found.tv_nsec != expected.tv_nsec)
		wrong_time(GETRES, how, code, found, expected, expected);
}

static void check_day(void)
{
	instant before = kernel_day();
	struct timeval found = {-1, -1};
	int code = gettimeofday(&found, NULL);
	instant after = kernel_day(), day = {found.tv_sec, found.tv_usec};
	called(GETTIMEOFDAY, 1);
	if (code || earlier(day, before) || earlier(after, day))
		wrong_time(GETTIMEOFDAY, "gettimeofday", code, day, before, after);
}

static void check_cpu(long (*function)(unsigned *, unsigned *, void *))
{
	unsigned before[2] = {70, 70}, found[2] = {80, 80}, after[2] = {90, 90};
	call(SYS_getcpu, (long)&before[0], (long)&before[1], 0);
	long code = function(&found[0], &found[1], NULL);
	call(SYS_getcpu, (long)&after[0], (long)&after[1], 0);
	called(GETCPU, 1);
	/* The thread may have moved in between. */
	if (before[0] == after[0] && (code || found[0] != before[0] || found[1] != before[1]))
		wrong(GETCPU, "getcpu %ld: %u/%u instead of %u/%u", code, found[0], found[1], before[0], before[1]);
}

static long library_getcpu(unsigned *cpu, unsigned *node, void *unused)
{
	(void)unused;
	extern int getcpu(unsigned *, unsigned *) __attribute__((weak));
	return getcpu ? getcpu(cpu, node) : call(SYS_getcpu, (long)cpu, (long)node, 0);
}

static void check_all(void)
{
	for (int i = 0; i < CLOCKS; i++) {
		check_clock(&clocks[i], clock_gettime, "libc's clock");
		check_resolution(clocks[i].id, clock_getres, "libc's resolution");
		if (direct_gettime)
			check_clock(&clocks[i], direct_gettime, "the vDSO's clock");
		if (direct_getres)
			check_resolution(clocks[i].id, direct_getres, "the vDSO's resolution");
	}
	check_day();
	check_cpu(library_getcpu);
	if (direct_getcpu)
		check_cpu(direct_getcpu);
	instant found = {-1, -1};
	int code = clock_gettime(9999, &found);
	called(MONOTONIC, 1);
	if (code != -1 || errno != EINVAL)
		wrong(MONOTONIC, "clock 9999: %d, errno %d", code, errno);
}

/* ---- threads */

static _Thread_local int self;

static void advance(void)
{
	atomic_fetch_add(&page->progress[self], 1);
}

static void spin_clock_once(const struct clock *clock)
{
	instant first = kernel_time(clock->id), last = first;
	for (int i = 0; i < BURST; i++) {
		instant found = {-1, -1};
		int code = clock_gettime(clock->id, &found);
		if (code || earlier(found, last) || found.tv_nsec > 999999999)
			wrong_time(clock->function, "spin", code, found, last, last);
		else
			last = found;
	}
	instant after = kernel_time(clock->bound);
	if (earlier(after, last))
		wrong_time(clock->function, "spin ahead", 0, last, first, after);
	called(clock->function, BURST);
}

static void spin_day_once(void)
{
	instant last = kernel_day();
	for (int i = 0; i < BURST; i++) {
		struct timeval now = {-1, -1};
		int code = gettimeofday(&now, NULL);
		instant found = {now.tv_sec, now.tv_usec};
		if (code || earlier(found, last))
			wrong_time(GETTIMEOFDAY, "spin", code, found, last, last);
		else
			last = found;
	}
	instant after = kernel_day();
	if (earlier(after, last))
		wrong_time(GETTIMEOFDAY, "spin ahead", 0, last, last, after);
	called(GETTIMEOFDAY, BURST);
}

static void spin_time_once(void)
{
	long last = call(SYS_time, 0, 0, 0);
	for (int i = 0; i < BURST; i++) {
		long found = time(NULL);
		if (found < last)
			wrong(TIME, "time: %ld after %ld", found, last);
		else
			last = found;
	}
	instant after = kernel_time(CLOCK_REALTIME);
	if (after.tv_sec < last)
		wrong(TIME, "time ahead: %ld, the clock %ld", last, (long)after.tv_sec);
	called(TIME, BURST);
}

static void spin_resolution_once(void)
{
	const clockid_t ids[2] = {CLOCK_MONOTONIC, CLOCK_REALTIME_COARSE};
	instant before[2] = {kernel_resolution(ids[0]), kernel_resolution(ids[1])}, found[BURST];
	int code = 0;
	for (int i = 0; i < BURST; i++) {
		found[i] = (instant){-1, -1};
		code |= clock_getres(ids[i & 1], &found[i]);
	}
	instant after[2] = {kernel_resolution(ids[0]), kernel_resolution(ids[1])};
	for (int i = 0; i < BURST; i++) {
		instant low = before[i & 1], high = after[i & 1];
		int is_old = found[i].tv_sec == low.tv_sec && found[i].tv_nsec == low.tv_nsec;
		int is_new = found[i].tv_sec == high.tv_sec && found[i].tv_nsec == high.tv_nsec;
		if (code || !(is_old || is_new))
			wrong_time(GETRES, "spin", code, found[i], low, high);
	}
	called(GETRES, BURST);
}

static void spin_random_once(void)
{
	static uint64_t last, epoch;
	for (int i = 0; i < BURST; i++) {
		uint64_t found = 0;
		long length = getrandom(&found, sizeof found, 0);
		if (length != sizeof found || found == last || found == 0)
			wrong(GETRANDOM, "getrandom %ld: %lx after %lx", length, (unsigned long)found, (unsigned long)last);
		last = found;
		uint64_t now = atomic_load(&page->epoch);
		if (now != epoch)
			atomic_store(&page->randoms, 0);
		epoch = now;
		uint64_t place = atomic_load(&page->randoms);
		if (place < RANDOM) {
			atomic_store(&page->random[place], found);
			atomic_store(&page->randoms, place + 1);
		}
	}
	called(GETRANDOM, BURST);
}

static void sleep_for(long nanoseconds)
{
	instant duration = {0, nanoseconds};
	nanosleep(&duration, NULL);
}

static void on_timer(int signal)
{
	(void)signal;
	int saved = errno;
	check_clock(&clocks[0], clock_gettime, "in a handler");
	check_clock(&clocks[2], clock_gettime, "in a handler");
	atomic_fetch_add(&page->handled, 1);
	/* The frame below stays interrupted for a while. */
	sleep_for(2000000);
	errno = saved;
}

/* One signal at a time, asked for by the thread itself: one that has to wait for a processor longer
 * than signals take to come would do nothing but handle them. */
static _Thread_local timer_t timer;

static void ask_for_a_signal(void)
{
	struct itimerspec once = {{0, 0}, {0, 3000000}}, left;
	if (timer_gettime(timer, &left) || left.it_value.tv_sec || left.it_value.tv_nsec)
		return;
	if (timer_settime(timer, 0, &once, NULL))
		wrong(MONOTONIC, "no signal, errno %d", errno);
}

static void be_interrupted(int own_stack)
{
	enum { SIZE = 65536 };
	stack_t stack = {.ss_sp = malloc(SIZE), .ss_size = SIZE};
	if (own_stack)
		sigaltstack(&stack, NULL);
	struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = own_stack ? SIGRTMIN + 1 : SIGRTMIN};
#ifdef sigev_notify_thread_id
	event.sigev_notify_thread_id = (int)call(SYS_gettid, 0, 0, 0);
#else
	event._sigev_un._tid = (int)call(SYS_gettid, 0, 0, 0);
#endif
	if (timer_create(CLOCK_MONOTONIC, &event, &timer))
		wrong(MONOTONIC, "no timer, errno %d", errno);
}

static void *run(void *argument)
{
	self = (int)(intptr_t)argument;
	if (self == 14 || self == 15)
		be_interrupted(self == 15);
	atomic_fetch_add(&page->begun, 1);
	for (;;) {
		char byte;
		switch (self) {
		case 1 ... CLOCKS: spin_clock_once(&clocks[self - 1]); break;
		case 8: spin_day_once(); break;
		case 9: spin_time_once(); break;
		case 10: spin_resolution_once(); break;
		case 11: spin_random_once(); break;
		case 12: check_all(); sleep_for(2000000); break;
		case 13: /* idle: most of its time in one system call */
			if (read(pipe_ends[0], &byte, 1) != 1)
				continue;
			break;
		case 14: spin_clock_once(&clocks[0]); ask_for_a_signal(); break;
		case 15: spin_clock_once(&clocks[2]); ask_for_a_signal(); break;
		}
		advance();
	}
	return NULL;
}

int main(int count, char **words)
{
	const char *name = count > 1 ? words[1] : "";
	for (int further = 2; further < count; further++) {
		if (fork() == 0) {
			name = words[further];
			break;
		}
	}
	int file = open(name, O_RDWR);
	page = mmap(NULL, sizeof *page, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	if (file < 0 || page == MAP_FAILED || pipe(pipe_ends)) {
		fprintf(stderr, "checker: no page\n");
		return 2;
	}
	close(file);
	atomic_store(&page->workers, THREADS);
	direct_gettime = find("__vdso_clock_gettime");
	direct_getres = find("__vdso_clock_getres");
	direct_getcpu = find("__vdso_getcpu");
	struct sigaction action = {.sa_handler = on_timer, .sa_flags = SA_RESTART};
	sigaction(SIGRTMIN, &action, NULL);
	action.sa_flags |= SA_ONSTACK;
	sigaction(SIGRTMIN + 1, &action, NULL);
	for (intptr_t thread = 1; thread < THREADS; thread++) {
		pthread_t ignored;
		if (pthread_create(&ignored, NULL, run, (void *)thread)) {
			fprintf(stderr, "checker: no thread\n");
			return 2;
		}
	}
	while (atomic_load(&page->begun) < THREADS - 1)
		sleep_for(1000000);
	atomic_store(&page->magic, MAGIC);
	for (;;) {
		sleep_for(50000000);
		uint64_t tick = atomic_fetch_add(&page->ticks, 1);
		if (tick % 2 == 0 && write(pipe_ends[1], "", 1) != 1)
			wrong(MONOTONIC, "the pipe, errno %d", errno);
		advance();
	}
}
