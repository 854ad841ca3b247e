//! Processes that cannot be worked on.

use std::fs;

use libtest_mimic::Trial;
use nix::unistd::{Pid, gettid};
use relocator_process::step_out::{StepOutOptions, step_out};
use relocator_process::tracing::Tracee;
use relocator_tests::command::run;
use relocator_tests::odd::Other;

use crate::check;
use crate::process::{Victim, wait_until};
use crate::victim::HAMMER;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        check("a_process_that_is_none_is_refused", none),
        check("a_process_that_has_ended_is_refused", ended),
        check("a_process_that_is_traced_is_refused", traced),
        check("a_thread_is_refused", thread),
        check("a_32_bit_process_is_refused", of_32_bits),
    ]
}

#[track_caller]
fn assert_refused(pid: i32, reason: &str) {
    let error = step_out(pid, &StepOutOptions::default())
        .unwrap_err()
        .to_string();
    assert!(error.contains(reason), "{error}");
    assert!(error.starts_with(&format!("process {pid} ")), "{error}");
    // For another process, this one is no longer "this one".
    if pid != Pid::this().as_raw() {
        let told = run(["step-out", "--pid", &pid.to_string()]).failure(2);
        assert_eq!(told, format!("relocator: {error}"));
    }
}

fn none() {
    assert_refused(Pid::this().as_raw(), "is this one");
    assert_refused(i32::MAX, "does not exist");
    let kernel = fs::read_dir("/proc").unwrap().find_map(|entry| {
        let name = entry.ok()?.file_name().into_string().ok()?;
        let status = fs::read_to_string(format!("/proc/{name}/status")).ok()?;
        status
            .contains("Kthread:\t1")
            .then(|| name.parse().unwrap())
    });
    if let Some(kernel) = kernel {
        assert_refused(kernel, "is a thread of the kernel");
    }
    for bad in ["0", "-1", "x"] {
        assert_eq!(run(["step-out", &format!("--pid={bad}")]).status, Some(2));
    }
}

fn ended() {
    let other = Other::start("true").unwrap();
    let stat = || fs::read_to_string(format!("/proc/{}/stat", other.pid())).unwrap();
    wait_until(|| stat().contains(") Z "));
    assert_refused(
        other.pid(),
        "has ended, and its parent has not taken notice",
    );
}

fn traced() {
    let (victim, _) = Victim::hammer(HAMMER);
    let tracee = Tracee::seize(Pid::from_raw(victim.pid())).unwrap();
    assert_refused(victim.pid(), &format!("is traced already, by {}", gettid()));
    drop(tracee);
    victim.finish();
}

fn thread() {
    let (victim, threads) = Victim::hammer(HAMMER);
    assert_refused(
        threads[0],
        &format!("is a thread of process {}", victim.pid()),
    );
    victim.finish();
}

fn of_32_bits() {
    match Other::of_32_bits().unwrap() {
        Some(other) => assert_refused(other.pid(), "is no 64-bit one"),
        None => println!("not run: this kernel does not execute programs of 32 bits"),
    }
}
