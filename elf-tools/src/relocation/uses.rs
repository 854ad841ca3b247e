//! Which function depends on which part of a table.

use std::iter::Peekable;
use std::ops::Range;

use super::{Kind, Relocations};
use crate::Svma;
use crate::disassembly::{Access, Instruction};
use crate::reachability::{Code, Function};

/// What each function may use; parallel to [`Code::functions`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uses {
    /// By function.
    pub by_function: Vec<FunctionUses>,
}

/// What one function may use: indices into the table's lists, ascending.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FunctionUses {
    /// Of [`Relocations::entries`].
    pub entries: Vec<u32>,
    /// Of [`Relocations::constraints`].
    pub constraints: Vec<u32>,
    /// Of [`Relocations::opaque`].
    pub opaque: Vec<u32>,
}

impl FunctionUses {
    /// Number of relocations of either kind.
    pub fn len(&self) -> usize {
        self.entries.len() + self.constraints.len()
    }

    /// Whether the function depends on nothing in the table.
    pub fn is_empty(&self) -> bool {
        self.len() == 0 && self.opaque.is_empty()
    }
}

impl Relocations {
    /// Finds out which function may use which relocation.
    ///
    /// A function uses a place in an instruction that it reaches, a place in data that such an
    /// instruction refers to, and a constraint whose site it reaches. One that takes the address of
    /// a place in data, or whose control flow cannot be followed, counts as using everything.
    pub fn uses(&self, code: &Code) -> Uses {
        let mut constraints = Sites::new(self.constraints.iter().map(|constraint| constraint.site));
        let mut opaque = Sites::new(self.opaque.iter().map(|opaque| opaque.site));
        let by_instruction: Vec<InstructionUses> = code
            .instructions()
            .iter()
            .map(|instruction| InstructionUses {
                entries: self.used_by(instruction),
                constraints: constraints.at(instruction.address),
                opaque: opaque.at(instruction.address),
            })
            .collect();
        let by_function = code
            .functions()
            .iter()
            .map(|function| self.used_by_function(function, &by_instruction));
        Uses {
            by_function: by_function.collect(),
        }
    }

    fn used_by_function(
        &self,
        function: &Function,
        by_instruction: &[InstructionUses],
    ) -> FunctionUses {
        let mut used = FunctionUses::default();
        for &index in &function.reached {
            let instruction = &by_instruction[index as usize];
            match &instruction.entries {
                InstructionUse::Some(from, to) => used.entries.extend(*from..*to),
                InstructionUse::Data(entry) => used.entries.push(*entry),
                InstructionUse::Everything => return self.everything(),
                InstructionUse::Nothing => {}
            }
            used.constraints.extend(instruction.constraints.clone());
            used.opaque.extend(instruction.opaque.clone());
        }
        if function.indirect.is_some() {
            return self.everything();
        }
        used.entries.sort_unstable();
        used.entries.dedup();
        used
    }

    fn everything(&self) -> FunctionUses {
        FunctionUses {
            entries: (0..self.entries.len() as u32).collect(),
            constraints: (0..self.constraints.len() as u32).collect(),
            opaque: (0..self.opaque.len() as u32).collect(),
        }
    }

    fn used_by(&self, instruction: &Instruction) -> InstructionUse {
        // A place in code is an operand, so most instructions need no search.
        if instruction.displacement.size == 0 && instruction.immediate.size == 0 {
            return InstructionUse::Nothing;
        }
        let from = self
            .entries
            .partition_point(|entry| entry.place < instruction.address);
        let to = self
            .entries
            .partition_point(|entry| entry.place < instruction.end());
        if from < to {
            return InstructionUse::Some(from as u32, to as u32);
        }
        match instruction.target.and_then(|target| self.covering(target)) {
            None => InstructionUse::Nothing,
            Some(_)
                if instruction.access == Access::Address
                    && !self.is_address_of_distance(instruction) =>
            {
                InstructionUse::Everything
            }
            Some(entry) => InstructionUse::Data(entry as u32),
        }
    }

    /// Code that uses a stored distance adds it to the address of its own place: it loads that
    /// address, and adds what is there. So the address tells which place is meant.
    fn is_address_of_distance(&self, instruction: &Instruction) -> bool {
        let found = instruction
            .target
            .and_then(|target| self.covering(target).map(|entry| (target, entry)));
        found.is_some_and(|(target, entry)| {
            let entry = &self.entries[entry];
            entry.place == target && entry.kind == Kind::Pc64
        })
    }
}

/// Sites in order, asked for in order.
struct Sites<I: Iterator<Item = Svma>> {
    left: Peekable<I>,
    /// Index of the next.
    index: u32,
}

impl<I: Iterator<Item = Svma>> Sites<I> {
    fn new(sorted: I) -> Self {
        Self {
            left: sorted.peekable(),
            index: 0,
        }
    }

    /// Indices of those that are at `site`.
    fn at(&mut self, site: Svma) -> Range<u32> {
        self.skip(|other| other < site);
        let from = self.index;
        self.skip(|other| other == site);
        from..self.index
    }

    fn skip(&mut self, wanted: impl Fn(Svma) -> bool) {
        while self.left.next_if(|&site| wanted(site)).is_some() {
            self.index += 1;
        }
    }
}

/// What one instruction uses of each list.
struct InstructionUses {
    entries: InstructionUse,
    constraints: Range<u32>,
    opaque: Range<u32>,
}

/// What one instruction uses of the entries.
enum InstructionUse {
    Nothing,
    /// Its own constants: a range of relocations.
    Some(u32, u32),
    /// A place in data.
    Data(u32),
    /// The address of a place in data, and with it any of them.
    Everything,
}
