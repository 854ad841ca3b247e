//! System calls made directly, past libc and so past the vDSO.
//!
//! Results are in the vDSO's own convention, a negative `errno` for a failure, so that both can be
//! compared as they are.

use std::ffi::c_long;
use std::ptr;

use nix::libc;

use super::entry::{RandomBuffer, Seconds, Time, Timezone};

/// The result of a call as the vDSO returns it: `-errno` for a failure.
fn convention(result: c_long) -> i64 {
    match result {
        -1 => -i64::from(nix::errno::Errno::last_raw()),
        value => value,
    }
}

pub(super) fn clock_gettime(id: i32) -> (i64, Time) {
    let mut time = Time::default();
    // SAFETY: the kernel writes one timespec to `time`, which has its layout.
    let result = unsafe { libc::syscall(libc::SYS_clock_gettime, id, &raw mut time) };
    (convention(result), time)
}

pub(super) fn clock_getres(id: i32, wanted: bool) -> (i64, Time) {
    let mut time = Time::default();
    let pointer = if wanted {
        &raw mut time
    } else {
        ptr::null_mut()
    };
    // SAFETY: the kernel writes one timespec to `time` unless the pointer is null.
    let result = unsafe { libc::syscall(libc::SYS_clock_getres, id, pointer) };
    (convention(result), time)
}

pub(super) fn gettimeofday() -> (i64, Time, Timezone) {
    let mut time = Time::default();
    let mut zone = Timezone::default();
    // SAFETY: the kernel writes one timeval and one timezone, which `time` and `zone` have the
    // layouts of.
    let result = unsafe { libc::syscall(libc::SYS_gettimeofday, &raw mut time, &raw mut zone) };
    (convention(result), time, zone)
}

pub(super) fn time() -> Seconds {
    // SAFETY: a null pointer asks for nothing to be written.
    convention(unsafe { libc::syscall(libc::SYS_time, ptr::null_mut::<Seconds>()) })
}

pub(super) fn getcpu() -> (i64, u32, u32) {
    let (mut cpu, mut node) = (0u32, 0u32);
    let cache = ptr::null_mut::<u8>();
    // SAFETY: the kernel writes one word to each of `cpu` and `node`.
    let result = unsafe { libc::syscall(libc::SYS_getcpu, &raw mut cpu, &raw mut node, cache) };
    (convention(result), cpu, node)
}

pub(super) fn getrandom(buffer: &mut RandomBuffer, flags: u32) -> i64 {
    let (pointer, length) = buffer.writable();
    // SAFETY: the kernel writes at most `length` bytes at `pointer`, which are borrowed from
    // `buffer`.
    convention(unsafe { libc::syscall(libc::SYS_getrandom, pointer, length, flags) })
}

/// Reads of the CPU clock of a process or, with `thread`, of one thread;
/// `kernel/time/posix-cpu-timers.c` encodes them so.
pub(super) fn cpu_clock(id: i32, thread: bool) -> i32 {
    const SCHED: i32 = 2;
    const PER_THREAD: i32 = 4;
    (!id << 3) | SCHED | if thread { PER_THREAD } else { 0 }
}
