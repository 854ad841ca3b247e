//! Every image on its own kernel, emulated: pages in its home layout, filled by hand, so that the
//! right answer is known.
//!
//! A nanosecond is a cycle here (`mult >> shift` is 1), which makes the time-stamp counter of this
//! processor the oracle: what a clock reads lies between two readings of the counter. What an image
//! asks the kernel is compared with it.
//!
//! The functions run in three variants: as linked, and with the alternatives of processors old and
//! new.

use std::arch::x86_64::__cpuid;
use std::cell::Cell;
use std::thread;
use std::time::Duration;

use elf_tools::image::Image;
use elf_tools::image::alternatives::{self, feature};
use kernel_fixtures::fixture;
use nix::libc;

use crate::pretend_kernel::clocks::{
    BASE_NSEC, COARSE, HIGH_RESOLUTION, REALTIME, base_sec, check_running, check_wall_clock,
    clock_of, cycles, fill, offset, redirect, since_base,
};
use crate::pretend_kernel::{Kernel, Timespec};

const NONE: u32 = 0;

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

pub(crate) fn clocks_follow_the_cycle_counter() {
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

pub(crate) fn a_counter_behind_the_last_update_does_not_turn_time_back() {
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

pub(crate) fn products_beyond_64_bits_are_right() {
    on_every_kernel(|kernel| {
        // 2^45 cycles times 2^30; a machine that was just started has counted fewer, and its
        // counter is "behind".
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

pub(crate) fn a_time_namespace_adds_its_offsets() {
    on_every_kernel(|kernel| {
        let last = fill(kernel, "timens");
        redirect(kernel);
        for id in HIGH_RESOLUTION {
            check_running(kernel, id, last, offset(id));
        }
        for id in COARSE {
            assert_eq!(since_base(kernel, id), offset(id), "{}: {id}", kernel.name);
        }
        check_wall_clock(kernel, last);
    });
}

pub(crate) fn wall_clock_time_zone_and_resolution_are_read() {
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

pub(crate) fn the_kernel_is_asked_for_what_vvar_does_not_have() {
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

pub(crate) fn readers_wait_for_the_writer() {
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

pub(crate) fn a_leap_second_is_smeared_where_the_kernel_does() {
    let smearing = Cell::new(0);
    on_every_kernel(|kernel| {
        if !kernel.has("time.clock[].leap_smear") {
            return;
        }
        smearing.set(smearing.get() + 1);
        let last = fill(kernel, "time");
        for smear in [-999_999_999, -1, 0, 1, 999_999_999] {
            kernel.set64("time.clock[].leap_smear", &[0], smear as u64);
            check_running(kernel, REALTIME, last, smear);
            assert_eq!(since_base(kernel, 5), smear, "{}", kernel.name);
            check_running(kernel, 1, last, 0);
            assert_eq!(since_base(kernel, 6), 0, "{}", kernel.name);
        }
    });
    assert_ne!(smearing.get(), 0, "no kernel smears a leap second");
}

pub(crate) fn the_processor_is_one_that_exists() {
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
