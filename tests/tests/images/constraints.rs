//! Relocation tables with constraints: what is written is read back, and `readelf` shows it (`docs/abi.md`, sections 4.2 and 4.3).

use std::collections::BTreeSet;

use elf_tools::Svma;
use elf_tools::image::Image;
use elf_tools::reachability::Code;
use elf_tools::relocation::{
    self, Constraint, Kind, Opaque, OperandField, Relocation, Relocations, RightHandSide, write,
};
use proptest::prelude::*;
use proptest::sample::{Index, subsequence};
use relocator_tests::constraints::{
    SUBJECT, as_constraints, meaning, need, replaced, sample, stored, term,
};
use relocator_tests::readelf::{nm_bytes, readelf_bytes};

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
    let table = as_constraints(&own.unwrap(), &subject.code);
    let bytes = write::attach(&subject.image, &table).unwrap();
    let headers = u64::from_le_bytes(bytes[40..48].try_into().unwrap());
    let image = Image::parse(&bytes[..headers as usize]).unwrap();
    assert!(!image.has_sections());
    let read = relocation::read(&image, &Code::of(&image).unwrap()).unwrap();
    assert_eq!(meaning(&read.unwrap()), meaning(&table));
}

/// A constraint by indices into what there is: site, right-hand side, reference, addend, terms (width, which operand field, coefficient).
type ConstraintSeed = (Index, u8, Index, i64, Vec<(u8, Index, i64)>);

fn sum_seed() -> impl Strategy<Value = ConstraintSeed> {
    let coefficient = prop_oneof![Just(1_i64), Just(-1), any::<i64>()];
    let coefficient = coefficient.prop_filter("no term", |&c| c != 0);
    let terms = proptest::collection::vec((0..3_u8, any::<Index>(), coefficient), 1..6);
    (any::<Index>(), 0..3_u8, any::<Index>(), any::<i64>(), terms)
}

/// The operand fields that a seed is about, no operand field twice.
fn fields_of(seed: &ConstraintSeed) -> Vec<(OperandField, i64)> {
    let mut met = BTreeSet::new();
    let operand_fields = seed.4.iter().map(|(width, which, coefficient)| {
        let list = match width {
            0 => &SUBJECT.absent,
            1 => &SUBJECT.bytes,
            // The upper half is for entries.
            _ => &SUBJECT.words[..SUBJECT.words.len() / 2].to_vec(),
        };
        (list[which.index(list.len())], *coefficient)
    });
    let mut operand_fields: Vec<_> = operand_fields
        .filter(|(operand_field, _)| met.insert(*operand_field))
        .collect();
    operand_fields.sort();
    operand_fields
}

fn random(
    seeds: &[ConstraintSeed],
    places: &[OperandField],
    opaque: &[(Index, String)],
) -> Relocations {
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
        .map(|(index, operand_field)| Relocation {
            place: operand_field.place,
            kind: [Kind::Pc32, Kind::Size32][index % 2],
            need: (index % 3) as u32,
            addend: index as i64 - 4,
        })
        .collect();
    let summed = seeds.iter().filter(|seed| seed.1 < 2);
    let operand_fields: BTreeSet<OperandField> = summed
        .flat_map(fields_of)
        .map(|(operand_field, _)| operand_field)
        .collect();
    table.operand_fields = operand_fields.into_iter().collect();
    let position =
        |operand_field| table.operand_fields.binary_search(&operand_field).unwrap() as u32;
    for seed in seeds {
        let terms = fields_of(seed).into_iter();
        let terms =
            terms.map(|(operand_field, coefficient)| term(position(operand_field), coefficient));
        let right_hand_side = [
            RightHandSide::Address,
            RightHandSide::Size,
            RightHandSide::Presence,
        ][usize::from(seed.1)];
        let (addend, terms) = match right_hand_side {
            RightHandSide::Presence => (0, Vec::new()),
            _ => (seed.3, terms.collect()),
        };
        table.constraints.push(Constraint {
            site: SUBJECT.sites[seed.0.index(SUBJECT.sites.len())],
            right_hand_side,
            need: seed.2.index(names.len()) as u32,
            addend,
            terms,
        });
    }
    table.constraints.sort_by_key(|constraint| constraint.site);
    for (site, reason) in opaque {
        let site = SUBJECT.sites[site.index(SUBJECT.sites.len())];
        table.opaque.push(Opaque {
            site,
            reason: reason.clone().into(),
        });
    }
    table.opaque.sort_by_key(|opaque| opaque.site);
    table
}

fn upper_words() -> Vec<OperandField> {
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

/// Nothing between a constraint and its terms is what `R_X86_64_NONE` says.
#[test]
fn ignored_entries_are_ignored() {
    let mut table = sample();
    let good = SUBJECT.object(&table);
    let term = table.constraints[1].terms[0];
    let operand_field = table.operand_fields[term.operand_field as usize];
    let number = [0x1010, 0x1011, 0x1012][operand_field.width as usize];
    let from = stored(operand_field.place, number, 0, term.coefficient);
    let ignored = replaced(&good, &from, &stored(Svma(3), 0, 77, 5));
    table.constraints[1].terms.remove(0);
    table.operand_fields.remove(term.operand_field as usize);
    for constraint in &mut table.constraints {
        for other in constraint
            .terms
            .iter_mut()
            .filter(|other| other.operand_field > term.operand_field)
        {
            other.operand_field -= 1;
        }
    }
    assert_eq!(meaning(&SUBJECT.read(&ignored).unwrap()), meaning(&table));
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
