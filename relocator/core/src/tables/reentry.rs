//! Where the re-entry table of an old image comes from.
//!
//! The search tries, in this order: the file that the user names, a store of tables that were
//! derived earlier, the image's code. The last always has one: unlike relocations it needs no
//! symbols.

use std::collections::BTreeMap;

use elf_tools::reentry::{Context, Recovery, ReentryTable};
use elf_tools::relocation::{Relocations, object};

use super::{Given, Options, Provenance, Store};
use crate::link::Old;
use crate::{Error, Result};

/// Finds the re-entry table of an old image. Errors call the image `name`.
///
/// A table that the user named and that contradicts itself or the image is an error. One of a copy
/// of the image with other boot-time alternatives is passed over, and so is what is wrong with the
/// cache.
pub fn reentry(old: &Old, name: &str, options: &Options) -> Result<(ReentryTable, Provenance)> {
    if let Some(table) = from_file(old, options)? {
        return Ok((table, Provenance::File));
    }
    let cache = options.cache.as_deref();
    if let Some(table) = cache.and_then(|cache| cache.reentry(&old.image, &old.code)) {
        return Ok((table, Provenance::Cache));
    }
    let table = derive(old).map_err(Error::input(name))?;
    if let Some(cache) = cache {
        complete(old, &table, cache);
    }
    Ok((table, Provenance::Derived))
}

fn derive(old: &Old) -> elf_tools::Result<ReentryTable> {
    elf_tools::reentry::derive(&old.image, &old.code)
}

fn from_file(old: &Old, options: &Options) -> Result<Option<ReentryTable>> {
    let Some(Given { name, bytes }) = &options.file else {
        return Ok(None);
    };
    if !object::is_table(bytes) {
        // Symbols of the image's kernel, which say nothing about threads.
        return Ok(None);
    }
    object::read_reentry(bytes, &old.image, &old.code).map_err(Error::input(name))
}

/// Keeps a re-entry table next to the relocations that are kept already. The next
/// search derives again what the cache does not keep.
fn complete(old: &Old, table: &ReentryTable, cache: &dyn Store) {
    if let Some(kept) = cache.relocations(&old.image, &old.code) {
        cache.keep(old, &kept, Some(table));
    }
}

/// Keeps relocations that were derived, with the re-entry table.
pub(super) fn keep(old: &Old, relocations: &Relocations, cache: &dyn Store) {
    let table = derive(old).ok();
    if !cache.keep(old, relocations, table.as_ref()) {
        // Relocations are of use alone as well.
        cache.keep(old, relocations, None);
    }
}

/// What a re-entry table says of the boundaries of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReentrySummary {
    /// Number of distinct functions.
    pub functions: usize,
    /// Number of boundaries that functions reach.
    pub boundaries: usize,
    /// Of those, boundaries from which nothing is read any more that depends on the kernel: a
    /// thread goes on.
    pub untouched: usize,
    /// Boundaries from which a thread goes back to the entry of its function.
    pub reenter: usize,
    /// Boundaries at which a thread cannot be put back, in at least one of the ways that lead
    /// there.
    pub lost: usize,
    /// Why, most frequent first.
    pub reasons: Vec<LostReason>,
    /// Number of different recipes.
    pub recipes: usize,
}

/// Why threads cannot be put back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostReason {
    /// In words.
    pub reason: String,
    /// Number of boundaries.
    pub boundaries: usize,
}

impl ReentrySummary {
    /// Counts the boundaries of a table. Each counts once, as the worst of its contexts.
    pub fn of(table: &ReentryTable) -> Self {
        let contexts = &table.contexts;
        let mut functions: Vec<_> = contexts.iter().map(|context| context.function).collect();
        functions.sort_unstable();
        functions.dedup();
        let mut summary = Self {
            functions: functions.len(),
            boundaries: 0,
            untouched: 0,
            reenter: 0,
            lost: 0,
            reasons: Vec::new(),
            recipes: table.recipes.len(),
        };
        let mut reasons = BTreeMap::new();
        for boundary in contexts.chunk_by(|a, b| a.boundary == b.boundary) {
            summary.add(boundary, &mut reasons);
        }
        let reasons = reasons.into_iter();
        summary.reasons = reasons
            .map(|(reason, boundaries)| LostReason { reason, boundaries })
            .collect();
        summary
            .reasons
            .sort_by_key(|reason| std::cmp::Reverse(reason.boundaries));
        summary
    }

    fn add(&mut self, contexts: &[Context], reasons: &mut BTreeMap<String, usize>) {
        self.boundaries += 1;
        let mut reading = contexts.iter().filter(|context| context.reads).peekable();
        if reading.peek().is_none() {
            self.untouched += 1;
            return;
        }
        let lost = reading.find_map(|context| match &context.recovery {
            Recovery::None(reason) => Some(reason),
            Recovery::Recipe(_) => None,
        });
        match lost {
            None => self.reenter += 1,
            Some(reason) => {
                self.lost += 1;
                *reasons.entry(reason.to_string()).or_default() += 1;
            }
        }
    }
}
