//! Which function depends on which part of a table.

use super::{Kind, Relocations};
use crate::Svma;
use crate::code::{Access, Code, Function, Instruction};

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
    /// Of [`Relocations::sums`].
    pub sums: Vec<u32>,
    /// Of [`Relocations::opaque`].
    pub opaque: Vec<u32>,
}

impl FunctionUses {
    /// Number of relocations of either kind.
    pub fn len(&self) -> usize {
        self.entries.len() + self.sums.len()
    }

    /// Whether the function depends on nothing in the table.
    pub fn is_empty(&self) -> bool {
        self.len() == 0 && self.opaque.is_empty()
    }
}

impl Relocations {
    /// Finds out which function may use which relocation.
    ///
    /// A function uses a place in an instruction that it reaches, a slot of data that such an instruction refers to, and
    /// a sum whose site it reaches. One that takes the address of a slot of data, or has control flow that cannot be
    /// followed, is taken to use everything.
    pub fn uses(&self, code: &Code) -> Uses {
        let by_instruction: Vec<InstructionUse> = code
            .instructions()
            .iter()
            .map(|instruction| self.used_by(instruction))
            .collect();
        let by_function = code
            .functions()
            .iter()
            .map(|function| self.used_by_function(code, function, &by_instruction));
        Uses {
            by_function: by_function.collect(),
        }
    }

    fn used_by_function(
        &self,
        code: &Code,
        function: &Function,
        by_instruction: &[InstructionUse],
    ) -> FunctionUses {
        let mut used = FunctionUses::default();
        for &index in &function.reached {
            match &by_instruction[index as usize] {
                InstructionUse::Some(from, to) => used.entries.extend(*from..*to),
                InstructionUse::Slot(slot) => used.entries.push(*slot),
                InstructionUse::Everything => return self.everything(),
                InstructionUse::Nothing => {}
            }
            let site = code.instructions()[index as usize].address;
            used.sums.extend(at_site(&self.sums, site, |sum| sum.site));
            used.opaque
                .extend(at_site(&self.opaque, site, |opaque| opaque.site));
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
            sums: (0..self.sums.len() as u32).collect(),
            opaque: (0..self.opaque.len() as u32).collect(),
        }
    }

    fn used_by(&self, instruction: &Instruction) -> InstructionUse {
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
                    && !self.is_plain_slot_address(instruction) =>
            {
                InstructionUse::Everything
            }
            Some(slot) => InstructionUse::Slot(slot as u32),
        }
    }

    /// A distance slot is used together with its own address (`lea slot; add (slot)`); that tells which slot is meant.
    fn is_plain_slot_address(&self, instruction: &Instruction) -> bool {
        let slot = instruction
            .target
            .and_then(|target| self.covering(target).map(|slot| (target, slot)));
        slot.is_some_and(|(target, slot)| {
            let entry = &self.entries[slot];
            entry.place == target && entry.kind == Kind::Pc64
        })
    }
}

/// Indices of those in `sorted` whose site is `site`.
fn at_site<T>(sorted: &[T], site: Svma, of: impl Fn(&T) -> Svma) -> std::ops::Range<u32> {
    let from = sorted.partition_point(|item| of(item) < site);
    let to = sorted.partition_point(|item| of(item) <= site);
    from as u32..to as u32
}

/// What one instruction uses.
enum InstructionUse {
    Nothing,
    /// Its own constants: a range of relocations.
    Some(u32, u32),
    /// A slot of data.
    Slot(u32),
    /// The address of slots of data, and with it any of them.
    Everything,
}
