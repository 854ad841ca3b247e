//! Every image on its own kernel, emulated: pages in its home layout, filled by hand, so that the right answer is
//! known.
//!
//! A nanosecond is a cycle here (`mult >> shift` is 1), which makes the time-stamp counter of this processor the
//! oracle: what a clock reads lies between two readings of the counter. What an image asks the kernel is compared with
//! it.
//!
//! The functions run in three variants: as linked, and with the alternatives of processors old and new.

#![cfg(target_arch = "x86_64")]

mod pretend_kernel;

use std::arch::x86_64::{__cpuid, _rdtsc};
use std::thread;
use std::time::Duration;

use elf_tools::image::Image;
use elf_tools::image::alternatives::{self, feature};
use kernel_fixtures::fixture;
use nix::libc;

use pretend_kernel::{Kernel, Timespec};

const NONE: u32 = 0;
const TSC: u32 = 1;
const REDIRECTED: u32 = 0x7fff_ffff;

const REALTIME: i32 = 0;
const RAW: i32 = 4;
const HIGH_RESOLUTION: [i32; 5] = [REALTIME, 1, RAW, 7, 11];
const COARSE: [i32; 2] = [5, 6];

const BILLION: i64 = 1_000_000_000;
const SHIFT: u32 = 8;
const BASE_NSEC: u64 = 999_999_000; /* so that nanoseconds are carried soon */

/// The cycle counter, in order with what precedes it.
fn cycles() -> u64 {
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    // SAFETY: every x86-64 processor counts.
    unsafe { _rdtsc() }
}

/// Runs a test on every kernel, with every set of alternatives that this processor can run.
fn on_every_kernel(test: impl Fn(&Kernel)) {
    let rdtscp = __cpuid(0x8000_0001).edx & (1 << 27) != 0;
    let rdpid = __cpuid(7).ecx & (1 << 22) != 0;
    for fixture in fixture::all() {
        let alternatives = |image: &Image| alternatives::read(image).expect(fixture.name);
        test(&Kernel::boot(fixture, |image| image.bytes().to_vec()));
        test(&Kernel::boot(fixture, |image| {
            alternatives::apply(image, &alternatives(image), |wanted| {
                wanted == feature::LFENCE_RDTSC
            })
        }));
        test(&Kernel::boot(fixture, |image| {
            alternatives::apply(image, &alternatives(image), |wanted| match wanted {
                feature::RDTSCP => rdtscp,
                feature::RDPID => rdpid,
                _ => true,
            })
        }));
    }
}

/// Seconds of a clock's base: each has its own.
fn base_sec(id: i32) -> i64 {
    1_000_000 * (i64::from(id) + 1)
}

/// Which of the two clocks an id is read from.
fn clock_of(id: i32) -> u64 {
    u64::from(id == RAW)
}

/// Fills the clocks of a page (`time` or `timens`), `cycle_last` being now.
fn fill(kernel: &Kernel, page: &str) -> u64 {
    let now = cycles();
    for clock in [0, 1] {
        let field = |name: &str| format!("{page}.clock[].{name}");
        kernel.set32(&field("seq"), &[clock], 2);
        kernel.set32(&field("clock_mode"), &[clock], TSC);
        kernel.set64(&field("cycle_last"), &[clock], now);
        kernel.set64(&field("mask"), &[clock], u64::MAX);
        kernel.set32(&field("mult"), &[clock], 1 << SHIFT);
        kernel.set32(&field("shift"), &[clock], SHIFT);
        if kernel.has("time.clock[].max_cycles") {
            kernel.set64(&field("max_cycles"), &[clock], u64::MAX >> SHIFT >> 1);
        }
    }
    for id in 0..12 {
        let coarse = COARSE.contains(&id);
        let unshifted = coarse
            || kernel
                .symtab
                .get("time.clock[].basetime[].nsec")
                .is_some_and(|s| s.version == 2);
        let nsec = if unshifted {
            BASE_NSEC
        } else {
            BASE_NSEC << SHIFT
        };
        let indices = [clock_of(id), id as u64];
        kernel.set64(
            &format!("{page}.clock[].basetime[].sec"),
            &indices,
            base_sec(id) as u64,
        );
        kernel.set64(&format!("{page}.clock[].basetime[].nsec"), &indices, nsec);
    }
    kernel.set32(&format!("{page}.hrtimer_res"), &[], 7);
    kernel.set32(&format!("{page}.tz_minuteswest"), &[], -60i32 as u32);
    kernel.set32(&format!("{page}.tz_dsttime"), &[], 3);
    now
}

/// Nanoseconds since a clock's base, which has to be the clock's only news.
fn since_base(kernel: &Kernel, id: i32) -> i64 {
    let (status, time) = kernel.clock_gettime(id);
    assert_eq!(status, 0, "{}: clock {id}", kernel.name);
    assert!(
        (0..BILLION).contains(&time.nsec),
        "{}: clock {id}: {time:?}",
        kernel.name
    );
    (time.sec - base_sec(id)) * BILLION + time.nsec - BASE_NSEC as i64
}

/// Reads a clock between two readings of the counter.
fn check_running(kernel: &Kernel, id: i32, last: u64, offset: i64) {
    let before = cycles() - last;
    let between = since_base(kernel, id) - offset;
    let after = cycles() - last;
    let range = before as i64 - 1..=after as i64 + 1;
    assert!(
        range.contains(&between),
        "{}: clock {id}: {between} is not in {range:?}",
        kernel.name
    );
}

#[test]
fn clocks_follow_the_cycle_counter() {
    on_every_kernel(|kernel| {
        let last = fill(kernel, "time");
        for id in HIGH_RESOLUTION {
            for _ in 0..100 {
                check_running(kernel, id, last, 0);
            }
        }
        for id in COARSE {
            assert_eq!(
                since_base(kernel, id),
                0,
                "{}: clock {id} reads no counter",
                kernel.name
            );
        }
    });
}

#[test]
fn a_counter_behind_the_last_update_does_not_turn_time_back() {
    on_every_kernel(|kernel| {
        let now = fill(kernel, "time");
        for clock in [0, 1] {
            kernel.set64("time.clock[].cycle_last", &[clock], now + (1 << 40));
        }
        for id in HIGH_RESOLUTION {
            assert_eq!(since_base(kernel, id), 0, "{}: clock {id}", kernel.name);
        }
    });
}

#[test]
fn products_beyond_64_bits_are_right() {
    on_every_kernel(|kernel| {
        // 2^45 cycles times 2^30; a machine that was just started has counted fewer, and its counter is "behind".
        let last = fill(kernel, "time").saturating_sub(1 << 45);
        for clock in [0, 1] {
            kernel.set64("time.clock[].cycle_last", &[clock], last);
            kernel.set32("time.clock[].mult", &[clock], 1 << 30);
            kernel.set32("time.clock[].shift", &[clock], 30);
            if kernel.has("time.clock[].max_cycles") {
                kernel.set64("time.clock[].max_cycles", &[clock], 1 << 33);
            }
        }
        let shifted = kernel
            .symtab
            .get("time.clock[].basetime[].nsec")
            .is_some_and(|s| s.version == 1);
        for id in HIGH_RESOLUTION.into_iter().filter(|_| shifted) {
            kernel.set64(
                "time.clock[].basetime[].nsec",
                &[clock_of(id), id as u64],
                BASE_NSEC << 30,
            );
        }
        for id in HIGH_RESOLUTION {
            check_running(kernel, id, last, 0);
        }
    });
}

#[test]
fn a_time_namespace_adds_its_offsets() {
    on_every_kernel(|kernel| {
        let last = fill(kernel, "timens");
        // The page at the time page's place: an odd sequence for ever, the mode that says so, and offsets.
        for clock in [0, 1] {
            kernel.set32("time.clock[].seq", &[clock], 1);
            kernel.set32("time.clock[].clock_mode", &[clock], REDIRECTED);
        }
        let offset = |id: i32| {
            if [0, 5, 11].contains(&id) {
                (0, 0)
            } else {
                (-5 - i64::from(id), 700_000_000)
            }
        };
        for id in 0..12 {
            let indices = [clock_of(id), id as u64];
            kernel.set64("time.clock[].offset[].sec", &indices, offset(id).0 as u64);
            kernel.set64("time.clock[].offset[].nsec", &indices, offset(id).1 as u64);
        }
        for id in HIGH_RESOLUTION {
            check_running(kernel, id, last, offset(id).0 * BILLION + offset(id).1);
        }
        for id in COARSE {
            assert_eq!(
                since_base(kernel, id),
                offset(id).0 * BILLION + offset(id).1,
                "{}: {id}",
                kernel.name
            );
        }
        check_wall_clock(kernel, last);
    });
}

/// What has no offset in a time namespace: time zone, resolution, seconds.
fn check_wall_clock(kernel: &Kernel, last: u64) {
    let (mut time, mut zone, mut resolution, mut seconds) =
        ([0; 2], [0; 2], Timespec::default(), 0);
    let before = cycles() - last;
    assert_eq!(kernel.gettimeofday(Some(&mut time), Some(&mut zone)), 0);
    let after = cycles() - last;
    let microseconds = (time[0] - base_sec(REALTIME)) * 1_000_000 + time[1];
    let range = (BASE_NSEC + before) as i64 / 1000..=(BASE_NSEC + after) as i64 / 1000;
    assert!(
        range.contains(&microseconds),
        "{}: {microseconds} is not in {range:?}",
        kernel.name
    );
    assert_eq!(zone, [-60, 3], "{}", kernel.name);
    assert_eq!(kernel.gettimeofday(None, None), 0);
    assert_eq!(
        kernel.time(Some(&mut seconds)),
        base_sec(REALTIME),
        "{}",
        kernel.name
    );
    assert_eq!(seconds, base_sec(REALTIME), "{}", kernel.name);
    assert_eq!(kernel.time(None), base_sec(REALTIME), "{}", kernel.name);
    for id in HIGH_RESOLUTION {
        assert_eq!(kernel.clock_getres(id, Some(&mut resolution)), 0);
        assert_eq!(
            resolution,
            Timespec { sec: 0, nsec: 7 },
            "{}: clock {id}",
            kernel.name
        );
        assert_eq!(kernel.clock_getres(id, None), 0);
    }
}

#[test]
fn wall_clock_time_zone_and_resolution_are_read() {
    on_every_kernel(|kernel| check_wall_clock(kernel, fill(kernel, "time")));
}

/// A system call about a clock, made without the C library, which would use this kernel's vDSO.
fn ask(number: libc::c_long, id: i32) -> (i32, Timespec) {
    let mut result = Timespec::default();
    // SAFETY: both system calls write one `struct timespec`.
    let status = unsafe { libc::syscall(number, id, &raw mut result) };
    (
        if status == 0 {
            0
        } else {
            -(nix::errno::Errno::last_raw())
        },
        result,
    )
}

/// The system call's answer. Its clocks are those of this machine, far from the ones of the page.
fn system_time(id: i32) -> Timespec {
    let (status, time) = ask(libc::SYS_clock_gettime, id);
    assert_eq!(status, 0, "clock {id}");
    time
}

#[test]
fn the_kernel_is_asked_for_what_vvar_does_not_have() {
    // CPU time of the process, the thread, and the process again by its number.
    const CPU_CLOCKS: [i32; 3] = [2, 3, -6];
    on_every_kernel(|kernel| {
        fill(kernel, "time");
        for id in CPU_CLOCKS {
            let before = system_time(id);
            let (status, time) = kernel.clock_gettime(id);
            assert_eq!(status, 0);
            assert!(
                before <= time && time <= system_time(id),
                "{}: clock {id}: {time:?}",
                kernel.name
            );
        }
        // No such clock, on most kernels: raw results of a system call, not -1 and errno.
        for id in [
            8,
            9,
            10,
            12,
            15,
            16,
            23,
            31,
            32,
            33,
            1000,
            i32::MAX,
            i32::MIN,
        ] {
            let expected = ask(libc::SYS_clock_gettime, id).0;
            assert_eq!(
                kernel.clock_gettime(id).0,
                expected,
                "{}: clock {id}",
                kernel.name
            );
            let expected = ask(libc::SYS_clock_getres, id).0;
            assert_eq!(
                kernel.clock_getres(id, None),
                expected,
                "{}: clock {id}",
                kernel.name
            );
        }
        // The length of a tick is not in vvar.
        for id in COARSE {
            let mut resolution = Timespec::default();
            assert_eq!(kernel.clock_getres(id, Some(&mut resolution)), 0);
            assert_eq!(
                resolution,
                ask(libc::SYS_clock_getres, id).1,
                "{}: clock {id}",
                kernel.name
            );
        }
        // Another clock source.
        for clock in [0, 1] {
            kernel.set32("time.clock[].clock_mode", &[clock], NONE);
        }
        for id in HIGH_RESOLUTION {
            let before = system_time(id);
            let (status, time) = kernel.clock_gettime(id);
            assert_eq!(status, 0);
            assert!(
                before <= time && time <= system_time(id),
                "{}: clock {id}: {time:?}",
                kernel.name
            );
        }
        let mut time = [0; 2];
        let before = system_time(REALTIME);
        assert_eq!(kernel.gettimeofday(Some(&mut time), None), 0);
        assert!(
            (before.sec..=system_time(REALTIME).sec).contains(&time[0]),
            "{}: {time:?}",
            kernel.name
        );
        for id in COARSE {
            assert_eq!(
                since_base(kernel, id),
                0,
                "{}: clock {id} needs no counter",
                kernel.name
            );
        }
    });
}

#[test]
fn readers_wait_for_the_writer() {
    on_every_kernel(|kernel| {
        let last = fill(kernel, "time");
        kernel.set32("time.clock[].seq", &[0], 3);
        kernel.set64("time.clock[].basetime[].sec", &[0, 1], 0);
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(2));
                kernel.set64("time.clock[].basetime[].sec", &[0, 1], base_sec(1) as u64);
                kernel.set32("time.clock[].seq", &[0], 4);
            });
            let between = since_base(kernel, 1);
            assert!(
                (0..=(cycles() - last) as i64).contains(&between),
                "{}: {between}",
                kernel.name
            );
        });
    });
}

#[test]
fn a_leap_second_is_smeared_where_the_kernel_does() {
    on_every_kernel(|kernel| {
        if !kernel.has("time.clock[].leap_smear") {
            return;
        }
        let last = fill(kernel, "time");
        for smear in [-999_999_999, -1, 0, 1, 999_999_999] {
            kernel.set64("time.clock[].leap_smear", &[0], smear as u64);
            check_running(kernel, REALTIME, last, smear);
            assert_eq!(since_base(kernel, 5), smear, "{}", kernel.name);
            check_running(kernel, 1, last, 0);
            assert_eq!(since_base(kernel, 6), 0, "{}", kernel.name);
        }
    });
}

#[test]
fn the_processor_is_one_that_exists() {
    on_every_kernel(|kernel| {
        let (mut cpu, mut node) = (u32::MAX, u32::MAX);
        assert_eq!(kernel.getcpu(Some(&mut cpu), Some(&mut node)), 0);
        let affinity = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).unwrap();
        assert!(
            affinity.is_set(cpu as usize).unwrap(),
            "{}: processor {cpu}",
            kernel.name
        );
        assert!(node < 1024, "{}: node {node}", kernel.name);
        assert_eq!(kernel.getcpu(None, None), 0);
    });
}
