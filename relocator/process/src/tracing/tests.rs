use std::process::{Child, Command, Stdio};
use std::time::Duration;

use elf_tools::reentry::Register;
use nix::libc;
use nix::unistd::Pid;

use super::*;
use relocator::threads::Memory;

const PATIENCE: Duration = Duration::from_secs(20);

/// A process that sleeps, and ends when this is dropped.
struct Sleeper(Child);

impl Sleeper {
    fn new() -> Self {
        let sleeper = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn();
        Self(sleeper.unwrap())
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.0.id().cast_signed())
    }

    fn state(&self) -> String {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("TracerPid"));
        line.unwrap().split_whitespace().nth(1).unwrap().to_owned()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn stopped(sleeper: &Sleeper) -> Tracee {
    let mut tracee = Tracee::seize(sleeper.pid()).unwrap();
    assert_eq!(tracee.wait(Duration::from_millis(20)).unwrap(), None);
    tracee.interrupt().unwrap();
    assert_eq!(tracee.wait(PATIENCE).unwrap(), Some(Stop::Group));
    tracee
}

#[test]
fn a_thread_is_seized_read_and_let_go() {
    let sleeper = Sleeper::new();
    let tracee = stopped(&sleeper);
    let registers = tracee.registers().unwrap();
    let neutral = registers.registers();
    assert_eq!(neutral.pc.0, registers.0.rip);
    assert_eq!(neutral.general[Register::RSP.index()], registers.0.rsp);
    let mut word = [0; 8];
    assert!(
        tracee
            .memory()
            .read(elf_tools::Avma(registers.0.rsp), &mut word)
    );
    assert!(!tracee.memory().read(elf_tools::Avma(8), &mut word));
    assert_ne!(sleeper.state(), "0");
    drop(tracee);
    assert_eq!(sleeper.state(), "0");
}

#[test]
fn what_is_put_is_read_again() {
    let sleeper = Sleeper::new();
    let tracee = stopped(&sleeper);
    let before = tracee.registers().unwrap();
    let mut changed = before.registers();
    for (index, value) in changed.general.iter_mut().enumerate() {
        *value = 0x1000 * (index as u64 + 1);
    }
    changed.pc = elf_tools::Avma(0x1234_5000);
    changed.system_call = -1;
    tracee.set_registers(&before.with(&changed)).unwrap();
    let found = tracee.registers().unwrap();
    assert_eq!(found.registers(), changed);
    // In the order of the psABI, which is not that of the structure.
    assert_eq!(
        (found.0.rax, found.0.rdx, found.0.rcx),
        (0x1000, 0x2000, 0x3000)
    );
    assert_eq!(
        (found.0.rbx, found.0.rsi, found.0.rdi),
        (0x4000, 0x5000, 0x6000)
    );
    assert_eq!(
        (found.0.rbp, found.0.rsp, found.0.r8),
        (0x7000, 0x8000, 0x9000)
    );
    tracee.set_registers(&before).unwrap();
    assert_eq!(tracee.registers().unwrap(), before);

    let mask = tracee.signal_mask().unwrap();
    let usr1 = 1 << (libc::SIGUSR1 - 1);
    tracee.set_signal_mask(mask | usr1).unwrap();
    assert_eq!(tracee.signal_mask().unwrap(), mask | usr1);
    tracee.set_signal_mask(mask).unwrap();

    let mut state = tracee.extended_state().unwrap();
    assert!(state.len() >= 512 + 64);
    // The first vector register of the legacy area, which is read if bit 1 of the header says so.
    state[160..176].fill(0x5a);
    state[512] |= 3;
    tracee.set_extended_state(&state).unwrap();
    assert_eq!(tracee.extended_state().unwrap()[160..176], [0x5a; 16]);
}

#[test]
fn a_thread_that_dies_is_an_answer_and_no_panic() {
    let sleeper = Sleeper::new();
    let mut tracee = stopped(&sleeper);
    nix::sys::signal::kill(sleeper.pid(), nix::sys::signal::Signal::SIGKILL).unwrap();
    let stop = tracee.wait(PATIENCE).unwrap();
    assert_eq!(stop, Some(Stop::Killed(libc::SIGKILL)));
    assert!(tracee.registers().is_err());
    assert!(tracee.step(0).is_err());
}

#[test]
fn a_step_is_one_trap() {
    let sleeper = Sleeper::new();
    let mut tracee = stopped(&sleeper);
    tracee.step(0).unwrap();
    // The sleep is a system call, which begins anew and does not return: it is stopped in it again.
    let stop = tracee.wait(Duration::from_millis(100)).unwrap();
    assert!(stop.is_none() || stop == Some(Stop::TRAP), "{stop:?}");
}
