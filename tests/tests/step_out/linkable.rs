//! Which processes could be linked, before anything of them is touched.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use libtest_mimic::Trial;
use nix::libc;
use nix::unistd::{Pid, gettid};
use relocator_process::step_out::{StepOutOptions, step_out};
use relocator_process::tracing::{Seized, Stop, TraceableProcess, Tracee, UserRegisters};
use relocator_process::{Error, Refusal};
use relocator_tests::command::run;
use relocator_tests::odd::{Other, PROGRAMS_OF_32_BITS};

use crate::odd::{FILTERED, FORKED, HEADLESS, HEADLESS_BUSY, SHARING, UNDUMPABLE, VFORKED};
use crate::process::{Victim, wait_until};
use crate::victim::{self, HAMMER};
use crate::{check, check_if};

/// How long a thread may take to stop.
const PATIENCE: Duration = Duration::from_secs(20);

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
        check(
            "a_process_that_is_killed_has_ended_before_all_its_threads_have",
            held_while_it_ends,
        ),
        check("a_process_with_a_traced_thread_cannot_be_linked", traced),
        check_if(
            "a_program_of_32_bits_cannot_be_linked",
            &PROGRAMS_OF_32_BITS,
            of_32_bits,
        ),
        check("a_thread_in_code_of_32_bits_cannot_be_linked", code_segment),
        check_if(
            "a_process_of_somebody_else_cannot_be_linked",
            &is_root(),
            of_somebody_else,
        ),
    ]
}

/// Whether this may become another user, or why not.
fn is_root() -> Result<(), String> {
    match nix::unistd::geteuid().is_root() {
        true => Ok(()),
        false => Err("only root can be another user".to_owned()),
    }
}

fn refusal(pid: i32) -> Option<Refusal> {
    let checked = TraceableProcess::open(pid).and_then(|process| process.check_linkable());
    let error = checked.err()?;
    let reason = error.refusal().cloned();
    Some(reason.unwrap_or_else(|| panic!("it is refused: {error}")))
}

#[track_caller]
fn assert_refused(pid: i32, expected: Refusal) {
    assert_eq!(refusal(pid), Some(expected));
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
    let thread = victim.numbers()[0] as i32;
    assert_refused(victim.pid(), Refusal::Seccomp { thread });
    victim.end();
}

fn undumpable() {
    let mut victim = Victim::start(UNDUMPABLE);
    victim.numbers();
    assert_refused(victim.pid(), Refusal::NotDumpable);
    victim.end();
}

fn sharing() {
    for what in [SHARING, VFORKED] {
        let mut victim = Victim::start(what);
        let child = victim.numbers()[0] as i32;
        for (one, with) in [(victim.pid(), child), (child, victim.pid())] {
            let is_certain = true;
            assert_refused(one, Refusal::SharedMemory { with, is_certain });
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
    assert_refused(victim.pid(), Refusal::NoFirstThread);
    victim.end();
    // One whose threads run cannot be told from one that is ending by a single look.
    let mut victim = Victim::start(HEADLESS_BUSY);
    victim.numbers();
    assert_refused(victim.pid(), Refusal::NoFirstThread);
    let error = step_out(victim.pid(), &StepOutOptions::default()).unwrap_err();
    assert_eq!(error.refusal(), Some(&Refusal::NoFirstThread));
}

/// How a process ends: by a signal, or by itself.
type EndProcess = fn(Victim) -> Victim;

/// A tracer holds one thread of it on its way to its end. The others are gone.
fn held_while_it_ends() {
    let killed: EndProcess = |victim| {
        victim.signal(libc::SIGKILL);
        victim
    };
    // The signal that waits is not the one that ends threads.
    let terminated: EndProcess = |victim| {
        victim.signal(libc::SIGTERM);
        victim
    };
    let exits: EndProcess = Victim::without_input;
    let cases = [
        (HAMMER, killed),
        (HAMMER, terminated),
        (FILTERED, exits),
        (FILTERED, killed),
    ];
    for (kind, end) in cases {
        let mut victim = Victim::start(kind);
        let thread = Pid::from_raw(victim.numbers()[0] as i32);
        let pid = victim.pid();
        let mut held = Tracee::seize(thread).unwrap();
        held.stand_still(PATIENCE).unwrap();
        held.set_options(libc::PTRACE_O_TRACEEXIT).unwrap();
        held.resume(0).unwrap();
        let victim = end(victim);
        let stop = held.wait(PATIENCE).unwrap();
        assert_eq!(stop, Some(Stop::Event(libc::PTRACE_EVENT_EXIT)));
        wait_until(|| victim.state(pid) == 'Z');
        assert_refused(pid, Refusal::Ended);
        let error = step_out(pid, &StepOutOptions::default()).unwrap_err();
        assert_eq!(error.refusal(), Some(&Refusal::Ended));
        let said = run(["apply", "--pid", &pid.to_string()]).failure(1);
        assert!(said.contains(&format!("process {pid} has ended")), "{said}");
        held.resume(0).unwrap();
        let stop = held.wait(PATIENCE).unwrap();
        assert!(stop.is_some_and(Stop::is_end), "{stop:?}");
    }
}

fn traced() {
    let (victim, threads) = Victim::hammer(HAMMER);
    let tracee = Tracee::seize(Pid::from_raw(threads[1])).unwrap();
    let reason = Refusal::Traced {
        thread: threads[1],
        tracer: gettid().as_raw(),
    };
    assert_refused(victim.pid(), reason);
    drop(tracee);
    assert_eq!(refusal(victim.pid()), None);
    victim.finish();
}

fn of_32_bits() {
    let other = Other::of_32_bits().unwrap();
    let reason = refusal(other.pid()).expect("it is refused");
    assert_eq!(reason.code(), "other-machine", "{reason}");
}

fn code_segment() {
    let (victim, _) = Victim::hammer(HAMMER);
    let process = TraceableProcess::open(victim.pid()).unwrap();
    let mut seized = Seized::stop(process.pid(), PATIENCE).unwrap();
    for tracee in seized.threads() {
        let registers = tracee.registers().unwrap();
        process.check_thread(tracee.pid(), &registers).unwrap();
        // As a thread has it that executes code of 32 bits: `__USER32_CS`.
        let other = UserRegisters(libc::user_regs_struct {
            cs: 0x23,
            ..registers.0
        });
        let error = process.check_thread(tracee.pid(), &other).unwrap_err();
        let expected = Refusal::OtherCode {
            thread: tracee.pid().as_raw(),
            shown_by: "is in code segment 0x23".to_owned(),
        };
        assert_eq!(error.refusal(), Some(&expected));
    }
    drop(seized);
    victim.finish();
}

/// Nobody looks at a process of root's.
fn of_somebody_else() {
    const NOBODY: u32 = 65534;
    let (victim, _) = Victim::hammer(HAMMER);
    // Where this program lies may be for root only, so it is opened before.
    let own = fs::File::open(std::env::current_exe().unwrap()).unwrap();
    let own = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&own));
    let mut command = Command::new(own);
    command.args([victim::ARGUMENT, crate::odd::LOOKING]);
    command.env("SUBJECT", victim.pid().to_string());
    let output = command.uid(NOBODY).stdin(Stdio::null()).output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    let expected = Error::Refused {
        pid: victim.pid(),
        reason: Refusal::NotPermitted,
    };
    assert_eq!(told.trim_end(), expected.to_string());
    victim.finish();
}
