//! The kernel that runs now: what it maps, what its data are, and how threads get out of its vDSO.
//!
//! Jumps have sent threads there. Before it moves they have to leave, and go to the entry of the
//! same function in an old text, which answers them in any state.

use elf_tools::processor::ProcessorFeatures;
use elf_tools::reentry::ReentryTable;
use elf_tools::{Avma, BuildId, Svma};

use super::chunk::MemoryChunk;
use super::place::Limits;
use super::recognise::Own;
use super::text::Text;
use crate::{Error, Result, cpu_features, running};
use relocator::criu;
use relocator::link::{New, Old};
use relocator::placement::END;
use relocator::source::{NoSymtab, Source};
use relocator::tables;
use relocator::threads::{CodeNow, Crossing, Memory, Registers, StuckReason, Verdict};

/// The kernel that runs now.
#[derive(Debug)]
pub struct RunningKernel {
    source: Source,
    pub(super) own: Own,
    vdso: Old,
    reentry: ReentryTable,
    /// All of its vDSO, replaced.
    gone: CodeNow,
    processor: ProcessorFeatures,
    pub(super) limits: Limits,
}

impl RunningKernel {
    /// Reads what linking to it takes. That is the same for all processes.
    /// `tables` says where its re-entry table may be kept.
    pub fn read(tables: &tables::Options) -> Result<Self> {
        let limits = Limits {
            lowest: lowest()?,
            highest: END,
        };
        Self::of(running::own()?, limits, tables)
    }

    /// A kernel of which a source has everything: its vDSO, its symbols, and the sizes of its
    /// mappings in their order. Processes that it runs can map what `limits` says.
    pub fn of(source: Source, limits: Limits, tables: &tables::Options) -> Result<Self> {
        let own = Own::of(&source)?;
        let image = source.require_image()?.clone();
        let vdso = Old::with_table(image, None).map_err(Error::input(&source.name))?;
        let (reentry, _) = tables::reentry(&vdso, &source.name, tables)?;
        let gone = CodeNow::gone(vdso.image.bytes().len());
        Ok(Self {
            source,
            own,
            vdso,
            reentry,
            gone,
            processor: cpu_features::running(),
            limits,
        })
    }

    /// The same on a processor that has other features than the one that this tool runs on.
    #[must_use]
    pub fn on_processor(self, processor: ProcessorFeatures) -> Self {
        Self { processor, ..self }
    }

    /// What the processor has.
    pub(super) fn processor(&self) -> ProcessorFeatures {
        self.processor
    }

    /// Its vDSO and its symbols.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// What old images are linked to.
    pub(super) fn target(&self) -> New<'_> {
        New {
            symtab: self.source.symtab.as_ref(),
            image: self.source.image.as_ref(),
            processor: Some(self.processor),
        }
    }

    /// Why its symbols are not known, if they are not.
    pub(super) fn no_symtab(&self) -> Option<&NoSymtab> {
        self.source.no_symtab.as_ref()
    }

    /// Build-id of its vDSO.
    pub(super) fn build_id(&self) -> &[u8] {
        self.own.image.build_id().map_or(&[], BuildId::as_bytes)
    }

    /// What a process gets back when the link of a text is undone. CRIU's jumps lead to where the
    /// kernel's vDSO is then. If it was linked on another kernel before, that is not what is found,
    /// which does not work on this one, but what CRIU would have made of the old image here.
    pub(super) fn base(&self, text: &Text, vdso: Option<Avma>) -> MemoryChunk {
        let mut base = match (&text.record, &text.interrupted) {
            (Some(_), _) => MemoryChunk {
                at: text.mapping.start,
                bytes: text.pristine.clone(),
            },
            (None, Some(interrupted)) => interrupted.base.clone(),
            (None, None) => {
                return MemoryChunk {
                    at: text.found.mapping.start,
                    bytes: text.found.bytes.clone(),
                };
            }
        };
        for (entry, _) in &text.jumps {
            let mut exports = text.old.image.exports_at(*entry);
            let found = exports.find_map(|export| self.own.image.export(&export.name));
            let at = entry.at(text.found.image);
            let place = base.part_mut(&(at..at.offset(criu::JUMP as i64)));
            if let (Some(target), Some(vdso), Some(place)) = (found, vdso, place) {
                place.copy_from_slice(&criu::jump(target.address.at(vdso)));
            }
        }
        base
    }

    /// The verdict about a thread if the vDSO at `base` moves.
    pub(super) fn leave(
        &self,
        base: Avma,
        texts: &[Text],
        registers: &Registers,
        memory: &dyn Memory,
    ) -> Verdict {
        let crossing = Crossing {
            old: &self.vdso,
            reentry: &self.reentry,
            before: None,
            after: &self.gone,
            processor: Some(self.processor),
            image: base,
        };
        let place = Svma(registers.pc.0.wrapping_sub(base.0));
        let verdict = match crossing.thread(registers, memory) {
            Verdict::Untouched => return self.enter(place, place, registers, texts),
            verdict => verdict,
        };
        let Verdict::FixUp(mut fix_up) = verdict else {
            return verdict;
        };
        match self.enter(fix_up.from, fix_up.to, &fix_up.registers, texts) {
            Verdict::FixUp(entered) => {
                fix_up.registers = entered.registers;
                Verdict::FixUp(fix_up)
            }
            stuck => stuck,
        }
    }

    /// A thread at the entry of a function, sent to the old one's.
    fn enter(&self, from: Svma, to: Svma, registers: &Registers, texts: &[Text]) -> Verdict {
        let exports = self.vdso.image.exports_at(to);
        let names: Vec<&str> = exports.map(|export| export.name.as_str()).collect();
        // The one that the program knows is called by most.
        let mut order: Vec<&Text> = texts.iter().collect();
        order.sort_by_key(|text| !text.found.is_by_auxv);
        let target = order.iter().find_map(|text| text.function(&names));
        match target {
            Some(pc) => Verdict::FixUp(relocator::threads::FixUp {
                from,
                to,
                registers: Registers { pc, ..*registers },
                writes: Vec::new(),
                returns: 0,
            }),
            None => Verdict::Stuck {
                place: from,
                reason: StuckReason::NoOldFunction,
            },
        }
    }
}

/// The lowest address that a process can map.
fn lowest() -> Result<u64> {
    let path = "/proc/sys/vm/mmap_min_addr";
    let text = std::fs::read_to_string(path).map_err(Error::path(path))?;
    let malformed = || Error::Source {
        text: path.to_owned(),
        reason: format!("it says {text:?}"),
    };
    text.trim().parse().map_err(|_| malformed())
}
