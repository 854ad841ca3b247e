//! What a function does to memory besides its stack and its results, and what of it has to be taken
//! back when a thread starts the function over.
//!
//! A function that only stores, as those that tell the time do, can start over at any boundary: it
//! stores again. One that reads what it has stored keeps a state there. Of these `getrandom` can
//! start over: it *marks* its state as in use while it runs, and would take a state that is still
//! marked for that of another activation. And it keeps the *generation* of the kernel's random
//! number generator with the key; small numbers, which another kernel's may equal by accident, so
//! that the key would be used again.

use rustc_hash::FxHashMap;

use super::memory::{Bytes, Place, is_kernels, place};
use super::reach::Reach;
use super::source::Stopped;
use crate::arch::Arch;
use crate::derive::fixpoint::Analysis;
use crate::derive::machine::Store;
use crate::derive::pool::Pool;
use crate::derive::value::{SetId, Unknown};
use crate::reentry::{Clear, Register};

/// What a function leaves in memory.
#[derive(Debug, Default)]
pub(super) struct Effects {
    /// Instructions that leave something in memory that the function reads as well.
    pub(super) changes: Vec<u32>,
    /// How a state is marked as in use.
    pub(super) mark: Option<Mark>,
}

/// A byte that is 1 while an activation uses an object.
#[derive(Debug)]
pub(super) struct Mark {
    /// Instructions that set it.
    pub(super) set: Vec<u32>,
    /// Instructions that clear it.
    pub(super) cleared: Vec<u32>,
    /// What has to be zero before another activation begins: the mark, and the generation next to
    /// it.
    pub(super) clear: Vec<Clear>,
}

impl Effects {
    pub(super) fn of(arch: &dyn Arch, analysis: &Analysis, reach: &Reach) -> Self {
        if !reads_what_was_there(analysis, reach) {
            return Self::default();
        }
        let stores: Vec<Store> = analysis.findings.stores.iter().copied().collect();
        let mut changes: Vec<u32> = stores.iter().map(|store| store.at).collect();
        changes.sort_unstable();
        changes.dedup();
        Self {
            changes,
            mark: mark(arch, &stores, analysis),
        }
    }
}

/// Whether a function reads anything from memory of its arguments that it has not certainly stored
/// there before. What it reads back of its own does not count.
fn reads_what_was_there(analysis: &Analysis, reach: &Reach) -> bool {
    let pool = &analysis.pool;
    let mut stored: FxHashMap<u32, Vec<Bytes>> = FxHashMap::default();
    for store in &analysis.findings.stores {
        if let Some(at) = place(pool, store.address) {
            stored.entry(store.at).or_default().push((at, store.size));
        }
    }
    let loads = analysis.findings.accesses.iter();
    let mut loads = loads.filter(|access| !access.writes && !is_kernels(pool, access));
    let before = reach.certainly_before(&stored);
    loads.any(|load| {
        let Some(at) = place(pool, load.address) else {
            return true;
        };
        !reach.is_always_behind(load.at, &(at, load.size), &stored, &before)
    })
}

/// Finds the mark: a byte of an object to which 1 is stored, and 0.
fn mark(arch: &dyn Arch, stores: &[Store], analysis: &Analysis) -> Option<Mark> {
    let pool = &analysis.pool;
    let constant = |set: SetId| match pool.values(set) {
        [value] if value.base == 0 && value.terms.is_empty() => Some(value.constant),
        _ => None,
    };
    let of_byte = |wanted: i64, at: Option<Place>| {
        let found = stores.iter().filter(move |store| {
            let place = place(pool, store.address);
            let is_there = at.is_none() || at == place;
            store.size == 1 && place.is_some() && is_there && constant(store.set) == Some(wanted)
        });
        found.copied().collect::<Vec<_>>()
    };
    let (set, cleared, at) = of_byte(1, None).into_iter().find_map(|store| {
        let at = place(pool, store.address)?;
        let cleared = of_byte(0, Some(at));
        (!cleared.is_empty()).then(|| (of_byte(1, Some(at)), cleared, at))
    })?;
    let clear = |offset: i64, size: u8| Clear {
        argument: arch.register(at.0),
        offset,
        size,
    };
    let mut all = vec![clear(at.1, 1)];
    // The generation is what is stored as it was read from the kernel.
    for store in stores {
        let is_generation = store.size == 8
            && place(pool, store.address).is_some_and(|place| place.0 == at.0)
            && is_read_from_kernel(pool, store.set, analysis);
        if let (true, Some((_, offset))) = (is_generation, place(pool, store.address)) {
            all.push(clear(offset, 8));
        }
    }
    all.sort_unstable();
    all.dedup();
    let addresses = |stores: Vec<Store>| stores.into_iter().map(|store| store.at).collect();
    Some(Mark {
        set: addresses(set),
        cleared: addresses(cleared),
        clear: all,
    })
}

/// Whether all of a set was loaded by instructions that read what the kernel keeps current.
fn is_read_from_kernel(pool: &Pool, set: SetId, analysis: &Analysis) -> bool {
    let reads = |at: u32| {
        let mut accesses = analysis.findings.accesses.iter();
        accesses.any(|access| access.at == at && !access.writes && is_kernels(pool, access))
    };
    let values = pool.values(set);
    !values.is_empty()
        && values.iter().all(|value| {
            let unknown = value.as_unknown().map(|id| pool.unknown_of(id));
            matches!(unknown, Some(Unknown::Loaded(at)) if reads(at))
        })
}

/// Whether a thread still has the arguments that point to what has to be cleared.
pub(super) fn can_clear(stopped: &Stopped<'_>, clear: &[Clear]) -> Result<(), Register> {
    let lost = clear.iter().map(|clear| clear.argument).find(|&argument| {
        let number = stopped.arch.number(argument);
        !stopped.is_in_place(number, false) && stopped.initial(number, false).is_none()
    });
    lost.map_or(Ok(()), Err)
}
