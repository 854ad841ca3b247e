//! What is written is read again, by another crate's reader.

use elf_tools::Svma;
use proptest::prelude::*;

use super::read::{Description, descriptions};
use super::rules::{Convention, Frame, Row, Rule, Rules, push};
use super::{described, table};
use crate::arch::NATIVE;

/// Where descriptions are.
const PLACE: u64 = 0x340;

/// Rules that call frame programs can state here: distances are multiples of 8.
fn rule() -> impl Strategy<Value = Rule> {
    let offset = -4000i64..4000;
    prop_oneof![
        4 => offset.clone().prop_map(|offset| Rule::At(offset * 8)),
        1 => offset.prop_map(|offset| Rule::Is(offset * 8)),
        1 => Just(Rule::Undefined),
        1 => (0u16..100).prop_map(Rule::In),
        1 => prop::collection::vec(any::<u8>(), 1..200).prop_map(Rule::AtExpression),
        1 => prop::collection::vec(any::<u8>(), 1..9).prop_map(Rule::IsExpression),
    ]
}

fn frame() -> impl Strategy<Value = Frame> {
    prop_oneof![
        4 => (0u16..80, 0i64..70000).prop_map(|(register, at)| Frame::At(register, at)),
        1 => (0u16..20, -100i64..0).prop_map(|(register, at)| Frame::At(register, at * 8)),
        1 => prop::collection::vec(any::<u8>(), 1..9).prop_map(Frame::Expression),
    ]
}

/// Rules of registers that are saved, with those of the return address.
fn rules() -> impl Strategy<Value = Rules> {
    let registers = prop::collection::btree_map(0u16..90, rule(), 0..5);
    (frame(), registers).prop_map(|(frame, mut registers)| {
        let convention = NATIVE.convention();
        registers.extend(convention.at_entry.registers);
        let registers = registers.into_iter().collect();
        Rules { frame, registers }
    })
}

/// Rows that follow each other; rules come back, as they do behind the end of a function.
fn rows() -> impl Strategy<Value = Vec<Row>> {
    let sizes = prop::collection::vec((0usize..4, 1u64..70000), 1..12);
    (prop::collection::vec(rules(), 4), sizes, 1u64..0x10_0000).prop_map(
        |(rules, sizes, mut start)| {
            let mut rows = Vec::new();
            for (index, size) in sizes {
                push(&mut rows, start..start + size, &rules[index]);
                start += size;
            }
            rows
        },
    )
}

/// All that is written, as it is read.
fn again(convention: &Convention, all: &[Description]) -> Vec<Description> {
    let section = table::section(convention, all, PLACE).unwrap();
    let mut bytes = vec![0xcc; PLACE as usize];
    bytes.extend(&section.bytes);
    let end = bytes.len() as u64;
    descriptions(&bytes, &(PLACE..end), convention).unwrap()
}

proptest! {
    #[test]
    fn rows_are_read_as_they_were_written(rows in rows(), is_signal: bool) {
        let convention = NATIVE.convention();
        let written = Description { is_signal, ..described(rows) };
        let read = again(&convention, std::slice::from_ref(&written));
        prop_assert_eq!(read.len(), 1);
        prop_assert_eq!(&read[0].rows, &written.rows);
        prop_assert_eq!(&read[0].range, &written.range);
        prop_assert_eq!(read[0].is_signal, is_signal);
        // It has the form that can be changed in place.
        prop_assert!(read[0].program.is_some());
    }
}

#[test]
fn a_table_without_room_is_left_out() {
    let entries = [(0x500, 0x340), (0x600, 0x360)];
    let whole = table::header(Svma(0x300), 0x340, &entries, &(0x300..0x31c));
    assert_eq!(whole[..4], [1, 0x1b, 0x03, 0x3b]);
    assert_eq!(whole[4..12], [0x3c, 0, 0, 0, 2, 0, 0, 0]);
    assert_eq!(whole[12..20], [0, 2, 0, 0, 0x40, 0, 0, 0]);
    assert_eq!(whole.len(), 0x1c);
    let short = table::header(Svma(0x300), 0x340, &entries, &(0x300..0x31b));
    assert_eq!(short, [1, 0x1b, 0xff, 0xff, 0x3c, 0, 0, 0]);
}
