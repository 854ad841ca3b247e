//! Which function reaches which instructions.
//!
//! Registers are not followed: a function with an indirect jump or call has [`Function::indirect`]
//! set, and a caller that asks what it may touch must assume the worst.

use std::ops::Range;

use crate::arch;
use crate::disassembly::{Flow, Instruction};
use crate::image::Image;
use crate::{Error, Result, Svma};

/// An exported function's reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// Entry point; exports that share it are aliases.
    pub entry: Svma,
    /// Indices of the instructions that it can reach, callees included, ascending.
    pub reached: Vec<u32>,
    /// The first place where control goes somewhere that decoding alone cannot tell, or leaves the
    /// image's text.
    pub indirect: Option<Svma>,
}

/// All code of one image.
#[derive(Debug, Clone)]
pub struct Code {
    instructions: Vec<Instruction>,
    functions: Vec<Function>,
    /// Indices of the instructions that not every processor has.
    special: Vec<u32>,
}

impl Code {
    /// Decodes an image. Only x86 code, of 32 and 64 bits, is decoded.
    pub fn of(image: &Image) -> Result<Self> {
        let mut entries: Vec<Svma> = image
            .exports()
            .iter()
            .map(|export| export.address)
            .collect();
        entries.dedup();
        for &entry in &entries {
            if !image.is_text(entry) {
                return Err(Error::malformed(
                    "export",
                    entry.0,
                    "the function does not lie in executable bytes",
                ));
            }
        }
        let instructions = arch::decode(image, &entries)?;
        let mut walk = Walk::new(&instructions);
        let functions = entries.iter().map(|&entry| walk.function(entry)).collect();
        let numbered = instructions.iter().zip(0..);
        let special = numbered.filter(|(instruction, _)| !instruction.needs.is_empty());
        let special = special.map(|(_, index)| index).collect();
        Ok(Self {
            instructions,
            functions,
            special,
        })
    }

    /// Every instruction, reached or not, by address.
    pub fn instructions(&self) -> &[Instruction] {
        &self.instructions
    }

    /// The instructions that not every processor has, with their indices.
    pub fn special(&self) -> impl Iterator<Item = (u32, &Instruction)> {
        let special = self.special.iter();
        special.map(|&index| (index, &self.instructions[index as usize]))
    }

    /// One entry for each distinct entry point, by address.
    pub fn functions(&self) -> &[Function] {
        &self.functions
    }

    /// The function with that entry point.
    pub fn function(&self, entry: Svma) -> Option<&Function> {
        self.functions
            .binary_search_by_key(&entry, |function| function.entry)
            .ok()
            .map(|index| &self.functions[index])
    }

    /// The instructions that `function` can reach, by address.
    pub fn reached<'a>(&'a self, function: &'a Function) -> impl Iterator<Item = &'a Instruction> {
        function
            .reached
            .iter()
            .map(|&index| &self.instructions[index as usize])
    }

    /// Index of the instruction that starts at `address`.
    pub fn index_of(&self, address: Svma) -> Option<u32> {
        self.instructions
            .binary_search_by_key(&address, |instruction| instruction.address)
            .ok()
            .map(|index| index as u32)
    }

    /// The instruction that covers `address`.
    pub fn covering(&self, address: Svma) -> Option<&Instruction> {
        let after = self
            .instructions
            .partition_point(|instruction| instruction.address <= address);
        let instruction = &self.instructions[after.checked_sub(1)?];
        (address < instruction.end()).then_some(instruction)
    }
}

/// Follows the flow from each entry over instructions that are decoded already.
struct Walk<'a> {
    instructions: &'a [Instruction],
    /// For each byte of the image the number of the instruction that starts there, from 1.
    starts: Vec<u32>,
    /// Number of the function that visited an instruction last, from 1: one allocation for all
    /// functions.
    visited: Vec<u32>,
    round: u32,
}

impl<'a> Walk<'a> {
    fn new(instructions: &'a [Instruction]) -> Self {
        let end = instructions.last().map_or(0, |last| last.end().index());
        let mut starts = vec![0; end];
        for (instruction, number) in instructions.iter().zip(1..) {
            starts[instruction.address.index()] = number;
        }
        Self {
            instructions,
            starts,
            visited: vec![0; instructions.len()],
            round: 0,
        }
    }

    fn function(&mut self, entry: Svma) -> Function {
        self.round += 1;
        let mut lines: Vec<Range<u32>> = Vec::new();
        let mut indirect = None;
        let mut pending = vec![entry];
        while let Some(address) = pending.pop() {
            let number = self.starts.get(address.index()).copied().unwrap_or(0);
            let Some(start) = number.checked_sub(1) else {
                indirect = indirect.or(Some(address));
                continue;
            };
            let end = self.straight(start, &mut pending, &mut indirect);
            lines.push(start..end);
        }
        lines.sort_unstable_by_key(|line| line.start);
        Function {
            entry,
            reached: lines.into_iter().flatten().collect(),
            indirect,
        }
    }

    /// Follows one straight line of instructions as far as nothing has before, and leaves its
    /// branch targets in `pending`. Returns where the line ends.
    fn straight(
        &mut self,
        start: u32,
        pending: &mut Vec<Svma>,
        indirect: &mut Option<Svma>,
    ) -> u32 {
        let mut index = start as usize;
        while self.visited[index] != self.round {
            self.visited[index] = self.round;
            let instruction = &self.instructions[index];
            index += 1;
            match instruction.flow {
                Flow::Next => {}
                Flow::Indirect => *indirect = indirect.or(Some(instruction.address)),
                Flow::Branch(target) | Flow::Call(target) => pending.push(target),
                Flow::Jump(target) => {
                    pending.push(target);
                    break;
                }
                Flow::Return | Flow::Stop => break,
            }
            let next = self.instructions.get(index);
            if next.is_none_or(|next| next.address != instruction.end()) {
                *indirect = indirect.or(Some(instruction.end()));
                break;
            }
        }
        index as u32
    }
}
