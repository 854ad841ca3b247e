//! What the code of a vDSO says about its vvar: every address before the image that it mentions, and how it uses it.
//!
//! Most operands say it themselves (`cmp dword ptr [rip-0x7fa],0x7fffffff`). Where code loads an address first (`lea`),
//! its register is followed along every path until it is overwritten, so that the accesses through it count as well.
//! This is less than what the derivation of relocations needs: nothing is concluded from an address that is computed.

use std::collections::{BTreeSet, HashSet};

use iced_x86::{
    Decoder, DecoderOptions, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind,
    Register,
};

use crate::disassembly::{Access, Flow};
use crate::image::Image;
use crate::reachability::Code;
use crate::{Result, Svma};

/// How many instructions are followed from one `lea`. Stock functions have some 300; what lies beyond the limit is
/// not evidence, and too little evidence is reported as such.
const MAX_STEPS: usize = 20_000;

/// An instruction that reads or writes a place before the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Touch {
    /// The instruction.
    pub(super) at: Svma,
    /// The place, relative to the image.
    pub(super) target: i64,
    /// Bytes that are accessed.
    pub(super) size: u32,
    /// The constant that it is compared with, if the instruction is a comparison with one.
    pub(super) compared_with: Option<i64>,
}

/// Everything that the reachable code of an image says about its vvar.
#[derive(Debug, Clone, Default)]
pub(super) struct Evidence {
    /// Accesses through operands and through registers.
    pub(super) touches: BTreeSet<Touch>,
    /// Addresses that code loads: the instruction, and what it loads.
    pub(super) loads: BTreeSet<(Svma, i64)>,
}

impl Evidence {
    /// Reads the code that the exported functions of an x86-64 image can reach.
    pub(super) fn of(image: &Image) -> Result<Self> {
        let code = Code::of(image)?;
        let reached: BTreeSet<u32> = code
            .functions()
            .iter()
            .flat_map(|function| &function.reached)
            .copied()
            .collect();
        let mut trace = Trace {
            image,
            code: &code,
            info: InstructionInfoFactory::new(),
            evidence: Self::default(),
        };
        for index in reached {
            let instruction = &code.instructions()[index as usize];
            let Some(target) = instruction
                .target
                .map(Svma::signed)
                .filter(|&target| target < 0)
            else {
                continue;
            };
            match instruction.access {
                Access::None => {}
                Access::Memory(size) => {
                    trace.touch(&trace.decode(instruction.address), target, size)
                }
                Access::Address => {
                    trace.evidence.loads.insert((instruction.address, target));
                    trace.follow(instruction.address, target);
                }
            }
        }
        Ok(trace.evidence)
    }
}

/// Registers that are known to hold an address before the image, in 64-bit names, sorted.
type Known = Vec<(Register, i64)>;

struct Trace<'a> {
    image: &'a Image,
    code: &'a Code,
    info: InstructionInfoFactory,
    evidence: Evidence,
}

impl Trace<'_> {
    /// The instruction at `at`, which has been decoded before.
    fn decode(&self, at: Svma) -> Instruction {
        let bytes = self.image.bytes().get(at.index()..).unwrap_or_default();
        Decoder::with_ip(64, bytes, at.0, DecoderOptions::NONE).decode()
    }

    fn touch(&mut self, instruction: &Instruction, target: i64, size: u32) {
        let compares =
            instruction.mnemonic() == Mnemonic::Cmp && instruction.op0_kind() == OpKind::Memory;
        let compared_with = (compares && is_immediate(instruction.op1_kind()))
            .then(|| instruction.immediate(1) as i64);
        self.evidence.touches.insert(Touch {
            at: Svma(instruction.ip()),
            target,
            size,
            compared_with,
        });
    }

    /// Follows the register that the `lea` at `at` loads with `target`.
    fn follow(&mut self, at: Svma, target: i64) {
        let lea = self.decode(at);
        let mut pending = vec![(
            Svma(lea.next_ip()),
            vec![(lea.op0_register().full_register(), target)],
        )];
        let mut seen: HashSet<(Svma, Known)> = HashSet::new();
        while let Some((at, known)) = pending.pop() {
            // Something else than an instruction that was decoded before is a flow that is not understood.
            let Some(instruction) = self
                .code
                .covering(at)
                .filter(|instruction| instruction.address == at)
            else {
                continue;
            };
            if seen.len() == MAX_STEPS || !seen.insert((at, known.clone())) {
                continue;
            }
            let (flow, access) = (instruction.flow, instruction.access);
            let decoded = self.decode(at);
            if let (Access::Memory(size), Some(target)) = (access, address(&decoded, &known)) {
                self.touch(&decoded, target, size);
            }
            let known = self.after(&decoded, known);
            if known.is_empty() {
                continue;
            }
            let next = Svma(decoded.next_ip());
            match flow {
                Flow::Next => pending.push((next, known)),
                Flow::Jump(target) => pending.push((target, known)),
                Flow::Branch(target) => pending.extend([(next, known.clone()), (target, known)]),
                // A callee may overwrite registers, and what it does with them is its own business.
                Flow::Call(_) | Flow::Indirect | Flow::Return | Flow::Stop => {}
            }
        }
    }

    /// What is known after `instruction`, if `known` was before it.
    fn after(&mut self, instruction: &Instruction, mut known: Known) -> Known {
        let result = computed(instruction, &known);
        for used in self.info.info(instruction).used_registers() {
            if !matches!(
                used.access(),
                OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess
            ) {
                let written = used.register().full_register();
                known.retain(|&(register, _)| register != written);
            }
        }
        // The decoder lists what the processor does, not that the kernel returns a value.
        if instruction.mnemonic() == Mnemonic::Syscall {
            known.retain(|&(register, _)| register != Register::RAX);
        }
        if let Some(value) = result {
            known.push((instruction.op0_register(), value));
            known.sort_unstable_by_key(|&(register, _)| register as usize);
        }
        known
    }
}

fn is_immediate(kind: OpKind) -> bool {
    matches!(
        kind,
        OpKind::Immediate8 | OpKind::Immediate32 | OpKind::Immediate8to32 | OpKind::Immediate8to64
    ) || matches!(
        kind,
        OpKind::Immediate16 | OpKind::Immediate8to16 | OpKind::Immediate32to64
    )
}

fn value(known: &Known, register: Register) -> Option<i64> {
    known
        .iter()
        .find(|&&(known, _)| known == register)
        .map(|&(_, value)| value)
}

/// The address of the memory operand, if it is a known register plus a constant and lies before the image.
fn address(instruction: &Instruction, known: &Known) -> Option<i64> {
    // A segment prefix makes it an address of something else: `fs:[rax]` is thread-local.
    let flat = instruction.segment_prefix() == Register::None
        && instruction.memory_index() == Register::None;
    let base = value(known, instruction.memory_base()).filter(|_| flat)?;
    Some(base.wrapping_add(instruction.memory_displacement64() as i64))
        .filter(|&address| address < 0)
}

/// What the instruction writes to its first operand, if that is a known address plus a constant before the image.
fn computed(instruction: &Instruction, known: &Known) -> Option<i64> {
    let destination = instruction.op0_register();
    if instruction.op_count() != 2
        || instruction.op0_kind() != OpKind::Register
        || !destination.is_gpr64()
    {
        return None;
    }
    let old = value(known, destination);
    let constant = || is_immediate(instruction.op1_kind()).then(|| instruction.immediate(1) as i64);
    let result = match instruction.mnemonic() {
        Mnemonic::Mov if instruction.op1_kind() == OpKind::Register => {
            value(known, instruction.op1_register())?
        }
        Mnemonic::Lea => return address(instruction, known),
        Mnemonic::Add => old?.wrapping_add(constant()?),
        Mnemonic::Sub => old?.wrapping_sub(constant()?),
        _ => return None,
    };
    Some(result).filter(|&address| address < 0)
}
