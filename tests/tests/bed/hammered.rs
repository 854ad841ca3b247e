//! What the hammer finds on a bed, and that it finds what is wrong.

use std::fs;
use std::path::Path;
use std::thread;

use nix::libc;
use nix::unistd::Pid;
use relocator_cli::source::Spec;
use relocator_process::tracing::{Seized, Stop, Tracee};
use relocator_tests::bed::Bed;
use relocator_tests::bed::control::{COVERED, Function};
use relocator_tests::bed::hammer::Hammer;
use relocator_tests::trials::ensure;

use crate::look::looks_restored;
use crate::{SECOND, any, bed, io};

const HAMMER: &str = env!("CARGO_BIN_EXE_hammer");

/// How often a process is stopped.
const STOPS: usize = 200;

pub(crate) fn hammer(bed: &Bed, threads: usize, idle: usize) -> Result<Hammer, String> {
    Hammer::start(bed, Path::new(HAMMER), threads, idle)
}

/// What CRIU's jumps cover is right.
pub(crate) fn covered_functions_are_right(spec: &Spec) -> Result<(), String> {
    let bed = bed(spec)?;
    let hammer = hammer(&bed, 8, 12)?;
    looks_restored(&bed, &hammer.restored)?;
    hammer.control.set_right(COVERED);
    thread::sleep(SECOND);
    looks_restored(&bed, &hammer.restored)?;
    let counts = hammer.finish()?;
    for function in Function::ALL {
        let judged = counts.judged[function as usize];
        let is_covered = function.bit() & COVERED != 0;
        ensure((judged > 0) == is_covered, || {
            format!("{function:?}: {counts:?}")
        })?;
        ensure(counts.called[function as usize] > 0, || {
            format!("{counts:?}")
        })?;
    }
    ensure(counts.signals > 100 && counts.idle > 12, || {
        format!("{counts:?}")
    })
}

/// Without the jumps and without a link, functions that read the kernel's data find zeros, and the hammer says so.
pub(crate) fn zeros_are_noticed(spec: &Spec) -> Result<(), String> {
    let bed = Bed {
        patched: false,
        ..bed(spec)?
    };
    for function in [
        Function::ClockGettime,
        Function::Time,
        Function::ClockGetres,
    ] {
        let mut hammer = hammer(&bed, 2, 0)?;
        looks_restored(&bed, &hammer.restored)?;
        hammer.control.set_right(function.bit());
        let counts = hammer.wait_until("find zeros", |counts| counts.first.is_some())?;
        let first = counts.first.clone().unwrap_or_default();
        let is_known = first.starts_with(function.symbol()) && first.contains(": 0 (0, 0), and");
        ensure(is_known, || first.clone())?;
        let ended = hammer.finish();
        ensure(ended.is_err(), || format!("{ended:?}"))?;
    }
    Ok(())
}

/// A single thread, which is also the one that the signals come from.
pub(crate) fn one_thread_is_enough() -> Result<(), String> {
    let bed = any()?;
    let hammer = hammer(&bed, 0, 0)?;
    hammer.control.set_right(COVERED);
    thread::sleep(SECOND / 2);
    let tasks = fs::read_dir(format!("/proc/{}/task", hammer.restored.pid())).map_err(io)?;
    ensure(tasks.count() == 1, || "there are other threads".to_owned())?;
    let counts = hammer.finish()?;
    ensure(counts.signals > 0 && counts.judged[0] > 0, || {
        format!("{counts:?}")
    })
}

/// Threads that are in a system call of that number.
fn threads_in(pid: i32, number: i64) -> Result<Vec<Pid>, String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).map_err(io)?;
    let mut found = Vec::new();
    for task in tasks {
        let path = task.map_err(io)?.path();
        let line = fs::read_to_string(path.join("syscall")).unwrap_or_default();
        let name = path
            .file_name()
            .and_then(|name| name.to_str()?.parse().ok());
        if line.starts_with(&format!("{number} ")) {
            found.extend(name.map(Pid::from_raw));
        }
    }
    Ok(found)
}

/// A tracer that stops a thread and lets it go on is not noticed; one that has its system call end too early is.
pub(crate) fn a_call_that_is_cut_short_is_noticed() -> Result<(), String> {
    let words = |error: relocator_process::Error| error.to_string();
    let bed = any()?;
    let mut hammer = hammer(&bed, 0, 6)?;
    for cut in [false, true] {
        for number in [
            libc::SYS_nanosleep,
            libc::SYS_futex,
            libc::SYS_read,
            libc::SYS_rt_sigsuspend,
        ] {
            let Some(&thread) = threads_in(hammer.restored.pid(), number)?.first() else {
                continue;
            };
            let mut tracee = Tracee::seize(thread).map_err(words)?;
            tracee.stand_still(SECOND).map_err(words)?;
            let mut registers = tracee.registers().map_err(words)?;
            if cut && registers.0.orig_rax == number.cast_unsigned() {
                registers.0.rax = (-i64::from(libc::EINTR)).cast_unsigned();
                registers.0.orig_rax = u64::MAX;
                tracee.set_registers(&registers).map_err(words)?;
            }
        }
        thread::sleep(SECOND / 4);
        hammer.check_alive()?;
        let counts = hammer.control.counts();
        ensure((counts.failures > 0) == cut, || {
            format!("cut: {cut}, {counts:?}")
        })?;
    }
    let first = hammer.control.counts().first.unwrap_or_default();
    ensure(first.contains("a thread that sleeps"), || first.clone())
}

/// All threads are stopped again and again, and the hammer finds nothing that is wrong: what a tracer does to every
/// process is not taken for a failure.
pub(crate) fn stops_are_not_noticed() -> Result<(), String> {
    let words = |error: relocator_process::Error| error.to_string();
    let bed = any()?;
    let mut hammer = hammer(&bed, 16, 24)?;
    hammer.control.set_right(COVERED);
    let pid = Pid::from_raw(hammer.restored.pid());
    for _ in 0..STOPS {
        let mut seized = Seized::stop(pid, SECOND).map_err(words)?;
        let threads = seized.threads().len();
        ensure(threads == 1 + 16 + 24, || format!("{threads} threads"))?;
        drop(seized);
        hammer.check_alive()?;
        thread::sleep(SECOND / 1000);
    }
    let counts = hammer.finish()?;
    ensure(counts.interrupted > 0, || format!("{counts:?}"))
}

/// A tracer that keeps a signal for itself is noticed.
pub(crate) fn a_lost_signal_is_noticed() -> Result<(), String> {
    let words = |error: relocator_process::Error| error.to_string();
    let bed = any()?;
    let mut hammer = hammer(&bed, 1, 0)?;
    let queued = libc::SIGRTMIN() + 3;
    let tasks = fs::read_dir(format!("/proc/{}/task", hammer.restored.pid())).map_err(io)?;
    let numbers = tasks.filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok());
    let other = numbers
        .map(Pid::from_raw)
        .find(|thread| thread.as_raw() != hammer.restored.pid());
    let mut tracee = Tracee::seize(other.ok_or("no other thread")?).map_err(words)?;
    loop {
        match tracee.wait(SECOND).map_err(words)? {
            Some(Stop::Signal(signal)) if signal == queued => break,
            Some(stop) => tracee.resume(stop.due()).map_err(words)?,
            None => return Err("no signal arrives".to_owned()),
        }
    }
    tracee.resume(0).map_err(words)?;
    drop(tracee);
    let counts = hammer.wait_until("miss a signal", |counts| counts.first.is_some())?;
    let first = counts.first.unwrap_or_default();
    ensure(first.contains("arrived instead of"), || first.clone())
}
