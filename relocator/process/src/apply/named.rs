//! Old images as they were before their kernel and CRIU changed them: those that the user has named,
//! and those that the cache has.

use std::ops::Range;

use elf_tools::Svma;
use elf_tools::image::Image;
use elf_tools::image::alternatives::{self, Alternative};
use elf_tools::relocation::Relocation;

use crate::cpu_features;
use crate::{Error, Result, Unlinkable};
use relocator::criu;
use relocator::link::Old;
use relocator::source::Source;
use relocator::tables;

/// An image that the user has named, or that was kept.
pub(super) struct Named<'a> {
    /// What errors call it.
    name: String,
    /// As it was linked.
    pub(super) image: Image,
    alternatives: Vec<Alternative>,
    /// Where the old kernel may have made a difference: alternatives, and slots.
    free: Vec<Range<usize>>,
    /// Where the user has it from.
    pub(super) source: Option<&'a Source>,
}

impl<'a> Named<'a> {
    fn of(image: Image, name: &str, source: Option<&'a Source>) -> Result<Self> {
        let failed = |error| Error::input(name)(error);
        let table = alternatives::read(&image).map_err(failed)?;
        let places = table.iter().map(|one| &one.original);
        let mut free: Vec<_> = places
            .map(|place| place.start as usize..place.end as usize)
            .collect();
        free.extend(slots(&image).map_err(failed)?);
        Ok(Self {
            name: name.to_owned(),
            alternatives: table,
            free,
            source,
            image,
        })
    }

    /// Its bytes as a kernel had prepared them that has left `found`, of which the ranges in
    /// `covered` were overwritten since. What was overwritten as a whole is prepared for this
    /// processor. Of what was overwritten in part, the rest says what it was: it may have been
    /// prepared for another one.
    pub(super) fn prepared(&self, found: &[u8], covered: &[Range<usize>]) -> Vec<u8> {
        let mut bytes = alternatives::apply(&self.image, &self.alternatives, cpu_features::has);
        let is_covered = |index: usize| covered.iter().any(|range| range.contains(&index));
        for one in &self.alternatives {
            let place = one.original.start as usize..one.original.end as usize;
            // What stands behind a replacement does nothing, which kernels say in several ways.
            let length = (one.replacement.end - one.replacement.start) as usize;
            let is_it = |bytes: &[u8], length: usize| {
                let mut seen = (place.start..place.start + length).filter(|at| !is_covered(*at));
                seen.all(|at| bytes.get(at) == found.get(at))
            };
            let is_in_part = place.clone().any(is_covered) && !place.clone().all(is_covered);
            if !is_in_part || is_it(&bytes, place.len()) {
                continue;
            }
            let original = self.image.bytes();
            let replaced = alternatives::apply(&self.image, &[always(one)], |_| true);
            let variant = match is_it(original, place.len()) {
                true => original,
                false if is_it(&replaced, length) => &replaced,
                false => continue,
            };
            bytes[place.clone()].copy_from_slice(&variant[place]);
        }
        bytes
    }
}

/// An alternative whatever the processor is.
fn always(one: &Alternative) -> Alternative {
    Alternative {
        negated: false,
        ..one.clone()
    }
}

/// The image among those that the user has named that these bytes are of.
pub(super) fn named<'a>(bytes: &[u8], sources: &'a [Source]) -> Result<Option<Named<'a>>> {
    for source in sources {
        let image = source.require_image()?;
        let failed = |error| Error::input(&source.name)(error);
        let own = Image::parse(bytes).map_err(failed)?;
        if own.build_id() != image.build_id() {
            continue;
        }
        let image = image.clone();
        return Named::of(image, &source.name, Some(source)).map(Some);
    }
    Ok(None)
}

/// The image that the cache has of these bytes.
pub(super) fn kept(bytes: &[u8], options: &tables::Options) -> Result<Option<Named<'static>>> {
    const CACHE: &str = "the cache";
    let failed = |error| Error::input(CACHE)(error);
    let own = Image::parse(bytes).map_err(failed)?;
    let found = options.cache.as_ref().zip(own.build_id());
    let found = found.and_then(|(cache, build_id)| cache.image(build_id));
    let named = found.map(|image| Named::of(image, CACHE, None));
    named.transpose()
}

/// Compares an image with the named one: they may only differ in alternatives, and where there are
/// jumps.
pub(super) fn check(
    bytes: &[u8],
    named: &Named<'_>,
    jumps: &[(Svma, [u8; criu::JUMP])],
    name: &str,
) -> Result<()> {
    let jumps = jumps
        .iter()
        .map(|jump| jump.0.index()..jump.0.index() + criu::JUMP);
    let free: Vec<_> = named.free.iter().cloned().chain(jumps).collect();
    let pairs = bytes.iter().zip(named.image.bytes()).enumerate();
    let mut differing = pairs.filter(|(_, (own, other))| own != other);
    let strange = differing.find(|(index, _)| !free.iter().any(|free| free.contains(index)));
    match strange {
        None => Ok(()),
        Some((index, _)) => Err(Error::Unlinkable {
            what: name.to_owned(),
            reason: Unlinkable::Changed {
                named: named.name.clone(),
                at: index,
            },
        }),
    }
}

/// Places of an image that its own kernel fills in: what the relocations are for that it carries.
fn slots(image: &Image) -> elf_tools::Result<Vec<Range<usize>>> {
    let old = Old::read(image.clone())?;
    let entries = old.relocations.iter().flat_map(|table| &table.entries);
    let place = |entry: &Relocation| {
        let start = entry.place.index();
        start..start + entry.kind.width() as usize
    };
    Ok(entries.map(place).collect())
}

#[cfg(test)]
mod tests;
