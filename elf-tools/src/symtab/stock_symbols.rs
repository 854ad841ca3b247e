//! The canonical symbols of a stock kernel, from its struct layouts and the vDSO that belongs to
//! it.
//!
//! Struct layouts ([`Layout`]) say where fields are in their structs and a page layout
//! (`page_layouts`, `moved_layouts`) says where the structs are. The code of the vDSO is the witness that both are
//! right (`layout_check`): this module refuses a kernel whose code agrees with no page layout, or
//! with more than one.

use std::borrow::Cow;

use super::layout_check::check;
use super::layout_fault::LayoutFault;
use super::moved_layouts::moved;
use super::page_layouts::{self, PAGE, Placement};
use super::place::{Place, Structs};
use super::vvar_accesses::Evidence;
use super::{Mapping, Symbol, Symtab, mapping_name};
use crate::arch;
use crate::image::Image;
use crate::layout::Layout;
use crate::{Error, Result};

/// Semantic version of every symbol of a stock kernel.
const VERSION: u32 = 1;

/// Address of the lowest mapping. Only differences mean something; 0 would look like a mistake.
const LOWEST: i64 = 0x10000;

/// Derives the symbols of the kernel that `layout` describes and whose own vDSO `image` is.
///
/// The time data has to be described. What else the layout lacks, or describes in a way that is not
/// understood, costs the symbols of that part alone: the code that uses them is opaque then, and
/// [`Symtab::gaps`] says why.
///
/// Errors where the image's architecture is not supported, where the layout lacks the structs of
/// the time data, and where no page layout, or more than one, agrees with the image's code; the
/// error then states what each candidate fails at.
pub fn from_layout(layout: &dyn Layout, image: &Image) -> Result<Symtab> {
    let arch = arch::of_image(image)?;
    let evidence = Evidence::of(arch, image)?;
    let mut gaps = Vec::new();
    let pages = layout
        .enumeration("vdso_pages")
        .map(|pages| pages.map(|enumerators| page_layouts::from_enumerators(arch, &enumerators)));
    let candidates = match pages {
        Ok(Some(stated)) => vec![stated?],
        Ok(None) => arch.page_layouts(),
        // What the list has is compared with the code as well.
        Err(gap) => {
            gaps.push(gap);
            arch.page_layouts()
        }
    };
    let mut structs = Structs::read(layout)?;
    let kernel = Kernel {
        layout,
        image,
        evidence: &evidence,
        candidates: &candidates,
    };
    let error = match from_candidates(&kernel, &structs, Trust::Described) {
        Ok(mut symtab) => {
            symtab.gaps = gaps;
            return Ok(symtab);
        }
        Err(error) if structs.gaps().is_empty() => return Err(error),
        Err(error) => error,
    };
    structs.assume_timens_mode();
    let Ok(mut symtab) = from_candidates(&kernel, &structs, Trust::Undescribed) else {
        return Err(error);
    };
    gaps.extend_from_slice(structs.gaps());
    symtab.gaps = gaps;
    Ok(symtab)
}

/// What code may do where nothing is described.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// Nothing.
    Described,
    /// Anything, in the pages of objects that are not described.
    Undescribed,
}

/// A kernel, and what its pages may be.
struct Kernel<'a> {
    layout: &'a dyn Layout,
    image: &'a Image,
    evidence: &'a Evidence,
    candidates: &'a [Placement],
}

/// The symbols by the one page layout that agrees with the code.
fn from_candidates(kernel: &Kernel<'_>, structs: &Structs, trust: Trust) -> Result<Symtab> {
    let Kernel {
        layout,
        image,
        evidence,
        candidates,
    } = *kernel;
    let of = |placement: &Placement| {
        let places = structs.place(placement)?;
        let undescribed = match trust {
            Trust::Described => Vec::new(),
            Trust::Undescribed => structs.undescribed(placement),
        };
        check(evidence, &places, &undescribed, structs.timens_mode())?;
        Ok::<_, LayoutFault>(places)
    };
    let mut failures = Vec::new();
    let mut agreed = Vec::new();
    for placement in candidates {
        match of(placement) {
            Ok(places) => agreed.push((Cow::Borrowed(placement), places)),
            Err(fault) => failures.push(format!("{}: {fault}", placement.origin)),
        }
    }
    if agreed.is_empty() {
        let moved = candidates
            .iter()
            .filter(|known| known.is_listed)
            .flat_map(|known| moved(known, structs, evidence));
        agreed.extend(moved.filter_map(|placement| {
            let places = of(&placement).ok()?;
            Some((Cow::Owned(placement), places))
        }));
    }
    let mut found: Option<(Cow<'_, Placement>, Symtab)> = None;
    for (placement, places) in agreed {
        let mut symtab = symtab(layout, image, &placement, &places)?;
        symtab.build_id = image.build_id().cloned();
        symtab.linux_version = image.linux_version();
        match &found {
            Some((first, earlier)) if *earlier != symtab => {
                let reason = format!(
                    "the code agrees with both {} and {}",
                    first.origin, placement.origin
                );
                return Err(Error::unsupported("page layout", reason));
            }
            Some(_) => {}
            None => found = Some((placement, symtab)),
        }
    }
    let none = || {
        Error::unsupported(
            "page layout",
            format!(
                "the code contradicts each known one: {}",
                failures.join("; ")
            ),
        )
    };
    found.map(|(_, symtab)| symtab).ok_or_else(none)
}

/// The symbols of `places` in the mappings of `placement`, which end where the image starts.
fn symtab(
    layout: &dyn Layout,
    image: &Image,
    placement: &Placement,
    places: &[Place],
) -> Result<Symtab> {
    let lowest = placement
        .mappings
        .first()
        .map_or(0, |&(_, address)| address);
    let ends = placement
        .mappings
        .iter()
        .skip(1)
        .map(|&(_, address)| address)
        .chain([0]);
    let mapping = |(name, start, size): (&str, i64, u64)| Mapping {
        name: name.to_owned(),
        address: (LOWEST + start - lowest).unsigned_abs(),
        size,
    };
    let mut mappings: Vec<Mapping> = placement
        .mappings
        .iter()
        .zip(ends)
        .map(|(&(name, start), end)| mapping((name, start, end.abs_diff(start))))
        .collect();
    let vdso_size = image
        .loaded_size()
        .checked_next_multiple_of(PAGE.unsigned_abs());
    let vdso_size = vdso_size
        .ok_or_else(|| Error::malformed("image", 0, "loads more than the address space"))?;
    mappings.push(mapping((mapping_name::VDSO, 0, vdso_size)));

    let mut symtab = Symtab::new(layout.provenance(), mappings)?;
    for place in places.iter().filter(|place| place.is_symbol) {
        let holding = placement
            .mappings
            .iter()
            .rposition(|&(_, start)| start <= place.address);
        let Some(mapping) = holding else {
            return Err(Error::symbol(&place.name, "lies before the lowest mapping"));
        };
        let offset = place.address.abs_diff(placement.mappings[mapping].1);
        let (name, size) = (place.name.clone(), place.size);
        symtab.insert(Symbol {
            name,
            version: VERSION,
            mapping,
            offset,
            size,
        })?;
    }
    Ok(symtab)
}

#[cfg(test)]
mod tests;
