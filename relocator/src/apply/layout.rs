//! The text of a process as it will be: the linked image, what is added to it, and the link record.
//!
//! While the kernel's mappings are on their way, nothing may read them or jump to them. So the text is put in place with
//! entries that make the system call, and each entry becomes what it is to be by a single write of eight bytes when the mappings
//! have arrived. Functions that no system call can stand in for, which the kernel ties to its own vDSO, run their own
//! code meanwhile.

use std::ops::Range;

use elf_tools::{Avma, Svma};

use super::place::Room;
use super::record::{Entry, Placed, Record};
use super::text::Text;
use crate::criu;
use crate::link::LinkedImage;
use crate::placement::PAGE;
use crate::plan::{FunctionPlan, Strategy};
use crate::proxy;
use crate::threads::Write;
use crate::{Error, Result};

/// Bytes that are written at once.
const WORD: usize = 8;

/// Zeros that are left at the end of the text, in which a trampoline finds room the next time, even after one was left there.
const SPARE: usize = 512;

/// What everything that is added begins at a multiple of.
const ALIGNMENT: usize = 16;

/// What goes into a layout besides the text.
#[derive(Debug, Clone)]
pub(super) struct Kernel {
    /// Build-id of the new vDSO.
    pub(super) build_id: Vec<u8>,
    /// The new kernel's mappings.
    pub(super) placed: Vec<Placed>,
    /// Pages of zeros that make room for them.
    pub(super) zeros: Vec<Range<Avma>>,
    /// Whether any of them moves.
    pub(super) moves: bool,
    /// What the process gets back if the link is undone.
    pub(super) base: Base,
}

/// A mapping and what it holds.
#[derive(Debug, Clone)]
pub(super) struct Base {
    /// Its first byte.
    pub(super) at: Avma,
    /// All bytes.
    pub(super) bytes: Vec<u8>,
}

impl Base {
    fn range(&self) -> Range<Avma> {
        self.at..self.at.offset(self.bytes.len() as i64)
    }
}

/// A text as it will be.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    /// Where it is, whole pages.
    pub(super) at: Avma,
    /// What is put there first.
    pub(super) stage: Vec<u8>,
    /// What is written then.
    pub(super) entries: Vec<Write>,
    /// What threads find there, in the beginning or in the end.
    pub(super) after: LinkedImage,
    /// What is kept of it in the process.
    pub(super) record: Record,
}

impl Layout {
    /// Lays out a text that has been linked.
    pub(super) fn new(
        text: &Text,
        linked: &LinkedImage,
        kernel: Kernel,
        room: Room,
    ) -> Result<Self> {
        let draft = Draft::new(text, linked)?;
        let inside = draft.inside(text);
        let mut refused = no_room(text);
        for place in [Place::Inside, Place::Behind, Place::Before] {
            let pages = match place {
                Place::Inside if !inside => continue,
                Place::Inside => 0,
                Place::Behind => draft.pages(text) + 1,
                Place::Before => draft.pages(text),
            };
            let has_page = text.found.mapping.start < text.mapping.start || room.before > 0;
            if pages > available(text, room) || place == Place::Before && !has_page {
                continue;
            }
            match draft.with_record(text, linked, &kernel, place) {
                Ok(layout) => return Ok(layout),
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }
}

fn no_room(text: &Text) -> Error {
    Error::Unlinkable {
        what: format!("the vDSO at {}", text.found.image),
        reason: "there is no room for its link record: neither in its last page nor next to it"
            .to_owned(),
    }
}

/// Where the record goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Into the zeros behind the image.
    Inside,
    /// Into a page behind.
    Behind,
    /// Into a page before, which belonged to the old vvar.
    Before,
}

/// Pages behind the old mapping that can be used, with those that an earlier link has added.
fn available(text: &Text, room: Room) -> usize {
    let added = text.found.mapping.end.0.saturating_sub(text.mapping.end.0);
    (added / PAGE) as usize + room.behind
}

/// A text without a record.
struct Draft {
    /// What the mapping will hold, from its start before any link, and perhaps beyond its end.
    bytes: Vec<u8>,
    /// The first byte behind all that is used of it.
    end: usize,
    /// What entries are overwritten with first: by entry.
    words: Vec<(Svma, [u8; WORD])>,
}

impl Draft {
    fn new(text: &Text, linked: &LinkedImage) -> Result<Self> {
        let start = text.offset();
        let mut bytes = text.pristine.clone();
        let end = start + linked.bytes.len();
        bytes.resize(bytes.len().max(end), 0);
        bytes[start..end].copy_from_slice(&linked.bytes);
        let mut draft = Self {
            bytes,
            end: end.max(start + text.found.size),
            words: Vec::new(),
        };
        for function in &linked.functions {
            if let Some(word) = draft.word(text, function)? {
                draft.words.push((function.entry, word));
            }
        }
        Ok(draft)
    }

    /// What a function begins with while the kernel's mappings are on their way; `None` if it needs none of them.
    fn word(&mut self, text: &Text, function: &FunctionPlan) -> Result<Option<[u8; WORD]>> {
        if matches!(function.strategy, Strategy::Keep | Strategy::Syscall) {
            return Ok(None);
        }
        let entry = function.entry;
        let refused = |reason: &str| Error::Refused {
            function: function.name().to_owned(),
            entry,
            reason: reason.to_owned(),
        };
        if function.size < WORD as u64 {
            return Err(refused("it is too short to be replaced at once"));
        }
        let own = &text.old.image.bytes()[entry.index()..][..WORD];
        let call = function
            .names
            .iter()
            .find_map(|name| proxy::system_call(name));
        let mut word: [u8; WORD] = own.try_into().map_err(|_| refused("it leaves the image"))?;
        match call {
            Some(call) => {
                let stub = proxy::system_call_stub(call);
                let code = match stub.len() <= WORD {
                    true => stub,
                    false => self.jump_to(text, entry, &stub),
                };
                word[..code.len()].copy_from_slice(&code);
            }
            // It runs its own code, of which nothing else may be missing.
            None if function
                .patch
                .as_ref()
                .is_none_or(|patch| patch.len() <= WORD) => {}
            None => {
                return Err(refused(
                    "what replaces it is too long to be written at once",
                ));
            }
        }
        Ok(Some(word))
    }

    /// Adds code that is too long for an entry, and returns a jump from the entry to it.
    fn jump_to(&mut self, text: &Text, entry: Svma, code: &[u8]) -> Vec<u8> {
        let start = self.end.next_multiple_of(ALIGNMENT);
        self.end = start + code.len();
        self.bytes.resize(self.bytes.len().max(self.end), 0);
        self.bytes[start..self.end].copy_from_slice(code);
        let base = text.mapping.start;
        proxy::jump(entry.at(text.found.image), base.offset(start as i64))
    }

    /// Whether all that is used fits into the old mapping.
    fn inside(&self, text: &Text) -> bool {
        self.bytes.len() <= text.pristine.len()
    }

    /// Pages behind the old mapping that are used.
    fn pages(&self, text: &Text) -> usize {
        let beyond = self.bytes.len() - text.pristine.len().min(self.bytes.len());
        beyond.div_ceil(PAGE as usize)
    }

    /// The layout with the record in a place.
    fn with_record(
        &self,
        text: &Text,
        linked: &LinkedImage,
        kernel: &Kernel,
        place: Place,
    ) -> Result<Layout> {
        // What an earlier link has added stays in the mapping.
        let mut at = text.found.mapping.start.min(text.mapping.start);
        if place == Place::Before {
            at = at.min(text.mapping.start.offset(-(PAGE as i64)));
        }
        let lead = (text.mapping.start.0 - at.0) as usize;
        let mut bytes = vec![0; lead];
        bytes.extend(&self.bytes);
        let start = match place {
            Place::Inside => (lead + self.end).next_multiple_of(ALIGNMENT),
            Place::Behind => bytes.len().next_multiple_of(PAGE as usize),
            Place::Before => 0,
        };
        let limit = match place {
            Place::Inside => bytes.len().saturating_sub(SPARE),
            Place::Behind => start + PAGE as usize,
            Place::Before => PAGE as usize,
        };
        let size = bytes.len().max(limit) as u64;
        let end = text.found.mapping.end.0.max(at.0 + size);
        bytes.resize(((end - at.0) as usize).next_multiple_of(PAGE as usize), 0);
        // CRIU may overwrite entries the next time, whether or not they differ from what they are now.
        let entries = linked.functions.iter().map(|function| {
            let entry = function.entry.at(text.found.image);
            entry..entry.offset(criu::JUMP as i64)
        });
        let kept: Vec<_> = entries.collect();
        let record = self.record(text, linked, kernel, at);
        let stored = record.store(&kernel.base.bytes, &mut bytes, at, start, &kept)?;
        if stored.at.end > at.offset(limit as i64) {
            return Err(no_room(text));
        }
        Ok(self.finish(text, linked, at, bytes, stored.record, kernel.moves))
    }

    /// The record, but for what was there before.
    fn record(&self, text: &Text, linked: &LinkedImage, kernel: &Kernel, at: Avma) -> Record {
        let functions = linked.functions.iter();
        Record {
            old: text.old.image.build_id().unwrap_or_default().to_vec(),
            new: kernel.build_id.clone(),
            image: text.found.image,
            text: kernel.base.range(),
            before: Vec::new(),
            kernel: kernel.placed.clone(),
            zeros: self.zeros(text, kernel, at),
            entries: functions
                .map(|function| self.entry(text, function))
                .collect(),
            moved: linked.moved.clone(),
            jumps_back: linked.jumps_back.clone(),
        }
    }

    /// Pages of zeros that are given up, with the one that the record is in.
    fn zeros(&self, text: &Text, kernel: &Kernel, at: Avma) -> Vec<Range<Avma>> {
        let mut zeros = kernel.zeros.clone();
        let page = at..text.mapping.start;
        if !page.is_empty() && !zeros.contains(&page) {
            zeros.push(page);
        }
        zeros
    }

    fn entry(&self, text: &Text, function: &FunctionPlan) -> Entry {
        let start = text.offset() + function.entry.index();
        let mut bytes = [0; WORD];
        let known = self.bytes.get(start..).unwrap_or_default();
        for (byte, known) in bytes.iter_mut().zip(known) {
            *byte = *known;
        }
        let word = self.words.iter().find(|word| word.0 == function.entry);
        Entry {
            at: function.entry,
            strategy: function.strategy,
            replaced: function.patch.as_ref().map_or(0, Vec::len) as u32,
            bytes,
            stage: word.map(|word| word.1),
        }
    }

    fn finish(
        &self,
        text: &Text,
        linked: &LinkedImage,
        at: Avma,
        mut stage: Vec<u8>,
        record: Record,
        is_staged: bool,
    ) -> Layout {
        let image = (text.found.image.0 - at.0) as usize;
        let mut entries = Vec::new();
        let mut after = linked.clone();
        for (entry, word) in self.words.iter().filter(|_| is_staged) {
            let place = &mut stage[image + entry.index()..][..WORD];
            entries.push(Write {
                at: entry.at(text.found.image),
                bytes: place.to_vec(),
            });
            place.copy_from_slice(word);
        }
        if is_staged {
            extend(&mut after, &record.entries);
        }
        Layout {
            at,
            stage,
            entries,
            after,
            record,
        }
    }
}

/// Has whoever is in what is overwritten at entries, in the beginning or in the end, count as being in what is replaced.
pub(super) fn extend(linked: &mut LinkedImage, entries: &[Entry]) {
    for function in &mut linked.functions {
        let is_it = |entry: &&Entry| entry.at == function.entry && entry.stage.is_some();
        if !entries.iter().any(|entry| is_it(&entry)) {
            continue;
        }
        let patch = function.patch.get_or_insert_default();
        patch.resize(patch.len().max(WORD), 0);
    }
}
