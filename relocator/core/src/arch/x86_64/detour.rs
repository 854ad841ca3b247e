//! Encoding instructions for another place.

use elf_tools::Svma;
use elf_tools::disassembly::{Flow, Instruction};
use iced_x86::{Encoder, FlowControl, Mnemonic};

use super::super::{Encoded, Run};
use super::operand::{self, Reader, fault};
use crate::Result;
use crate::error::InstructionFault;
use crate::link::constant::Part;

/// Length of `jmp rel32`.
pub(super) const JUMP: usize = 5;

/// Longest instruction in bytes.
const LONGEST: usize = 15;

/// Whether the instruction has a form with a constant of four bytes.
pub(super) fn can_lengthen(bytes: &[u8], address: Svma, part: Part) -> bool {
    let mut long = Reader::new(bytes).at(address);
    operand::lengthen(&mut long, part, 0x1234_5678).is_some()
        && Encoder::new(64).encode(&long, address.0).is_ok()
}

/// System calls stay, as their threads come back to the place behind them; so do landing pads,
/// which must be where the entry is, and branches that have no long form.
pub(super) fn can_move(instruction: &Instruction, bytes: &[u8]) -> bool {
    let stored = &bytes[instruction.address.index()..instruction.end().index()];
    let is_pad = matches!(stored, [0xf3, 0x0f, 0x1e, 0xfa | 0xfb]);
    let is_short_only = matches!(instruction.flow, Flow::Branch(_) | Flow::Jump(_))
        && matches!(stored, [0xe0..=0xe3, _] | [0x67, 0xe0..=0xe3, _]);
    !is_system_call(instruction, stored) && !is_pad && !is_short_only
}

/// `syscall`, `sysenter` and `int`, as far as control comes back from them.
fn is_system_call(instruction: &Instruction, stored: &[u8]) -> bool {
    let opcode = stored.len().saturating_sub(2);
    matches!(stored[opcode..], [0x0f, 0x05 | 0x34] | [0xcd, _]) && instruction.flow == Flow::Next
}

/// `jmp rel32` at `from`.
pub(super) fn jump(from: Svma, to: Svma) -> Result<Vec<u8>> {
    let distance = to.signed() - from.signed() - JUMP as i64;
    let distance =
        i32::try_from(distance).map_err(|_| fault(from, InstructionFault::TooFar(to)))?;
    let [a, b, c, d] = distance.to_le_bytes();
    Ok(vec![0xe9, a, b, c, d])
}

/// Whether the instruction at `from` is a jump to `to`.
pub(super) fn leads(bytes: &[u8], from: Svma, to: Svma) -> bool {
    let jump = Reader::new(bytes).at(from);
    jump.mnemonic() == Mnemonic::Jmp && jump.near_branch_target() == to.0
}

/// The code for `to`, and where each instruction is.
pub(super) fn encode(run: &Run<'_>, bytes: &[u8], to: Svma) -> Result<Encoded> {
    let mut encoder = Encoder::new(64);
    let mut at = to;
    let mut places = Vec::with_capacity(run.instructions.len());
    for instruction in run.instructions {
        let from = instruction.address;
        let intended = intended(run, bytes, from)?;
        places.push(at);
        let length = encoder
            .encode(&intended, at.0)
            .map_err(|error| fault(from, InstructionFault::Immovable(error.to_string())))?;
        at = at.offset(length as i64);
    }
    let code = encoder.take_buffer();
    check(run, bytes, &code, to)?;
    Ok(Encoded { code, places })
}

/// An instruction as it has to be at its new place.
fn intended(run: &Run<'_>, bytes: &[u8], from: Svma) -> Result<iced_x86::Instruction> {
    let mut intended = Reader::new(bytes).at(from);
    for &(address, part, value) in run.long {
        if address == from {
            operand::lengthen(&mut intended, part, value)
                .ok_or_else(|| fault(from, InstructionFault::NoLongForm))?;
        }
    }
    let is_branch = matches!(
        intended.flow_control(),
        FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch
    );
    if is_branch {
        intended.as_near_branch();
    }
    Ok(intended)
}

/// Decodes what was encoded and compares it with what was meant.
fn check(run: &Run<'_>, bytes: &[u8], code: &[u8], to: Svma) -> Result<()> {
    debug_assert!(code.len() <= run.instructions.len() * LONGEST);
    let options = iced_x86::DecoderOptions::NONE;
    let mut decoder = iced_x86::Decoder::with_ip(64, code, to.0, options);
    for instruction in run.instructions {
        let intended = intended(run, bytes, instruction.address)?;
        if !operand::is_same(&intended, &decoder.decode()) {
            return Err(fault(instruction.address, InstructionFault::Another));
        }
    }
    match decoder.can_decode() {
        false => Ok(()),
        true => Err(fault(
            run.instructions[0].address,
            InstructionFault::Several,
        )),
    }
}
