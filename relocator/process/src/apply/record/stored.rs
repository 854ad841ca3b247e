//! A record in bytes: an ELF note, `docs/abi.md` section 7.

use std::ops::Range;

use elf_tools::{Avma, Result, Svma};

use super::header::{self, CHECK, DescriptorHeader, NoteHeader};
use super::number::{Reader, put, put_signed};
use super::{Before, Entry, Placed, Record, check};
use crate::{Error, Unlinkable};
use relocator::link::Moved;
use relocator::plan::Strategy;

const VERSION: u32 = 1;

/// The flag of a record that ends with what CRIU's jumps had overwritten.
const OVERWRITTEN: u32 = 1;

/// Descriptors have a multiple of so many bytes.
const ALIGNMENT: usize = 4;

/// Most bytes of a descriptor.
pub(super) const LARGEST: usize = 64 << 10;

/// The CRC-32 of a whole note but for the check itself.
pub(super) fn check_of(note: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&note[..CHECK.start]);
    hasher.update(&note[CHECK.end..]);
    hasher.finalize()
}

impl Record {
    /// The note. It can be read again; a record that could not be is refused.
    pub fn encode(&self) -> crate::Result<Vec<u8>> {
        let refused = |reason| Error::Unlinkable {
            what: format!("the image at {}", self.image),
            reason: Unlinkable::BadRecord(reason),
        };
        check::record(self).map_err(refused)?;
        let mut note = vec![0; header::NOTE + header::DESCRIPTOR];
        self.put(&mut note);
        note.resize(note.len().next_multiple_of(ALIGNMENT), 0);
        let size = note.len() - header::NOTE;
        if size > LARGEST {
            return Err(refused(check::RecordFault::TooMany {
                count: size,
                what: "bytes",
                most: LARGEST,
            }));
        }
        NoteHeader::of(size as u32).write(&mut note);
        let mut descriptor = DescriptorHeader {
            version: VERSION,
            flags: match self.overwritten.is_empty() {
                true => 0,
                false => OVERWRITTEN,
            },
            check: 0,
        };
        descriptor.write(&mut note);
        descriptor.check = check_of(&note);
        descriptor.write(&mut note);
        Ok(note)
    }

    /// The record that bytes begin with, and how many of them are its note. Offsets of errors are
    /// from the note's start.
    pub fn decode(bytes: &[u8]) -> crate::Result<(Self, usize)> {
        decode(bytes).map_err(Error::input("link record"))
    }

    fn put(&self, bytes: &mut Vec<u8>) {
        let distance = |to: Avma| to.distance_from(self.image);
        put(bytes, self.image.0);
        put(bytes, self.image.0 - self.text.start.0);
        put(bytes, self.text.end.0 - self.text.start.0);
        for build_id in [&self.old, &self.new] {
            put_bytes(bytes, build_id);
        }
        put_runs(bytes, &self.before, self.text.start);
        put(bytes, self.kernel.len() as u64);
        for placed in &self.kernel {
            put_bytes(bytes, placed.name.as_bytes());
            put(bytes, placed.size);
            put(bytes, placed.from.0);
            put_signed(bytes, distance(placed.to));
        }
        put(bytes, self.placeholders.len() as u64);
        for placeholder in &self.placeholders {
            put_signed(bytes, distance(placeholder.start));
            put(bytes, placeholder.end.0 - placeholder.start.0);
        }
        put(bytes, self.entries.len() as u64);
        for entry in &self.entries {
            put(bytes, entry.at.0);
            put(
                bytes,
                u64::from(entry.replaced) << 2 | strategy_number(entry.strategy),
            );
            bytes.extend(entry.bytes);
        }
        for moved in [&self.moved, &self.jumps_back] {
            put(bytes, moved.len() as u64);
            for moved in moved {
                put(bytes, moved.from.0);
                put(bytes, moved.to.0);
            }
        }
        if !self.overwritten.is_empty() {
            put_runs(bytes, &self.overwritten, self.text.start);
        }
    }
}

fn put_bytes(bytes: &mut Vec<u8>, all: &[u8]) {
    put(bytes, all.len() as u64);
    bytes.extend(all);
}

/// Runs of one value, such as the padding that a record takes the place of, are stored as that
/// value.
fn put_runs(bytes: &mut Vec<u8>, before: &[Before], start: Avma) {
    put(bytes, before.len() as u64);
    let mut end = start.0;
    for run in before {
        let size = run.bytes.len() as u64;
        put(bytes, run.at.0 - end);
        match is_uniform(&run.bytes) {
            true => {
                put(bytes, size << 1 | 1);
                bytes.push(run.bytes[0]);
            }
            false => {
                put(bytes, size << 1);
                bytes.extend(&run.bytes);
            }
        }
        end = run.at.0 + size;
    }
}

/// Whether bytes are more than one, and all the same.
pub(super) fn is_uniform(bytes: &[u8]) -> bool {
    bytes.len() > 1 && bytes.iter().all(|byte| *byte == bytes[0])
}

fn strategy_number(strategy: Strategy) -> u64 {
    match strategy {
        Strategy::Keep => 0,
        Strategy::Relocate => 1,
        Strategy::Proxy => 2,
        Strategy::Syscall => 3,
    }
}

fn strategy(number: u64) -> Strategy {
    match number & 3 {
        0 => Strategy::Keep,
        1 => Strategy::Relocate,
        2 => Strategy::Proxy,
        _ => Strategy::Syscall,
    }
}

/// The record that bytes begin with, and the size of its note.
pub(super) fn decode(bytes: &[u8]) -> Result<(Record, usize)> {
    let Some(note_header) = NoteHeader::read(bytes) else {
        return Err(Reader::wrong(0, "no note of that kind begins here"));
    };
    let size = note_header.size as usize;
    if !(header::DESCRIPTOR..=LARGEST).contains(&size) || !size.is_multiple_of(ALIGNMENT) {
        return Err(Reader::wrong(4, format!("a descriptor of {size} bytes")));
    }
    let note = bytes.get(..header::NOTE + size);
    let (note, descriptor) = note
        .and_then(|note| Some((note, DescriptorHeader::read(note)?)))
        .ok_or_else(|| {
            let there = bytes.len() - header::NOTE;
            Reader::wrong(4, format!("{size} bytes of which only {there} are there"))
        })?;
    // A version that is not known may have its check elsewhere.
    let flags = descriptor.flags;
    for (at, name, found, known, is_known) in [
        (
            0,
            "version",
            descriptor.version,
            VERSION,
            descriptor.version == VERSION,
        ),
        (4, "flags", flags, OVERWRITTEN, flags & !OVERWRITTEN == 0),
    ] {
        if !is_known {
            let reason = format!("{name} {found:#x}; only {known:#x} is understood");
            return Err(Reader::wrong(header::NOTE + at, reason));
        }
    }
    if descriptor.check != check_of(note) {
        return Err(Reader::wrong(
            CHECK.start,
            "it is damaged: its CRC-32 is another one",
        ));
    }
    let mut reader = Reader::new(note, header::NOTE + header::DESCRIPTOR);
    let record = read(&mut reader, flags)?;
    let end = reader.offset();
    let padding = &note[end..];
    if padding.len() >= ALIGNMENT || padding.iter().any(|byte| *byte != 0) {
        let reason = format!("{} bytes that mean nothing", padding.len());
        return Err(Reader::wrong(end, reason));
    }
    check::record(&record)
        .map_err(|fault| Reader::wrong(header::NOTE + header::DESCRIPTOR, fault.to_string()))?;
    Ok((record, note.len()))
}

fn read(reader: &mut Reader<'_>, flags: u32) -> Result<Record> {
    let image = Avma(reader.number()?);
    let start = reader.offset();
    let before_image = reader.number()?;
    let size = reader.count(check::TEXT, "bytes of text")?;
    let start_of_text = image.0.checked_sub(before_image).map(Avma);
    let text = start_of_text.and_then(|start| range(start, size as u64));
    let text = text.ok_or_else(|| Reader::wrong(start, "the text is in no address space"))?;
    Ok(Record {
        image,
        old: bytes(reader, check::BUILD_ID, "bytes of the old build-id")?.to_vec(),
        new: bytes(reader, check::BUILD_ID, "bytes of the new build-id")?.to_vec(),
        before: runs(reader, &text)?,
        kernel: list(
            reader,
            check::MAPPINGS,
            "mappings of the kernel's",
            |reader| placed(reader, image),
        )?,
        placeholders: list(reader, check::MAPPINGS, "ranges of zeros", |reader| {
            placeholder(reader, image)
        })?,
        entries: list(reader, check::ENTRIES, "functions", entry)?,
        moved: list(
            reader,
            check::MOVED,
            "instructions that are elsewhere",
            moved,
        )?,
        jumps_back: list(reader, check::MOVED, "jumps back", moved)?,
        overwritten: overwritten(reader, flags, &text)?,
        text,
    })
}

/// The last list, which is there only if a flag says so, and never empty.
fn overwritten(reader: &mut Reader<'_>, flags: u32, text: &Range<Avma>) -> Result<Vec<Before>> {
    if flags & OVERWRITTEN == 0 {
        return Ok(Vec::new());
    }
    let start = reader.offset();
    let overwritten = runs(reader, text)?;
    match overwritten.is_empty() {
        true => Err(Reader::wrong(
            start,
            "nothing was overwritten, and the flags say otherwise",
        )),
        false => Ok(overwritten),
    }
}

fn range(start: Avma, size: u64) -> Option<Range<Avma>> {
    Some(start..Avma(start.0.checked_add(size)?))
}

/// Elements are read one by one, so that a count that is too large costs nothing.
fn list<T>(
    reader: &mut Reader<'_>,
    most: usize,
    what: &str,
    mut element: impl FnMut(&mut Reader<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    let count = reader.count(most, what)?;
    (0..count).map(|_| element(reader)).collect()
}

fn bytes<'a>(reader: &mut Reader<'a>, most: usize, what: &str) -> Result<&'a [u8]> {
    let count = reader.count(most, what)?;
    reader.take(count)
}

/// Runs end within the text, so that all of them together are no larger than it.
fn runs(reader: &mut Reader<'_>, text: &Range<Avma>) -> Result<Vec<Before>> {
    let mut free = text.start;
    list(reader, check::RUNS, "runs of bytes", |reader| {
        let start = reader.offset();
        let gap = reader.number()?;
        let size = reader.number()?;
        let (size, is_uniform) = (size >> 1, size & 1 == 1);
        let at = free.0.checked_add(gap).map(Avma);
        let run = at.and_then(|at| range(at, size));
        let run = run.filter(|run| run.end <= text.end);
        let run = run.ok_or_else(|| Reader::wrong(start, "bytes that are not in the text"))?;
        free = run.end;
        Ok(Before {
            at: run.start,
            bytes: match is_uniform {
                true => vec![reader.take(1)?[0]; size as usize],
                false => reader.take(size as usize)?.to_vec(),
            },
        })
    })
}

fn placed(reader: &mut Reader<'_>, image: Avma) -> Result<Placed> {
    let start = reader.offset();
    let name = bytes(reader, check::NAME, "bytes of a mapping's name")?;
    let name = std::str::from_utf8(name);
    let name = name.map_err(|error| Reader::wrong(start, format!("a name: {error}")))?;
    Ok(Placed {
        name: name.to_owned(),
        size: reader.number()?,
        from: Avma(reader.number()?),
        to: image.offset(reader.signed()?),
    })
}

fn placeholder(reader: &mut Reader<'_>, image: Avma) -> Result<Range<Avma>> {
    let at = reader.offset();
    let start = image.offset(reader.signed()?);
    let placeholder = range(start, reader.number()?);
    placeholder.ok_or_else(|| Reader::wrong(at, "zeros that are in no address space"))
}

fn entry(reader: &mut Reader<'_>) -> Result<Entry> {
    let at = Svma(reader.number()?);
    let start = reader.offset();
    let number = reader.number()?;
    let replaced = u32::try_from(number >> 2);
    let replaced =
        replaced.map_err(|_| Reader::wrong(start, "more bytes are replaced than there can be"))?;
    let bytes = reader.take(8)?;
    Ok(Entry {
        at,
        strategy: strategy(number),
        replaced,
        bytes: std::array::from_fn(|index| bytes[index]),
    })
}

fn moved(reader: &mut Reader<'_>) -> Result<Moved> {
    Ok(Moved {
        from: Svma(reader.number()?),
        to: Svma(reader.number()?),
    })
}
