//! System calls that another process makes.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use elf_tools::Avma;
use nix::errno::Errno;
use nix::libc;
use relocator_process::tracing::{Stop, Tracee, UserRegisters};

use super::{Error, Result};
use crate::arch;

/// How long a system call may take.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Highest number that the kernel returns for an error.
const ERRORS: u64 = 4095;

/// A process that stands still, and makes system calls from an instruction that it has.
pub struct Remote<'a> {
    tracee: &'a mut Tracee,
    memory: File,
    registers: UserRegisters,
    instruction: Avma,
}

impl<'a> Remote<'a> {
    /// Uses the first such instruction in the code at `start`.
    pub fn new(tracee: &'a mut Tracee, start: Avma, size: u64) -> Result<Self> {
        let path = format!("/proc/{}/mem", tracee.pid());
        let memory = OpenOptions::new().read(true).write(true).open(&path);
        let memory = memory.map_err(Error::system(path))?;
        let registers = tracee.registers()?;
        let mut remote = Self {
            tracee,
            memory,
            registers,
            instruction: start,
        };
        let code = remote.read(start, size as usize)?;
        let at = code
            .windows(arch::SYSTEM_CALL.len())
            .position(|code| code == arch::SYSTEM_CALL);
        let at = at.ok_or_else(|| Error::missing("a system call in its vDSO"))?;
        remote.instruction = start.offset(at as i64);
        Ok(remote)
    }

    /// Its number.
    pub fn pid(&self) -> i32 {
        self.tracee.pid().as_raw()
    }

    /// The registers that it will go on with.
    pub fn registers(&self) -> &UserRegisters {
        &self.registers
    }

    /// Says that the code that system calls are made from has moved.
    pub fn moved(&mut self, distance: i64) {
        self.instruction = self.instruction.offset(distance);
    }

    /// The stack pointer that it will go on with.
    pub fn stack_pointer(&self) -> Avma {
        arch::registers::stack_pointer(&self.registers)
    }

    /// Makes one.
    pub fn call(&mut self, what: &str, number: i64, arguments: [u64; 6]) -> Result<u64> {
        let mut registers = self.registers;
        registers.set_pc(self.instruction);
        arch::registers::set_system_call(&mut registers, number, arguments);
        let result = self.step(&registers)?;
        match result.wrapping_neg() {
            error @ 1..=ERRORS => Err(Error::system(what)(Errno::from_raw(error as i32))),
            _ => Ok(result),
        }
    }

    fn step(&mut self, registers: &UserRegisters) -> Result<u64> {
        let tracee = &mut *self.tracee;
        tracee.set_registers(registers)?;
        loop {
            let stepped = tracee.step(0).and_then(|()| tracee.wait(PATIENCE));
            match stepped? {
                Some(Stop::TRAP) => break,
                // A process that is stopped is so until it is told otherwise; whoever wants it to
                // be stopped afterwards says so.
                Some(Stop::Signal(libc::SIGSTOP) | Stop::Group) => {}
                Some(stop) => {
                    let expected = "a step";
                    return Err(Error::Stopped { expected, stop });
                }
                None => {
                    return Err(Error::Slow {
                        what: "make a system call",
                    });
                }
            }
        }
        let after = tracee.registers()?;
        Ok(arch::registers::result(&after))
    }

    /// Puts the registers back.
    pub fn finish(self) -> Result<()> {
        Ok(self.tracee.set_registers(&self.registers)?)
    }

    /// Reads memory.
    pub fn read(&self, at: Avma, size: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; size];
        let read = self.memory.read_exact_at(&mut bytes, at.0);
        read.map_err(Error::system(format!("memory at {at}")))?;
        Ok(bytes)
    }

    /// Writes memory, which it need not be allowed to write itself.
    pub fn write(&self, at: Avma, bytes: &[u8]) -> Result<()> {
        let written = self.memory.write_all_at(bytes, at.0);
        written.map_err(Error::system(format!("writing at {at}")))
    }
}
