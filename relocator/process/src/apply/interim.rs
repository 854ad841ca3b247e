//! Interim entries: what the entries of a text are while another text takes its place.
//!
//! If this tool is killed, all threads run on at once, while the kernel may still carry out its
//! last system call. So no thread may be in anything that differs between the two texts. Stopped
//! threads are at entries of functions then, and the interim entries of both texts are the same:
//! they make system calls. The kernel's mappings can move meanwhile, since no code reads them. Each
//! entry changes by a single write of eight bytes. Functions that no system call can replace,
//! because the kernel recognises them in its own vDSO, run their own code.
//!
//! The stub of `getrandom` is longer than eight bytes, because it has to answer a question that the
//! system call does not know. It goes into zeros at the end of both texts. Without such zeros the
//! entry makes the plain system call. A process that is left in that state answers the question
//! wrong; libraries ask it when a program starts.

use std::ops::Range;

use elf_tools::{Avma, Svma};

use super::text::Text;
use crate::targets::{Step, WORD, overlaps};
use crate::{Error, Result};
use relocator::criu;
use relocator::plan::Refusal;
use relocator::proxy::{self, SystemCall};
use relocator::threads::{CodeNow, Write};

/// Everything that is added begins at a multiple of this.
pub(super) const ALIGNMENT: usize = 16;

/// Entries that make system calls.
pub(super) struct InterimEntries {
    image: Avma,
    words: Vec<(Svma, [u8; WORD])>,
    /// Where entries jump to.
    stubs: Vec<(Svma, Vec<u8>)>,
}

/// One text that takes the place of another.
struct Change<'a> {
    image: Avma,
    /// The bytes from the image's first on.
    now: &'a [u8],
    after: &'a [u8],
    /// Where stubs can be in both.
    free: Range<usize>,
    /// The link record that is there now.
    record: Option<Range<Avma>>,
}

impl InterimEntries {
    /// For a text whose image becomes `after`, of which everything from `free` on is unused.
    ///
    /// Error: a function that cannot be overwritten at once.
    pub(super) fn new(text: &Text, code: &CodeNow, after: &[u8], free: usize) -> Result<Self> {
        let image = text.found.image;
        let now = text.found.image_bytes();
        let change = Change {
            image,
            now,
            after,
            free: free..now.len().min(after.len()),
            record: text.record.as_ref().map(|found| found.at.clone()),
        };
        let mut interim = Self {
            image,
            words: Vec::new(),
            stubs: Vec::new(),
        };
        for function in text.old.code.functions() {
            let entry = function.entry;
            let patch = code.patched(entry).map_or(0, <[u8]>::len);
            if let Some(word) = interim.word(text, entry, patch, &change)? {
                interim.words.push((entry, word));
            }
        }
        Ok(interim)
    }

    /// What a function begins with of which `patch` bytes are to be replaced; `None` if it begins as it does now.
    fn word(
        &mut self,
        text: &Text,
        entry: Svma,
        patch: usize,
        change: &Change<'_>,
    ) -> Result<Option<[u8; WORD]>> {
        let exports = text.old.image.exports_at(entry);
        let mut names = exports.clone().map(|export| export.name.as_str());
        let refused = |reason: Refusal| {
            // Aliases without underscores come behind.
            let name = exports.clone().map(|export| export.name.as_str()).min();
            Error::Link(relocator::Error::Refused {
                function: name.unwrap_or_default().to_owned(),
                entry,
                reason,
            })
        };
        let sizes = exports.clone().map(|export| export.size as usize);
        let size = sizes.max().unwrap_or(0);
        if size < WORD {
            return match change.is_kept(entry, 0..size) {
                true => Ok(None),
                false => Err(refused(Refusal::TooShortAtOnce)),
            };
        }
        if let Some(call) = names.find_map(proxy::system_call) {
            return Ok(Some(self.call(entry, call, change)));
        }
        if patch == 0 && change.is_kept(entry, 0..WORD) {
            return Ok(None);
        }
        // It runs its own code, of which nothing else may be missing.
        if patch > WORD || !change.is_kept(entry, WORD..criu::JUMP.min(size)) {
            return Err(refused(Refusal::TooLongAtOnce));
        }
        let own = text.old.image.bytes().get(entry.index()..);
        let own = own.and_then(|own| own.first_chunk());
        let own = own.ok_or_else(|| refused(Refusal::LeavesImage))?;
        Ok(Some(*own))
    }

    /// What makes a system call at an entry.
    fn call(&mut self, entry: Svma, call: SystemCall, change: &Change<'_>) -> [u8; WORD] {
        let plain = proxy::plain_system_call(call);
        let stub = proxy::system_call_stub(call);
        if stub == plain {
            return plain;
        }
        let Some(place) = change.place(self.end(), &stub) else {
            return plain;
        };
        let mut word = plain;
        let jump = proxy::jump(entry.at(self.image), place.at(self.image));
        word[..jump.len()].copy_from_slice(&jump);
        self.stubs.push((place, stub));
        word
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
        let words = self.words.iter().map(|(at, _)| Write {
            at: at.at(self.image),
            bytes: image[at.index()..][..WORD].to_vec(),
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
        extend(code, self.words.iter().map(|word| word.0));
    }
}

/// The same for these entries.
pub(super) fn extend(code: &mut CodeNow, entries: impl Iterator<Item = Svma>) {
    for entry in entries {
        code.overwrite(entry, WORD);
    }
}

impl Change<'_> {
    /// Whether these bytes of a function stay as they are.
    fn is_kept(&self, entry: Svma, range: Range<usize>) -> bool {
        let range = entry.index() + range.start..entry.index() + range.end;
        let now = self.now.get(range.clone());
        now.is_some() && now == self.after.get(range)
    }

    /// Where code can be put in both texts: where both have zeros, or where an earlier stage has
    /// left the same code.
    fn place(&self, from: usize, code: &[u8]) -> Option<Svma> {
        let first = self.free.start.max(from).next_multiple_of(ALIGNMENT);
        let mut starts = (first..self.free.end).step_by(ALIGNMENT);
        let is_zero = |bytes: &[u8]| bytes.iter().all(|&byte| byte == 0);
        let is_free = |start: &usize| {
            let place = *start..*start + code.len();
            let at = |offset: usize| self.image.offset(offset as i64);
            let taken = self.record.as_ref();
            let is_taken =
                taken.is_some_and(|record| overlaps(record, &(at(place.start)..at(place.end))));
            let now = self.now.get(place.clone());
            !is_taken
                && self.after.get(place).is_some_and(is_zero)
                && now.is_some_and(|now| is_zero(now) || now == code)
        };
        let start = starts.find(is_free)?;
        Some(Svma(start as u64))
    }
}
