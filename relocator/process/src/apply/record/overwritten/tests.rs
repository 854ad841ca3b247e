//! What jumps had overwritten, in records: written, read, damaged, and asked for.

use elf_tools::Avma;

use super::super::tests::{TEXT, note_of, run, typical};
use super::super::{Before, Record};
use super::Overwritten;

/// Where the flags of a note are.
const FLAGS: usize = 24;

fn with(overwritten: Vec<Before>) -> Record {
    Record {
        overwritten,
        ..typical()
    }
}

fn beginnings() -> Vec<Before> {
    vec![
        run(0x620, &[0x55; 16]),
        run(
            0x6f0,
            &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16],
        ),
    ]
}

#[track_caller]
fn refused(note: &[u8], reason: &str) {
    let error = Record::decode(note).unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains(reason), "{source}");
}

#[test]
fn it_comes_back_and_takes_little() {
    let plain = typical().encode().unwrap();
    let record = with(beginnings());
    let note = record.encode().unwrap();
    assert_eq!(Record::decode(&note).unwrap(), (record, note.len()));
    assert_eq!(note[FLAGS..FLAGS + 4], [1, 0, 0, 0]);
    // Two headers, sixteen bytes, the one value of the others, and the count.
    assert!(note.len() <= plain.len() + 32, "{} bytes", note.len());
}

#[test]
fn what_no_jump_has_touched_is_stored_as_ever() {
    let note = typical().encode().unwrap();
    assert_eq!(note[FLAGS..FLAGS + 4], [0; 4]);
    let (record, _) = Record::decode(&note).unwrap();
    assert_eq!(record.overwritten, []);
    // A note of before, byte by byte: image, text, no build-ids, six empty lists.
    let body = [0x80, 0x20, 0, 0x80, 0x20, 0, 0, 0, 0, 0, 0, 0, 0];
    let (record, _) = Record::decode(&note_of(&body)).unwrap();
    assert_eq!(record.overwritten, []);
    assert_eq!(record.encode().unwrap(), note_of(&body));
}

/// A note with that flag, and with these bytes behind all that is in every record.
fn flagged(list: &[u8]) -> Vec<u8> {
    let start = [0x80, 0x20, 0, 0x80, 0x20, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut note = note_of(&[&start, list].concat());
    note[FLAGS] = 1;
    let check = super::super::stored::check_of(&note);
    note[super::super::header::CHECK].copy_from_slice(&check.to_le_bytes());
    note
}

#[test]
fn hostile_lists_are_refused() {
    let (record, _) = Record::decode(&flagged(&[1, 0x10, 4, 7, 8])).unwrap();
    let expected = Before {
        at: Avma(0x1010),
        bytes: vec![7, 8],
    };
    assert_eq!(record.overwritten, [expected]);
    refused(&flagged(&[0]), "nothing was overwritten");
    // Padding is what a list that is not there looks like.
    refused(&flagged(&[]), "nothing was overwritten");
    refused(&flagged(&[0x81, 0x20]), "4096 are the most");
    refused(&flagged(&[1, 0xff, 0x1f, 4, 7, 8]), "not in the text");
    refused(
        &flagged(&[1, 0, 0xff, 0xff, 0xff, 0xff, 0xf, 7]),
        "not in the text",
    );
    refused(&flagged(&[1, 0, 16, 7]), "to follow");
    refused(&flagged(&[1, 0, 0]), "not behind others");
    // Without the flag it means nothing.
    let mut note = flagged(&[1, 0x10, 12, 7, 8, 9, 1, 2, 3]);
    note[FLAGS] = 0;
    let check = super::super::stored::check_of(&note);
    note[super::super::header::CHECK].copy_from_slice(&check.to_le_bytes());
    refused(&note, "mean nothing");
}

#[test]
fn what_could_not_be_read_is_not_written() {
    let mut runs = beginnings();
    runs.swap(0, 1);
    assert!(with(runs).encode().is_err());
    assert!(with(vec![run(0x620, &[])]).encode().is_err());
    assert!(with(vec![run(0x1fff, &[1, 2])]).encode().is_err());
}

#[test]
fn no_damaged_byte_is_overlooked() {
    let note = with(beginnings()).encode().unwrap();
    for index in 0..note.len() {
        let mut damaged = note.clone();
        damaged[index] ^= 1;
        assert!(Record::decode(&damaged).is_err(), "byte {index}");
        assert!(Record::decode(&note[..index]).is_err(), "{index} bytes");
    }
}

#[test]
fn a_part_is_known_wholly_or_not_at_all() {
    let at = |offset: u64| Avma(TEXT.0 + offset);
    let mut overwritten = Overwritten::of(&with(beginnings()));
    assert_eq!(overwritten.build_id, typical().old);
    let part = |one: &Overwritten, from, to| one.part(at(from)..at(to));
    assert_eq!(part(&overwritten, 0x620, 0x630), Some(vec![0x55; 16]));
    assert_eq!(part(&overwritten, 0x6fe, 0x700), Some(vec![15, 16]));
    for (from, to) in [(0x61f, 0x621), (0x62f, 0x631), (0x6f0, 0x701), (0, 1)] {
        assert_eq!(part(&overwritten, from, to), None, "{from:#x}..{to:#x}");
    }
    // Of several runs, that meet or overlap, the first one counts.
    overwritten.runs.push(run(0x62e, &[7; 4]));
    let expected = Some(vec![0x55, 0x55, 7, 7]);
    assert_eq!(part(&overwritten, 0x62e, 0x632), expected);
    assert_eq!(Overwritten::default().part(at(0)..at(1)), None);
    assert_eq!(overwritten.part(Avma(u64::MAX - 1)..Avma(u64::MAX)), None);
}

#[test]
fn places_are_kept_as_a_whole_and_once() {
    let original: Vec<u8> = (0..0x40).collect();
    let place = |from: u64, to: u64| Avma(TEXT.0 + from)..Avma(TEXT.0 + to);
    let runs = |places: &[_]| Record::runs_in(&original, TEXT, places);
    assert_eq!(runs(&[]), []);
    let one = [run(0x10, &original[0x10..0x20])];
    assert_eq!(runs(&[place(0x10, 0x20)]), one);
    assert_eq!(runs(&[place(0x10, 0x18), place(0x18, 0x20)]), one);
    // In any order, and twice.
    let all = [place(0x28, 0x38), place(0x8, 0x18), place(0x8, 0x18)];
    let expected = [
        run(0x8, &original[0x8..0x18]),
        run(0x28, &original[0x28..0x38]),
    ];
    assert_eq!(runs(&all), expected);
    // What is elsewhere is passed over.
    assert_eq!(runs(&[place(0x38, 0x50)]), [run(0x38, &original[0x38..])]);
    assert_eq!(runs(&[Avma(0)..Avma(8)]), []);
}
