//! The survey: what there is in a process, read while it runs, so that its stop is as short as
//! possible.

use std::ops::Range;
use std::rc::Rc;

use elf_tools::Avma;
use elf_tools::image::Image;

use super::kernel::RunningKernel;
use super::origins::Origins;
use super::place::with_growth;
use super::recognise::{FoundVdsos, KernelUnit, MAX_TEXT, OldText, recognise};
use super::record::Record;
use super::recovery::{RecoveryCopy, cut_off, is_beside};
use super::text::{Known, Text, in_words};
use crate::maps::SpecialMemory;
use crate::targets::live::injected_call;
use crate::targets::{Growth, Mapping, Step, StoppedTarget, Target, mapping_of, overlaps};
use crate::{Error, Refusal, Result, Unlinkable};
use relocator::criu::Mark;
use relocator::source::Source;
use relocator::threads::Memory;
use relocator::threads::frames::merge;

/// What there is in a process.
#[derive(Debug)]
pub(super) struct Survey {
    /// The number of the process.
    pub(super) id: i32,
    pub(super) mappings: Rc<Vec<Mapping>>,
    /// What the main stack and the heap may still take.
    growth: Growth,
    /// The mappings with that: where nothing can be placed.
    pub(super) taken: Vec<Mapping>,
    pub(super) found: FoundVdsos,
    /// Old texts that are in use, without what killed tools have left in them.
    pub(super) texts: Vec<Text>,
    /// Where the kernel's mappings belong.
    pub(super) origins: Origins,
    /// Copies of texts that a killed tool has not put in their place.
    pub(super) leftovers: Vec<Range<Avma>>,
    /// What they hold; `None` of one that cannot be read.
    left: Vec<Option<Vec<u8>>>,
    /// Memory that is not as most is.
    pub(super) special: SpecialMemory,
}

impl Survey {
    /// In a process.
    pub(super) fn of(
        target: &impl Target,
        kernel: &RunningKernel,
        known: Known<'_>,
    ) -> Result<Self> {
        let mappings = target.mappings()?;
        let mut found = recognise(target, &kernel.own)?;
        let (mut all, mut copies, mut leftovers) = (Vec::new(), Vec::new(), Vec::new());
        for mut old in std::mem::take(&mut found.old) {
            if is_file(&old, &mappings) {
                continue;
            }
            let is_leftover = is_leftover(&old)?;
            injected_call::erase(&mut old.bytes);
            match is_leftover {
                true => {
                    leftovers.push(old.mapping.clone());
                    copies.extend(RecoveryCopy::of(&old)?);
                }
                false => all.push(old),
            }
        }
        let all = without_replacements(all, &copies, &mappings, &mut leftovers)?;
        check_named(target.id(), &all, known.sources)?;
        let read = |old| Text::read(old, known, &copies, &mappings, target);
        let texts: Vec<Text> = all.into_iter().map(read).collect::<Result<_>>()?;
        for mapping in texts.iter().flat_map(|text| beside(text, &mappings)) {
            if is_cut_off(mapping, &texts, target) && !leftovers.contains(&mapping.range) {
                leftovers.push(mapping.range.clone());
            }
        }
        let growth = target.growth();
        let left = leftovers.iter().map(|range| content(target, range));
        let left = left.collect();
        Ok(Self {
            id: target.id(),
            growth,
            taken: with_growth(&mappings, growth),
            mappings: Rc::new(mappings),
            found,
            origins: Origins::of(&texts, &copies),
            texts,
            leftovers,
            left,
            special: target.special()?,
        })
    }

    /// What the running kernel has mapped.
    pub(super) fn unit(&self) -> Result<&KernelUnit> {
        let refused = |reason| Error::refused(self.id, reason);
        let unit = self.found.kernel.as_ref();
        let unit = unit.ok_or_else(|| refused(Refusal::NoKernelVdso))?;
        match unit.missing.is_empty() {
            true => Ok(unit),
            false => Err(refused(Refusal::MissingMappings {
                names: unit.missing.clone(),
            })),
        }
    }

    /// Refuses texts that the program can write to.
    pub(super) fn check_texts(&self) -> Result<()> {
        for text in &self.texts {
            let range = &text.found.mapping;
            let inside =
                |mapping: &&Mapping| mapping.protection.write && overlaps(&mapping.range, range);
            if let Some(mapping) = self.mappings.iter().find(inside) {
                let at = mapping.range.start.max(range.start);
                return Err(Error::Unlinkable {
                    what: format!("the vDSO at {}", text.found.image),
                    reason: Unlinkable::Writable { at },
                });
            }
        }
        Ok(())
    }

    /// Where threads must not be without being carried across: old texts, and the kernel's vDSO.
    pub(super) fn occupied(&self) -> impl Iterator<Item = Range<Avma>> {
        let vdso = self.found.kernel.as_ref().and_then(KernelUnit::vdso);
        let texts = self.texts.iter().map(|text| &text.found.mapping);
        texts.chain(vdso.map(|vdso| &vdso.range)).cloned()
    }

    /// Where the old vvars were: the placeholders that there are, and what links have taken of them,
    /// which does not come back with a restore, but with a rollback.
    pub(super) fn placeholders(&self) -> Vec<Range<Avma>> {
        let placeholders = self.texts.iter().flat_map(|text| {
            let record = text.record.iter().map(|found| &found.record.placeholders);
            let interrupted = text.interrupted.iter().map(|one| &one.placeholders);
            let recorded = record.chain(interrupted).flatten();
            recorded.chain(&text.placeholder).cloned()
        });
        merge(&placeholders.collect::<Vec<_>>())
    }

    /// Unmaps what was left behind.
    pub(super) fn discard(&self) -> impl Iterator<Item = Step> {
        self.leftovers.iter().cloned().map(Step::Unmap)
    }

    /// Whether old code keeps random states in the memory of the process.
    pub(super) fn has_states(&self) -> bool {
        self.texts.iter().any(Text::has_states)
    }

    /// Whether random states are where they were: mappings may have come and gone since, and other
    /// memory may be where droppable memory was.
    fn holds_states(&self, target: &impl StoppedTarget) -> Result<bool> {
        if !self.has_states() {
            return Ok(true);
        }
        target.holds_droppable(&self.special.droppable)
    }

    /// Whether a stopped process is what it was, as far as it matters: text, the kernel's mappings,
    /// zeros, and `places` that the steps use. Its mappings now, if it is.
    pub(super) fn holds(
        &self,
        target: &impl StoppedTarget,
        places: &[Range<Avma>],
    ) -> Result<Option<Rc<Vec<Mapping>>>> {
        let all = self.important(places);
        let now = match target.confirms(&self.mappings, &all)? {
            true => self.mappings.clone(),
            false => Rc::new(target.mappings()?),
        };
        let matters = |mapping: &&Mapping| {
            let first = all.partition_point(|range| range.end <= mapping.range.start);
            all.get(first)
                .is_some_and(|range| overlaps(range, &mapping.range))
        };
        let same = Rc::ptr_eq(&now, &self.mappings)
            || now
                .iter()
                .filter(matters)
                .eq(self.mappings.iter().filter(matters));
        let is_same = |text: &Text| {
            let mut bytes = vec![0; text.found.bytes.len()];
            let was_read = target.read(text.found.mapping.start, &mut bytes);
            injected_call::erase(&mut bytes);
            was_read && bytes == text.found.bytes
        };
        let mut leftovers = self.leftovers.iter().zip(&self.left);
        let holds = same
            && target.growth() == self.growth
            && self.texts.iter().all(is_same)
            && leftovers.all(|(range, left)| content(target, range) == *left)
            && self.has_mark(target)
            && self.holds_states(target)?;
        Ok(holds.then_some(now))
    }

    /// Whether CRIU's mark is what it was.
    fn has_mark(&self, target: &impl StoppedTarget) -> bool {
        let Some(unit) = self.found.kernel.as_ref() else {
            return true;
        };
        let Some(vdso) = unit.vdso() else {
            return true;
        };
        let mut header = [0; Mark::SIZE];
        target.read(vdso.range.start, &mut header) && Mark::read(&header) == unit.mark
    }

    /// Where mappings matter: text, the kernel's mappings, zeros, and `places`. Lowest first.
    fn important(&self, places: &[Range<Avma>]) -> Vec<Range<Avma>> {
        let kernel = self.found.kernel.iter().flat_map(|unit| &unit.mappings);
        let mut all: Vec<Range<Avma>> = kernel.map(|mapping| mapping.range.clone()).collect();
        all.extend(self.texts.iter().map(|text| text.found.mapping.clone()));
        all.extend(
            self.texts
                .iter()
                .filter_map(|text| text.placeholder.clone()),
        );
        all.extend_from_slice(places);
        merge(&all)
    }
}

/// What a range holds, without what killed tools have left in it; `None` if it cannot be read.
fn content(memory: &dyn Memory, range: &Range<Avma>) -> Option<Vec<u8>> {
    let size = range.end.0.saturating_sub(range.start.0).min(MAX_TEXT);
    let mut bytes = vec![0; size as usize];
    let was_read = memory.read(range.start, &mut bytes);
    injected_call::erase(&mut bytes);
    was_read.then_some(bytes)
}

/// Refuses images that the user has named if none of them is in the process. Build-ids are never
/// overwritten.
fn check_named(id: i32, texts: &[OldText], sources: &[Source]) -> Result<()> {
    let named = sources.iter().map(|source| {
        let build_id = in_words(source.require_image()?.build_id());
        Ok((source.name.clone(), build_id))
    });
    let named: Vec<(String, String)> = named.collect::<Result<_>>()?;
    let mut own = Vec::new();
    for text in texts {
        let name = format!("the vDSO at {}", text.image);
        let image = Image::parse(text.image_bytes()).map_err(Error::input(name))?;
        own.push((in_words(image.build_id()), text.image, text.is_by_auxv));
    }
    let is_named =
        |(build_id, _, _): &(String, Avma, bool)| named.iter().any(|one| one.1 == *build_id);
    if named.is_empty() || own.iter().any(is_named) {
        return Ok(());
    }
    let other = own.iter().find(|one| one.2).or_else(|| own.first());
    other.map_or(Ok(()), |(build_id, at, _)| {
        Err(Error::Unlinkable {
            what: format!("process {id}"),
            reason: Unlinkable::OtherOld {
                build_id: build_id.clone(),
                at: *at,
                named: named.clone(),
            },
        })
    })
}

/// Whether a text is in a file, and not the vDSO by the auxiliary vector: the program reads it, and
/// does not call it.
fn is_file(old: &OldText, mappings: &[Mapping]) -> bool {
    let mapping = mapping_of(mappings, old.mapping.start);
    !old.is_by_auxv && mapping.is_some_and(|mapping| mapping.name.starts_with('/'))
}

/// The mappings next to a text.
fn beside<'a>(text: &Text, mappings: &'a [Mapping]) -> &'a [Mapping] {
    let place = &text.found.mapping;
    let first = mappings.partition_point(|mapping| mapping.range.end < place.start);
    let next = mappings.partition_point(|mapping| mapping.range.start <= place.end);
    &mappings[first..next.max(first)]
}

/// Whether a mapping is what an earlier link had added to a text: its tool was killed before it
/// unmapped that. It has a record of a text next to it, which does not have it itself. Later links
/// of that text leave it where it is.
fn is_cut_off(mapping: &Mapping, texts: &[Text], memory: &dyn Memory) -> bool {
    texts.iter().any(|text| {
        is_beside(&mapping.range, &text.found.mapping)
            && cut_off(mapping, text.found.image, memory).is_some()
    })
}

/// Takes replacements of texts away that a killed tool has not put in their places. Nothing in them
/// says what they are, unless injected calls go there, but copies of the same texts do.
fn without_replacements(
    texts: Vec<OldText>,
    copies: &[RecoveryCopy],
    mappings: &[Mapping],
    leftovers: &mut Vec<Range<Avma>>,
) -> Result<Vec<OldText>> {
    let linked = texts.iter().map(RecoveryCopy::of_linked);
    let linked: Vec<Option<RecoveryCopy>> = linked.collect::<Result<_>>()?;
    let known: Vec<&RecoveryCopy> = copies.iter().chain(linked.iter().flatten()).collect();
    let is_replacement = |old: &OldText| {
        let mapping = mapping_of(mappings, old.mapping.start);
        let mapping = mapping.filter(|mapping| mapping.range == old.mapping);
        let is_plain = mapping.is_some_and(|one| one.is_private_code() && one.name.is_empty());
        let is_in_place = old.is_by_auxv || known.iter().any(|copy| copy.image() == old.image);
        is_plain && !is_in_place && known.iter().any(|copy| copy.is_of_replacement(old))
    };
    let (replacements, texts): (Vec<_>, Vec<_>) = texts.into_iter().partition(is_replacement);
    // They are unmapped before the copies that tell what they are.
    leftovers.splice(0..0, replacements.into_iter().map(|old| old.mapping));
    Ok(texts)
}

/// Whether a text is a copy that was made for another place, and not put there.
fn is_leftover(old: &OldText) -> Result<bool> {
    let start = old.mapping.start;
    let is_linked = Record::find(&old.bytes, start)?.is_some();
    let is_copy = Record::copied(&old.bytes, start).is_some()
        || injected_call::is_displaced(&old.bytes, start);
    Ok(!is_linked && !old.is_by_auxv && is_copy)
}

#[cfg(test)]
mod tests;
