//! Where an injected call goes: bytes of zeros at the end of private code, which no thread
//! executes.
//!
//! The code is there before the steps and after them. So if a step replaces the page, the new page
//! must have zeros there as well.

use std::ops::Range;

use elf_tools::{Avma, Svma};

use super::steps::{read, replaced};
use super::{Live, injected_call};
use crate::targets::{Mapping, Step, StoppedTarget, mapping_of, overlaps, writable};
use crate::tracing::read_unserved;
use crate::{Error, Refusal, Result};
use relocator::placement::PAGE;
use relocator::threads::carry::{Contexts, carry};
use relocator::threads::{Registers, StuckReason, Verdict};

/// A page that may end with zeros.
struct Candidate {
    /// Its last byte is before this.
    end: Avma,
    /// Whether the page is a file's.
    is_file: bool,
}

/// A place in a process with these mappings.
pub(super) fn find(live: &Live, steps: &[Step], mappings: &[Mapping]) -> Result<Avma> {
    for Candidate { end, is_file } in candidates(steps, mappings) {
        let page = Avma(end.0 - PAGE);
        let mut bytes = match read(live, page, PAGE as usize) {
            Ok(bytes) => bytes,
            // After a restore, code of files is not in memory until somebody executes it.
            Err(_) if is_file => {
                let mut bytes = vec![0; PAGE as usize];
                if !read_unserved(live.pid, page, &mut bytes) {
                    continue;
                }
                bytes
            }
            Err(_) => continue,
        };
        erase(live, mappings, page, &mut bytes, is_file)?;
        for step in steps {
            overlay(step, page, &mut bytes);
        }
        let zeros = bytes.iter().rev().take_while(|&&byte| byte == 0).count() as u64;
        let start = injected_call::at_end_of(end);
        if start.0 >= end.0 - zeros {
            return Ok(start);
        }
    }
    Err(Error::refused(live.pid, Refusal::NoRoomForCalls))
}

/// The last pages of code, and of what will be in its place. The old vDSO's pages, which come
/// first, are private already, while those of a file would be copied for this.
fn candidates<'a>(
    steps: &[Step],
    mappings: &'a [Mapping],
) -> impl Iterator<Item = Candidate> + use<'a> {
    let own: Vec<Avma> = steps
        .iter()
        .filter_map(replaced)
        .map(|own| own.end)
        .collect();
    let is_usable =
        |mapping: &&Mapping| mapping.is_private_code() && !mapping.name.starts_with('[');
    let usable = || mappings.iter().filter(is_usable);
    let end_of = |mapping: &Mapping| Candidate {
        end: mapping.range.end,
        is_file: !mapping.name.is_empty(),
    };
    let nameless = usable().filter(|mapping| mapping.name.is_empty());
    let files = usable().filter(|mapping| !mapping.name.is_empty());
    let inside = own.into_iter().filter_map(move |end| {
        let mapping = mapping_of(mappings, Avma(end.0 - 1)).filter(is_usable)?;
        let is_file = !mapping.name.is_empty();
        (end < mapping.range.end).then_some(Candidate { end, is_file })
    });
    let (inside, of_files): (Vec<_>, Vec<_>) = inside.partition(|one| !one.is_file);
    let inside = inside.into_iter().chain(nameless.map(end_of));
    inside.chain(of_files).chain(files.map(end_of))
}

/// Erases what a killed tool has left. In old texts no thread executes it any more.
fn erase(
    live: &Live,
    mappings: &[Mapping],
    page: Avma,
    bytes: &mut Vec<u8>,
    is_file: bool,
) -> Result<()> {
    let mut without = bytes.clone();
    injected_call::erase(&mut without);
    let pairs = bytes.iter().zip(&without);
    let mut differing = (page.0..)
        .zip(pairs)
        .filter(|(_, (one, other))| one != other);
    let Some((first, _)) = differing.next() else {
        return Ok(());
    };
    let last = differing.last().map_or(first, |(last, _)| last);
    if !is_file || !is_executed(live, mappings, Avma(first)..Avma(last + 1))? {
        *bytes = without;
    }
    Ok(())
}

/// Whether a thread is inside, or has a context there.
fn is_executed(live: &Live, mappings: &[Mapping], place: Range<Avma>) -> Result<bool> {
    let threads = live.threads()?;
    let writable = writable(mappings);
    let contexts = Contexts::of(
        &threads,
        &writable,
        std::slice::from_ref(&place),
        live,
        &live.scope(),
    );
    let decide = |registers: &Registers| match place.contains(&registers.pc) {
        true => Verdict::Stuck {
            place: Svma(registers.pc.0 - place.start.0),
            reason: StuckReason::InUse,
        },
        false => Verdict::Outside,
    };
    Ok(!carry(&threads, &contexts, &decide).stuck.is_empty())
}

/// Marks the bytes of a page that will not be zeros.
fn overlay(step: &Step, page: Avma, bytes: &mut [u8]) {
    let (at, new) = match step {
        Step::Replace { at, bytes } => (*at, bytes.as_slice()),
        Step::Write(write) => (write.at, write.bytes.as_slice()),
        // No thread may be where a mapping moves away from, or to.
        Step::Move { from, to } => {
            let place = *to..to.offset((from.end.0 - from.start.0) as i64);
            let page = page..page.offset(PAGE as i64);
            if overlaps(from, &page) || overlaps(&place, &page) {
                bytes.fill(1);
            }
            return;
        }
        Step::Unmap(range) | Step::Placeholder(range) => {
            if range.contains(&page) {
                bytes.fill(1);
            }
            return;
        }
        Step::Registers(_) | Step::RecoveryCopy(_) | Step::Separate(_) | Step::Forget(_) => return,
    };
    for (address, &byte) in (at.0..).zip(new) {
        if let Some(place) = address.checked_sub(page.0)
            && let Some(known) = bytes.get_mut(place as usize)
        {
            *known |= byte;
        }
    }
}
