//! The re-entry table of code that was linked: of what is there now, and not of what was.

use std::ops::Range;

use elf_tools::reentry::{Context, Recovery, ReentryTable, Relinked, derive_relinked};
use elf_tools::relocation::Relocations;
use elf_tools::{Result, Svma};

use super::{CodeNow, Moved};
use crate::arch::{self, Arch};
use crate::input::Old;

/// The table of linked code; `None` if it is not linked, or cannot be analysed.
pub(super) fn of(now: &CodeNow, old: &Old, bytes: &[u8]) -> Option<ReentryTable> {
    if !now.is_relocated {
        return None;
    }
    let image = &old.image;
    let arch = arch::of(image.machine(), image.class())?;
    let mut bytes = bytes.to_vec();
    let overwritten = put_back(arch, now, old, &mut bytes)?;
    let moved = now.moved.iter().chain(&now.jumps_back);
    let moved: Vec<(Svma, Svma)> = moved.map(|moved| (moved.to, moved.from)).collect();
    let derive = |bytes: &[u8]| -> Result<ReentryTable> {
        let moved = &moved;
        derive_relinked(image, Relinked { bytes, moved })
    };
    let table = derive(&bytes).ok()?;
    match disturb(old.relocations.as_ref(), &overwritten, &mut bytes) {
        false => Some(table),
        true => Some(common(table, &derive(&bytes).ok()?)),
    }
}

/// Makes functions begin as they did, with the jumps to instructions that were moved; which bytes
/// that are.
fn put_back(
    arch: &dyn Arch,
    now: &CodeNow,
    old: &Old,
    bytes: &mut [u8],
) -> Option<Vec<Range<usize>>> {
    let mut overwritten = Vec::new();
    for patch in &now.patches {
        let range = patch.entry.index()..patch.entry.index() + patch.code.len();
        let own = old.image.bytes().get(range.clone())?;
        bytes.get_mut(range.clone())?.copy_from_slice(own);
        overwritten.push(range);
    }
    let mut moved: Vec<&Moved> = now.moved.iter().collect();
    // Of a run that was moved, only the first instruction is a jump now.
    moved.sort_by_key(|moved| std::cmp::Reverse(moved.from));
    for Moved { from, to } in moved {
        if overwritten
            .iter()
            .any(|range| range.contains(&from.index()))
        {
            let jump = arch.near_jump(*from, *to).ok()?;
            let range = from.index()..from.index() + jump.len();
            bytes.get_mut(range)?.copy_from_slice(&jump);
        }
    }
    Some(overwritten)
}

/// Changes all constants in these ranges that a linker may have changed; whether there is one.
fn disturb(relocations: Option<&Relocations>, ranges: &[Range<usize>], bytes: &mut [u8]) -> bool {
    /// What a linker hardly adds.
    const BY: u8 = 0x58;
    let Some(relocations) = relocations else {
        return false;
    };
    let fields = relocations.operand_fields.iter().map(|field| field.place);
    let entries = relocations.entries.iter().map(|entry| entry.place);
    let mut is_disturbed = false;
    for place in fields.chain(entries).map(Svma::index) {
        if ranges.iter().any(|range| range.contains(&place))
            && let Some(byte) = bytes.get_mut(place)
        {
            *byte = byte.wrapping_add(BY);
            is_disturbed = true;
        }
    }
    is_disturbed
}

/// The boundaries whose contexts two tables agree on, all of them.
fn common(table: ReentryTable, other: &ReentryTable) -> ReentryTable {
    let recipe = |table: &ReentryTable, context: &Context| match context.recovery {
        Recovery::Recipe(_) => table.recipe(context).ok().cloned(),
        Recovery::None(_) => None,
    };
    let is_same = |one: &Context, found: &Context| {
        let same_way = (found.function, &found.calls) == (one.function, &one.calls);
        same_way && found.reads == one.reads && recipe(&table, one) == recipe(other, found)
    };
    let is_common = |contexts: &[Context]| {
        let others = other.at(contexts[0].boundary);
        let mut pairs = contexts.iter().zip(others);
        others.len() == contexts.len() && pairs.all(|(one, found)| is_same(one, found))
    };
    let boundaries = table.contexts.chunk_by(|a, b| a.boundary == b.boundary);
    let contexts = boundaries.filter(|contexts| is_common(contexts)).flatten();
    ReentryTable {
        contexts: contexts.cloned().collect(),
        recipes: table.recipes.clone(),
    }
}
