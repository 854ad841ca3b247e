//! What is known of a text from a copy of the one that was to replace it.

use elf_tools::{Avma, Svma};

use super::*;
use crate::apply::record::{Entry, Placed};
use crate::targets::Protection;
use relocator::plan::Strategy;

/// Where the text is, whose image begins with it, and where the copy.
const TEXT: Avma = Avma(0x7f12_3456_7000);
const COPY: Avma = Avma(0x7f00_0000_0000);

const SIZE: usize = 0x1000;

/// Entries of functions.
const FIRST: usize = 0x200;
const SECOND: usize = 0x400;

/// Where the link puts code that no function has.
const STUB: usize = 0xd00;

/// Where its record is.
const RECORD: usize = 0xe00;

const WORD: [u8; 8] = [0xb8, 0xe4, 0, 0, 0, 0x0f, 0x05, 0xc3];

/// What was there before: CRIU's jump at the second function.
fn before() -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..SIZE).map(|index| (index % 251) as u8 | 1).collect();
    bytes[..4].copy_from_slice(b"\x7fELF");
    bytes[0xc00..].fill(0);
    let jump = criu::jump(Avma(0x3_6000));
    bytes[SECOND..SECOND + jump.len()].copy_from_slice(&jump);
    bytes
}

fn record() -> Record {
    let entry = |at: usize| Entry {
        at: Svma(at as u64),
        strategy: Strategy::Relocate,
        replaced: 0,
        bytes: [0x55; 8],
    };
    Record {
        old: vec![1; 20],
        new: vec![2; 20],
        image: TEXT,
        text: TEXT..TEXT.offset(SIZE as i64),
        before: Vec::new(),
        kernel: vec![Placed {
            name: "[vdso]".to_owned(),
            size: 0x2000,
            from: Avma(0x3_6000),
            to: TEXT.offset(-0x2000),
        }],
        placeholders: vec![TEXT.offset(-0x2000)..TEXT],
        entries: vec![entry(FIRST), entry(SECOND)],
        moved: Vec::new(),
        jumps_back: Vec::new(),
        overwritten: Vec::new(),
    }
}

/// The linked text with its record, and a page behind it if `extended`.
fn linked(is_extended: bool) -> (Vec<u8>, Record) {
    linked_with(is_extended, Vec::new())
}

/// The same, with what CRIU's jumps had overwritten.
fn linked_with(is_extended: bool, overwritten: Vec<Before>) -> (Vec<u8>, Record) {
    let mut bytes = before();
    bytes[FIRST..FIRST + 0x40].fill(0x55);
    bytes[SECOND..SECOND + 0x40].fill(0x66);
    bytes[STUB..STUB + 4].fill(0x77);
    if is_extended {
        bytes.resize(2 * SIZE, 0);
    }
    let offset = if is_extended { SIZE } else { RECORD };
    let kept = [FIRST, SECOND].map(|at| {
        let at = TEXT.offset(at as i64);
        at..at.offset(criu::JUMP as i64)
    });
    let record = Record {
        overwritten,
        ..record()
    };
    let stored = record.store(&before(), &mut bytes, TEXT, offset, &kept);
    let record = stored.unwrap().record;
    (bytes, record)
}

fn text(at: Avma, bytes: Vec<u8>) -> OldText {
    OldText {
        mapping: at..at.offset(bytes.len() as i64),
        image: at,
        size: 0xc00,
        is_by_auxv: at == TEXT,
        bytes,
    }
}

fn copy(is_extended: bool) -> RecoveryCopy {
    let (bytes, _) = linked(is_extended);
    RecoveryCopy::of(&text(COPY, bytes)).unwrap().unwrap()
}

/// What a text is that has been begun with: entries, and code for one of them.
fn interrupted() -> Vec<u8> {
    let mut bytes = before();
    for entry in [FIRST, SECOND] {
        bytes[entry..entry + WORD.len()].copy_from_slice(&WORD);
    }
    bytes[STUB..STUB + 4].fill(0x77);
    bytes
}

fn ask(copy: &RecoveryCopy, bytes: Vec<u8>, own: Option<&Record>) -> Option<InterruptedApply> {
    let found = text(TEXT, bytes);
    copy.interrupted(&found, own, &found.mapping, &found.bytes)
}

#[test]
fn a_text_in_its_place_is_no_copy() {
    let (bytes, _) = linked(false);
    assert!(RecoveryCopy::of(&text(TEXT, bytes)).unwrap().is_none());
    assert!(RecoveryCopy::of(&text(TEXT, before())).unwrap().is_none());
}

#[test]
fn copies_that_have_become_one_mapping_are_none() {
    let (bytes, _) = linked(false);
    let both = [bytes.clone(), bytes].concat();
    assert!(RecoveryCopy::of(&text(COPY, both)).unwrap().is_none());
}

#[test]
fn what_was_there_is_known_at_every_step() {
    let copy = copy(false);
    for bytes in [before(), interrupted()] {
        let known = ask(&copy, bytes, None).unwrap();
        assert_eq!(known.base.at, TEXT);
        assert_eq!(known.base.bytes, before());
        assert_eq!(known.placeholders, [TEXT.offset(-0x2000)..TEXT]);
    }
    let mut half = before();
    half[STUB..STUB + 2].fill(0x77);
    half[SECOND..SECOND + WORD.len()].copy_from_slice(&WORD);
    assert_eq!(ask(&copy, half, None).unwrap().base.bytes, before());
}

#[test]
fn a_text_that_somebody_else_has_changed_is_not_explained() {
    let copy = copy(false);
    for at in [4, FIRST + criu::JUMP, SECOND - 1, STUB + 5, SIZE - 1] {
        let mut bytes = interrupted();
        bytes[at] ^= 0x80;
        assert!(ask(&copy, bytes, None).is_none(), "{at:#x}");
    }
}

#[test]
fn a_copy_of_the_text_as_it_is_linked_means_nothing() {
    let (bytes, record) = linked(false);
    assert!(ask(&copy(false), bytes, Some(&record)).is_none());
}

#[test]
fn the_same_link_after_a_restore_is_another() {
    let (linked, record) = linked(false);
    let mut undone = linked.clone();
    record.undo(&mut undone, TEXT).unwrap();
    let copy = copy(false);
    let mut interrupted = linked.clone();
    interrupted[FIRST..FIRST + WORD.len()].copy_from_slice(&WORD);
    let ask = |bytes: &[u8]| {
        let found = text(TEXT, bytes.to_vec());
        copy.interrupted(&found, Some(&record), &found.mapping, &undone)
    };
    assert!(ask(&interrupted).is_none());
    let jump = criu::jump(Avma(0x5_0000));
    interrupted[FIRST + WORD.len()..FIRST + jump.len()].copy_from_slice(&jump[WORD.len()..]);
    assert_eq!(ask(&interrupted).unwrap().base.bytes, before());
}

#[test]
fn a_copy_for_another_place_means_nothing() {
    let found = text(TEXT.offset(SIZE as i64), interrupted());
    let copy = copy(false);
    let interrupted = copy.interrupted(&found, None, &found.mapping, &found.bytes);
    assert!(interrupted.is_none());
}

#[test]
fn jumps_that_a_restore_has_made_since_stay() {
    let jump = criu::jump(Avma(0x5_0000));
    let mut bytes = interrupted();
    bytes[SECOND..SECOND + jump.len()].copy_from_slice(&jump);
    let known = ask(&copy(false), bytes, None).unwrap();
    let mut expected = before();
    expected[SECOND..SECOND + jump.len()].copy_from_slice(&jump);
    assert_eq!(known.base.bytes, expected);
}

#[test]
fn an_earlier_link_that_was_undone_is_explained() {
    let (linked, record) = linked(false);
    let mut undone = linked.clone();
    record.undo(&mut undone, TEXT).unwrap();
    let other = Record {
        new: vec![3; 20],
        ..record.clone()
    };
    let found = text(TEXT, linked);
    let copy = copy(false);
    let known = copy.interrupted(&found, Some(&other), &found.mapping, &undone);
    assert_eq!(known.unwrap().base.bytes, before());
}

/// Memory of one range.
struct Only(Avma, Vec<u8>);

impl Memory for Only {
    fn read(&self, at: Avma, bytes: &mut [u8]) -> bool {
        let start = at.0.checked_sub(self.0.0).map(|start| start as usize);
        let known = start.and_then(|start| self.1.get(start..start + bytes.len()));
        known.is_some_and(|known| {
            bytes.copy_from_slice(known);
            true
        })
    }
}

#[test]
fn pages_that_the_link_has_added_are_found() {
    let copy = copy(true);
    let (bytes, _) = linked(true);
    let behind = TEXT.offset(SIZE as i64);
    let page = bytes[SIZE..].to_vec();
    let mapping = |protection| Mapping {
        range: behind..behind.offset(SIZE as i64),
        protection,
        name: String::new(),
    };
    let code = Protection {
        read: true,
        execute: true,
        ..Protection::default()
    };
    let extended = |protection, page: Vec<u8>| {
        let mut found = text(TEXT, interrupted());
        copy.extend(&mut found, &[mapping(protection)], &Only(behind, page));
        found
    };
    let found = extended(code, page.clone());
    assert_eq!(found.mapping, TEXT..behind.offset(SIZE as i64));
    assert_eq!(found.bytes[SIZE..], page);
    // A page without a record of the text, or one that is no code, is somebody else's.
    let mut other = page.clone();
    other[0x30] ^= 1;
    let data = Protection {
        execute: false,
        ..code
    };
    for found in [extended(code, other), extended(data, page)] {
        assert_eq!(found.mapping, TEXT..behind);
        assert_eq!(found.bytes.len(), SIZE);
    }
}

#[test]
fn what_a_restore_has_overwritten_since_is_known() {
    let original = vec![0x5a; criu::JUMP];
    let kept = Record::runs_in(&original, TEXT.offset(SECOND as i64), &[place(SECOND)]);
    let (bytes, kept) = linked_with(false, kept);
    let copy = RecoveryCopy::of(&text(COPY, bytes)).unwrap().unwrap();
    let before = before();
    let known = |found: Vec<u8>| ask(&copy, found, None).unwrap().overwritten;
    // Jumps of the copy are in its record.
    let overwritten = known(interrupted());
    assert_eq!(overwritten.build_id, kept.old);
    assert_eq!(overwritten.part(place(SECOND)), Some(original.clone()));
    assert_eq!(overwritten.part(place(FIRST)), None);
    // A jump where the copy has none.
    let mut restored = interrupted();
    let jump = criu::jump(Avma(0x7_6000));
    for entry in [FIRST, SECOND] {
        restored[entry..entry + jump.len()].copy_from_slice(&jump);
    }
    let overwritten = known(restored);
    let own = before[FIRST..FIRST + criu::JUMP].to_vec();
    assert_eq!(overwritten.part(place(FIRST)), Some(own));
    assert_eq!(overwritten.part(place(SECOND)), Some(original));
}

/// Where CRIU's jump is at the entry of a function.
fn place(entry: usize) -> std::ops::Range<Avma> {
    let at = TEXT.offset(entry as i64);
    at..at.offset(criu::JUMP as i64)
}
