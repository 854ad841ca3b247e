//! System calls made by their instruction: neither libc nor a vDSO has a part in them, and `errno` stays as it is.

#![allow(unsafe_code, reason = "the instruction")]

use std::arch::asm;
use std::ptr;

use nix::libc;

use crate::vdso::{Time, Zone};

/// Makes a system call.
///
/// # Safety
///
/// As what the system call does with its arguments.
unsafe fn call<const N: usize>(number: i64, arguments: [usize; N]) -> i64 {
    let argument = |index: usize| arguments.get(index).copied().unwrap_or_default();
    let result;
    // SAFETY: the kernel only changes what is declared here, and what the caller answers for.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") argument(0),
            in("rsi") argument(1),
            in("rdx") argument(2),
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result
}

fn at<T>(place: &mut T) -> usize {
    ptr::from_mut(place).expose_provenance()
}

fn clock(id: i32) -> usize {
    id as usize
}

pub(crate) fn clock_gettime(id: i32) -> (i64, Time) {
    let mut time = Time::default();
    // SAFETY: one timespec is written.
    let code = unsafe { call(libc::SYS_clock_gettime, [clock(id), at(&mut time)]) };
    (code, time)
}

pub(crate) fn clock_getres(id: i32) -> (i64, Time) {
    let mut time = Time::default();
    // SAFETY: one timespec is written.
    let code = unsafe { call(libc::SYS_clock_getres, [clock(id), at(&mut time)]) };
    (code, time)
}

pub(crate) fn gettimeofday() -> (Time, Zone) {
    let (mut time, mut zone) = (Time::default(), Zone::default());
    // SAFETY: one timeval and one timezone are written.
    unsafe { call(libc::SYS_gettimeofday, [at(&mut time), at(&mut zone)]) };
    (time, zone)
}

pub(crate) fn time() -> i64 {
    // SAFETY: nothing is written.
    unsafe { call(libc::SYS_time, [0]) }
}

pub(crate) fn getcpu() -> (u32, u32) {
    let (mut cpu, mut node) = (0, 0);
    // SAFETY: two numbers are written.
    unsafe { call(libc::SYS_getcpu, [at(&mut cpu), at(&mut node), 0]) };
    (cpu, node)
}
