//! Which processes could be linked, before anything of them is touched.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use libtest_mimic::Trial;
use nix::unistd::{Pid, gettid};
use relocator_process::tracing::{Seized, TraceableProcess, Tracee, UserRegisters};
use relocator_tests::odd::Other;

use crate::check;
use crate::odd::{FILTERED, FORKED, HEADLESS, SHARING, UNDUMPABLE, VFORKED};
use crate::process::Victim;
use crate::victim::{self, HAMMER};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        check("ordinary_processes_can_be_linked", ordinary),
        check("a_process_with_a_filter_cannot_be_linked", filtered),
        check(
            "a_process_that_is_not_dumpable_cannot_be_linked",
            undumpable,
        ),
        check("a_process_that_shares_its_memory_cannot_be_linked", sharing),
        check(
            "a_process_without_its_first_thread_cannot_be_linked",
            headless,
        ),
        check("a_process_with_a_traced_thread_cannot_be_linked", traced),
        check("a_program_of_32_bits_cannot_be_linked", of_32_bits),
        check("a_thread_in_code_of_32_bits_cannot_be_linked", code_segment),
        check(
            "a_process_of_somebody_else_cannot_be_linked",
            of_somebody_else,
        ),
    ]
}

fn refusal(pid: i32) -> Option<String> {
    let checked = TraceableProcess::open(pid).and_then(|subject| subject.check_linkable());
    checked.err().map(|error| error.to_string())
}

#[track_caller]
fn assert_refused(pid: i32, reason: &str) {
    let told = refusal(pid).expect("it is refused");
    assert!(told.starts_with(&format!("process {pid} ")), "{told}");
    assert!(told.contains(reason), "{told}");
}

fn ordinary() {
    let (victim, _) = Victim::hammer(HAMMER);
    assert_eq!(refusal(victim.pid()), None);
    victim.finish();
    // What `fork` makes has the same content but another memory.
    let mut forked = Victim::start(FORKED);
    let child = forked.numbers()[0] as i32;
    assert_eq!(refusal(forked.pid()), None);
    assert_eq!(refusal(child), None);
    forked.end();
}

fn filtered() {
    let mut victim = Victim::start(FILTERED);
    let thread = victim.numbers()[0];
    assert_refused(
        victim.pid(),
        &format!("system calls of its thread {thread} are filtered (seccomp)"),
    );
    victim.end();
}

fn undumpable() {
    let mut victim = Victim::start(UNDUMPABLE);
    victim.numbers();
    assert_refused(victim.pid(), "is not dumpable");
    victim.end();
}

fn sharing() {
    for what in [SHARING, VFORKED] {
        let mut victim = Victim::start(what);
        let child = victim.numbers()[0] as i32;
        for (one, other) in [(victim.pid(), child), (child, victim.pid())] {
            let reason = format!("shares its memory with process {other}");
            assert_refused(one, &reason);
        }
        if what == VFORKED {
            // The parent waits for the child's end, and is ended with it.
            nix::sys::signal::kill(Pid::from_raw(child), nix::sys::signal::Signal::SIGKILL)
                .unwrap();
        }
        victim.end();
    }
}

fn headless() {
    let mut victim = Victim::start(HEADLESS);
    victim.numbers();
    assert_refused(victim.pid(), "goes on without its first thread");
    victim.end();
}

fn traced() {
    let (victim, threads) = Victim::hammer(HAMMER);
    let tracee = Tracee::seize(Pid::from_raw(threads[1])).unwrap();
    let reason = format!("its thread {} is, by {}", threads[1], gettid());
    assert_refused(victim.pid(), &reason);
    drop(tracee);
    assert_eq!(refusal(victim.pid()), None);
    victim.finish();
}

fn of_32_bits() {
    match Other::of_32_bits().unwrap() {
        Some(other) => assert_refused(other.pid(), "is no 64-bit one"),
        None => println!("not run: this kernel does not execute programs of 32 bits"),
    }
}

fn code_segment() {
    let (victim, _) = Victim::hammer(HAMMER);
    let subject = TraceableProcess::open(victim.pid()).unwrap();
    let mut seized = Seized::stop(subject.pid(), Duration::from_secs(20)).unwrap();
    for tracee in seized.threads() {
        let registers = tracee.registers().unwrap();
        subject.check_thread(tracee.pid(), &registers).unwrap();
        // As a thread has it that executes code of 32 bits: `__USER32_CS`.
        let other = UserRegisters(nix::libc::user_regs_struct {
            cs: 0x23,
            ..registers.0
        });
        let error = subject.check_thread(tracee.pid(), &other).unwrap_err();
        assert!(error.to_string().contains("code segment 0x23"), "{error}");
    }
    drop(seized);
    victim.finish();
}

/// Nobody looks at a process of root's.
fn of_somebody_else() {
    const NOBODY: u32 = 65534;
    if !nix::unistd::geteuid().is_root() {
        return println!("not run: only root can be somebody else");
    }
    let (victim, _) = Victim::hammer(HAMMER);
    // Where this program lies may be for root only, so it is opened before.
    let own = fs::File::open(std::env::current_exe().unwrap()).unwrap();
    let own = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&own));
    let mut command = Command::new(own);
    command.args([victim::ARGUMENT, crate::odd::LOOKING]);
    command.env("SUBJECT", victim.pid().to_string());
    let output = command.uid(NOBODY).stdin(Stdio::null()).output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(
        told.starts_with(&format!("process {} may not be ", victim.pid())),
        "{told}"
    );
    victim.finish();
}
