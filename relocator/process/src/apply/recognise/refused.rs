//! Images that are refused, and kernels.

use relocator::source::LiveMapping;

use super::super::pretend::*;
use super::*;
use crate::targets::pretended::Pretended;

fn reason<T: std::fmt::Debug>(result: Result<T>) -> Unlinkable {
    match result.unwrap_err() {
        Error::Unlinkable { reason, .. } => reason,
        other => panic!("{other}"),
    }
}

#[test]
fn an_image_of_32_bits_is_refused_where_a_vdso_is_said_to_be() {
    const CLASS: usize = 4;
    let mut bytes = image("bare");
    bytes[CLASS] = 1;
    let process = Pretended::restored(&bytes);
    assert!(process.recognise(None).unwrap().old.is_empty());
    assert_eq!(reason(process.recognise(Some(OLD))), Unlinkable::OtherWidth);
}

#[test]
fn a_kernel_whose_mappings_are_apart_is_refused() {
    let mut source = kernel();
    source.live[0].start = source.live[0].start.offset(-(PAGE as i64));
    let expected = Unlinkable::KernelApart {
        source: source.name.clone(),
    };
    assert_eq!(reason(Own::of(&source)), expected);
    let mut source = kernel();
    let end = source.live.last().unwrap();
    let end = end.start.offset(end.size as i64);
    source.live.push(LiveMapping {
        name: "[vvar]".to_owned(),
        start: end,
        size: PAGE,
    });
    assert_eq!(reason(Own::of(&source)), expected);
}

/// The text of a process in pieces, each of whole pages.
fn in_pieces(old: &[u8], pieces: &[usize]) -> Pretended {
    let mut process = Pretended::restored(&pages(old));
    process.parts.retain(|part| part.0.range.start != Avma(OLD));
    let mut at = 0;
    for &pages in pieces {
        let end = (at + pages * PAGE as usize).min(old.len());
        let protection = if at == 0 { CODE } else { READ };
        process.put(OLD + at as u64, protection, "", Some(old[at..end].to_vec()));
        at = end;
    }
    process
}

#[test]
fn an_image_may_be_in_several_mappings() {
    let old = image("got");
    let count = old.len() / PAGE as usize;
    assert!(count > 1, "it has several pages");
    let whole = Pretended::restored(&old).recognise(Some(OLD)).unwrap().old;
    let found = in_pieces(&old, &vec![1; count]).recognise(Some(OLD));
    assert_eq!(found.unwrap().old, whole);
    // What follows the image in its last mapping is not its own.
    let mut more = old.clone();
    more.extend(vec![0x90; 3 * PAGE as usize]);
    let found = in_pieces(&more, &[1, count + 2]).recognise(Some(OLD));
    assert_eq!(found.unwrap().old, whole);
}

#[test]
fn an_image_without_its_end_is_refused() {
    let old = image("got");
    let process = in_pieces(&old, &[1]);
    let end = Avma(OLD + PAGE);
    assert_eq!(
        reason(process.recognise(Some(OLD))),
        Unlinkable::Torn { end }
    );
}
