//! General registers by number, and what they are for.

use std::fmt;

use super::SPECIFIED;

/// A general register by its DWARF number, as the architecture's psABI assigns it. Constants with
/// the names of an architecture's registers are in that architecture's folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Register(pub u8);

impl Register {
    /// Number of general registers.
    pub const COUNT: usize = super::x86_64::REGISTER_COUNT;

    /// Index into an array of all general registers.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// The name that the architecture gives it.
impl fmt::Display for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match SPECIFIED.registers().names.get(self.index()) {
            Some(name) => f.write_str(name),
            None => write!(f, "register {}", self.0),
        }
    }
}

/// What the registers of an architecture are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registers {
    /// By DWARF number.
    pub names: &'static [&'static str],
    /// The stack pointer.
    pub stack_pointer: Register,
    /// Where functions return their result, and where the kernel returns that of a system call.
    pub result: Register,
    /// The arguments of a function, in order.
    pub arguments: &'static [Register],
    /// Registers that a function hands back as it got them, but for the stack pointer.
    pub callee_saved: &'static [Register],
    /// Registers, besides the result, that a system call changes.
    pub system_call_clobbers: &'static [Register],
    /// The number under which call frame information keeps the return address. Numbers below are
    /// those of general registers.
    pub return_address: u16,
}
