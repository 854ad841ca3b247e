//! Where frames are at entries of functions: System V psABI for x86-64, section 3.7.

use elf_tools::arch::x86_64::REGISTERS;

use crate::unwind::rules::{Convention, Frame, Rule, Rules};

/// Bytes of a return address, and of a saved register.
const WORD: i8 = 8;

/// A call has put the return address on the stack, and nothing else is there yet.
pub(super) fn convention() -> Convention {
    let word = i64::from(WORD);
    let return_address = REGISTERS.return_address;
    Convention {
        code_alignment: 1,
        data_alignment: -WORD,
        return_address,
        at_entry: Rules {
            frame: Frame::At(u16::from(REGISTERS.stack_pointer.0), word),
            registers: vec![(return_address, Rule::At(-word))],
        },
    }
}
