//! Moving instructions out of line whose constants no longer fit.
//!
//! The linker writes the instruction and as many neighbours as a jump needs behind the image, with
//! a constant that is long enough; the jump takes their place. A run of instructions may only move
//! if control enters it at the first: nothing may jump, return or point to one of the others.
//!
//! Calls, and system calls in particular, never move: a thread inside one comes back to the address
//! behind it (or, to repeat a system call, to its own), wherever the code is by then.

use std::ops::Range;

use elf_tools::Svma;
use elf_tools::disassembly::Flow;
use elf_tools::reachability::Code;

use crate::arch::{Arch, Encoded, Run};
use crate::error::InstructionFault;
use crate::link::constant::{Constant, Part};
use crate::threads::Moved;
use crate::unwind::{Piece, Room};
use crate::{Error, Result};

/// Where moved code behind the image begins: processors fetch such blocks at once.
const ALIGNMENT: usize = 16;

/// Most operand fields that the linker excludes one by one before it excludes all. Each costs
/// another solution, and more than a few only occur in tables that were made to cost time.
const MAX_EXCLUDED: usize = 16;

/// Where instructions are that were moved out of line.
#[derive(Debug, Default)]
pub(super) struct Relocated {
    /// The instructions.
    pub(super) moved: Vec<Moved>,
    /// The jumps behind them, each with the instruction that it leads back to.
    pub(super) back: Vec<Moved>,
    /// Where all that is, piece by piece.
    pub(super) pieces: Vec<Piece>,
}

/// What can be moved.
pub(super) struct Detours<'a> {
    arch: &'static dyn Arch,
    code: &'a Code,
    bytes: &'a [u8],
    constants: &'a [Option<Constant>],
    /// Functions whose code must stay as it is, by index.
    fixed: &'a [usize],
    obstacles: Option<Obstacles>,
    /// Operand fields for which there turned out to be no room.
    excluded: Vec<u32>,
}

/// What instructions are in the way of moving others.
struct Obstacles {
    /// For each byte of the image whether something leads there other than the instruction before
    /// it.
    is_target: Vec<bool>,
    /// For each instruction whether it may be moved.
    is_movable: Vec<bool>,
}

impl<'a> Detours<'a> {
    pub(super) fn new(
        arch: &'static dyn Arch,
        code: &'a Code,
        bytes: &'a [u8],
        constants: &'a [Option<Constant>],
        fixed: &'a [usize],
    ) -> Self {
        Self {
            arch,
            code,
            bytes,
            constants,
            fixed,
            obstacles: None,
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
            && self.can_lengthen(constant)
            && !self.windows(constant.instruction as usize).is_empty()
    }

    /// Excludes moving the instruction of `operand_field`.
    pub(super) fn exclude(&mut self, operand_field: u32) {
        self.excluded.push(operand_field);
    }

    /// Chooses the instructions that move for these operand fields, or returns one for which there
    /// is no room beside the others.
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

    fn can_lengthen(&self, constant: Constant) -> bool {
        let address = self.code.instructions()[constant.instruction as usize].address;
        self.arch.can_lengthen(self.bytes, address, constant.part)
    }

    /// Runs of instructions around one that could be moved with it: the fewest first, among equals
    /// the latest start.
    fn windows(&mut self, index: usize) -> Vec<Range<usize>> {
        let code = self.code.instructions();
        let jump = self.arch.near_jump_size();
        let mut windows: Vec<Range<usize>> = Vec::new();
        for start in (index.saturating_sub(jump - 1)..=index).rev() {
            let from = code[start].address;
            let enough = |end: usize| code[end - 1].end().0 - from.0 >= jump as u64;
            let end = (index + 1..=code.len()).find(|&end| enough(end));
            if let Some(window) = end.map(|end| start..end).filter(|w| w.len() <= jump + 1)
                && self.is_closed(&window)
            {
                windows.push(window);
            }
        }
        windows.sort_by_key(Range::len);
        windows
    }

    /// Whether these instructions follow each other, can be moved, and only the first can be
    /// entered.
    fn is_closed(&mut self, window: &Range<usize>) -> bool {
        let code = &self.code.instructions()[window.clone()];
        let obstacles = self
            .obstacles
            .get_or_insert_with(|| Obstacles::of(self.arch, self.code, self.bytes, self.fixed));
        obstacles.is_movable[window.clone()]
            .iter()
            .all(|&movable| movable)
            && code.windows(2).all(|pair| {
                pair[0].end() == pair[1].address
                    && !matches!(pair[0].flow, Flow::Jump(_) | Flow::Return)
                    && !obstacles.is_target[pair[1].address.index()]
            })
    }
}

impl Obstacles {
    fn of(arch: &dyn Arch, code: &Code, bytes: &[u8], fixed: &[usize]) -> Self {
        let mut obstacles = Self {
            is_target: vec![false; bytes.len()],
            is_movable: vec![true; code.instructions().len()],
        };
        for function in code.functions() {
            obstacles.target(function.entry);
        }
        for (index, instruction) in code.instructions().iter().enumerate() {
            // The places behind calls and system calls are come to as well. But those stay, and an
            // instruction behind one that stays can only be the first of a run.
            if let Flow::Jump(target) | Flow::Branch(target) | Flow::Call(target) = instruction.flow
            {
                obstacles.target(target);
            }
            // Code whose address is taken may be jumped to.
            if let Some(target) = instruction.target {
                obstacles.target(target);
            }
            let stays = matches!(
                instruction.flow,
                Flow::Call(_) | Flow::Indirect | Flow::Stop
            );
            obstacles.is_movable[index] = !stays && arch.can_move(instruction, bytes);
        }
        for &function in fixed {
            for &instruction in &code.functions()[function].reached {
                obstacles.is_movable[instruction as usize] = false;
            }
        }
        obstacles
    }

    fn target(&mut self, address: Svma) {
        if let Some(place) = self.is_target.get_mut(address.index()) {
            *place = true;
        }
    }
}

/// Moves the chosen runs of instructions: into `room` that is free in the image, or behind it.
/// `bytes` has all other constants in place already; `out_of_range` are the constants that do not
/// fit their instructions, with their values.
pub(super) fn write(
    arch: &dyn Arch,
    chosen: &[Range<usize>],
    code: &Code,
    out_of_range: &[(Constant, i64)],
    room: &mut Room,
    bytes: &mut Vec<u8>,
) -> Result<Relocated> {
    let mut relocated = Relocated::default();
    for window in chosen {
        let instructions = &code.instructions()[window.clone()];
        let within = out_of_range
            .iter()
            .filter(|change| window.contains(&(change.0.instruction as usize)));
        let long = within.map(|&(constant, value)| {
            let address = code.instructions()[constant.instruction as usize].address;
            (address, constant.part, value)
        });
        let long: Vec<(Svma, Part, i64)> = long.collect();
        let run = Run {
            instructions,
            long: &long,
        };
        move_run(arch, &run, room, bytes, &mut relocated)?;
    }
    Ok(relocated)
}

/// Moves instructions to where there is room.
fn move_run(
    arch: &dyn Arch,
    run: &Run<'_>,
    room: &mut Room,
    bytes: &mut Vec<u8>,
    relocated: &mut Relocated,
) -> Result<()> {
    let (first, last) = (
        run.instructions[0],
        run.instructions[run.instructions.len() - 1],
    );
    let (from, end) = (first.address, last.end());
    let goes_on = !matches!(last.flow, Flow::Jump(_) | Flow::Return);
    let jump_back = if goes_on { arch.near_jump_size() } else { 0 };
    let inside = arch.encode(run, bytes, room.next())?;
    let (to, Encoded { code, places }) = match room.take(inside.code.len() + jump_back) {
        Some(to) => (to, inside),
        None => {
            bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), arch.trap());
            let to = Svma(bytes.len() as u64);
            (to, arch.encode(run, bytes, to)?)
        }
    };
    let pairs = run.instructions.iter().zip(places);
    let moved = pairs.map(|(instruction, to)| Moved {
        from: instruction.address,
        to,
    });
    let mut moved: Vec<Moved> = moved.collect();
    relocated.moved.extend(&moved);
    let back = Svma(to.0 + code.len() as u64);
    let mut code = code;
    if goes_on {
        let jump = Moved {
            from: end,
            to: back,
        };
        relocated.back.push(jump);
        moved.push(jump);
        code.extend(arch.near_jump(back, end)?);
    }
    bytes.resize(bytes.len().max(to.index() + code.len()), 0);
    bytes[to.index()..][..code.len()].copy_from_slice(&code);
    relocated.pieces.push(Piece {
        range: to.0..to.0 + code.len() as u64,
        moved: moved.iter().map(|moved| (moved.to, moved.from)).collect(),
        of: from,
    });
    let jump = arch.near_jump(from, to)?;
    let place = &mut bytes[from.index()..end.index()];
    place.fill(arch.trap());
    place[..jump.len()].copy_from_slice(&jump);
    // Follows the jumps to the moved code and back.
    if arch.leads(bytes, from, to) && (!goes_on || arch.leads(bytes, back, end)) {
        return Ok(());
    }
    Err(Error::Instruction {
        address: from,
        fault: InstructionFault::Unreached,
    })
}
