//! Instructions of an image.
//!
//! Code is decoded along its control flow from every exported function, and what is left between in
//! sections of code is decoded in sequence, so that every byte belongs to at most one instruction
//! and unreached code is known as such.

use std::ops::Range;

use crate::Svma;
use crate::image::Image;
use crate::processor::ProcessorFeatures;

/// Where control goes after an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// To the next instruction only.
    Next,
    /// To the target only.
    Jump(Svma),
    /// To the target or the next instruction.
    Branch(Svma),
    /// To the target, and then to the next instruction.
    Call(Svma),
    /// To a place that only registers or memory know.
    Indirect,
    /// To the caller.
    Return,
    /// Nowhere: a trap, or bytes that are no instruction.
    Stop,
}

/// What an instruction does with its memory operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It has none.
    None,
    /// It computes the address and does not touch the memory.
    Address,
    /// It reads or writes that many bytes.
    Memory(u32),
}

/// A constant inside an instruction: its offset and size in bytes, both 0 where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Field {
    /// Offset from the start of the instruction.
    pub offset: u8,
    /// Size in bytes.
    pub size: u8,
}

/// One decoded instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Where it starts: a boundary.
    pub address: Svma,
    /// Length in bytes.
    pub length: u8,
    /// The displacement of its memory operand.
    pub displacement: Field,
    /// Its (first) immediate, branch distances excluded.
    pub immediate: Field,
    /// Where its PC-relative memory operand points, if it has one.
    pub target: Option<Svma>,
    /// What it does with the memory operand.
    pub access: Access,
    /// Where control goes next.
    pub flow: Flow,
    /// What the processor must have to execute it.
    pub needs: ProcessorFeatures,
}

impl Instruction {
    /// The address after the instruction.
    pub fn end(&self) -> Svma {
        Svma(self.address.0 + u64::from(self.length))
    }

    /// Whether `size` bytes at `place` are exactly the displacement or the immediate.
    pub fn has_operand(&self, place: Svma, size: u64) -> bool {
        let is = |field: Field| {
            field.size != 0
                && self.address.0 + u64::from(field.offset) == place.0
                && u64::from(field.size) == size
        };
        is(self.displacement) || is(self.immediate)
    }
}

/// Decodes the bytes of one image.
pub(crate) trait Decode {
    /// Goes to an address; whether there is one.
    fn seek(&mut self, address: Svma) -> bool;

    /// The next instruction.
    fn next(&mut self) -> Instruction;
}

/// Decodes along control flow first and fills the gaps in sequence.
pub(crate) struct Sweep<'a, D> {
    image: &'a Image,
    decoder: D,
    /// For each byte of the image: whether an instruction covers it.
    covered: Vec<bool>,
    /// Straight lines of instructions, as they were decoded: address of the first, and their
    /// indices.
    lines: Vec<(Svma, Range<usize>)>,
    instructions: Vec<Instruction>,
}

impl<'a, D: Decode> Sweep<'a, D> {
    pub(crate) fn new(image: &'a Image, decoder: D) -> Self {
        let end = image.text().last().map_or(0, |range| range.end as usize);
        Self {
            image,
            decoder,
            covered: vec![false; end],
            lines: Vec::new(),
            instructions: Vec::with_capacity(end / 4),
        }
    }

    pub(crate) fn run(mut self, entries: &[Svma]) -> Vec<Instruction> {
        let mut pending = entries.to_vec();
        while let Some(address) = pending.pop() {
            self.follow(address, &mut pending);
        }
        let gaps: &[_] = if self.image.has_sections() {
            self.image.text()
        } else {
            &[]
        };
        for range in gaps {
            for at in range.clone() {
                // Bytes between instructions are padding or unreached code; the result of decoding
                // them is only used to tell operands from other bytes.
                if !self.covered[at as usize] {
                    self.follow(Svma(at), &mut pending);
                    pending.clear();
                }
            }
        }
        // Instructions of different lines do not overlap, so lines come after each other as their
        // first ones do.
        self.lines.sort_unstable_by_key(|line| line.0);
        let lines = self.lines.into_iter().map(|line| line.1);
        lines
            .flat_map(|line| &self.instructions[line])
            .copied()
            .collect()
    }

    /// Decodes in sequence from `address` until known code or the end of the flow.
    fn follow(&mut self, address: Svma, pending: &mut Vec<Svma>) {
        let first = self.instructions.len();
        self.follow_line(address, pending);
        let line = first..self.instructions.len();
        if !line.is_empty() {
            self.lines.push((address, line));
        }
    }

    fn follow_line(&mut self, address: Svma, pending: &mut Vec<Svma>) {
        let Some(range) = self
            .image
            .text()
            .iter()
            .find(|range| range.contains(&address.0))
        else {
            return;
        };
        if !self.decoder.seek(address) {
            return;
        }
        let mut next = address;
        while next.0 < range.end {
            let instruction = self.decoder.next();
            next = instruction.end();
            if instruction.end().0 > range.end {
                return;
            }
            let span = instruction.address.index()..instruction.end().index();
            if self.covered[span.clone()].contains(&true) {
                return;
            }
            self.covered[span].fill(true);
            self.instructions.push(instruction);
            match instruction.flow {
                Flow::Next | Flow::Indirect => {}
                Flow::Branch(target) | Flow::Call(target) => pending.push(target),
                Flow::Jump(target) => {
                    pending.push(target);
                    return;
                }
                Flow::Return | Flow::Stop => return,
            }
        }
    }
}
