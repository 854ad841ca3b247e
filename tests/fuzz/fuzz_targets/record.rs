//! Text with a link record from anywhere in it. Its header and its check are put right, so that the rest is read at all.
#![no_main]

use elf_tools::Avma;
use libfuzzer_sys::fuzz_target;
use relocator_process::apply::record::{Overwritten, Record};

/// Where the text is.
const TEXT: Avma = Avma(0x1000);

/// A note with these flags whose descriptor has these bytes behind version, flags and check.
fn note(flags: u32, body: &[u8]) -> Vec<u8> {
    let body_size = body.len().next_multiple_of(4);
    let size = 12 + body_size as u32;
    let words = [5, size, 6, u32::from_le_bytes(*b"vDSO"), 0, 1, flags];
    let mut note: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
    let mut hasher = crc32fast::Hasher::new();
    let mut body = body.to_vec();
    body.resize(body_size, 0);
    hasher.update(&note);
    hasher.update(&body);
    note.extend(hasher.finalize().to_le_bytes());
    note.extend(body);
    note
}

fuzz_target!(|bytes: &[u8]| {
    // As it comes, for headers and what is cut off.
    let _ = Record::decode(bytes);
    let _ = Record::find(bytes, TEXT);
    for flags in [0, 1] {
        try_flags(flags, bytes);
    }
});

fn try_flags(flags: u32, bytes: &[u8]) {
    let mut text = note(flags, bytes);
    let Ok((record, size)) = Record::decode(&text) else {
        return;
    };
    assert!(size == text.len());
    // What was read can be written, and is the same when it is read again.
    let written = record.encode().expect("it was read");
    let (again, _) = Record::decode(&written).expect("what was written is read");
    assert!(again == record);
    // What it says of a text that it does not know harms nothing.
    text.resize(0x2000, 0);
    let _ = Record::find(&text, TEXT);
    let _ = record.linked(&text, TEXT);
    let _ = record.undo(&mut text, TEXT);
    let _ = record.complete(&mut text, TEXT);
    let start = record.image;
    let _ = Overwritten::of(&record).part(start..start.offset(16));
}
