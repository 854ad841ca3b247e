//! Pages before a text that have its link record: they belong to it, though they are a mapping of
//! their own, so that a dump by CRIU finds the text where a mapping begins.

use elf_tools::Avma;

use super::OldText;
use super::text::MAX_TEXT;
use crate::apply::record::{Before, Record};
use crate::targets::live::injected_call;
use crate::targets::{Mapping, mapping_of};
use relocator::threads::Memory;

/// Makes such pages part of the texts that they belong to.
pub(super) fn join(texts: &mut [OldText], mappings: &[Mapping], memory: &dyn Memory) {
    for text in texts {
        let below = text.mapping.start.0.checked_sub(1);
        let before = below.and_then(|below| mapping_of(mappings, Avma(below)));
        if let Some((mapping, mut bytes)) = before.and_then(|one| page_of(one, text, memory)) {
            bytes.extend_from_slice(&text.bytes);
            text.bytes = bytes;
            text.mapping.start = mapping.range.start;
        }
    }
}

/// The record of a text elsewhere that a mapping of private code holds, and all of its bytes.
pub(in crate::apply) fn record_in(
    mapping: &Mapping,
    memory: &dyn Memory,
) -> Option<(Record, Vec<u8>)> {
    let is_code = mapping.is_private_code() && mapping.name.is_empty();
    if !is_code || mapping.size() > MAX_TEXT {
        return None;
    }
    let mut bytes = vec![0; mapping.size() as usize];
    if !memory.read(mapping.range.start, &mut bytes) {
        return None;
    }
    injected_call::erase(&mut bytes);
    let record = Record::copied(&bytes, mapping.range.start)?;
    Some((record, bytes))
}

/// What a mapping holds, if that is the record of a text that is linked. A text that is what it was
/// before has no record: a killed tool has left that there.
fn page_of<'a>(
    mapping: &'a Mapping,
    text: &OldText,
    memory: &dyn Memory,
) -> Option<(&'a Mapping, Vec<u8>)> {
    if text.image != text.mapping.start {
        return None;
    }
    let (record, bytes) = record_in(mapping, memory)?;
    let own = (record.image, record.text.start) == (text.image, text.mapping.start);
    let differs = |run: &Before| {
        let end = run.at.offset(run.bytes.len() as i64);
        let now = text.part(&(run.at..end));
        now.is_some_and(|now| now != run.bytes)
    };
    (own && record.before.iter().any(differs)).then_some((mapping, bytes))
}
