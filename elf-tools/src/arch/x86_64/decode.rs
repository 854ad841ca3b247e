//! Instructions, as `iced-x86` decodes them, in the words of [`crate::disassembly`].

use iced_x86::{ConstantOffsets, Decoder, DecoderOptions, FlowControl, Mnemonic, OpKind};

use crate::Svma;
use crate::disassembly::{Access, Decode, Field, Flow, Instruction, Sweep};
use crate::image::Image;

use super::processor;

/// The instructions of an image: along the flow from `entries`, and what lies between.
pub(in crate::arch) fn decode(image: &Image, bits: u32, entries: &[Svma]) -> Vec<Instruction> {
    let decoder = InstructionDecoder {
        decoder: Decoder::with_ip(bits, image.bytes(), 0, DecoderOptions::NONE),
        decoded: iced_x86::Instruction::default(),
    };
    Sweep::new(image, decoder).run(entries)
}

/// Instructions in `code`, which is to lie at `at`, that refer to memory relative to the program
/// counter, and where to.
pub(super) fn data_references(code: &[u8], at: Svma) -> Vec<(Svma, Svma)> {
    Decoder::with_ip(64, code, at.0, DecoderOptions::NONE)
        .into_iter()
        .filter(iced_x86::Instruction::is_ip_rel_memory_operand)
        .map(|found| (Svma(found.ip()), Svma(found.ip_rel_memory_address())))
        .collect()
}

/// Over all of an image's bytes: expensive to construct, cheap to seek.
struct InstructionDecoder<'a> {
    decoder: Decoder<'a>,
    decoded: iced_x86::Instruction,
}

impl Decode for InstructionDecoder<'_> {
    fn seek(&mut self, address: Svma) -> bool {
        self.decoder.set_ip(address.0);
        self.decoder.set_position(address.index()).is_ok()
    }

    fn next(&mut self) -> Instruction {
        self.decoder.decode_out(&mut self.decoded);
        describe(&self.decoder, &self.decoded)
    }
}

fn describe(decoder: &Decoder<'_>, decoded: &iced_x86::Instruction) -> Instruction {
    let flow = flow(decoded);
    let has_memory =
        (0..decoded.op_count()).any(|operand| decoded.op_kind(operand) == OpKind::Memory);
    let has_only_registers =
        (0..decoded.op_count()).all(|operand| decoded.op_kind(operand) == OpKind::Register);
    // Asking the decoder takes longer than finding out that there is nothing to ask.
    let constants = match has_only_registers {
        true => ConstantOffsets::default(),
        false => decoder.get_constant_offsets(decoded),
    };
    // A branch distance is an immediate to the decoder; it never depends on vvar.
    let is_branch = matches!(flow, Flow::Jump(_) | Flow::Branch(_) | Flow::Call(_));
    let immediate = match constants.has_immediate() && !is_branch {
        true => Field {
            offset: constants.immediate_offset() as u8,
            size: constants.immediate_size() as u8,
        },
        false => Field::default(),
    };
    let displacement = match constants.has_displacement() {
        true => Field {
            offset: constants.displacement_offset() as u8,
            size: constants.displacement_size() as u8,
        },
        false => Field::default(),
    };
    let access = match decoded.mnemonic() {
        _ if !has_memory => Access::None,
        Mnemonic::Lea => Access::Address,
        _ => Access::Memory(decoded.memory_size().size() as u32),
    };
    let target = decoded
        .is_ip_rel_memory_operand()
        .then(|| Svma(decoded.ip_rel_memory_address()));
    let length = decoded.len() as u8;
    Instruction {
        address: Svma(decoded.ip()),
        length,
        displacement,
        immediate,
        target,
        access,
        flow,
        needs: processor::needs(decoded),
    }
}

fn flow(decoded: &iced_x86::Instruction) -> Flow {
    let target = Svma(decoded.near_branch_target());
    match decoded.flow_control() {
        _ if decoded.is_invalid() => Flow::Stop,
        FlowControl::Next => Flow::Next,
        FlowControl::UnconditionalBranch => Flow::Jump(target),
        FlowControl::ConditionalBranch => Flow::Branch(target),
        FlowControl::Call
            if matches!(decoded.mnemonic(), Mnemonic::Syscall | Mnemonic::Sysenter) =>
        {
            Flow::Next
        }
        FlowControl::Call => Flow::Call(target),
        FlowControl::IndirectBranch | FlowControl::IndirectCall => Flow::Indirect,
        FlowControl::Return => Flow::Return,
        // `int 0x80` comes back; `int3` and `ud2` do not.
        FlowControl::Interrupt if decoded.mnemonic() == Mnemonic::Int => Flow::Next,
        _ => Flow::Stop,
    }
}
