//! The text of a process as it will be: the linked image, what is added to it, and the link record.
//!
//! It gets interim entries first (`interim`), like those of the text before it. When the kernel's
//! mappings have arrived, each entry becomes final.

use std::ops::Range;

use elf_tools::{Avma, BuildId, Svma};

use super::chunk::MemoryChunk;
use super::interim::{ALIGNMENT, InterimEntries};
use super::place::Room;
use super::record::{Entry, Placed, Record};
use super::text::Text;
use crate::targets::{Step, WORD};
use crate::{Error, Result, Unlinkable};
use relocator::criu;
use relocator::link::LinkedImage;
use relocator::placement::PAGE;
use relocator::plan::{FunctionPlan, Strategy};
use relocator::threads::CodeNow;

/// Zeros that stay at the end of the text, as room for the next injected call, even if a killed
/// tool leaves one there.
pub(super) const SPARE: usize = 512;

/// What goes into a layout besides the text.
#[derive(Debug, Clone)]
pub(super) struct Kernel {
    /// Build-id of the new vDSO.
    pub(super) build_id: Vec<u8>,
    /// The new kernel's mappings.
    pub(super) placed: Vec<Placed>,
    /// Placeholders that make room for them.
    pub(super) placeholders: Vec<Range<Avma>>,
    /// What the process gets back if the link is undone.
    pub(super) base: MemoryChunk,
}

/// A text as it will be.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    /// Its size in bytes, whole pages.
    pub(super) size: usize,
    /// Zeros at its end.
    pub(super) spare: usize,
    /// Puts it in place, with entries that make system calls.
    pub(super) early: Vec<Step>,
    /// Makes entries its own.
    pub(super) late: Vec<Step>,
    /// What threads find there, in the beginning or in the end.
    pub(super) after: CodeNow,
    /// What is kept of it in the process.
    pub(super) record: Record,
}

impl Layout {
    /// Whether it leaves room for injected calls.
    pub(super) fn is_roomy(&self) -> bool {
        self.spare >= SPARE
    }

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
        reason: Unlinkable::NoRoomForRecord,
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
    /// What entries are overwritten with first.
    interim: InterimEntries,
}

impl Draft {
    fn new(text: &Text, linked: &LinkedImage) -> Result<Self> {
        let start = text.offset();
        let mut bytes = text.pristine.clone();
        let end = start + linked.bytes.len();
        bytes.resize(bytes.len().max(end), 0);
        bytes[start..end].copy_from_slice(&linked.bytes);
        let used = linked.bytes.len().max(text.found.size);
        let code = linked.code_now();
        let relocated = |entry: Svma| {
            let mut functions = linked.functions.iter();
            let is_relocated = |one: &FunctionPlan| one.strategy == Strategy::Relocate;
            text.was_relocated(entry)
                || functions.any(|one| one.entry == entry && is_relocated(one))
        };
        let interim = InterimEntries::new(text, &code, &bytes[start..], used, &relocated)?;
        Ok(Self {
            end: start + used.max(interim.end()),
            bytes,
            interim,
        })
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
        self.interim.put(&mut bytes, at);
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
        // CRIU may overwrite entries the next time, whether or not they differ from what they are
        // now.
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
        let mut after = linked.code_now();
        self.interim.extend(&mut after);
        let size = bytes.len();
        let spare = bytes.iter().rev().take_while(|&&byte| byte == 0).count();
        let replace = Step::Replace { at, bytes };
        // CRIU finds a text where a mapping begins.
        let page = at..text.mapping.start;
        let separate = (!page.is_empty()).then_some(Step::Separate(page));
        let late = self.interim.finish(&self.bytes[text.offset()..]);
        Ok(Layout {
            size,
            spare,
            early: self.interim.begin().chain([replace]).collect(),
            late: late.into_iter().chain(separate).collect(),
            after,
            record: stored.record,
        })
    }

    /// The record, but for what was there before.
    fn record(&self, text: &Text, linked: &LinkedImage, kernel: &Kernel, at: Avma) -> Record {
        let functions = linked.functions.iter();
        Record {
            old: text
                .old
                .image
                .build_id()
                .map_or(&[][..], BuildId::as_bytes)
                .to_vec(),
            new: kernel.build_id.clone(),
            image: text.found.image,
            text: kernel.base.range(),
            before: Vec::new(),
            kernel: kernel.placed.clone(),
            placeholders: self.placeholders(text, kernel, at),
            entries: functions
                .map(|function| self.entry(text, function))
                .collect(),
            moved: linked.moved.clone(),
            jumps_back: linked.jumps_back.clone(),
            overwritten: text.overwritten(&kernel.base),
        }
    }

    /// Placeholders that are given up, with the page that the record is in.
    fn placeholders(&self, text: &Text, kernel: &Kernel, at: Avma) -> Vec<Range<Avma>> {
        let mut placeholders = kernel.placeholders.clone();
        let page = at..text.mapping.start;
        if !page.is_empty() && !placeholders.contains(&page) {
            placeholders.push(page);
        }
        placeholders
    }

    fn entry(&self, text: &Text, function: &FunctionPlan) -> Entry {
        let start = text.offset() + function.entry.index();
        let mut bytes = [0; WORD];
        let known = self.bytes.get(start..).unwrap_or_default();
        for (byte, known) in bytes.iter_mut().zip(known) {
            *byte = *known;
        }
        Entry {
            at: function.entry,
            strategy: function.strategy,
            replaced: function.patch.as_ref().map_or(0, Vec::len) as u32,
            bytes,
        }
    }
}
