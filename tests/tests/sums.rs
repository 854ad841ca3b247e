//! Sums of constants as ELF: what is written is read back, what a reader must reject is rejected (`docs/abi.md`, sections
//! 4.2 and 4.3), and `readelf` shows it.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use elf_tools::Svma;
use elf_tools::code::{Access, Code, Field, Instruction};
use elf_tools::image::{Image, LinuxVersion};
use elf_tools::relocation::{
    self, Demand, Kind, Need, Opaque, Relocation, Relocations, Slot, Sum, Term, Width, object,
    write,
};
use elf_tools::symtab::name::Reference;
use kernel_fixtures::fixture;
use proptest::prelude::*;
use proptest::sample::{Index, subsequence};
use relocator_tests::readelf::{nm_bytes, readelf_bytes};
use relocator_tests::sums::as_sums;

const VERSION: LinuxVersion = LinuxVersion(0x06_0c_03);

/// An image with the note that a table can be attached to, and everything in its code that a table can refer to.
struct Subject {
    image: Image,
    code: Code,
    sites: Vec<Svma>,
    bytes: Vec<Slot>,
    words: Vec<Slot>,
    absent: Vec<Slot>,
}

static SUBJECT: LazyLock<Subject> = LazyLock::new(|| {
    let image = Image::parse(fixture::find("operands").unwrap().image).unwrap();
    let code = Code::of(&image).unwrap();
    let mut subject = Subject {
        sites: Vec::new(),
        bytes: Vec::new(),
        words: Vec::new(),
        absent: Vec::new(),
        image,
        code: code.clone(),
    };
    for instruction in code.instructions() {
        // One byte further there must not be another one.
        if instruction.length > 1 {
            subject.sites.push(instruction.address);
        }
        for field in [instruction.displacement, instruction.immediate] {
            let list = match field.size {
                1 => &mut subject.bytes,
                4 => &mut subject.words,
                _ => continue,
            };
            list.push(constant(instruction, field));
        }
        if instruction.access != Access::None && instruction.displacement.size == 0 {
            subject.absent.push(Slot {
                place: instruction.address,
                width: Width::Absent,
            });
        }
    }
    assert!(subject.bytes.len() > 20 && subject.words.len() > 20 && subject.absent.len() > 5);
    subject
});

fn constant(instruction: &Instruction, field: Field) -> Slot {
    let width = match field.size {
        1 => Width::Byte,
        _ => Width::Word,
    };
    Slot {
        place: instruction.address.offset(i64::from(field.offset)),
        width,
    }
}

impl Subject {
    fn build_id(&self) -> &[u8] {
        self.image.build_id().unwrap()
    }

    fn object(&self, table: &Relocations) -> Vec<u8> {
        object::write(table, self.build_id(), Some(VERSION)).unwrap()
    }

    fn read(&self, object: &[u8]) -> Result<Relocations, String> {
        object::read(object, &self.image, &self.code).map_err(|error| error.to_string())
    }

    /// The table as it is read back from the image that it was attached to.
    fn attach(&self, table: &Relocations) -> Result<Relocations, String> {
        let bytes = write::attach(&self.image, table).map_err(|error| error.to_string())?;
        let image = Image::parse(&bytes).unwrap();
        let code = Code::of(&image).unwrap();
        let table = relocation::read(&image, &code).map_err(|error| error.to_string())?;
        Ok(table.expect("the note announces it"))
    }
}

fn need(reference: &str) -> Need {
    Need {
        reference: Reference::parse(reference).unwrap(),
        size: 0,
        default: None,
    }
}

fn term(slot: u32, coefficient: i64) -> Term {
    Term { slot, coefficient }
}

/// One of everything. Slots are in the order of [`Width`].
fn sample() -> Relocations {
    let subject = &*SUBJECT;
    let mut slots = vec![subject.absent[1], subject.bytes[3], subject.words[5]];
    slots.sort();
    let sum = |site: usize, demand, need, addend, terms: &[Term]| Sum {
        site: subject.sites[site],
        demand,
        need,
        addend,
        terms: terms.to_vec(),
    };
    let defaulted = Need {
        size: 8,
        default: Some(vec![7; 8]),
        ..need("time.clock[].max_cycles")
    };
    Relocations {
        needs: vec![
            need("time.clock[1].basetime[].sec"),
            need("time.clock[]"),
            defaulted,
        ],
        entries: vec![Relocation {
            place: subject.words[9].place,
            kind: Kind::Pc32,
            need: 0,
            addend: -4,
        }],
        slots,
        sums: vec![
            sum(2, Demand::Address, 0, -1234, &[term(0, 1), term(2, 1)]),
            sum(3, Demand::Size, 1, 5, &[term(1, -8), term(2, 3)]),
            sum(3, Demand::Size, 1, -232, &[]),
            sum(8, Demand::Presence, 2, 0, &[]),
        ],
        opaque: vec![Opaque {
            site: subject.sites[6],
            reason: "an index that is ≥ 2 is read from memory".to_owned(),
        }],
    }
}

/// What a table says, without the numbers by which its parts refer to each other.
fn meaning(table: &Relocations) -> impl PartialEq + std::fmt::Debug {
    let need = |index: u32| table.needs[index as usize].clone();
    let entries = table.entries.iter();
    let entries = entries.map(|entry| (entry.place, entry.kind, need(entry.need), entry.addend));
    let sums = table.sums.iter().map(|sum| {
        let slot = |term: &Term| (table.slots[term.slot as usize], term.coefficient);
        let terms: Vec<_> = sum.terms.iter().map(slot).collect();
        (sum.site, sum.demand, need(sum.need), sum.addend, terms)
    });
    (
        entries.collect::<Vec<_>>(),
        table.slots.clone(),
        sums.collect::<Vec<_>>(),
        table.opaque.clone(),
    )
}

fn assert_survives(table: &Relocations) {
    let by_object = SUBJECT.read(&SUBJECT.object(table)).unwrap();
    let attached = SUBJECT.attach(table).unwrap();
    assert_eq!(meaning(&by_object), meaning(table));
    assert_eq!(attached, by_object);
    // What was read is in canonical form: from there on nothing changes any more.
    assert_eq!(
        SUBJECT.read(&SUBJECT.object(&by_object)).unwrap(),
        by_object
    );
}

#[test]
fn one_of_everything_survives() {
    assert_survives(&sample());
    assert_survives(&Relocations::default());
}

/// A checkpoint may keep no more than what the note describes.
#[test]
fn a_table_is_found_without_section_headers() {
    let subject = &*SUBJECT;
    let own = relocation::read(&subject.image, &subject.code).unwrap();
    let table = as_sums(&own.unwrap(), &subject.code);
    let bytes = write::attach(&subject.image, &table).unwrap();
    let headers = u64::from_le_bytes(bytes[40..48].try_into().unwrap());
    let image = Image::parse(&bytes[..headers as usize]).unwrap();
    assert!(!image.has_sections());
    let read = relocation::read(&image, &Code::of(&image).unwrap()).unwrap();
    assert_eq!(meaning(&read.unwrap()), meaning(&table));
}

/// A sum by indices into what there is: site, demand, reference, addend, terms (width, which slot, coefficient).
type SumSeed = (Index, u8, Index, i64, Vec<(u8, Index, i64)>);

fn sum_seed() -> impl Strategy<Value = SumSeed> {
    let coefficient = prop_oneof![Just(1_i64), Just(-1), any::<i64>()];
    let coefficient = coefficient.prop_filter("no term", |&c| c != 0);
    let terms = proptest::collection::vec((0..3_u8, any::<Index>(), coefficient), 1..6);
    (any::<Index>(), 0..3_u8, any::<Index>(), any::<i64>(), terms)
}

/// The slots that a seed is about, no slot twice.
fn slots_of(seed: &SumSeed) -> Vec<(Slot, i64)> {
    let mut met = BTreeSet::new();
    let slots = seed.4.iter().map(|(width, which, coefficient)| {
        let list = match width {
            0 => &SUBJECT.absent,
            1 => &SUBJECT.bytes,
            // The upper half is for entries.
            _ => &SUBJECT.words[..SUBJECT.words.len() / 2].to_vec(),
        };
        (list[which.index(list.len())], *coefficient)
    });
    let mut slots: Vec<_> = slots.filter(|(slot, _)| met.insert(*slot)).collect();
    slots.sort();
    slots
}

fn random(seeds: &[SumSeed], places: &[Slot], opaque: &[(Index, String)]) -> Relocations {
    let names = [
        "time.clock[].seq",
        "time.clock[3].offset[11].sec:2",
        "rng.page",
    ];
    let mut table = Relocations {
        needs: names.map(need).to_vec(),
        ..Relocations::default()
    };
    table.entries = (places.iter().enumerate())
        .map(|(index, slot)| Relocation {
            place: slot.place,
            kind: [Kind::Pc32, Kind::Size32][index % 2],
            need: (index % 3) as u32,
            addend: index as i64 - 4,
        })
        .collect();
    let summed = seeds.iter().filter(|seed| seed.1 < 2);
    let slots: BTreeSet<Slot> = summed.flat_map(slots_of).map(|(slot, _)| slot).collect();
    table.slots = slots.into_iter().collect();
    let position = |slot| table.slots.binary_search(&slot).unwrap() as u32;
    for seed in seeds {
        let terms = slots_of(seed).into_iter();
        let terms = terms.map(|(slot, coefficient)| term(position(slot), coefficient));
        let demand = [Demand::Address, Demand::Size, Demand::Presence][usize::from(seed.1)];
        let (addend, terms) = match demand {
            Demand::Presence => (0, Vec::new()),
            _ => (seed.3, terms.collect()),
        };
        table.sums.push(Sum {
            site: SUBJECT.sites[seed.0.index(SUBJECT.sites.len())],
            demand,
            need: seed.2.index(names.len()) as u32,
            addend,
            terms,
        });
    }
    table.sums.sort_by_key(|sum| sum.site);
    for (site, reason) in opaque {
        let site = SUBJECT.sites[site.index(SUBJECT.sites.len())];
        table.opaque.push(Opaque {
            site,
            reason: reason.clone(),
        });
    }
    table.opaque.sort_by_key(|opaque| opaque.site);
    table
}

fn upper_words() -> Vec<Slot> {
    SUBJECT.words[SUBJECT.words.len() / 2..].to_vec()
}

proptest! {
    #[test]
    fn whatever_is_written_is_read(
        seeds in proptest::collection::vec(sum_seed(), 0..40),
        places in subsequence(upper_words(), 0..10),
        opaque in proptest::collection::vec((any::<Index>(), "[^\0]{1,60}"), 0..5),
    ) {
        assert_survives(&random(&seeds, &places, &opaque));
    }
}

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

/// The slots of [`sample`] are found by their width.
fn slot(table: &mut Relocations, width: Width) -> &mut Slot {
    let mut slots = table.slots.iter_mut();
    slots.find(|slot| slot.width == width).unwrap()
}

const WRONG: &[Wrong] = &[
    (
        "a site inside an instruction",
        |table| table.sums[0].site.0 += 1,
        "not the start of an instruction",
    ),
    (
        "a site outside the image",
        |table| table.sums[3].site.0 = u64::MAX,
        "not the start of an instruction",
    ),
    (
        "an opaque site inside an instruction",
        |table| table.opaque[0].site.0 += 1,
        "not the start of an instruction",
    ),
    (
        "a byte that is no constant",
        |table| slot(table, Width::Byte).place.0 -= 1,
        "not one of its operands",
    ),
    (
        "a constant of four bytes taken for one of one byte",
        |table| slot(table, Width::Byte).place = SUBJECT.words[2].place,
        "not one of its operands",
    ),
    (
        "a constant of one byte taken for one of four bytes",
        |table| slot(table, Width::Word).place = SUBJECT.bytes[2].place,
        "not one of its operands",
    ),
    (
        "a constant outside the code",
        |table| slot(table, Width::Word).place = Svma(8),
        "not in an instruction",
    ),
    (
        "a constant at the end of the address space",
        |table| slot(table, Width::Word).place = Svma(u64::MAX - 1),
        "not in an instruction",
    ),
    (
        "a displacement that is there, taken for absent",
        |table| {
            let mut instructions = SUBJECT.code.instructions().iter();
            let with = instructions.find(|i| i.displacement.size == 1).unwrap();
            slot(table, Width::Absent).place = with.address;
        },
        "no memory operand that lacks a displacement",
    ),
    (
        "an absent displacement of an instruction that reaches no memory",
        |table| {
            let mut instructions = SUBJECT.code.instructions().iter();
            let without = instructions.find(|i| i.access == Access::None).unwrap();
            slot(table, Width::Absent).place = without.address;
        },
        "no memory operand that lacks a displacement",
    ),
    (
        "an absent displacement inside an instruction",
        |table| slot(table, Width::Absent).place.0 += 1,
        "not the start of an instruction",
    ),
    (
        "an address without a term",
        |table| table.sums[0].terms.clear(),
        "an address that no term adds up to",
    ),
    (
        "a term of what only has to exist",
        |table| table.sums[3].terms.push(term(0, 1)),
        "a term of what only has to exist",
    ),
    (
        "an addend of what only has to exist",
        |table| table.sums[3].addend = 1,
        "an addend of 1 to nothing",
    ),
    (
        "one slot twice in a sum",
        |table| table.sums[0].terms[1].slot = 0,
        "a second term of the sum",
    ),
    (
        "a term that says nothing",
        |table| table.sums[1].terms[0].coefficient = 0,
        "a term with coefficient 0",
    ),
    (
        "a slot that an entry changes as well",
        |table| table.entries[0].place = slot(table, Width::Word).place,
        "overlaps the one at",
    ),
    (
        "a sum about a distance",
        |table| table.needs[1] = need("offsetof(time.clock[],time.clock[].seq)"),
        "a sum is about a symbol",
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
    table.sums[0].terms[0].slot = 3;
    let error = object::write(&table, &[], None).unwrap_err().to_string();
    assert!(error.contains("slot 3 of 3 does not exist"), "{error}");
    for reason in [String::new(), "x".repeat(256), "\0".to_owned()] {
        let mut table = sample();
        table.opaque[0].reason = reason;
        let error = object::write(&table, &[], None).unwrap_err().to_string();
        assert!(error.contains("1 to 255 bytes"), "{error}");
    }
}

/// An entry as it is stored.
fn stored(place: Svma, number: u32, symbol: u32, addend: i64) -> Vec<u8> {
    let info = (u64::from(symbol) << 32) | u64::from(number);
    let words = [place.0, info, addend as u64];
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// The bytes with `from`, which is there once, turned into `to`.
fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let places = bytes.windows(from.len()).enumerate();
    let places: Vec<usize> = places
        .filter(|(_, b)| *b == from)
        .map(|(at, _)| at)
        .collect();
    let [place] = places[..] else {
        panic!("{from:x?} is at {places:?}");
    };
    let mut bytes = bytes.to_vec();
    bytes[place..place + to.len()].copy_from_slice(to);
    bytes
}

/// Tables that no writer makes: entries are changed as they are stored.
#[test]
fn entries_that_say_something_else_are_rejected() {
    let table = sample();
    let good = SUBJECT.object(&table);
    let begun = table.sums[0].site;
    let slot = table.slots[0];
    let number = [0x1010, 0x1011, 0x1012][slot.width as usize];
    let site = table.opaque[0].site;
    let begin = stored(begun, 0x1000, 1, -1234);
    let first = stored(slot.place, number, 0, 1);
    let opaque = stored(site, 0x1020, 4, 0);
    let second = stored(table.sums[1].site, 0x1001, 2, 5);
    for (what, from, to, expected) in [
        (
            "the position in the table",
            &begin,
            stored(begun, 0, 1, -1234),
            "relocation 2 at",
        ),
        (
            "no sum was begun",
            &begin,
            stored(begun, 0, 1, -1234),
            "a term outside a sum",
        ),
        (
            "an entry ends a sum",
            &second,
            stored(SUBJECT.words[15].place, 2, 1, -4),
            "a term outside a sum",
        ),
        (
            "what is opaque ends a sum",
            &second,
            stored(site, 0x1020, 4, 0),
            "a term outside a sum",
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
            stored(slot.place, number, 1, 1),
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

/// Nothing between a sum and its terms is what `R_X86_64_NONE` says.
#[test]
fn ignored_entries_are_ignored() {
    let mut table = sample();
    let good = SUBJECT.object(&table);
    let term = table.sums[1].terms[0];
    let slot = table.slots[term.slot as usize];
    let number = [0x1010, 0x1011, 0x1012][slot.width as usize];
    let from = stored(slot.place, number, 0, term.coefficient);
    let ignored = replaced(&good, &from, &stored(Svma(3), 0, 77, 5));
    table.sums[1].terms.remove(0);
    table.slots.remove(term.slot as usize);
    for sum in &mut table.sums {
        for other in sum.terms.iter_mut().filter(|other| other.slot > term.slot) {
            other.slot -= 1;
        }
    }
    assert_eq!(meaning(&SUBJECT.read(&ignored).unwrap()), meaning(&table));
}

#[test]
fn a_table_of_another_image_is_refused() {
    let subject = &*SUBJECT;
    let other = Image::parse(fixture::find("got").unwrap().image).unwrap();
    let code = Code::of(&other).unwrap();
    let hex = |id: &[u8]| id.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let object = subject.object(&Relocations::default());
    let error = object::read(&object, &other, &code)
        .unwrap_err()
        .to_string();
    for id in [subject.build_id(), other.build_id().unwrap()] {
        assert!(error.contains(&hex(id)), "{error}");
    }
    // A table of an image without build-id is not one of any image.
    let of_none = object::write(&sample(), &[], None).unwrap();
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

#[test]
fn binutils_show_a_table() {
    let bytes = SUBJECT.object(&sample());
    let shown = readelf_bytes(&["-aW"], &bytes).unwrap();
    let words = [
        "DYN (Shared object file)",
        "'.rela.vvar' at offset",
        "unrecognized: 1000    0000000000000000 time.clock[1].basetime[].sec - 4d2",
        "unrecognized: 1001    0000000000000000 time.clock[] + 5",
        "unrecognized: 1002",
        "unrecognized: 1010",
        "unrecognized: 1011",
        "unrecognized: 1012",
        "unrecognized: 1020",
        "R_X86_64_PC32",
        "an index that is",
        "WEAK   DEFAULT    2 time.clock[].max_cycles",
        "vDSO ",
        "Linux ",
    ];
    for word in words {
        assert!(shown.contains(word), "no `{word}` in {shown}");
    }
    let listed = nm_bytes(&bytes).unwrap();
    assert!(listed.contains("time.clock[1].basetime[].sec"), "{listed}");
    let attached = write::attach(&SUBJECT.image, &sample()).unwrap();
    let shown = readelf_bytes(&["-aW"], &attached).unwrap();
    assert!(shown.contains("unrecognized: 1000"), "{shown}");
}
