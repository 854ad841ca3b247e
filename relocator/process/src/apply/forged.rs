//! Link records that no tool has written, with a check that is right: any program can make them. A
//! tool answers or refuses, in bounded time and memory, and where it fails it changes nothing.

use std::ops::Range;

use elf_tools::{Avma, Svma};
use proptest::collection::vec;
use proptest::prelude::*;
use relocator::link::Moved;
use relocator::placement::PAGE;

use super::pretend::{self, OLD};
use super::record::{Before, Record};
use super::tests::{NOTHING, PROGRAM, kernel, options, process, survey};
use super::{RunningKernel, apply_to, prepare_of, rollback_of};
use crate::Result;
use crate::targets::pretended::Pretended;

/// Where numbers of a record come from: near what is there, and far away.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        (0..0x40_u64).prop_map(|pages| OLD - 0x20 * PAGE + pages * PAGE),
        (0..0x10_000_u64).prop_map(|offset| OLD - 0x8000 + offset),
        (0..8_u64).prop_map(|pages| pages * PAGE),
        (0..64_u32).prop_map(|bit| 1 << bit),
        any::<u64>(),
    ]
}

/// One change of a record.
#[derive(Debug, Clone)]
enum Forgery {
    Image(u64),
    Text(u64, u64),
    NothingBefore,
    Run(u64, Vec<u8>),
    Kernel(usize, u64, u64, u64),
    NoKernel,
    Placeholder(u64, u64),
    Entry(u64, u32, [u8; 8]),
    Moved(u64, u64),
    JumpBack(u64, u64),
    Overwritten(u64, Vec<u8>),
    OtherKernel,
}

fn forgery() -> impl Strategy<Value = Forgery> {
    prop_oneof![
        number().prop_map(Forgery::Image),
        (number(), number()).prop_map(|(start, end)| Forgery::Text(start, end)),
        Just(Forgery::NothingBefore),
        (number(), vec(any::<u8>(), 0..40)).prop_map(|(at, bytes)| Forgery::Run(at, bytes)),
        (0..3_usize, number(), number(), number())
            .prop_map(|(index, size, from, to)| Forgery::Kernel(index, size, from, to)),
        Just(Forgery::NoKernel),
        (number(), number()).prop_map(|(start, end)| Forgery::Placeholder(start, end)),
        (number(), any::<u32>(), any::<[u8; 8]>())
            .prop_map(|(at, replaced, bytes)| Forgery::Entry(at, replaced, bytes)),
        (number(), number()).prop_map(|(from, to)| Forgery::Moved(from, to)),
        (number(), number()).prop_map(|(from, to)| Forgery::JumpBack(from, to)),
        (number(), vec(any::<u8>(), 0..40)).prop_map(|(at, bytes)| Forgery::Overwritten(at, bytes)),
        Just(Forgery::OtherKernel),
    ]
}

/// Bytes at an address, among others by address.
fn insert(runs: &mut Vec<Before>, at: u64, bytes: &[u8]) {
    let at = Avma(at);
    let bytes = bytes.to_vec();
    let index = runs.partition_point(|run| run.at < at);
    runs.insert(index, Before { at, bytes });
}

impl Forgery {
    fn change(&self, record: &mut Record) {
        let moved = |from: u64, to: u64| Moved {
            from: Svma(from.wrapping_sub(OLD)),
            to: Svma(to.wrapping_sub(OLD)),
        };
        match self {
            Self::Image(image) => record.image = Avma(*image),
            Self::Text(start, end) => record.text = Avma(*start)..Avma(*end),
            Self::NothingBefore => record.before.clear(),
            Self::Run(at, bytes) => insert(&mut record.before, *at, bytes),
            Self::Kernel(index, size, from, to) => {
                if let Some(placed) = record.kernel.get_mut(*index) {
                    (placed.size, placed.from, placed.to) = (*size, Avma(*from), Avma(*to));
                }
            }
            Self::NoKernel => record.kernel.clear(),
            Self::Placeholder(start, end) => record.placeholders.push(Avma(*start)..Avma(*end)),
            Self::Entry(at, replaced, bytes) => {
                if let Some(entry) = record.entries.first_mut() {
                    entry.at = Svma(at.wrapping_sub(OLD));
                    (entry.replaced, entry.bytes) = (*replaced, *bytes);
                }
            }
            Self::Moved(from, to) => record.moved.push(moved(*from, *to)),
            Self::JumpBack(from, to) => record.jumps_back.push(moved(*from, *to)),
            Self::Overwritten(at, bytes) => insert(&mut record.overwritten, *at, bytes),
            Self::OtherKernel => record.new.push(1),
        }
    }
}

/// Where the record of the process is, and its mapping of text.
fn place(process: &Pretended, kernel: &RunningKernel) -> (Record, Range<Avma>, Range<Avma>) {
    let text = survey(process, kernel, NOTHING).texts.remove(0);
    let found = text.record.unwrap();
    (found.record, found.at, text.found.mapping)
}

/// Puts a record in the place of the one that is there; whether it can be written and has room.
fn put(process: &mut Pretended, kernel: &RunningKernel, record: &Record) -> bool {
    let (_, at, mapping) = place(process, kernel);
    let Ok(note) = record.encode() else {
        return false;
    };
    let content = process.part(mapping.start.0).1.as_mut().unwrap();
    let start = (at.start.0 - mapping.start.0) as usize;
    content[start..(at.end.0 - mapping.start.0) as usize].fill(0);
    match content.get_mut(start..start + note.len()) {
        Some(place) => place.copy_from_slice(&note),
        None => return false,
    }
    true
}

type Tool = fn(
    &mut Pretended,
    &RunningKernel,
    &[relocator::source::Source],
    &super::ApplyOptions,
) -> Result<super::outcome::ApplyOutcome>;

/// Each tool answers. One that fails has changed nothing, and one that rolled back has left no
/// record.
fn all_tools(process: &Pretended, kernel: &RunningKernel) {
    let tools: [Tool; 3] = [apply_to, rollback_of, prepare_of];
    for tool in tools {
        let mut after = process.clone();
        if tool(&mut after, kernel, NOTHING, &options()).is_err() {
            assert_eq!(after, *process);
        }
    }
}

fn linked(kernel: &RunningKernel) -> Pretended {
    let mut process = process("got", &[PROGRAM]);
    apply_to(&mut process, kernel, NOTHING, &options()).unwrap();
    process
}

/// Undone, it is there again.
#[test]
fn a_record_that_stays_is_refused() {
    let kernel = kernel();
    let mut process = linked(&kernel);
    let (mut record, at, _) = place(&process, &kernel);
    let is_apart = |run: &Before| {
        let end = run.at.offset(run.bytes.len() as i64);
        end <= at.start || at.end <= run.at
    };
    record.before.retain(is_apart);
    assert!(put(&mut process, &kernel, &record));
    for tool in [apply_to as Tool, rollback_of, prepare_of] {
        let error = tool(&mut process.clone(), &kernel, NOTHING, &options()).unwrap_err();
        assert!(error.to_string().contains("without an end"), "{error}");
    }
}

/// A second image in the mapping, which the record is said to be of.
#[test]
fn a_record_of_another_image_is_refused() {
    let kernel = kernel();
    let mut process = linked(&kernel);
    let (mut record, _, _) = place(&process, &kernel);
    record.image = record.image.offset(0x10);
    assert!(put(&mut process, &kernel, &record));
    all_tools(&process, &kernel);
    let error = rollback_of(&mut process, &kernel, NOTHING, &options()).unwrap_err();
    assert!(error.to_string().contains("record"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn forged_records_harm_nothing(forgeries in vec(forgery(), 1..4)) {
        let kernel = kernel();
        let mut process = linked(&kernel);
        let (mut record, _, _) = place(&process, &kernel);
        for forgery in &forgeries {
            forgery.change(&mut record);
        }
        if put(&mut process, &kernel, &record) {
            all_tools(&process, &kernel);
        }
    }

    /// The same of a copy that a killed tool might have left.
    #[test]
    fn forged_copies_harm_nothing(forgeries in vec(forgery(), 0..4)) {
        let kernel = kernel();
        let linked = linked(&kernel);
        let (mut record, _, mapping) = place(&linked, &kernel);
        for forgery in &forgeries {
            forgery.change(&mut record);
        }
        let mut other = linked.clone();
        if put(&mut other, &kernel, &record) {
            let bytes = other.part(mapping.start.0).1.clone();
            for mut process in [process("got", &[PROGRAM]), linked] {
                process.put(0x6000_0000_0000, pretend::CODE, "", bytes.clone());
                all_tools(&process, &kernel);
            }
        }
    }
}
