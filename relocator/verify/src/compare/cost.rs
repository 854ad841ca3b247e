//! What a way costs when it is applied.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Instant;

use elf_tools::reachability::Code;
use elf_tools::{Avma, Svma};
use serde::{Deserialize, Serialize};

use super::code::Code as Executed;
use super::measure::median;
use super::unlinked::Unlinked;
use crate::Result;
use crate::address_space::AddressSpace;
use crate::linked::Prepared;
use relocator::criu;
use relocator::link::{LinkedImage, link};
use relocator::placement::Placement;

/// What applying a way costs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Cost {
    /// Microseconds that it takes to make the bytes from what is in memory: the median of many
    /// times.
    pub link_us: f64,
    /// Number of bytes of the old image's mapping that are no longer what they were, those behind
    /// the old image included.
    pub bytes_written: usize,
    /// Number of boundaries at which a thread cannot go on without being carried across, whatever
    /// it has read: the instruction is elsewhere, or overwritten. Entries that were replaced are
    /// none of them.
    pub boundaries_moved: usize,
    /// Number of boundaries that exported functions reach.
    pub boundaries: usize,
}

/// What it costs to apply code that is made from the old image; `None` for code that is not.
pub(super) fn of(
    prepared: &Prepared<'_>,
    code: Executed,
    repetitions: u32,
) -> Result<Option<Cost>> {
    let space = AddressSpace::read()?;
    let old = &prepared.old;
    let image = space.hole(old.image.bytes().len() as u64)?;
    let mappings = space.mappings();
    let placement = Placement { image, mappings };
    let (link_us, bytes, lost) = match code {
        Executed::Linked(policy) => {
            let make = || Ok(link(&prepared.old, &prepared.new, &placement, policy)?);
            let (time, linked) = timed(repetitions, make)?;
            let lost = moved(&linked, &old.code);
            (time, linked.bytes, lost)
        }
        Executed::Unlinked { jumps: true } => {
            let vdso = placement.new_vdso().unwrap_or(Avma(0));
            let unlinked = Unlinked::new(prepared, None, true);
            let (time, patched) = timed(repetitions, || unlinked.patched(vdso))?;
            let spans = patched.entries.iter().map(|entry| (*entry, criu::JUMP));
            (time, patched.bytes, overwritten(&old.code, spans))
        }
        Executed::Unlinked { jumps: false } => {
            let bytes = old.image.bytes().to_vec();
            (0.0, bytes, BTreeSet::new())
        }
        Executed::Native => return Ok(None),
    };
    Ok(Some(Cost {
        link_us,
        bytes_written: written(old.image.bytes(), &bytes),
        boundaries_moved: lost.len(),
        boundaries: boundaries(&old.code).len(),
    }))
}

/// The median time in microseconds that `make` takes, and what it makes.
fn timed<T>(repetitions: u32, make: impl Fn() -> Result<T>) -> Result<(f64, T)> {
    let made = make()?;
    let mut times = Vec::with_capacity(repetitions as usize);
    for _ in 0..repetitions.max(1) {
        let started = Instant::now();
        let again = make();
        times.push(started.elapsed().as_secs_f64() * 1e6);
        drop(again);
    }
    Ok((median(times).unwrap_or_default(), made))
}

/// How many bytes differ, or are new.
fn written(old: &[u8], new: &[u8]) -> usize {
    let differ = old.iter().zip(new).filter(|(old, new)| old != new).count();
    differ + new.len().saturating_sub(old.len())
}

/// Instructions that exported functions reach.
fn boundaries(code: &Code) -> BTreeSet<Svma> {
    let functions = code.functions().iter();
    let reached = functions.flat_map(|function| code.reached(function));
    reached.map(|instruction| instruction.address).collect()
}

fn moved(linked: &LinkedImage, code: &Code) -> BTreeSet<Svma> {
    let functions = linked.functions.iter();
    let patches = functions.filter_map(|plan| Some((plan.entry, plan.patch.as_ref()?.len())));
    let mut lost = overwritten(code, patches);
    lost.extend(linked.moved.iter().map(|moved| moved.from));
    lost
}

/// Boundaries behind an entry that were overwritten with it, by entry and number of bytes.
fn overwritten(code: &Code, patches: impl Iterator<Item = (Svma, usize)>) -> BTreeSet<Svma> {
    let patches: Vec<(Svma, Range<u64>)> = patches
        .map(|(entry, length)| (entry, entry.0..entry.0 + length as u64))
        .collect();
    let is_entry = |address: &Svma| patches.iter().any(|patch| patch.0 == *address);
    let is_lost = |address: &Svma| patches.iter().any(|patch| patch.1.contains(&address.0));
    let reached = boundaries(code).into_iter();
    reached
        .filter(|address| is_lost(address) && !is_entry(address))
        .collect()
}

#[cfg(test)]
mod tests {
    use elf_tools::image::Image;
    use kernel_fixtures::fixture;

    use super::*;

    #[test]
    fn what_is_written_is_counted() {
        assert_eq!(written(b"abcd", b"abcd"), 0);
        assert_eq!(written(b"abcd", b"aXcY"), 2);
        assert_eq!(written(b"abcd", b"aXcdefg"), 4);
    }

    #[test]
    fn boundaries_behind_a_replaced_entry_are_lost() {
        let image = Image::parse(fixture::find("bare").unwrap().image).unwrap();
        let code = Code::of(&image).unwrap();
        let entry = image.export("__vdso_time").unwrap().address;
        let function = code.function(entry).unwrap();
        let starts: Vec<Svma> = code.reached(function).map(|i| i.address).collect();
        assert_eq!(starts[0], entry);
        // As long as three instructions and a byte of the fourth.
        let length = (starts[3].0 - entry.0 + 1) as usize;
        let lost = overwritten(&code, [(entry, length)].into_iter());
        assert_eq!(lost, starts[1..4].iter().copied().collect());
        // Another entry in the way can be entered.
        let both = [(entry, length), (starts[2], 1)].into_iter();
        assert_eq!(overwritten(&code, both), [starts[1], starts[3]].into());
    }
}
