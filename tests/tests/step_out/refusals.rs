//! Processes that cannot be worked on.

use std::fs;

use libtest_mimic::Trial;
use nix::unistd::Pid;
use relocator_process::step_out::{StepOutOptions, step_out};
use relocator_process::tracing::Tracee;
use relocator_tests::command::run;
use relocator_tests::odd::{Other, PROGRAMS_OF_32_BITS};

use crate::process::{Victim, wait_until};
use crate::victim::HAMMER;
use crate::{check, check_if};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        check("a_process_that_is_none_is_refused", none),
        check("a_process_that_has_ended_is_refused", ended),
        check("a_process_that_is_traced_is_refused", traced),
        check("a_thread_is_refused", thread),
        check_if(
            "a_32_bit_process_is_refused",
            &PROGRAMS_OF_32_BITS,
            of_32_bits,
        ),
    ]
}

/// The process is refused with this code, and the command says the same.
#[track_caller]
fn assert_refused(pid: i32, status: i32, code: &str) {
    let error = step_out(pid, &StepOutOptions::default()).unwrap_err();
    assert_eq!(error.code(), Some(code), "{error}");
    assert!(error.to_string().contains(&pid.to_string()), "{error}");
    // For another process, this one is no longer "this one".
    if pid != Pid::this().as_raw() {
        let told = run(["step-out", "--pid", &pid.to_string()]).failure(status);
        assert_eq!(told, format!("relocator: {error}"));
    }
}

fn none() {
    assert_refused(Pid::this().as_raw(), 1, "own-process");
    assert_refused(i32::MAX, 2, "no-such-process");
    let kernel = fs::read_dir("/proc").unwrap().find_map(|entry| {
        let name = entry.ok()?.file_name().into_string().ok()?;
        let status = fs::read_to_string(format!("/proc/{name}/status")).ok()?;
        status
            .contains("Kthread:\t1")
            .then(|| name.parse().unwrap())
    });
    if let Some(kernel) = kernel {
        assert_refused(kernel, 1, "kernel-thread");
    }
    for bad in ["0", "-1", "x"] {
        assert_eq!(run(["step-out", &format!("--pid={bad}")]).status, Some(2));
    }
}

fn ended() {
    let other = Other::start("true").unwrap();
    let stat = || fs::read_to_string(format!("/proc/{}/stat", other.pid())).unwrap();
    wait_until(|| stat().contains(") Z "));
    assert_refused(other.pid(), 1, "zombie");
}

fn traced() {
    let (victim, _) = Victim::hammer(HAMMER);
    let tracee = Tracee::seize(Pid::from_raw(victim.pid())).unwrap();
    assert_refused(victim.pid(), 1, "traced");
    drop(tracee);
    victim.finish();
}

fn thread() {
    let (victim, threads) = Victim::hammer(HAMMER);
    assert_refused(threads[0], 2, "not-a-process");
    victim.finish();
}

fn of_32_bits() {
    let other = Other::of_32_bits().unwrap();
    assert_refused(other.pid(), 1, "other-machine");
}
