//! What the code of a vDSO says about its vvar: every address before the image that it mentions,
//! and how it uses it.
//!
//! Most operands say it themselves, as distances from the program counter. Where code forms an
//! address first, the dataflow analysis of [`crate::derive`] follows it to the accesses. An address
//! that depends on a number which is not known before the code runs says nothing here: several
//! fields can be meant, and the derivation of relocations decides which.

use std::collections::BTreeSet;

use crate::arch::{Arch, Dataflow};
use crate::derive::fixpoint::{self, Analysis, Keep};
use crate::disassembly::Access;
use crate::image::Image;
use crate::reachability::Code;
use crate::{Result, Svma};

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
    /// Reads the code that the exported functions of an image can reach.
    pub(super) fn of(arch: &dyn Arch, image: &Image) -> Result<Self> {
        let code = Code::of(image)?;
        let mut reader = Reader {
            dataflow: &*arch.dataflow(image, &code),
            code: &code,
            evidence: Self::default(),
        };
        reader.operands();
        reader.addresses();
        Ok(reader.evidence)
    }
}

struct Reader<'a> {
    dataflow: &'a dyn Dataflow,
    code: &'a Code,
    evidence: Evidence,
}

impl Reader<'_> {
    /// Operands that are distances from the program counter.
    fn operands(&mut self) {
        let functions = self.code.functions().iter();
        let reached: BTreeSet<u32> = functions
            .flat_map(|function| &function.reached)
            .copied()
            .collect();
        for index in reached {
            let instruction = &self.code.instructions()[index as usize];
            let Some(target) = instruction.target.map(Svma::signed) else {
                continue;
            };
            match instruction.access {
                Access::Memory(size) => self.touch(index, target, size),
                Access::Address if target < 0 => {
                    self.evidence.loads.insert((instruction.address, target));
                }
                Access::Address | Access::None => {}
            }
        }
    }

    /// Addresses that code forms.
    fn addresses(&mut self) {
        let leaders = fixpoint::leaders(self.code);
        let mut steps_left = fixpoint::MAX_STEPS;
        for function in self.code.functions() {
            let analysis = fixpoint::analyse(
                self.dataflow,
                self.code,
                &leaders,
                function,
                Keep::Findings,
                &mut steps_left,
            );
            self.accesses(&analysis);
        }
    }

    fn accesses(&mut self, analysis: &Analysis) {
        for access in &analysis.findings.accesses {
            for value in analysis.pool.values(access.address) {
                if value.base == 1 && value.terms.is_empty() {
                    self.touch(access.at, value.constant, access.size);
                }
            }
        }
    }

    fn touch(&mut self, index: u32, target: i64, size: u32) {
        if target < 0 {
            self.evidence.touches.insert(Touch {
                at: self.code.instructions()[index as usize].address,
                target,
                size,
                compared_with: self.dataflow.compared_with(index),
            });
        }
    }
}
