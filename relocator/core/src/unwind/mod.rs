//! Call frame information of linked code: with it, unwinders find the callers of a function from
//! each instruction.
//!
//! A linker makes two kinds of code that the old image says nothing right about.
//!
//! | code | frames |
//! |---|---|
//! | a replacement of a function, at its entry or elsewhere | those of an entry: it saves nothing |
//! | instructions that were moved, and the jump behind them | those where they were |
//!
//! Everything else keeps its frames, also the rest of a function of which the beginning was
//! overwritten: a thread may be there.
//!
//! | module | does |
//! |---|---|
//! | `rules` | where frames are, as values |
//! | `read` | the call frame information of the old image |
//! | `encode` | call frame programs, and what is around them |
//! | `table` | the sorted table by which unwinders find a program |
//! | `elf` | program headers, section headers, symbols |
//! | `proxied` | frames of the new vDSO, where proxies lead to |
//!
//! If only replacements at entries are new, their programs are changed in place. If there is more
//! code, all frame descriptions move behind the image, and the table, which cannot move, grows into
//! their place. What is left of that place is where added code goes first: a C library does not
//! look for frames behind the end that the image had when the process started.

mod elf;
mod encode;
mod proxied;
mod read;
pub(crate) mod rules;
mod table;

use std::ops::Range;

use elf_tools::Svma;
use elf_tools::image::Image;

use crate::arch::{self, Arch};
use elf::{Elf, Named};
pub(crate) use proxied::Proxied;
use read::{Description, ENTRY, Frames, HEADER};
use rules::{Convention, Row};

/// Where added code begins, at a multiple of this: processors fetch such blocks at once.
const ALIGNMENT: u64 = 16;

/// Frame descriptions that are at most added for code inside the image, and behind it.
const ADDED: u64 = 2;

/// Bytes inside the image that stay free for code if the table grows for the new vDSO's frames.
const FOR_CODE: u64 = 96;

/// Code that is close together has one frame description.
const NEAR: u64 = 64;

/// How much is made for unwinders. Where code is added to an image, this takes room behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Detail {
    /// Only what takes no room. Code that was added has no frames.
    InPlace,
    /// Frames for all code: some hundred bytes.
    Frames,
    /// Also section headers and symbols, by which debuggers name code that was added, and frames of
    /// the new vDSO, where proxies lead to: some 1.5 KB each.
    #[default]
    Names,
}

/// A piece of code that was added to an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Where it is.
    pub(crate) range: Range<u64>,
    /// Its instructions: where each is, and the one of the old image whose frames it has. None are
    /// in a piece that replaces a function.
    pub(crate) moved: Vec<(Svma, Svma)>,
    /// What it is for: a function or an instruction of the old image.
    pub(crate) of: Svma,
}

/// What a linker has changed of an image.
#[derive(Debug, Clone, Default)]
pub(crate) struct Changes {
    /// Ranges at entries that were overwritten.
    pub(crate) overwritten: Vec<Range<u64>>,
    /// Code that was added.
    pub(crate) pieces: Vec<Piece>,
    /// The new vDSO, if there are proxies.
    pub(crate) proxied: Option<Proxied>,
}

impl Changes {
    /// Whether all code is as it was.
    pub(crate) fn is_empty(&self) -> bool {
        self.overwritten.is_empty() && self.pieces.is_empty()
    }
}

/// The call frame information of an old image.
#[derive(Debug, Clone)]
pub(crate) struct CallFrames {
    convention: Convention,
    elf: Elf,
    frames: Frames,
    /// Where its table may grow to.
    table: Range<u64>,
    /// What is free of its place once it has moved. The table may grow further, up to the code that
    /// is put there.
    room: Range<u64>,
}

impl CallFrames {
    /// That of an image with functions at these entries, if it has any.
    pub(crate) fn read(arch: &dyn Arch, image: &Image, entries: &[Svma]) -> Option<Self> {
        let bytes = image.bytes();
        let elf = Elf::read(bytes)?;
        let convention = arch.convention();
        let frames = Frames::read(&elf, bytes, &convention)?;
        let is_bare = |entry: &&Svma| frames.description(**entry).is_none();
        let bare = entries.iter().filter(is_bare).count() as u64;
        let most = frames.descriptions.len() as u64 + bare + ADDED;
        let header = frames.header.0;
        let end = header + HEADER + frames.entries * ENTRY;
        // Nothing but alignment may be between the table and the descriptions.
        let is_behind = (end..end + ALIGNMENT).contains(&frames.section.start);
        let grown = header + HEADER + most * ENTRY;
        let (table, start) = match is_behind && grown <= frames.section.end {
            true => (header..grown, grown),
            false => (header..end, frames.section.start),
        };
        let room = start.next_multiple_of(ALIGNMENT)..frames.section.end;
        Some(Self {
            convention,
            elf,
            frames,
            table,
            room,
        })
    }

    /// Where code can be put that is added to the image. What is put there has to be among
    /// [`Changes::pieces`]. Proxies may lead to so many frame descriptions of the new vDSO.
    pub(crate) fn room(&self, detail: Detail, proxied: u64) -> Room {
        let mut free = self.room.clone();
        if detail == Detail::Names {
            let start = (free.start + proxied * ENTRY).next_multiple_of(ALIGNMENT);
            if start + FOR_CODE <= free.end {
                free.start = start;
            }
        }
        match detail {
            Detail::InPlace => Room::default(),
            Detail::Frames | Detail::Names => Room { free },
        }
    }

    /// Where the table can be: up to the first code that was put behind it.
    fn table(&self, pieces: &[Piece]) -> Range<u64> {
        if self.room.start < self.table.end {
            return self.table.clone();
        }
        let inside = pieces.iter().map(|piece| piece.range.start);
        let inside = inside.filter(|start| self.room.contains(start)).min();
        self.table.start..inside.unwrap_or(self.room.end).max(self.table.end)
    }

    /// Makes the call frame information in `bytes`, which begin with the image, that of what was
    /// changed. Names say what each function is called. Returns where the new vDSO is loaded, if
    /// the call frame information speaks of it.
    pub(crate) fn update(
        mut self,
        changes: &Changes,
        detail: Detail,
        bytes: &mut Vec<u8>,
        name: &dyn Fn(Svma) -> String,
    ) -> Option<Range<u64>> {
        let descriptions = self.descriptions(changes);
        let is_bare = descriptions.len() > self.frames.descriptions.len();
        let (mut code, added) = self.added(&changes.pieces);
        let table = self.table(&changes.pieces);
        let proxied = changes.proxied.as_ref().filter(|proxied| {
            let all = descriptions.len() + added.len() + proxied.descriptions.len();
            detail == Detail::Names && table.start + HEADER + all as u64 * ENTRY <= table.end
        });
        let takes_room = !changes.pieces.is_empty() || is_bare || proxied.is_some();
        if detail == Detail::InPlace || !takes_room {
            let is_done = self.in_place(&descriptions, bytes);
            if is_done || detail == Detail::InPlace {
                return None;
            }
        }
        let mut all = descriptions;
        all.extend(added);
        all.extend(proxied.iter().flat_map(|one| one.descriptions.clone()));
        all.sort_by_key(|description| description.range.start.cast_signed());
        bytes.resize(bytes.len().next_multiple_of(elf::ALIGNMENT), 0);
        let start = bytes.len() as u64;
        let section = table::section(&self.convention, &all, start)?;
        bytes.extend(&section.bytes);
        let frames = start..bytes.len() as u64;
        let entries = section.entries.as_slice();
        let header = table::header(self.frames.header, frames.start, entries, &table);
        let place = self.frames.header.index()..self.frames.header.index() + header.len();
        bytes[place].copy_from_slice(&header);
        self.elf.move_frames(bytes, header.len() as u64, &frames);
        let named = changes.pieces.iter().map(|piece| Named {
            name: match piece.moved.is_empty() {
                true => format!("{}.replacement", name(piece.of)),
                false => format!("{}.detour", name(piece.of)),
            },
            range: piece.range.clone(),
        });
        let mut named: Vec<Named> = named.collect();
        if let Some(proxied) = proxied {
            code.push(proxied.code.clone());
            named.extend(proxied.named.iter().cloned());
        }
        match named.is_empty() || detail < Detail::Names {
            true => self.elf.write_sections(bytes),
            false => self.elf.name_code(bytes, &code, &named),
        }
        proxied.map(|proxied| proxied.loaded.clone())
    }

    /// The frame descriptions of the image, with the rules of entries where those were overwritten,
    /// and new ones for what none describes.
    fn descriptions(&self, changes: &Changes) -> Vec<Description> {
        let at_entry = &self.convention.at_entry;
        let mut all = self.frames.descriptions.clone();
        for part in &changes.overwritten {
            for description in &mut all {
                description.rows = rules::overlay(&description.rows, part, at_entry);
            }
            let mut bare = part.start;
            for known in &self.frames.descriptions {
                if known.range.contains(&bare) {
                    bare = known.range.end;
                }
            }
            if bare < part.end {
                all.push(described(vec![Row {
                    range: bare..part.end,
                    rules: at_entry.clone(),
                }]));
            }
        }
        all
    }

    /// Writes programs over those that they replace, if all fit. Otherwise nothing is written.
    fn in_place(&self, descriptions: &[Description], bytes: &mut [u8]) -> bool {
        let mut programs = Vec::new();
        for (old, new) in self.frames.descriptions.iter().zip(descriptions) {
            if old.rows == new.rows {
                continue;
            }
            let program = encode::program(&self.convention, &new.rows);
            let (Some(place), Some(program)) = (&old.program, program) else {
                return false;
            };
            if program.len() > place.len() {
                return false;
            }
            programs.push((place.clone(), program));
        }
        for (place, program) in programs {
            let place = &mut bytes[place];
            place.fill(0);
            place[..program.len()].copy_from_slice(&program);
        }
        true
    }

    /// The ranges of code that was added, and their descriptions.
    fn added(&self, pieces: &[Piece]) -> (Vec<Range<u64>>, Vec<Description>) {
        let mut pieces: Vec<&Piece> = pieces.iter().collect();
        pieces.sort_by_key(|piece| piece.range.start);
        let mut ranges: Vec<Range<u64>> = Vec::new();
        let mut all: Vec<Vec<Row>> = Vec::new();
        for piece in pieces {
            let rows = self.rows(piece);
            let start = piece.range.start;
            match ranges.last_mut() {
                Some(last) if start - last.end < NEAR => last.end = piece.range.end,
                _ => ranges.push(piece.range.clone()),
            }
            match all.last_mut().filter(|rows| is_near(rows, start)) {
                Some(last) => {
                    // Nothing executes what is between.
                    if let (Some(before), Some(first)) = (last.last_mut(), rows.first()) {
                        before.range.end = first.range.start;
                    }
                    for row in rows {
                        rules::push(last, row.range, &row.rules);
                    }
                }
                None => all.push(rows),
            }
        }
        let has_frames = all.into_iter().filter(|rows| !rows.is_empty());
        (ranges, has_frames.map(described).collect())
    }

    /// The rows of a piece; none if not all of its instructions have frames in the old image.
    fn rows(&self, piece: &Piece) -> Vec<Row> {
        let mut rows = Vec::new();
        if piece.moved.is_empty() {
            rules::push(&mut rows, piece.range.clone(), &self.convention.at_entry);
        }
        let places = piece.moved.iter().map(|(place, _)| place.0);
        let ends = places.skip(1).chain([piece.range.end]);
        for ((place, from), end) in piece.moved.iter().zip(ends) {
            match self.frames.rules(*from) {
                Some(rules) => rules::push(&mut rows, place.0..end, rules),
                None => return Vec::new(),
            }
        }
        rows
    }
}

fn is_near(rows: &[Row], start: u64) -> bool {
    rows.last()
        .is_some_and(|last| start - last.range.end < NEAR)
}

/// A description that is not in the old image.
fn described(rows: Vec<Row>) -> Description {
    let start = rows.first().map_or(0, |row| row.range.start);
    let end = rows.last().map_or(0, |row| row.range.end);
    Description {
        program: None,
        range: start..end,
        is_signal: false,
        rows,
    }
}

/// The functions of an image whose frames are not those of an entry at all of their first `size`
/// bytes: they move the stack pointer there, or save registers. A replacement of so many bytes would
/// be under wrong rules.
pub fn moves_early(image: &Image, entries: &[Svma], size: usize) -> Vec<Svma> {
    let arch = arch::of(image.machine(), image.class());
    let Some(frames) = arch.and_then(|arch| CallFrames::read(arch, image, &[])) else {
        return Vec::new();
    };
    let is_at_entry = |at: u64| {
        let rules = frames.frames.rules(Svma(at));
        rules.is_none_or(|rules| *rules == frames.convention.at_entry)
    };
    let moves = |entry: &&Svma| !(entry.0..entry.0 + size as u64).all(is_at_entry);
    entries.iter().filter(moves).copied().collect()
}

/// Makes the loaded segment of an image reach to the end of what was added to it. If its call frame
/// information speaks of code that is loaded elsewhere, unwinders in the process are told so.
pub(crate) fn load_all(bytes: &mut Vec<u8>, elsewhere: Option<&Range<u64>>) {
    let Some(elf) = Elf::read(bytes) else {
        return;
    };
    match elsewhere {
        Some(elsewhere) => elf.load_also(bytes, elsewhere),
        None => elf.load_all(bytes),
    }
}

/// Free bytes inside of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Room {
    free: Range<u64>,
}

impl Room {
    /// Where the next code would be.
    pub(crate) fn next(&self) -> Svma {
        Svma(self.free.start.next_multiple_of(ALIGNMENT))
    }

    /// Takes that many bytes, if there are so many.
    pub(crate) fn take(&mut self, size: usize) -> Option<Svma> {
        let place = self.next();
        let end = place.0.checked_add(size as u64)?;
        (end <= self.free.end).then(|| {
            self.free.start = end;
            place
        })
    }
}

#[cfg(test)]
mod tests;
