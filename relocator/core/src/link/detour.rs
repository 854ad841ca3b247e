//! Moving instructions out of line whose constants no longer fit.
//!
//! The instruction and as many neighbours as a five-byte jump needs are written behind the image, with the constant four
//! bytes wide; the jump takes their place. No other way than through the first of them may lead into a moved run of
//! instructions: nothing may jump, return or point to one of the others.
//!
//! Calls, and system calls in particular, are never moved: a thread inside one comes back to the address behind it (or, to
//! repeat a system call, to its own), wherever the code has gone in the meantime.

use std::ops::Range;

use elf_tools::Svma;
use elf_tools::disassembly::{Flow, Instruction};
use elf_tools::reachability::Code;
use iced_x86::{Encoder, FlowControl, Mnemonic};

use crate::Result;
use crate::error::InstructionFault;
use crate::link::constant::{self, Constant, LONGEST, Reader};
use crate::link::encode::damaged;
use crate::threads::Moved;

/// Length of `jmp rel32`.
const JUMP: usize = 5;

/// Where moved code begins: processors fetch such blocks at once.
const ALIGNMENT: usize = 16;

/// Most operand fields that the linker excludes one by one before it excludes all. Each costs
/// another solution, and more than a few only occur in tables that were made to cost time.
const MAX_EXCLUDED: usize = 16;

/// `int3`, for bytes that nobody may execute.
const TRAP: u8 = 0xcc;

/// Where instructions are that were moved out of line.
#[derive(Debug, Default)]
pub(super) struct Relocated {
    /// The instructions.
    pub(super) moved: Vec<Moved>,
    /// The jumps behind them, each with the instruction that it leads back to.
    pub(super) back: Vec<Moved>,
}

/// What can be moved.
pub(super) struct Detours<'a> {
    code: &'a Code,
    bytes: &'a [u8],
    constants: &'a [Option<Constant>],
    /// Functions whose code must stay as it is, by index.
    fixed: &'a [usize],
    ground: Option<Ground>,
    /// Operand fields for which there turned out to be no room.
    excluded: Vec<u32>,
}

/// What instructions are in the way of moving others.
struct Ground {
    /// For each byte of the image whether something leads there other than the instruction before it.
    is_target: Vec<bool>,
    /// For each instruction whether it may be moved.
    is_movable: Vec<bool>,
}

impl<'a> Detours<'a> {
    pub(super) fn new(
        code: &'a Code,
        bytes: &'a [u8],
        constants: &'a [Option<Constant>],
        fixed: &'a [usize],
    ) -> Self {
        Self {
            code,
            bytes,
            constants,
            fixed,
            ground: None,
            excluded: Vec::new(),
        }
    }

    /// Whether the instruction of `operand_field` can be moved and then hold any value.
    pub(super) fn is_possible(&mut self, operand_field: u32) -> bool {
        let Some(constant) = self.constants[operand_field as usize] else {
            return false;
        };
        self.excluded.len() < MAX_EXCLUDED
            && !self.excluded.contains(&operand_field)
            && self.can_be_wide(constant)
            && !self.windows(constant.instruction as usize).is_empty()
    }

    /// Excludes moving the instruction of `operand_field`.
    pub(super) fn exclude(&mut self, operand_field: u32) {
        self.excluded.push(operand_field);
    }

    /// Chooses the instructions that are moved for these slots, or returns an operand field for which there is no room beside the
    /// others.
    pub(super) fn choose(&mut self, out_of_range: &[u32]) -> Result<Vec<Range<usize>>, u32> {
        let mut chosen: Vec<Range<usize>> = Vec::new();
        for &operand_field in out_of_range {
            let Some(constant) = self.constants[operand_field as usize] else {
                return Err(operand_field);
            };
            let index = constant.instruction as usize;
            if chosen.last().is_some_and(|last| last.contains(&index)) {
                continue;
            }
            let windows = self.windows(index);
            let window = windows.into_iter().find_map(|window| {
                let Some(last) = chosen.last().filter(|last| window.start < last.end) else {
                    return Some((window, false));
                };
                let both = window.start.min(last.start)..window.end.max(last.end);
                // What is merged may not reach over the run before, which was chosen without it.
                let before = chosen.len().checked_sub(2).map_or(0, |i| chosen[i].end);
                (both.start >= before && self.is_closed(&both)).then_some((both, true))
            });
            match window {
                Some((window, false)) => chosen.push(window),
                Some((window, true)) => {
                    chosen.pop();
                    chosen.push(window);
                }
                None => return Err(operand_field),
            }
        }
        Ok(chosen)
    }

    fn can_be_wide(&self, constant: Constant) -> bool {
        let address = self.code.instructions()[constant.instruction as usize].address;
        let mut wide = Reader::new(self.bytes).at(address);
        constant::widen(&mut wide, constant.part, 0x1234_5678).is_some()
            && Encoder::new(64).encode(&wide, address.0).is_ok()
    }

    /// Runs of instructions around one that could be moved with it: the fewest first, among equals the latest start.
    fn windows(&mut self, index: usize) -> Vec<Range<usize>> {
        let code = self.code.instructions();
        let mut windows: Vec<Range<usize>> = Vec::new();
        for start in (index.saturating_sub(JUMP - 1)..=index).rev() {
            let from = code[start].address;
            let enough = |end: usize| code[end - 1].end().0 - from.0 >= JUMP as u64;
            let end = (index + 1..=code.len()).find(|&end| enough(end));
            if let Some(window) = end.map(|end| start..end).filter(|w| w.len() <= JUMP + 1)
                && self.is_closed(&window)
            {
                windows.push(window);
            }
        }
        windows.sort_by_key(Range::len);
        windows
    }

    /// Whether these instructions follow each other, can be moved, and only the first can be come to.
    fn is_closed(&mut self, window: &Range<usize>) -> bool {
        let code = &self.code.instructions()[window.clone()];
        let ground = self
            .ground
            .get_or_insert_with(|| Ground::of(self.code, self.bytes, self.fixed));
        ground.is_movable[window.clone()]
            .iter()
            .all(|&movable| movable)
            && code.windows(2).all(|pair| {
                pair[0].end() == pair[1].address
                    && !matches!(pair[0].flow, Flow::Jump(_) | Flow::Return)
                    && !ground.is_target[pair[1].address.index()]
            })
    }
}

impl Ground {
    fn of(code: &Code, bytes: &[u8], fixed: &[usize]) -> Self {
        let mut ground = Self {
            is_target: vec![false; bytes.len()],
            is_movable: vec![true; code.instructions().len()],
        };
        for function in code.functions() {
            ground.target(function.entry);
        }
        for (index, instruction) in code.instructions().iter().enumerate() {
            // The places behind calls and system calls are come to as well. But those stay, and an instruction behind one
            // that stays can only be the first of a run.
            if let Flow::Jump(target) | Flow::Branch(target) | Flow::Call(target) = instruction.flow
            {
                ground.target(target);
            }
            // Code whose address is taken may be jumped to.
            if let Some(target) = instruction.target {
                ground.target(target);
            }
            let stays = matches!(
                instruction.flow,
                Flow::Call(_) | Flow::Indirect | Flow::Stop
            );
            ground.is_movable[index] =
                !stays && !is_system_call(instruction, bytes) && !is_tied(instruction, bytes);
        }
        for &function in fixed {
            for &instruction in &code.functions()[function].reached {
                ground.is_movable[instruction as usize] = false;
            }
        }
        ground
    }

    fn target(&mut self, address: Svma) {
        if let Some(place) = self.is_target.get_mut(address.index()) {
            *place = true;
        }
    }
}

fn bytes_of<'a>(instruction: &Instruction, bytes: &'a [u8]) -> &'a [u8] {
    &bytes[instruction.address.index()..instruction.end().index()]
}

/// `syscall`, `sysenter` and `int`, as far as control comes back from them.
fn is_system_call(instruction: &Instruction, bytes: &[u8]) -> bool {
    let stored = bytes_of(instruction, bytes);
    let opcode = stored.len().saturating_sub(2);
    matches!(stored[opcode..], [0x0f, 0x05 | 0x34] | [0xcd, _]) && instruction.flow == Flow::Next
}

/// A landing pad, which must be where the entry is, and branches that have no long form.
fn is_tied(instruction: &Instruction, bytes: &[u8]) -> bool {
    let stored = bytes_of(instruction, bytes);
    let is_pad = matches!(stored, [0xf3, 0x0f, 0x1e, 0xfa | 0xfb]);
    let is_short_only = matches!(instruction.flow, Flow::Branch(_) | Flow::Jump(_))
        && matches!(stored, [0xe0..=0xe3, _] | [0x67, 0xe0..=0xe3, _]);
    is_pad || is_short_only
}

/// Moves the chosen runs of instructions behind the image. `bytes` has all other constants in place already; `out_of_range`
/// are the constants that have to be wide, with their values.
pub(super) fn write(
    chosen: &[Range<usize>],
    code: &Code,
    out_of_range: &[(Constant, i64)],
    bytes: &mut Vec<u8>,
) -> Result<Relocated> {
    let mut moved = Vec::new();
    let mut back = Vec::new();
    for window in chosen {
        let run = &code.instructions()[window.clone()];
        let within = |change: &&(Constant, i64)| window.contains(&(change.0.instruction as usize));
        let wide: Vec<(Constant, i64)> = out_of_range.iter().filter(within).copied().collect();
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), TRAP);
        let to = Svma(bytes.len() as u64);
        let writer = Run {
            run,
            first: window.start,
            wide: &wide,
        };
        let code = writer.encode(bytes, to, &mut moved)?;
        back.extend(writer.goes_on().then(|| Moved {
            from: writer.end(),
            to: to.offset(code.len() as i64 - JUMP as i64),
        }));
        let (from, end) = (run[0].address, run[run.len() - 1].end());
        let jump = jump(from, to)?;
        bytes.extend(code);
        let place = &mut bytes[from.index()..end.index()];
        place.fill(TRAP);
        place[..JUMP].copy_from_slice(&jump);
        writer.check(bytes, &moved)?;
    }
    Ok(Relocated { moved, back })
}

/// Instructions that are moved together.
struct Run<'a> {
    run: &'a [Instruction],
    /// Index of the first.
    first: usize,
    wide: &'a [(Constant, i64)],
}

impl Run<'_> {
    /// The code for `to`, and where each instruction came to lie.
    fn encode(&self, bytes: &[u8], to: Svma, moved: &mut Vec<Moved>) -> Result<Vec<u8>> {
        let mut encoder = Encoder::new(64);
        let mut at = to;
        for (instruction, index) in self.run.iter().zip(self.first..) {
            let from = instruction.address;
            let intended = self.intended(bytes, from, index)?;
            moved.push(Moved { from, to: at });
            let length = encoder
                .encode(&intended, at.0)
                .map_err(|error| damaged(from, InstructionFault::Immovable(error.to_string())))?;
            at = at.offset(length as i64);
        }
        let mut code = encoder.take_buffer();
        self.check_code(bytes, &code, to)?;
        if self.goes_on() {
            code.extend(jump(at, self.end())?);
        }
        Ok(code)
    }

    /// An instruction as it has to be at its new place.
    fn intended(&self, bytes: &[u8], from: Svma, index: usize) -> Result<iced_x86::Instruction> {
        let mut intended = Reader::new(bytes).at(from);
        for (constant, value) in self.wide {
            if constant.instruction as usize == index {
                constant::widen(&mut intended, constant.part, *value)
                    .ok_or_else(|| damaged(from, InstructionFault::NoLongForm))?;
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
    fn check_code(&self, bytes: &[u8], code: &[u8], to: Svma) -> Result<()> {
        debug_assert!(code.len() <= self.run.len() * LONGEST);
        let options = iced_x86::DecoderOptions::NONE;
        let mut decoder = iced_x86::Decoder::with_ip(64, code, to.0, options);
        for (instruction, index) in self.run.iter().zip(self.first..) {
            let intended = self.intended(bytes, instruction.address, index)?;
            if !constant::is_same(&intended, &decoder.decode()) {
                return Err(damaged(instruction.address, InstructionFault::Another));
            }
        }
        match decoder.can_decode() {
            false => Ok(()),
            true => Err(damaged(self.run[0].address, InstructionFault::Several)),
        }
    }

    /// Whether control can go on behind the run.
    fn goes_on(&self) -> bool {
        !matches!(
            self.run[self.run.len() - 1].flow,
            Flow::Jump(_) | Flow::Return
        )
    }

    fn end(&self) -> Svma {
        self.run[self.run.len() - 1].end()
    }

    /// Follows the jumps to the moved code and back.
    fn check(&self, bytes: &[u8], moved: &[Moved]) -> Result<()> {
        let mut reader = Reader::new(bytes);
        let mut leads = |from: Svma, to: Svma| {
            let jump = reader.at(from);
            jump.mnemonic() == Mnemonic::Jmp && jump.near_branch_target() == to.0
        };
        let first = moved[moved.len() - self.run.len()];
        let back = Svma(bytes.len() as u64).offset(-(JUMP as i64));
        if leads(first.from, first.to) && (!self.goes_on() || leads(back, self.end())) {
            return Ok(());
        }
        Err(damaged(first.from, InstructionFault::Unreached))
    }
}

/// `jmp rel32` at `from`.
fn jump(from: Svma, to: Svma) -> Result<[u8; JUMP]> {
    let distance = to.signed() - from.signed() - JUMP as i64;
    let distance =
        i32::try_from(distance).map_err(|_| damaged(from, InstructionFault::TooFar(to)))?;
    let [a, b, c, d] = distance.to_le_bytes();
    Ok([0xe9, a, b, c, d])
}
