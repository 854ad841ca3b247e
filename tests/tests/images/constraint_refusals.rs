//! What a reader of relocation tables with constraints must reject: `docs/abi.md`, sections 4.2 and 4.3.

use elf_tools::Svma;
use elf_tools::disassembly::Access;
use elf_tools::image::Image;
use elf_tools::reachability::Code;
use elf_tools::relocation::{OperandField, Relocations, Width, object};
use kernel_fixtures::fixture;
use relocator_tests::constraints::{SUBJECT, need, replaced, sample, stored, term};

/// Both ways to read a table must refuse it in the same words.
#[track_caller]
fn assert_refused(what: &str, table: &Relocations, expected: &str) {
    let by_object = SUBJECT.read(&SUBJECT.object(table)).expect_err(what);
    assert!(by_object.contains(expected), "{what}: {by_object}");
    assert!(by_object.starts_with("relocation "), "{what}: {by_object}");
    assert_eq!(SUBJECT.attach(table).expect_err(what), by_object);
}

/// What one thing that is wrong does to [`sample`], and what a reader says.
type Wrong = (&'static str, fn(&mut Relocations), &'static str);

/// The operand fields of [`sample`] are found by their width.
fn operand_field(table: &mut Relocations, width: Width) -> &mut OperandField {
    let mut operand_fields = table.operand_fields.iter_mut();
    operand_fields
        .find(|operand_field| operand_field.width == width)
        .unwrap()
}

const WRONG: &[Wrong] = &[
    (
        "a site inside an instruction",
        |table| table.constraints[0].site.0 += 1,
        "not the start of an instruction",
    ),
    (
        "a site outside the image",
        |table| table.constraints[3].site.0 = u64::MAX,
        "not the start of an instruction",
    ),
    (
        "an opaque site inside an instruction",
        |table| table.opaque[0].site.0 += 1,
        "not the start of an instruction",
    ),
    (
        "a byte that is no constant",
        |table| operand_field(table, Width::I8).place.0 -= 1,
        "not one of its operands",
    ),
    (
        "a constant of four bytes taken for one of one byte",
        |table| operand_field(table, Width::I8).place = SUBJECT.words[2].place,
        "not one of its operands",
    ),
    (
        "a constant of one byte taken for one of four bytes",
        |table| operand_field(table, Width::I32).place = SUBJECT.bytes[2].place,
        "not one of its operands",
    ),
    (
        "a constant outside the code",
        |table| operand_field(table, Width::I32).place = Svma(8),
        "not in an instruction",
    ),
    (
        "a constant at the end of the address space",
        |table| operand_field(table, Width::I32).place = Svma(u64::MAX - 1),
        "not in an instruction",
    ),
    (
        "a displacement that is there, taken for absent",
        |table| {
            let mut instructions = SUBJECT.code.instructions().iter();
            let with = instructions.find(|i| i.displacement.size == 1).unwrap();
            operand_field(table, Width::None).place = with.address;
        },
        "no memory operand that lacks a displacement",
    ),
    (
        "an absent displacement of an instruction that reaches no memory",
        |table| {
            let mut instructions = SUBJECT.code.instructions().iter();
            let without = instructions.find(|i| i.access == Access::None).unwrap();
            operand_field(table, Width::None).place = without.address;
        },
        "no memory operand that lacks a displacement",
    ),
    (
        "an absent displacement inside an instruction",
        |table| operand_field(table, Width::None).place.0 += 1,
        "not the start of an instruction",
    ),
    (
        "an address without a term",
        |table| table.constraints[0].terms.clear(),
        "an address that no term adds up to",
    ),
    (
        "a term of what only has to exist",
        |table| table.constraints[3].terms.push(term(0, 1)),
        "a term of what only has to exist",
    ),
    (
        "an addend of what only has to exist",
        |table| table.constraints[3].addend = 1,
        "an addend of 1 to nothing",
    ),
    (
        "one operand field twice in a constraint",
        |table| table.constraints[0].terms[1].operand_field = 0,
        "a second term of the constraint",
    ),
    (
        "a term that says nothing",
        |table| table.constraints[1].terms[0].coefficient = 0,
        "a term with coefficient 0",
    ),
    (
        "an operand field that an entry changes as well",
        |table| table.entries[0].place = operand_field(table, Width::I32).place,
        "overlaps the one at",
    ),
    (
        "a constraint about a distance",
        |table| table.needs[1] = need("offsetof(time.clock[],time.clock[].seq)"),
        "a constraint is about a symbol",
    ),
];

#[test]
fn what_a_reader_must_reject_is_rejected() {
    for (what, damage, expected) in WRONG {
        let mut table = sample();
        damage(&mut table);
        assert_refused(what, &table, expected);
    }
}

#[test]
fn what_cannot_be_stored_is_not_written() {
    let mut table = sample();
    table.constraints[0].terms[0].operand_field = 3;
    let error = object::write(&table, None, None).unwrap_err().to_string();
    assert!(
        error.contains("operand field 3 of 3 does not exist"),
        "{error}"
    );
    for reason in [String::new(), "x".repeat(256), "\0".to_owned()] {
        let mut table = sample();
        table.opaque[0].reason = reason.into();
        let error = object::write(&table, None, None).unwrap_err().to_string();
        assert!(error.contains("1 to 255 bytes"), "{error}");
    }
}

/// Tables that no writer makes: entries are changed as they are stored.
#[test]
fn entries_that_say_something_else_are_rejected() {
    let table = sample();
    let good = SUBJECT.object(&table);
    let begun = table.constraints[0].site;
    let operand_field = table.operand_fields[0];
    let number = [0x1010, 0x1011, 0x1012][operand_field.width as usize];
    let site = table.opaque[0].site;
    let begin = stored(begun, 0x1000, 1, -1234);
    let first = stored(operand_field.place, number, 0, 1);
    let opaque = stored(site, 0x1020, 4, 0);
    let second = stored(table.constraints[1].site, 0x1001, 2, 5);
    for (what, from, to, expected) in [
        (
            "the position in the table",
            &begin,
            stored(begun, 0, 1, -1234),
            "relocation 2 at",
        ),
        (
            "no constraint was begun",
            &begin,
            stored(begun, 0, 1, -1234),
            "a term outside a constraint",
        ),
        (
            "an entry ends a constraint",
            &second,
            stored(SUBJECT.words[15].place, 2, 1, -4),
            "a term outside a constraint",
        ),
        (
            "what is opaque ends a constraint",
            &second,
            stored(site, 0x1020, 4, 0),
            "a term outside a constraint",
        ),
        (
            "an unknown type",
            &begin,
            stored(begun, 0x1003, 1, 0),
            "type 4099 is not allowed",
        ),
        (
            "a begin without symbol",
            &begin,
            stored(begun, 0x1000, 0, 0),
            "not a canonical name",
        ),
        (
            "a symbol that is a reason",
            &begin,
            stored(begun, 0x1000, 4, 0),
            "not a canonical name",
        ),
        (
            "a symbol that is not there",
            &begin,
            stored(begun, 0x1000, 5, 0),
            "symbol 5 of 5 does not exist",
        ),
        (
            "a term with a symbol",
            &first,
            stored(operand_field.place, number, 1, 1),
            "a term names symbol 1",
        ),
        (
            "an opaque addend",
            &opaque,
            stored(site, 0x1020, 4, -1),
            "an addend of -1 to nothing",
        ),
        (
            "no reason",
            &opaque,
            stored(site, 0x1020, 0, 0),
            "1 to 255 bytes, not 0",
        ),
        (
            "a reason that is not there",
            &opaque,
            stored(site, 0x1020, 9, 0),
            "does not exist",
        ),
    ] {
        let error = SUBJECT.read(&replaced(&good, from, &to)).expect_err(what);
        assert!(error.contains(expected), "{what}: {error}");
    }
    let error = SUBJECT
        .read(&replaced(&good, "≥".as_bytes(), b"\xffab"))
        .unwrap_err();
    assert!(error.contains("not UTF-8"), "{error}");
}

#[test]
fn a_table_of_another_image_is_refused() {
    let subject = &*SUBJECT;
    let other = Image::parse(fixture::find("got").unwrap().image).unwrap();
    let code = Code::of(&other).unwrap();
    let object = subject.object(&Relocations::default());
    let error = object::read(&object, &other, &code)
        .unwrap_err()
        .to_string();
    for id in [subject.image.build_id().unwrap(), other.build_id().unwrap()] {
        assert!(error.contains(&id.to_string()), "{error}");
    }
    // A table of an image without build-id is not one of any image.
    let of_none = object::write(&sample(), None, None).unwrap();
    let error = subject.read(&of_none).unwrap_err();
    assert!(error.contains("no build-id"), "{error}");
    // An image without build-id takes just that one.
    let owner = [b"GNU\0", subject.build_id()].concat();
    let nobody = [b"GNX\0", subject.build_id()].concat();
    let bytes = replaced(subject.image.bytes(), &owner, &nobody);
    let image = Image::parse(&bytes).unwrap();
    assert_eq!(image.build_id(), None);
    assert!(object::read(&of_none, &image, &subject.code).is_ok());
    let error = object::read(&object, &image, &subject.code).unwrap_err();
    assert!(error.to_string().contains("no build-id"), "{error}");
}

#[test]
fn an_object_that_is_no_table_is_refused() {
    let subject = &*SUBJECT;
    let good = subject.object(&sample());
    assert!(object::is_table(&good));
    let note = [
        &3_u32.to_le_bytes()[..],
        b"vDSO\0\0\0\0",
        &1_u32.to_le_bytes(),
    ]
    .concat();
    let with = |kind: u32, version: u32, flags: u32| {
        let from = [&note[..], &0_u32.to_le_bytes()].concat();
        let [kind, version, flags] = [kind, version, flags].map(u32::to_le_bytes);
        let to = [&kind[..], b"vDSO\0\0\0\0", &version, &flags].concat();
        replaced(&good, &from, &to)
    };
    let unknown = with(4, 1, 0);
    assert!(!object::is_table(&unknown));
    for (bytes, expected) in [
        (&unknown[..], "no vDSO note of type 3"),
        (&with(3, 2, 0), "ABI version 2"),
        (&with(3, 1, 4), "unknown flags 0x4"),
        (subject.image.bytes(), "no vDSO note of type 3"),
        (&good[..40], "ELF header"),
        (&replaced(&good, b"\x03\0\x3e\0", b"\x03\0\xb7\0"), "arm64"),
    ] {
        let error = subject.read(bytes).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    for length in 0..good.len() {
        assert!(subject.read(&good[..length]).is_err(), "{length} bytes");
    }
}
