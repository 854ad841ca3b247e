//! Records that are written, found, read, damaged, and undone.

use std::ops::Range;

use elf_tools::{Avma, Svma};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::Strategy as Generator;
use relocator::placement::PAGE;

use super::check::MAPPING;
use super::{Before, Entry, Moved, Placed, Record, Strategy, stored};

/// Where the text of all these records is.
pub(super) const TEXT: Avma = Avma(0x7f12_3456_7000);
const SIZE: usize = 0x3000;

pub(super) fn run(offset: u64, bytes: &[u8]) -> Before {
    Before {
        at: Avma(TEXT.0 + offset),
        bytes: bytes.to_vec(),
    }
}

/// A record as a link of Linux 6.1's vDSO to 6.18 leaves it: 25 runs of changed bytes, detours and
/// itself behind the image.
pub(super) fn typical() -> Record {
    let run_of = |index: u64| {
        let size = [1, 2, 4, 4, 5, 7, 8, 16][index as usize % 8];
        let bytes: Vec<u8> = (0..size).map(|byte: u8| byte * 7 + index as u8).collect();
        run(0x600 + index * 0x31, &bytes)
    };
    let mut before: Vec<Before> = (0..25).map(run_of).collect();
    before.push(run(0x1d30, &[0; 0x2d0]));
    let placed = |name: &str, size, from, to: u64| Placed {
        name: name.to_owned(),
        size,
        from: Avma(from),
        to: Avma(TEXT.0 - to),
    };
    let moved = |from, to| Moved {
        from: Svma(from),
        to: Svma(to),
    };
    let entry = |at| Entry {
        at: Svma(at),
        strategy: Strategy::Relocate,
        replaced: 0,
        bytes: [0x55, 0x48, 0x89, 0xe5, 0x41, 0x57, 0x41, 0x56],
    };
    Record {
        old: vec![0x3b; 20],
        new: vec![0xc1; 20],
        image: TEXT,
        text: TEXT..Avma(TEXT.0 + 0x2000),
        before,
        kernel: vec![
            placed("[vvar]", 0x4000, 0x3_0000, 0x8000),
            placed("[vvar_vclock]", 0x2000, 0x3_4000, 0x4000),
            placed("[vdso]", 0x2000, 0x3_6000, 0x2000),
        ],
        placeholders: vec![Avma(TEXT.0 - 0x4000)..TEXT],
        entries: (0..6).map(|index| entry(0x620 + index * 0xd0)).collect(),
        moved: (0..7)
            .map(|index| moved(0x700 + index * 9, 0x1d00 + index * 8))
            .collect(),
        jumps_back: (0..3)
            .map(|index| moved(0x704 + index * 9, 0x1d0b + index * 16))
            .collect(),
        overwritten: Vec::new(),
    }
}

/// Text with a note in it.
fn text_with(note: &[u8], offset: usize) -> Vec<u8> {
    let mut text = vec![0x90; SIZE];
    text[offset..offset + note.len()].copy_from_slice(note);
    text
}

#[test]
fn a_typical_record_is_small_and_comes_back() {
    let record = typical();
    let note = record.encode().unwrap();
    println!("{} bytes", note.len());
    assert!(note.len() < 700, "{} bytes", note.len());
    let (read, size) = Record::decode(&[note.as_slice(), b"what follows"].concat()).unwrap();
    assert_eq!((read, size), (record, note.len()));
}

#[test]
fn no_damaged_byte_is_overlooked() {
    let note = typical().encode().unwrap();
    let mut errors = 0;
    for index in 0..note.len() {
        for bit in 0..8 {
            let mut damaged = note.clone();
            damaged[index] ^= 1 << bit;
            assert!(
                Record::decode(&damaged).is_err(),
                "bit {bit} of byte {index}"
            );
            match Record::find(&text_with(&damaged, 0x1d30), TEXT) {
                Ok(found) => assert_eq!(found, None, "bit {bit} of byte {index}"),
                Err(error) => {
                    let place = format!("link record at {}", Avma(TEXT.0 + 0x1d30));
                    assert_eq!(error.to_string(), place);
                    errors += 1;
                }
            }
        }
    }
    // All but those of the header, without which it is none: sixteen bytes.
    assert_eq!(errors, (note.len() - 16) * 8);
}

#[test]
fn a_record_that_is_cut_off_is_refused() {
    let note = typical().encode().unwrap();
    for size in 0..note.len() {
        assert!(Record::decode(&note[..size]).is_err(), "{size} bytes");
    }
    // At the end of a mapping, where nothing follows.
    let mut text = text_with(&note, 0x1d30);
    text.truncate(0x1d30 + note.len() - 1);
    let error = Record::find(&text, TEXT).unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("are there"), "{source}");
}

#[test]
fn a_record_is_found_wherever_it_is_and_only_if_it_is_about_this_text() {
    let record = typical();
    let note = record.encode().unwrap();
    for offset in [0, 16, 0x1d30, (SIZE - note.len()) & !15] {
        let found = Record::find(&text_with(&note, offset), TEXT)
            .unwrap()
            .unwrap();
        assert_eq!(found.record, record);
        assert_eq!(found.at.start, Avma(TEXT.0 + offset as u64));
        assert_eq!(found.at.end.0 - found.at.start.0, note.len() as u64);
    }
    assert_eq!(Record::find(&text_with(&note, 8), TEXT).unwrap(), None);
    assert_eq!(Record::find(&[], TEXT).unwrap(), None);
    // Copies elsewhere, which a fork does not make but a program may.
    for elsewhere in [TEXT.offset(0x1000), TEXT.offset(-(SIZE as i64))] {
        assert_eq!(
            Record::find(&text_with(&note, 16), elsewhere).unwrap(),
            None
        );
    }
}

#[test]
fn the_record_that_holds_others_counts() {
    let original = vec![0x90; SIZE];
    let mut text = original.clone();
    let mut generations = vec![text.clone()];
    // Each takes the place of the one before, which is in it with and without a multiple of 16 for
    // an offset.
    for generation in 0..20_u8 {
        let mut next = text.clone();
        next[0x100 + usize::from(generation)] = generation;
        let record = Record {
            old: vec![generation; 1 + usize::from(generation)],
            text: TEXT..Avma(TEXT.0 + SIZE as u64),
            ..typical()
        };
        let stored = record.store(&text, &mut next, TEXT, 0x1000, &[]).unwrap();
        let found = Record::find(&next, TEXT).unwrap();
        assert_eq!(found.as_ref(), Some(&stored));
        text = next;
        generations.push(text.clone());
    }
    // There is no room for one that holds all of them.
    let mut next = text[..0x1200].to_vec();
    let error = typical().store(&text[..0x1200], &mut next, TEXT, 0x1000, &[]);
    assert!(error.unwrap_err().to_string().contains("no room"));
    assert!(next == text[..0x1200]);
    // Back again, one by one.
    while let Some(expected) = generations.pop() {
        assert!(text == expected, "generation {}", generations.len());
        if let Some(found) = Record::find(&text, TEXT).unwrap() {
            found.record.undo(&mut text, TEXT).unwrap();
        }
    }
    assert!(text == original);
}

#[test]
fn what_a_record_takes_the_place_of_comes_back() {
    // Behind the image there is padding, and where the mapping grows there was nothing.
    for (offset, grown) in [(0x1d30, 0), (0x1f00, 0x1000), (0x2000, 0x1000)] {
        let before: Vec<u8> = (0..0x2000)
            .map(|at| if at < 0x1d30 { at as u8 } else { 0 })
            .collect();
        let mut after = before.clone();
        after[0x700] ^= 1;
        after.resize(0x2000 + grown, 0);
        let stored = typical()
            .store(&before, &mut after, TEXT, offset, &[])
            .unwrap();
        assert_eq!(Record::find(&after, TEXT).unwrap().as_ref(), Some(&stored));
        assert!(stored.record.before.len() <= 2);
        stored.record.undo(&mut after, TEXT).unwrap();
        assert!(after[..0x2000] == before, "at {offset:#x}");
    }
    // Nobody would find it there.
    let mut after = vec![0; SIZE];
    assert!(
        typical()
            .store(&[0; SIZE], &mut after, TEXT, 8, &[])
            .is_err()
    );
}

#[test]
fn two_records_of_one_text_are_refused() {
    let note = typical().encode().unwrap();
    let mut text = text_with(&note, 0x1000);
    text[0x2000..][..note.len()].copy_from_slice(&note);
    let error = Record::find(&text, TEXT).unwrap_err();
    assert!(
        error
            .to_string()
            .contains(&Avma(TEXT.0 + 0x2000).to_string())
    );
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(
        source.contains(&Avma(TEXT.0 + 0x1000).to_string()),
        "{source}"
    );
}

/// A note with that descriptor behind what is fixed, and the check that it has to have.
pub(super) fn note_of(body: &[u8]) -> Vec<u8> {
    let mut note = typical().encode().unwrap();
    note.truncate(super::header::NOTE + 12);
    note.extend(body);
    note.resize(note.len().next_multiple_of(4), 0);
    let size = (note.len() - super::header::NOTE) as u32;
    note[4..8].copy_from_slice(&size.to_le_bytes());
    let check = stored::check_of(&note);
    note[super::header::CHECK].copy_from_slice(&check.to_le_bytes());
    note
}

#[track_caller]
fn assert_refused(body: &[u8], reason: &str) {
    let error = Record::decode(&note_of(body)).unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains(reason), "{source}");
    assert!(source.contains("link record at offset 0x"), "{source}");
}

#[test]
fn hostile_records_are_refused() {
    // Image and text, no build-ids; what follows is counts.
    let start = [0x80, 0x20, 0, 0x80, 0x20, 0, 0];
    let with = |rest: &[u8]| [start.as_slice(), rest].concat();
    // So far it is good.
    let (good, _) = Record::decode(&note_of(&with(&[0; 6]))).unwrap();
    assert_eq!((good.image, good.text.end), (Avma(0x1000), Avma(0x2000)));
    assert_refused(&with(&[0xff, 0xff, 0xff, 0xff, 0xf]), "4096 are the most");
    assert_refused(&with(&[0x80, 0x20, 0, 2]), "to follow");
    // A run of one value that is larger than the text, or ends where addresses do.
    let large = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
    let run = |gap: &[u8]| with(&[&[1], gap, &large, &[7]].concat());
    assert_refused(&run(&[0]), "not in the text");
    assert_refused(&run(&large), "not in the text");
    assert_refused(&with(&[1, 0, 1, 0, 0, 0, 0, 0]), "not behind others");
    assert_refused(&with(&[0, 17]), "16 are the most");
    assert_refused(&with(&[0, 1, 1, 0xff, 0, 0, 0]), "a name");
    assert_refused(
        &with(&[0, 1, 1, b'x', 0, 0, 0, 0, 0, 0, 0]),
        "not behind its start",
    );
    assert_refused(&with(&[0, 0, 1, 0, 0, 0, 0, 0]), "not behind its start");
    assert_refused(&with(&[0, 0, 0, 0x81, 8]), "1024 are the most");
    assert_refused(
        &with(&[0, 0, 0, 0, 1, 0, 0xff, 0xff, 0x7f, 0]),
        "an instruction at",
    );
    assert_refused(&with(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), "mean nothing");
    assert_refused(&with(&[0, 0, 0, 0, 0, 0, 1]), "mean nothing");
    // An image that is not in its text, a text that is none or too large.
    assert_refused(&[0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0], "no address space");
    let outside = [0x80, 0x40, 0x80, 0x20, 0x80, 0x20, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_refused(&outside, "not in its text");
    let odd = [0x80, 0x20, 0, 0x81, 0x20, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_refused(&odd, "not whole pages");
    assert_refused(
        &[0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        "not behind its start",
    );
    assert_refused(&[0x10, 0, 0x81, 0x80, 0x40], "bytes of text");
    assert_refused(&[0x10, 0, 1, 65], "64 are the most");
    assert_refused(&[], "to follow");
}

#[test]
fn other_versions_are_refused_by_name() {
    for (at, word) in [(20, "version 0x2"), (24, "flags 0x2")] {
        let mut note = typical().encode().unwrap();
        note[at] = 2;
        let error = Record::decode(&note).unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains(word), "{source}");
    }
}

#[test]
fn what_could_not_be_read_is_not_written() {
    let refused = |change: fn(&mut Record)| {
        let mut record = typical();
        change(&mut record);
        let error = record.encode().unwrap_err().to_string();
        assert!(error.contains("cannot be stored"), "{error}");
    };
    refused(|record| record.old = vec![0; 65]);
    refused(|record| record.before.swap(0, 1));
    refused(|record| record.before[0].bytes.clear());
    refused(|record| record.before[3].at.0 += 0x10_0000);
    refused(|record| record.kernel[0].name = "x".repeat(65));
    refused(|record| record.image.0 -= 0x1000);
    refused(|record| record.moved[0].to.0 = u64::MAX);
    refused(|record| record.placeholders[0].end = record.placeholders[0].start);
    refused(|record| record.before = vec![run(0, &vec![1; 0x20_0000])]);
}

#[test]
fn undoing_is_done_wholly_or_not_at_all() {
    let record = typical();
    let mut text = vec![0x90; 0x1e00];
    // The last run reaches further.
    assert!(record.undo(&mut text, TEXT).is_err());
    assert!(text.iter().all(|byte| *byte == 0x90));
    assert!(
        record
            .undo(&mut vec![0; SIZE], TEXT.offset(0x1000))
            .is_err()
    );
    let mut text = vec![0x90; SIZE];
    record.undo(&mut text, TEXT).unwrap();
    for run in &record.before {
        let offset = (run.at.0 - TEXT.0) as usize;
        assert_eq!(text[offset..][..run.bytes.len()], run.bytes);
    }
}

#[test]
fn threads_are_told_what_is_at_entries_now() {
    let mut record = typical();
    record.entries[1].strategy = Strategy::Proxy;
    record.entries[1].replaced = 12;
    let mut text = vec![0xcc; SIZE];
    record.complete(&mut text, TEXT).unwrap();
    assert!(record.is_complete(&text, TEXT).unwrap());
    let linked = record.linked(&text, TEXT).unwrap();
    assert_eq!(linked.size, text.len());
    assert_eq!(
        (&linked.moved, &linked.jumps_back),
        (&record.moved, &record.jumps_back)
    );
    let entry = record.entries[1].at.index();
    let patch = linked.patched(record.entries[1].at);
    assert_eq!(patch, Some(&text[entry..entry + 12]));
    assert_eq!(linked.patches.len(), 1);

    // Incomplete: system calls are there.
    let call = [0xb8, 228, 0, 0, 0, 0x0f, 0x05, 0xc3];
    let entry = record.entries[2].at.index();
    text[entry..entry + 8].copy_from_slice(&call);
    assert!(!record.is_complete(&text, TEXT).unwrap());
    let linked = record.linked(&text, TEXT).unwrap();
    assert_eq!(linked.patched(record.entries[2].at), Some(call.as_slice()));
    assert_eq!(
        linked.patched(record.entries[1].at).map(<[u8]>::len),
        Some(12)
    );
    record.complete(&mut text, TEXT).unwrap();
    assert!(record.is_complete(&text, TEXT).unwrap());
    // Where the image begins behind the start of the mapping, and where entries are not in it.
    let below = [vec![0; 0x1000], text.clone()].concat();
    let linked = record.linked(&below, TEXT.offset(-0x1000)).unwrap();
    assert_eq!(linked.size, text.len());
    assert!(record.linked(&text[..0x700], TEXT).is_err());
    assert!(record.complete(&mut text[..0x700], TEXT).is_err());
}

/// The start of one of the first so many pages.
fn pages(count: u64) -> impl Generator<Value = u64> {
    (0..count).prop_map(|page| page * PAGE)
}

fn span() -> impl Generator<Value = Range<Avma>> {
    let size = (1..=MAPPING as u64 / PAGE).prop_map(|pages| pages * PAGE);
    (pages(1 << 35), size).prop_map(|(start, size)| Avma(start)..Avma(start + size))
}

fn moved() -> impl Generator<Value = Vec<Moved>> {
    let place = || (0..1_u64 << 20).prop_map(Svma);
    vec(
        (place(), place()).prop_map(|(from, to)| Moved { from, to }),
        0..20,
    )
}

prop_compose! {
    fn placed()(
        name in "\\PC{0,12}", pages_of in 1..=MAPPING as u64 / PAGE,
        from in pages(1 << 36), to in pages(1 << 51),
    ) -> Placed {
        Placed { name, size: pages_of * PAGE, from: Avma(from), to: Avma(to) }
    }
}

prop_compose! {
    fn entry()(
        at in 0..1_u64 << 20, strategy in 0..4_usize, replaced in 0..=1_u32 << 20, bytes: [u8; 8],
    ) -> Entry {
        use Strategy::{Keep, Proxy, Relocate, Syscall};
        let strategy = [Keep, Relocate, Proxy, Syscall][strategy];
        Entry { at: Svma(at), strategy, replaced, bytes }
    }
}

/// Runs of bytes, some of one value, with gaps between them that may be empty.
fn runs() -> impl Generator<Value = Vec<(u64, Vec<u8>)>> {
    let bytes = prop_oneof![
        vec(any::<u8>(), 1..30),
        (any::<u8>(), 1..400_usize).prop_map(|(value, size)| vec![value; size]),
    ];
    vec((0..200_u64, bytes), 0..30)
}

prop_compose! {
    fn record()(
        start in pages(1 << 35),
        (runs, overwritten) in (runs(), runs()),
        (old, new) in (vec(any::<u8>(), 0..=64), vec(any::<u8>(), 0..=64)),
        kernel in vec(placed(), 0..5),
        placeholders in vec(span(), 0..3),
        entries in vec(entry(), 0..10),
        (moved, jumps_back) in (moved(), moved()),
        (image, rest) in (0..0x1000_u64, 1..0x1000_u64),
    ) -> Record {
        let placed = |runs: Vec<(u64, Vec<u8>)>| {
            let mut end = start;
            let runs = runs.into_iter().map(|(gap, bytes)| {
                let at = Avma(end + gap);
                end = at.0 + bytes.len() as u64;
                Before { at, bytes }
            });
            (runs.collect(), end)
        };
        let ((before, end), (overwritten, other)) = (placed(runs), placed(overwritten));
        let end = (end.max(other).max(start + image) + rest).next_multiple_of(PAGE);
        Record {
            old, new, image: Avma(start + image), text: Avma(start)..Avma(end),
            before, kernel, placeholders, entries, moved, jumps_back, overwritten,
        }
    }
}

proptest! {
    #[test]
    fn records_come_back(record in record()) {
        let note = record.encode().unwrap();
        prop_assert_eq!(note.len() % 4, 0);
        let (read, size) = Record::decode(&note).unwrap();
        prop_assert_eq!(size, note.len());
        prop_assert_eq!(read, record);
    }

    #[test]
    fn records_are_found_in_anything(record in record(), surroundings in vec(any::<u8>(), 0x8000), place in 0..0x400_usize) {
        let note = record.encode().unwrap();
        let mut text = surroundings;
        prop_assert_eq!(Record::find(&text, record.image).unwrap(), None);
        let place = place * 16;
        text[place..place + note.len()].copy_from_slice(&note);
        let found = Record::find(&text, record.image).unwrap().unwrap();
        prop_assert_eq!(found.at.start.0, record.image.0 + place as u64);
        prop_assert_eq!(found.record, record);
    }

    #[test]
    fn damage_is_noticed(record in record(), at: prop::sample::Index, value in 1..=255_u8) {
        let mut note = record.encode().unwrap();
        let at = at.index(note.len());
        note[at] ^= value;
        prop_assert!(Record::decode(&note).is_err());
    }

    #[test]
    fn anything_with_a_good_check_is_refused_or_read_as_it_is(body in vec(any::<u8>(), 0..60)) {
        if let Ok((record, _)) = Record::decode(&note_of(&body)) {
            let again = Record::decode(&record.encode().unwrap()).unwrap();
            prop_assert_eq!(again.0, record);
        }
    }

    #[test]
    fn differences_are_undone(
        before in vec(prop_oneof![Just(0), Just(0x90), any::<u8>()], 0..600),
        changes in vec((any::<prop::sample::Index>(), vec(any::<u8>(), 1..40)), 0..12),
        grown in 0..100_usize,
    ) {
        let mut after = before.clone();
        after.resize(before.len() + grown, 0x11);
        for (place, bytes) in changes {
            let place = place.index(after.len().max(1));
            for (byte, value) in after.iter_mut().skip(place).zip(bytes) {
                *byte = value;
            }
        }
        let size = (before.len().max(1) as u64).next_multiple_of(PAGE);
        let text = TEXT..Avma(TEXT.0 + size);
        let runs = Record::difference(&before, &after, TEXT);
        let record = Record { before: runs, text, ..typical() };
        let (record, _) = Record::decode(&record.encode().unwrap()).unwrap();
        record.undo(&mut after, TEXT).unwrap();
        prop_assert_eq!(&after[..before.len()], &before);
        for run in &record.before {
            prop_assert!(run.at.0 + run.bytes.len() as u64 <= TEXT.0 + before.len() as u64);
        }
    }
}

#[test]
fn a_difference_costs_little() {
    let before = [&[1, 2, 3, 4, 5, 6, 7, 8][..], &[0; 100]].concat();
    let mut after = before.clone();
    assert_eq!(Record::difference(&before, &after, TEXT), []);
    // Two that are near each other are one; a long one of one value is by itself.
    after[1] = 0xff;
    after[4] = 0xff;
    after[7..60].fill(0xff);
    let expected = [run(1, &[2, 3, 4, 5, 6, 7, 8]), run(8, &[0; 52])];
    assert_eq!(Record::difference(&before, &after, TEXT), expected);
    after = before.clone();
    after[1] = 0xff;
    after[5] = 0xff;
    let expected = [run(1, &[2]), run(5, &[6])];
    assert_eq!(Record::difference(&before, &after, TEXT), expected);
    // What is there only before.
    let expected = [run(100, &[0; 8])];
    assert_eq!(Record::difference(&before, &before[..100], TEXT), expected);
}
