//! Page layouts of kernels that keep their objects at other offsets in their pages than those that
//! are known.
//!
//! Before `enum vdso_pages`, a header of the kernel states at which offset in the first page the
//! clocks and the state of the random generator are. Whoever makes the clocks larger has to move
//! that state, and no version number says so. The code says it: the clocks are where it reads a
//! sequence counter, the state where it reads a generation. So these places are candidates, which
//! [`super::layout_check`] compares with all that the code does.

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::page_layouts::{PAGE, Placement};
use super::place::{PartInPage, Structs};
use super::vvar_accesses::Evidence;

/// Most offsets that are tried of each object. Stock code touches fewer fields of four bytes.
const MOST: usize = 24;

/// Boundary that the kernel puts objects of a page on, in bytes.
const ALIGNMENT: i64 = 8;

/// The layouts with the same pages as `known`, and the objects in its first page where the code may
/// have them.
pub(super) fn moved(known: &Placement, structs: &Structs, evidence: &Evidence) -> Vec<Placement> {
    let clocks = offsets(known, &structs.sequences(), evidence);
    let random = match known.rng {
        Some(_) => Vec::new(),
        None => offsets(known, &structs.random_state(), evidence),
    };
    let random: Vec<Option<i64>> = random.into_iter().map(Some).chain([None]).collect();
    let placements = clocks.into_iter().flat_map(|time_data| {
        random.iter().map(move |&rng_in_time| Placement {
            origin: Cow::Owned(format!("{}, with objects moved", known.origin)),
            time_data,
            rng_in_time,
            ..known.clone()
        })
    });
    placements.collect()
}

/// The offsets in the first page at which an object would begin, if what the code touches there were
/// one of these parts of it.
fn offsets(known: &Placement, parts: &[PartInPage], evidence: &Evidence) -> Vec<i64> {
    let page = known.time..known.time + PAGE;
    let touches = evidence.touches.iter();
    let touches = touches.filter(|touch| page.contains(&touch.target));
    let offsets = touches.flat_map(|touch| {
        let size = u64::from(touch.size);
        let parts = parts.iter().filter(move |part| part.size == size);
        parts.map(move |part| touch.target - page.start - part.offset)
    });
    let is_possible = |offset: &i64| *offset >= 0 && offset % ALIGNMENT == 0;
    let offsets: BTreeSet<i64> = offsets.filter(is_possible).collect();
    offsets.into_iter().take(MOST).collect()
}
