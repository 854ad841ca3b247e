//! An old text in a process, and what it was before any tool changed it.
//!
//! The reader removes link records, outermost first, then CRIU's jumps. What the jumps have
//! overwritten is in the image that the user names, in the cache, or in a record: whoever linked the
//! process knew it. The result is the old image as its own kernel had prepared it; the reader
//! compares it with the named one.

use std::ops::Range;

use elf_tools::disassembly::Flow;
use elf_tools::image::Image;
use elf_tools::reachability::Code;
use elf_tools::reentry::ReentryTable;
use elf_tools::{Avma, BuildId, Svma};

use super::chunk::MemoryChunk;
use super::kernel::RunningKernel;
use super::named::{Named, check, kept, named};
use super::recognise::{OldText, length, vvar_placeholder};
use super::record::{Before, FoundRecord, Overwritten, Record};
use super::recovery::{InterruptedApply, RecoveryCopy};
use crate::targets::{Mapping, WORD};
use crate::{Error, Result, Unlinkable};
use relocator::criu;
use relocator::link::Old;
use relocator::plan::Strategy;
use relocator::source::{NoSymtab, Source};
use relocator::tables::{self, OldTables};
use relocator::threads::{CodeNow, Crossing, Memory};

/// The function that keeps random states.
pub(super) const GETRANDOM: &str = "__vdso_getrandom";

/// Most link records of one text inside of each other. This tool leaves one.
const RECORDS: usize = 16;

/// What the user says about old images.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known<'a> {
    /// Images, and perhaps the symbols of their kernels. Those that are not in the process are
    /// passed over.
    pub(super) sources: &'a [Source],
    /// Where to look for tables.
    pub(super) tables: &'a tables::Options,
}

/// An old text.
#[derive(Debug, Clone)]
pub(super) struct Text {
    /// As it is in the process.
    pub(super) found: OldText,
    /// The mapping without what links have added to it.
    pub(super) mapping: Range<Avma>,
    /// What the mapping held before links and jumps.
    pub(super) pristine: Vec<u8>,
    /// Its link record.
    pub(super) record: Option<FoundRecord>,
    /// What a recovery copy says of it, if an apply was interrupted.
    pub(super) interrupted: Option<InterruptedApply>,
    /// CRIU's jumps, as they are or were before it was linked.
    pub(super) jumps: Vec<(Svma, [u8; criu::JUMP])>,
    /// The old image.
    pub(super) old: Old,
    /// Where its relocations come from.
    pub(super) tables: OldTables,
    /// How threads get out of it.
    pub(super) reentry: ReentryTable,
    /// The vvar placeholder before it.
    pub(super) placeholder: Option<Range<Avma>>,
}

impl Text {
    /// Reads an old text, and finds its tables.
    pub(super) fn read(
        mut found: OldText,
        known: Known<'_>,
        copies: &[RecoveryCopy],
        mappings: &[Mapping],
        memory: &dyn Memory,
    ) -> Result<Self> {
        let name = format!("the vDSO at {}", found.image);
        let mut recorded = Vec::new();
        let (record, mut mapping, mut pristine) = without_records(&found, &mut recorded)?;
        let own = record.as_ref().map(|found| &found.record);
        let interrupted = copies.iter().find_map(|copy| {
            let interrupted = copy.interrupted(&found, own, &mapping, &pristine)?;
            Some((copy, interrupted))
        });
        let interrupted = interrupted.map(|(copy, interrupted)| {
            if record.is_none() {
                copy.extend(&mut found, mappings, memory);
            }
            (mapping, pristine) = (interrupted.base.range(), interrupted.base.bytes.clone());
            recorded.insert(0, interrupted.overwritten.clone());
            interrupted
        });
        let size = image_size(&found, &mapping, &pristine);
        let start = (found.image.0 - mapping.start.0) as usize;
        let image = &mut pristine[start..start + size];
        let jumps = jumps(image).map_err(Error::input(&name))?;
        let options = known.tables;
        let named = match named(image, known.sources)? {
            Some(named) => {
                check(image, &named, &jumps, &name)?;
                if let Some(cache) = &options.cache {
                    cache.keep_image(&named.image);
                }
                Some(named)
            }
            // What does not fit the process is of no use.
            None => kept(image, options)?.filter(|kept| check(image, kept, &jumps, &name).is_ok()),
        };
        let known = Bytes {
            named: named.as_ref(),
            recorded: &recorded,
            image: found.image,
        };
        let parsed = without_jumps(image, &jumps, &known, &name)?;
        let symtab = match &named {
            Some(Named {
                source: Some(source),
                ..
            }) => source.symtab(),
            _ => Err(NoSymtab::UnknownKernel {
                build_id: in_words(parsed.build_id()),
            }),
        };
        let (old, tables) = tables::find(parsed, &name, symtab, options)?;
        let (reentry, _) = tables::reentry(&old, &name, options)?;
        let placeholder = vvar_placeholder(mappings, memory, mapping.start);
        Ok(Self {
            found,
            mapping,
            pristine,
            record,
            interrupted,
            jumps,
            old,
            tables,
            reentry,
            placeholder,
        })
    }

    /// Offset of the image in [`Text::pristine`].
    pub(super) fn offset(&self) -> usize {
        (self.found.image.0 - self.mapping.start.0) as usize
    }

    /// How its threads come from one code to another.
    pub(super) fn crossing<'a>(
        &'a self,
        before: Option<&'a CodeNow>,
        after: &'a CodeNow,
        kernel: &RunningKernel,
    ) -> Crossing<'a> {
        Crossing {
            processor: Some(kernel.processor()),
            old: &self.old,
            reentry: &self.reentry,
            before,
            after,
            image: self.found.image,
        }
    }

    /// What threads find there now, if that is not the old image: what it was linked to, or CRIU's
    /// jumps.
    pub(super) fn before(&self) -> Result<Option<CodeNow>> {
        match &self.record {
            Some(found) => {
                let start = self.found.mapping.start;
                let mut code = found.record.linked(&self.found.bytes, start)?;
                for entry in &found.record.entries {
                    if let Some(jump) = self.jump(entry.at) {
                        code.patch(entry.at, jump.to_vec());
                    }
                }
                let mut bytes = self.found.bytes.clone();
                found.record.complete(&mut bytes, start)?;
                let image = (self.found.image.0 - start.0) as usize;
                code.analyse(&self.old, &bytes[image..]);
                Ok(Some(code))
            }
            None if self.interrupted.is_some() => Ok(Some(self.staged())),
            None => Ok((!self.jumps.is_empty()).then(|| self.unlinked())),
        }
    }

    /// The old image with the interim entries that an interrupted apply has written.
    fn staged(&self) -> CodeNow {
        let unlinked = self.unlinked_bytes();
        let mut code = self.unlinked();
        for function in self.old.code.functions() {
            let start = function.entry.index();
            let now = self.found.image_bytes().get(start..start + WORD);
            let own = unlinked.get(start..start + WORD);
            match now {
                Some(now) if Some(now) != own => code.patch(function.entry, now.to_vec()),
                _ => {}
            }
        }
        code
    }

    /// CRIU's jump at the entry of a function, if there is one now.
    fn jump(&self, entry: Svma) -> Option<[u8; criu::JUMP]> {
        let code = self.found.image_bytes().get(entry.index()..)?;
        criu::target(code).map(criu::jump)
    }

    /// Whether CRIU has put its jumps over a text that was linked: the process was restored since.
    pub(super) fn was_restored(&self) -> bool {
        self.record.is_some() && self.has_jumps()
    }

    /// Whether CRIU's jumps are there now.
    pub(super) fn has_jumps(&self) -> bool {
        let mut functions = self.old.code.functions().iter();
        functions.any(|one| self.jump(one.entry).is_some())
    }

    /// Whether its record says that a function is relocated.
    pub(super) fn was_relocated(&self, entry: Svma) -> bool {
        let record = self.record.as_ref().map(|found| &found.record);
        let mut entries = record.into_iter().flat_map(|record| &record.entries);
        entries.any(|one| one.at == entry && one.strategy == Strategy::Relocate)
    }

    /// The old image with the jumps that it had.
    pub(super) fn unlinked(&self) -> CodeNow {
        let mut code = CodeNow::unchanged(self.old.image.bytes().len());
        for (entry, jump) in &self.jumps {
            code.patch(*entry, jump.to_vec());
        }
        code
    }

    fn unlinked_bytes(&self) -> Vec<u8> {
        let mut bytes = self.old.image.bytes().to_vec();
        for (entry, jump) in &self.jumps {
            bytes[entry.index()..][..jump.len()].copy_from_slice(jump);
        }
        bytes
    }

    /// What CRIU's jumps have overwritten in what the process gets back, which this text is made
    /// from.
    pub(super) fn overwritten(&self, base: &MemoryChunk) -> Vec<Before> {
        let own = MemoryChunk {
            at: self.mapping.start,
            bytes: self.pristine.clone(),
        };
        let places = self.jumps.iter().map(|(entry, jump)| {
            let at = entry.at(self.found.image);
            at..at.offset(jump.len() as i64)
        });
        let places: Vec<_> = places
            .filter(|place| own.part(place) != base.part(place))
            .collect();
        Record::runs_in(&own.bytes, own.at, &places)
    }

    /// Whether a function of it keeps random states in the memory of the process.
    pub(super) fn has_states(&self) -> bool {
        self.old.image.export(GETRANDOM).is_some()
    }

    /// The exported function of one of these names.
    pub(super) fn function(&self, names: &[&str]) -> Option<Avma> {
        let image = &self.old.image;
        let export = names.iter().find_map(|name| image.export(name))?;
        Some(export.address.at(self.found.image))
    }
}

/// Removes all link records: the outermost one, and the mapping and its content before there was
/// any. What they say that jumps have overwritten is appended to `overwritten`.
fn without_records(
    found: &OldText,
    overwritten: &mut Vec<Overwritten>,
) -> Result<(Option<FoundRecord>, Range<Avma>, Vec<u8>)> {
    let mut range = found.mapping.clone();
    let mut bytes = found.bytes.clone();
    let mut outermost = None;
    let mut left = RECORDS;
    while let Some(next) = Record::find(&bytes, range.start)? {
        let refused = |reason| Error::Unlinkable {
            what: format!("the vDSO at {}", found.image),
            reason,
        };
        // Any program can write a record: it is input.
        let image = next.record.image;
        if image != found.image {
            return Err(refused(Unlinkable::CopyOfNothing { image }));
        }
        if left == 0 {
            return Err(refused(Unlinkable::EndlessRecords { at: next.at.start }));
        }
        left -= 1;
        bytes = next.record.undone(&bytes, range.start)?;
        range = next.record.text.clone();
        overwritten.push(Overwritten::of(&next.record));
        outermost.get_or_insert(next);
    }
    Ok((outermost, range, bytes))
}

/// How many bytes of a mapping are the image, as it was before any link: without the zeros behind
/// it, so that what is added to it finds room there.
fn image_size(found: &OldText, mapping: &Range<Avma>, bytes: &[u8]) -> usize {
    /// What a linked image is aligned to.
    const ALIGNMENT: usize = 16;
    let start = (found.image.0 - mapping.start.0) as usize;
    let whole = bytes.len() - start;
    // The headers of a linked image cover what the link has added.
    let own = Image::parse(&bytes[start..]);
    let size = own.map_or(found.size, |image| length(&image));
    let behind = bytes.get(start + size..).unwrap_or_default();
    match behind.iter().all(|&byte| byte == 0) {
        true => size.next_multiple_of(ALIGNMENT).min(whole),
        // A killed tool has left its code there.
        false => whole,
    }
}

/// A build-id in hexadecimal.
pub(super) fn in_words(build_id: Option<&BuildId>) -> String {
    build_id.map_or_else(|| "none".to_owned(), BuildId::to_string)
}

/// CRIU's jumps at the entries of an image.
fn jumps(bytes: &[u8]) -> elf_tools::Result<Vec<(Svma, [u8; criu::JUMP])>> {
    let image = Image::parse(bytes)?;
    let mut jumps = Vec::new();
    for export in image.exports() {
        let code = bytes.get(export.address.index()..).unwrap_or_default();
        if let Some(target) = criu::target(code) {
            jumps.push((export.address, criu::jump(target)));
        }
    }
    jumps.dedup();
    Ok(jumps)
}

/// Where the bytes are from that jumps have overwritten.
struct Bytes<'a> {
    /// The image that the user has named, or that was kept.
    named: Option<&'a Named<'a>>,
    /// What records say.
    recorded: &'a [Overwritten],
    /// Where the image is.
    image: Avma,
}

impl Bytes<'_> {
    /// What a record of this image says of a place in it.
    fn recorded(&self, build_id: &[u8], place: &Range<usize>) -> Option<Vec<u8>> {
        let at = |index: usize| self.image.offset(index as i64);
        let mut records = self.recorded.iter();
        records.find_map(|one| match one.build_id == build_id {
            true => one.part(at(place.start)..at(place.end)),
            false => None,
        })
    }
}

/// Puts back what jumps have overwritten: the image as its own kernel had prepared it.
fn without_jumps(
    bytes: &mut [u8],
    jumps: &[(Svma, [u8; criu::JUMP])],
    known: &Bytes<'_>,
    name: &str,
) -> Result<Image> {
    let own = Image::parse(bytes).map_err(Error::input(name))?;
    let build_id = own.build_id().map_or(&[][..], BuildId::as_bytes);
    let refused = |reason| Error::Unlinkable {
        what: name.to_owned(),
        reason,
    };
    let places = jumps
        .iter()
        .map(|(entry, jump)| entry.index()..entry.index() + jump.len());
    let places: Vec<_> = places.collect();
    let prepared = known.named.map(|named| named.prepared(bytes, &places));
    let mut by_record = Vec::new();
    for ((entry, _), place) in jumps.iter().zip(places) {
        let named = prepared.as_ref().and_then(|named| named.get(place.clone()));
        let original = match named {
            Some(named) => Some(named.to_vec()),
            None => {
                by_record.push(*entry);
                known.recorded(build_id, &place)
            }
        };
        let original = original.ok_or_else(|| {
            refused(Unlinkable::Overwritten {
                entry: *entry,
                build_id: in_words(own.build_id()),
            })
        })?;
        bytes[place].copy_from_slice(&original);
    }
    let image = Image::parse(bytes).map_err(Error::input(name))?;
    match no_code(&image, &by_record).map_err(Error::input(name))? {
        Some(entry) => Err(refused(Unlinkable::NoCode { entry })),
        None => Ok(image),
    }
}

/// The first of some functions that cannot begin as it does: it is a jump of CRIU's still, or
/// execution ends or leaves the image where the jump was.
fn no_code(image: &Image, entries: &[Svma]) -> elf_tools::Result<Option<Svma>> {
    if entries.is_empty() {
        return Ok(None);
    }
    let code = Code::of(image)?;
    let is_no_code = |entry: &&Svma| {
        let place = **entry..Svma(entry.0 + criu::JUMP as u64);
        let Some(function) = code.function(place.start) else {
            return true;
        };
        let mut reached = code.reached(function);
        let first = image.bytes().get(entry.index()..).unwrap_or_default();
        function.indirect.is_some_and(|at| place.contains(&at))
            || criu::target(first).is_some()
            || reached.any(|one| place.contains(&one.address) && one.flow == Flow::Stop)
    };
    Ok(entries.iter().find(is_no_code).copied())
}
