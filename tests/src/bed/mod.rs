//! A test bed: programs that run as a restore by CRIU on another kernel leaves them.
//!
//! A [`Bed`] starts any program and stops it before its first instruction, which is `ld.so`'s.
//! There the address space is made what a restore makes of it: the text of an old vDSO at an
//! address of its own, with zeros where its kernel's data was; the running kernel's mappings parked
//! elsewhere, as one unit; an auxiliary vector that names the old text. So the program's libc, and
//! whatever else looks for a vDSO, finds the old one.
//!
//! | module | does |
//! |---|---|
//! | `old` | the old vDSO, as it was in a process on its own kernel |
//! | `remote` | system calls that another process makes |
//! | `space` | where there is room in its address space |
//! | `auxv` | its auxiliary vector |
//! | `restore` | the steps |
//! | `control` | the page by which a tester and the `hammer` talk |
//! | `hammer` | the program that calls every function all the time, as a tester sees it |
//! | `server`, `python` | real programs that use libc's own calls |

mod auxv;
pub mod control;
pub mod hammer;
mod old;
pub mod python;
pub mod remote;
mod restore;
pub mod server;
mod space;

use std::ops::Range;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use elf_tools::Avma;
use nix::libc;
use nix::unistd::Pid;
use relocator::source::LiveMapping;
use relocator_process::tracing::{Stop, Tracee};

pub use old::OldVdso;

/// Where CRIU's restorer often leaves the new kernel's mappings.
pub const PARK: Avma = Avma(0x3_0000);

/// How a program is to be started.
#[derive(Debug, Clone)]
pub struct Bed {
    /// What it was checkpointed with.
    pub old: OldVdso,
    /// Whether CRIU's jumps are at the entries that it knows, and its mark at the start of the new
    /// vDSO.
    pub patched: bool,
    /// Where the old text is; otherwise between the mappings of the program and its stack, where
    /// nothing is mapped later.
    pub text: Option<Avma>,
    /// Where the new kernel's mappings begin.
    pub park: Avma,
    /// Whether the program lets others go first: a tool is to get on while dozens of threads do
    /// nothing but call.
    pub gives_way: bool,
    /// Free bytes below the old vvar, before a mapping of somebody else; none there if not given.
    pub room_below: Option<u64>,
    /// Free bytes behind the old text, before a mapping of somebody else; none there if not given.
    pub room_behind: Option<u64>,
}

/// A program that was started so. It is killed when this is dropped.
#[derive(Debug)]
pub struct Restored {
    /// Its process, with the pipes that the command asked for.
    pub child: Child,
    /// The old text.
    pub text: Range<Avma>,
    /// The zeros where its kernel's data was.
    pub zeros: Range<Avma>,
    /// The new kernel's mappings, ascending.
    pub parked: Vec<LiveMapping>,
    /// Whether `/proc/PID/auxv` agrees with what the program sees, or why it could not be made to.
    pub auxv: Result<(), String>,
}

impl Bed {
    /// Patched, parked low, with room on both sides.
    pub fn new(old: OldVdso) -> Self {
        Self {
            old,
            patched: true,
            gives_way: false,
            text: None,
            park: PARK,
            room_below: None,
            room_behind: None,
        }
    }

    /// Starts a program.
    ///
    /// It dies with the thread that has called this, as it must not outlive a test that fails. What
    /// a program executes in turn is not restored: a script has to be given to its interpreter.
    pub fn launch(&self, mut command: Command) -> Result<Restored, String> {
        ask_to_be_traced(&mut command);
        if self.gives_way {
            give_way(&mut command);
        }
        let spawned = command.spawn();
        let child = spawned.map_err(|error| format!("{:?}: {error}", command.get_program()))?;
        let pid = Pid::from_raw(child.id().cast_signed());
        let mut tracee = Tracee::of_child(pid);
        await_execution(&mut tracee)?;
        let layout = restore::restore(self, &mut tracee)?;
        tracee.release().map_err(|error| words(&error))?;
        Ok(Restored {
            child,
            text: layout.text,
            zeros: layout.zeros,
            parked: layout.parked,
            auxv: layout.auxv,
        })
    }
}

impl Restored {
    /// Its number.
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }
}

impl Drop for Restored {
    fn drop(&mut self) {
        // Both fail where it has ended, which is as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Has the child stop when it begins to execute the program, and die with its parent.
#[allow(unsafe_code, reason = "code that runs between fork and execution")]
fn ask_to_be_traced(command: &mut Command) {
    let ask = || {
        // SAFETY: both are plain system calls with numbers, which may be made between fork and
        // execution.
        let done = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        // SAFETY: as above.
        let traced = unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) };
        match (done, traced) {
            (0, 0) => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: it neither allocates nor takes a lock.
    unsafe { command.pre_exec(ask) };
}

/// Has the child run when nobody else wants to.
#[allow(unsafe_code, reason = "code that runs between fork and execution")]
fn give_way(command: &mut Command) {
    const LAST: i32 = 19;
    let last = || {
        // SAFETY: a plain system call with numbers.
        match unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, LAST) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: it neither allocates nor takes a lock.
    unsafe { command.pre_exec(last) };
}

fn await_execution(tracee: &mut Tracee) -> Result<(), String> {
    loop {
        match tracee.wait(remote::PATIENCE).map_err(|e| words(&e))? {
            Some(Stop::TRAP) => return Ok(()),
            Some(Stop::Signal(signal)) => tracee.resume(signal).map_err(|e| words(&e))?,
            Some(stop) => return Err(format!("instead of execution there was {stop}")),
            None => return Err("it is not executed".to_owned()),
        }
    }
}

/// An error with its causes.
fn words(error: &dyn std::error::Error) -> String {
    crate::running::in_words(error)
}
