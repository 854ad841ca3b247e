//! Interim entries: what the entries of a text are while another text takes its place.
//!
//! If this tool is killed, all threads run on at once, while the kernel may still carry out its
//! last system call. So no thread may be in anything that differs between the two texts. Stopped
//! threads are at entries of functions then, and the interim entries of both texts are the same.
//! The kernel's mappings can move meanwhile, since no code reads them. Each entry changes by a
//! single write of at most eight bytes.
//!
//! | a function | has as interim entry |
//! |---|---|
//! | that a system call can replace | the system call |
//! | that the kernel recognises by its address | its own code; its final entry is a short jump ([`AT_ONCE`]) |
//! | of which both texts have the same code, without anything of the kernel's data | its own code |
//! | any other | the error `ENOSYS`, on which callers make the system call themselves |
//!
//! A function that is shorter than eight bytes jumps to code in zeros at the end of both texts. So
//! does one that moves the stack pointer within its first eight bytes: the old function's call frame
//! information is wrong for a system call in their place, and right for a jump, which is one
//! instruction. An unwinder that finds a thread behind the image finds no callers; under wrong rules
//! it would find wrong ones.
//!
//! `getrandom` jumps as well, since its stub has to answer a question that the system call does not know. In a
//! linked text, zeros may be data of linked code. So a rollback only uses the zeros where the link
//! had its own interim code: an undo by the link record erases what is there.
//! Without such zeros its entry makes the plain system call. A process that is left in that state
//! answers the question wrong; libraries ask it when a program starts.

use std::ops::Range;

use elf_tools::{Avma, Svma};

use super::layout::SPARE;
use super::record::FoundRecord;
use super::text::Text;
use crate::targets::{Step, WORD, overlaps};
use crate::{Error, Result};
use elf_tools::reachability::Function;
use relocator::plan::Refusal;
use relocator::proxy::{self, AT_ONCE, SystemCall};
use relocator::threads::{CodeNow, Write};
use relocator::unwind;

/// Everything that is added begins at a multiple of this.
pub(super) const ALIGNMENT: usize = 16;

/// Zeros that are left for injected calls, and for functions that have no other place.
const LEFT: usize = SPARE + 64;

/// What entries are in the meantime.
pub(super) struct InterimEntries {
    image: Avma,
    /// Each at most [`WORD`] bytes.
    words: Vec<(Svma, Vec<u8>)>,
    /// Where entries jump to.
    stubs: Vec<(Svma, Vec<u8>)>,
}

/// One text that takes the place of another.
struct Change<'a> {
    image: Avma,
    /// The bytes from the image's first on.
    now: &'a [u8],
    after: &'a [u8],
    /// Where threads find something else than the old image in the end.
    code: &'a CodeNow,
    /// Functions that read the kernel's data, now or in the end.
    relocated: &'a dyn Fn(Svma) -> bool,
    /// Where stubs can be in both.
    free: Range<usize>,
    /// The link record that is there now.
    record: Option<&'a FoundRecord>,
    /// Functions that move the stack pointer where a system call would be.
    moving: Vec<Svma>,
}

impl InterimEntries {
    /// For a text whose image becomes `after`, of which everything from `free` on is unused.
    /// `relocated` says which functions are relocated in the end, or were until now.
    ///
    /// Error: a function that has to change, and has no room for any interim entry.
    pub(super) fn new(
        text: &Text,
        code: &CodeNow,
        after: &[u8],
        free: usize,
        relocated: &dyn Fn(Svma) -> bool,
    ) -> Result<Self> {
        let image = text.found.image;
        let now = text.found.image_bytes();
        let functions = text.old.code.functions().iter();
        let entries: Vec<Svma> = functions.map(|function| function.entry).collect();
        let change = Change {
            moving: unwind::moves_early(&text.old.image, &entries, WORD),
            image,
            now,
            after,
            code,
            relocated,
            free: free..now.len().min(after.len()),
            record: text.record.as_ref(),
        };
        let mut interim = Self {
            image,
            words: Vec::new(),
            stubs: Vec::new(),
        };
        for function in text.old.code.functions() {
            if let Some(word) = interim.word(text, function, &change)? {
                interim.words.push((function.entry, word));
            }
        }
        Ok(interim)
    }

    /// What a function begins with; `None` if it begins as it does now.
    fn word(
        &mut self,
        text: &Text,
        function: &Function,
        change: &Change<'_>,
    ) -> Result<Option<Vec<u8>>> {
        let entry = function.entry;
        let exports = text.old.image.exports_at(entry);
        let mut names = exports.clone().map(|export| export.name.as_str());
        let sizes = exports.clone().map(|export| export.size as usize);
        let size = sizes.max().unwrap_or(0);
        let call = names.clone().find_map(proxy::system_call);
        if call.is_none() || size < WORD {
            let word = entry.index()..entry.index() + WORD.min(size);
            if names.any(proxy::is_known_by_address) && change.keeps_rest(text, function, &word) {
                let own = text.old.image.bytes().get(word.clone());
                let is_there = change.now.get(word.clone()) == own && change.after.get(word) == own;
                return Ok(own.filter(|_| !is_there).map(<[u8]>::to_vec));
            }
            if !(change.relocated)(entry) && change.keeps_rest(text, function, &(0..0)) {
                return Ok(None);
            }
        }
        let stand_in = match call {
            Some(call) => StandIn::of(call),
            None => StandIn::of_none(),
        };
        if let Some(word) = self.stand_in(entry, size, &stand_in, change) {
            return Ok(Some(word));
        }
        // Aliases without underscores come behind.
        let name = exports.map(|export| export.name.as_str()).min();
        Err(Error::Link(relocator::Error::Refused {
            function: name.unwrap_or_default().to_owned(),
            entry,
            reason: Refusal::TooShortAtOnce,
        }))
    }

    /// What stands in for a function of a certain size at its entry, or is led to by a jump there.
    fn stand_in(
        &mut self,
        entry: Svma,
        size: usize,
        stand_in: &StandIn,
        change: &Change<'_>,
    ) -> Option<Vec<u8>> {
        let plain = (size >= WORD).then(|| stand_in.plain.to_vec());
        if stand_in.whole == stand_in.plain
            && !change.moving.contains(&entry)
            && let Some(plain) = plain
        {
            return Some(plain);
        }
        // What could be at the entry as well leaves the rest of the zeros to others.
        let left = match stand_in.whole == stand_in.plain && plain.is_some() {
            true => LEFT,
            false => 0,
        };
        let place = change.place(self.end(), &stand_in.whole, left);
        let jump = place.map(|place| {
            let jump = proxy::jump(entry.at(self.image), place.at(self.image));
            (place, jump)
        });
        let Some((place, jump)) = jump.filter(|(_, jump)| jump.len() <= size.min(WORD)) else {
            return plain;
        };
        // What the processor may have read ahead stays what it is.
        let mut word = plain.unwrap_or_default();
        word.resize(word.len().max(jump.len()), 0);
        word[..jump.len()].copy_from_slice(&jump);
        self.stubs.push((place, stand_in.whole.clone()));
        Some(word)
    }

    /// The first byte of the image behind all that is added.
    pub(super) fn end(&self) -> usize {
        let ends = self.stubs.iter().map(|stub| stub.0.index() + stub.1.len());
        ends.max().unwrap_or(0)
    }

    /// Makes the entries of the present text like this.
    pub(super) fn begin(&self) -> impl Iterator<Item = Step> {
        self.writes().map(Step::Write)
    }

    fn writes(&self) -> impl Iterator<Item = Write> {
        let stubs = self.stubs.iter().map(|(at, code)| (*at, code.as_slice()));
        let words = self.words.iter().map(|(at, word)| (*at, word.as_slice()));
        stubs.chain(words).map(|(at, bytes)| Write {
            at: at.at(self.image),
            bytes: bytes.to_vec(),
        })
    }

    /// The same in the bytes of a mapping at `base`.
    pub(super) fn put(&self, bytes: &mut [u8], base: Avma) {
        for write in self.writes() {
            let start = (write.at.0 - base.0) as usize;
            bytes[start..start + write.bytes.len()].copy_from_slice(&write.bytes);
        }
    }

    /// Makes entries those of an image again.
    pub(super) fn finish(&self, image: &[u8]) -> Vec<Step> {
        let words = self.words.iter().map(|(at, word)| Write {
            at: at.at(self.image),
            bytes: image[at.index()..][..word.len()].to_vec(),
        });
        let stubs = self.stubs.iter().map(|(at, code)| Write {
            at: at.at(self.image),
            bytes: vec![0; code.len()],
        });
        words.chain(stubs).map(Step::Write).collect()
    }

    /// Counts the bytes that are overwritten at entries, in the beginning or in the end, as
    /// replaced.
    pub(super) fn extend(&self, code: &mut CodeNow) {
        for (entry, word) in &self.words {
            code.overwrite(*entry, word.len());
        }
    }
}

/// The same for entries of which a whole word may be overwritten.
pub(super) fn extend(code: &mut CodeNow, entries: impl Iterator<Item = Svma>) {
    for entry in entries {
        code.overwrite(entry, WORD);
    }
}

/// Writes of which those that share bytes are one, so that no function is left half written.
pub(super) fn at_once(mut writes: Vec<Write>) -> Vec<Write> {
    writes.sort_by_key(|write| write.at);
    let mut merged: Vec<Write> = Vec::new();
    for write in writes {
        let last = merged.last_mut();
        let shared = last.and_then(|last| {
            let offset = (write.at.0 - last.at.0) as usize;
            (offset < last.bytes.len()).then_some((last, offset))
        });
        match shared {
            Some((last, offset)) => {
                let end = (offset + write.bytes.len()).max(last.bytes.len());
                last.bytes.resize(end, 0);
                last.bytes[offset..][..write.bytes.len()].copy_from_slice(&write.bytes);
            }
            None => merged.push(write),
        }
    }
    merged
}

/// Code that stands in for a function.
struct StandIn {
    /// At an entry.
    plain: [u8; AT_ONCE],
    /// Where there is more room.
    whole: Vec<u8>,
}

impl StandIn {
    fn of(call: SystemCall) -> Self {
        Self {
            plain: proxy::plain_system_call(call),
            whole: proxy::system_call_stub(call),
        }
    }

    /// For a function that no system call replaces.
    fn of_none() -> Self {
        let plain = proxy::unavailable();
        Self {
            plain,
            whole: plain.to_vec(),
        }
    }
}

impl Change<'_> {
    /// Whether a function has the old image's code in both texts, but for a part of it.
    fn keeps_rest(&self, text: &Text, function: &Function, part: &Range<usize>) -> bool {
        let old = text.old.image.bytes();
        let is_outside = |index: &usize| !part.contains(index);
        let mut reached = text.old.code.reached(function);
        let is_kept = reached.all(|instruction| {
            let mut bytes =
                (instruction.address.index()..instruction.end().index()).filter(is_outside);
            bytes.all(|index| {
                let own = old.get(index);
                own.is_some() && self.now.get(index) == own && self.after.get(index) == own
            })
        });
        let patch = self.code.patched(function.entry).map_or(0, <[u8]>::len);
        is_kept && patch <= part.len()
    }

    /// Where code can be put in both texts: where both have zeros, or where an earlier stage has
    /// left the same code. If a record is there now, only where an undo by it erases the code: the
    /// next tool may know no more than that record.
    /// At least `left` bytes stay free behind it.
    fn place(&self, from: usize, code: &[u8], left: usize) -> Option<Svma> {
        let first = self.free.start.max(from).next_multiple_of(ALIGNMENT);
        let end = self.free.end.saturating_sub(left);
        let mut starts = (first..end).step_by(ALIGNMENT);
        let is_zero = |bytes: &[u8]| bytes.iter().all(|&byte| byte == 0);
        let is_free = |start: &usize| {
            let place = *start..*start + code.len();
            let at = |offset: usize| self.image.offset(offset as i64);
            let is_taken = self.record.is_some_and(|found| {
                let place = at(place.start)..at(place.end);
                overlaps(&found.at, &place) || !found.record.erases(code, place.start)
            });
            let now = self.now.get(place.clone());
            !is_taken
                && self.after.get(place).is_some_and(is_zero)
                && now.is_some_and(|now| is_zero(now) || now == code)
        };
        let start = starts.find(is_free)?;
        Some(Svma(start as u64))
    }
}

#[cfg(test)]
mod tests;
