//! Re-entry tables in relocation table objects: what is written is read back, `readelf` shows it, and what a reader must
//! reject is rejected (`docs/abi.md`, section 4.4).

use elf_tools::Svma;
use elf_tools::image::Image;
use elf_tools::reachability::Code;
use elf_tools::reentry::{
    self, Call, Clear, Location, Recipe, Recovery, ReentryTable, Register, Source,
};
use elf_tools::relocation::{Relocations, object};
use kernel_fixtures::fixture;
use proptest::prelude::*;
use proptest::sample::Index;
use relocator_tests::constraints;
use relocator_tests::damage::sealed;
use relocator_tests::damage::{damaged, damages};
use relocator_tests::readelf::readelf_bytes;
use relocator_tests::reentry::{SUBJECT, memory, sample, section};

#[track_caller]
fn assert_survives(table: &ReentryTable) {
    let object = SUBJECT.object(table).unwrap();
    let read = SUBJECT.read(&object).unwrap();
    assert!(read.as_ref() == Some(table), "it is another one");
}

#[test]
fn one_of_everything_survives() {
    assert_survives(&sample());
}

#[test]
fn derived_tables_survive() {
    for fixture in fixture::all()
        .iter()
        .filter(|f| !f.name.starts_with("malformed"))
    {
        let image = Image::parse(fixture.image).unwrap();
        let code = Code::of(&image).unwrap();
        let table = reentry::derive(&image, &code).unwrap();
        assert!(table.contexts.len() > 300, "{}", fixture.name);
        let none = Relocations::default();
        let object = object::write_with_reentry(&none, &table, &image, &code).unwrap();
        let read = object::read_reentry(&object, &image, &code).unwrap();
        assert!(read == Some(table), "{}", fixture.name);
    }
}

/// The relocations in an object are the same with a re-entry table next to them, and an object without one is good.
#[test]
fn relocations_do_not_mind() {
    let subject = &*constraints::SUBJECT;
    let reentry = reentry::derive(&subject.image, &subject.code).unwrap();
    let (image, code) = (&subject.image, &subject.code);
    let without = subject.object(&constraints::sample());
    let with = object::write_with_reentry(&constraints::sample(), &reentry, image, code).unwrap();
    assert_eq!(subject.read(&with), subject.read(&without));
    assert_eq!(
        object::read_reentry(&with, image, code).unwrap(),
        Some(reentry)
    );
    assert_eq!(object::read_reentry(&without, image, code).unwrap(), None);
}

#[test]
fn readelf_shows_it() {
    let object = SUBJECT.object(&sample()).unwrap();
    let shown = readelf_bytes(&["-SnW"], &object).unwrap();
    for section in ["", ".calls", ".recipes", ".steps", ".strtab"] {
        let name = format!(".vvar.reentry{section} ");
        assert!(shown.contains(&name), "{shown}");
    }
    let strings = readelf_bytes(&["-p", ".vvar.reentry.strtab"], &object).unwrap();
    assert!(strings.contains("it is lost"), "{strings}");
}

/// The same image with other alternatives applied: same build-id, same boundaries even, but registers hold something else.
#[test]
fn a_table_of_other_code_counts_as_absent() {
    let object = SUBJECT.object(&sample()).unwrap();
    let mut bytes = SUBJECT.image.bytes().to_vec();
    let counter = [0x0f, 0x31];
    let reached = SUBJECT.code.functions().iter();
    let mut reached = reached.flat_map(|function| SUBJECT.code.reached(function));
    let counted = reached.find(|i| bytes[i.address.index()..].starts_with(&counter));
    bytes[counted.unwrap().address.index() + 1] = 0x33;
    let patched = Image::parse(&bytes).unwrap();
    let code = Code::of(&patched).unwrap();
    assert_eq!(patched.build_id(), SUBJECT.image.build_id());
    assert!(
        object::read_reentry(&object, &patched, &code)
            .unwrap()
            .is_none()
    );
    assert!(object::read(&object, &patched, &code).is_ok());
}

/// Bytes that no function reaches do not matter.
#[test]
fn padding_is_no_code() {
    let object = SUBJECT.object(&sample()).unwrap();
    let (mut bytes, code) = (SUBJECT.image.bytes().to_vec(), &SUBJECT.code);
    let is_reached = |at: u64| {
        let index = code
            .covering(Svma(at))
            .and_then(|i| code.index_of(i.address));
        index.is_none_or(|i| {
            code.functions()
                .iter()
                .any(|f| f.reached.binary_search(&i).is_ok())
        })
    };
    let text = SUBJECT.image.text()[0].clone();
    let padding = { text }.find(|&at| !is_reached(at)).unwrap();
    bytes[padding as usize] = 0xcc;
    let padded = Image::parse(&bytes).unwrap();
    let code = Code::of(&padded).unwrap();
    let read = object::read_reentry(&object, &padded, &code).unwrap();
    assert!(read == Some(sample()), "it is another one");
}

/// A section, an offset in it, bytes to be put there, and what a reader says.
type Wrong = (&'static str, usize, &'static [u8], &'static str);

const CONTEXTS: &str = ".vvar.reentry";
const CALLS: &str = ".vvar.reentry.calls";
const RECIPES: &str = ".vvar.reentry.recipes";
const STEPS: &str = ".vvar.reentry.steps";
const STRINGS: &str = ".vvar.reentry.strtab";

/// Entries of the sample: contexts have 20 bytes, calls 16, recipes 8, steps 40.
const WRONG: &[Wrong] = &[
    (
        CONTEXTS,
        0,
        &[0xff, 0xff, 0xff, 0xff],
        "entry 0 of .vvar.reentry ",
    ),
    (
        CONTEXTS,
        0,
        &[0xff, 0xff, 0xff, 0x7f],
        "is not the start of an instruction",
    ),
    (CONTEXTS, 24, &[1, 0, 0, 0], "no function begins at 0x1"),
    (
        CONTEXTS,
        28,
        &[3, 0, 0, 0],
        "1 entries from 3 on, where there are 3",
    ),
    (CONTEXTS, 28, &[0xff; 4], "1 entries from 4294967295 on"),
    (CONTEXTS, 32, &[17, 0], "17 calls where 16 are possible"),
    (CONTEXTS, 48, &[1], "call 1 is the first of none"),
    (CONTEXTS, 14, &[4], "unknown flags 0x4"),
    (CONTEXTS, 15, &[1], "unknown flags 0x101"),
    (CONTEXTS, 16, &[2], "recipe 2 of 2 does not exist"),
    (
        CONTEXTS,
        56,
        &[0xff; 4],
        "no reason of at most 255 bytes is at 0xffffffff",
    ),
    (CONTEXTS, 56, &[0; 4], "a reason has 1 to 255 bytes"),
    (CALLS, 8, &[1, 0, 0, 0], "0x1 does not follow a call"),
    (CALLS, 12, &[16], "register 16 does not exist"),
    (CALLS, 15, &[1], "its last three bytes are not 0"),
    (RECIPES, 4, &[5], "5 entries from 0 on, where there are 4"),
    (RECIPES, 4, &[3], "begins with step 4, and 3 is next"),
    (
        RECIPES,
        4,
        &[3, 0, 0, 0, 3],
        "entry 3 of .vvar.reentry.steps",
    ),
    (RECIPES, 4, &[3, 0, 0, 0, 3], "no recipe has it"),
    (
        RECIPES,
        8,
        &[3, 0, 0, 0, 1],
        "begins with step 3, and 4 is next",
    ),
    (RECIPES, 12, &[0xff; 4], "4294967295 entries from 4 on"),
    (STEPS, 0, &[0], "kind 0 is not known"),
    (STEPS, 0, &[5], "kind 5 is not known"),
    (STEPS, 1, &[16], "register 16 does not exist"),
    (STEPS, 1, &[5], "rdi comes behind rdi"),
    (STEPS, 2, &[16], "register 16 does not exist"),
    (STEPS, 3, &[2], "2 where only 0 and 1 are possible"),
    (STEPS, 7, &[1], "bytes 4 to 7 are not 0"),
    (STEPS, 32, &[0], "rbx: it was multiplied by 0"),
    (
        STEPS,
        40,
        &[1, 5, 12, 1, 0, 0, 0, 0, 9],
        "an offset of 9 in a register",
    ),
    (STEPS, 120, &[4, 3], "rbx is no argument"),
    (STEPS, 40, &[3], "a constant is looked for somewhere"),
    (
        STEPS,
        40,
        &[3, 5, 0, 1, 0, 0, 0, 0, 1],
        "a constant is looked for somewhere",
    ),
    (STEPS, 122, &[1], "it has a source, and it only clears"),
    (STEPS, 136, &[1], "it has a source, and it only clears"),
    (STEPS, 152, &[1], "it has a source, and it only clears"),
    (STEPS, 123, &[0], "0 bytes are to be cleared"),
    (STEPS, 123, &[9], "9 bytes are to be cleared"),
    (STRINGS, 1, &[0xff], "is not UTF-8"),
];

#[test]
fn what_a_reader_must_reject_is_rejected() {
    let good = SUBJECT.object(&sample()).unwrap();
    for (name, offset, bytes, words) in WRONG {
        let mut object = good.clone();
        let (_, start, size) = section(&object, name);
        assert!(offset + bytes.len() <= size);
        object[start + offset..][..bytes.len()].copy_from_slice(bytes);
        assert_refused(&object, words);
    }
}

/// What is wrong with headers: a section, an offset in its header, a byte, and what a reader says.
const WRONG_HEADERS: &[(&str, usize, u8, &str)] = &[
    (CONTEXTS, 0, 0, "no section .vvar.reentry:"),
    (CALLS, 0, 0, "no section .vvar.reentry.calls:"),
    (STEPS, 4, 8, "it has type 8"),
    (STEPS, 56, 39, "its entries have 39 bytes, not 40"),
    (RECIPES, 32, 7, "7 bytes are no whole number of entries"),
    (
        CONTEXTS,
        40,
        2,
        "it links to section 2, not to .vvar.reentry.strtab",
    ),
    (CONTEXTS, 40, 0xff, "it links to section 255"),
    (STRINGS, 4, 1, "not to .vvar.reentry.strtab"),
    (STEPS, 32, 120, "where there are 3"),
];

#[test]
fn sections_that_are_wrong_are_rejected() {
    let good = SUBJECT.object(&sample()).unwrap();
    for (name, offset, byte, words) in WRONG_HEADERS {
        let mut object = good.clone();
        let (header, ..) = section(&object, name);
        object[header + offset] = *byte;
        assert_refused(&object, words);
    }
    let mut twice = good.clone();
    let (calls, ..) = section(&good, CALLS);
    let (steps, ..) = section(&good, STEPS);
    twice.copy_within(calls..calls + 4, steps);
    assert_refused(&twice, "a second one of that name");
    let (contexts, start, size) = section(&good, CONTEXTS);
    let mut cut = good.clone();
    cut[contexts + 32..][..8].copy_from_slice(&(size as u64 - 20).to_le_bytes());
    assert_refused(&cut, "which has no context");
    let mut swapped = good;
    swapped[start..start + 40].rotate_left(20);
    assert_refused(&swapped, "it does not come behind the one before it");
}

#[test]
fn the_note_has_to_be_there() {
    let good = SUBJECT.object(&sample()).unwrap();
    let note = [&5_u32.to_le_bytes()[..], b"vDSO\0"].concat();
    let at = good.windows(note.len()).position(|b| b == note).unwrap();
    let with = |offset: usize, byte| {
        let mut object = good.clone();
        object[at + offset] = byte;
        object
    };
    assert_refused(&with(0, 9), "section .vvar.reentry at");
    assert_refused(&with(0, 9), "no note announces it");
    assert_refused(&with(12, 2), "ABI version 2");
    assert_refused(&with(16, 1), "unknown flags");
    assert!(matches!(
        SUBJECT.read(&with(20, good[at + 20] ^ 1)),
        Ok(None)
    ));
}

#[track_caller]
fn assert_refused(object: &[u8], words: &str) {
    let reason = SUBJECT.read(object).expect_err(words);
    assert!(reason.contains(words), "{words}: {reason}");
    // Whoever has no threads to carry across is not bothered.
    object::read(&sealed(object), &SUBJECT.image, &SUBJECT.code).unwrap();
}

/// What one thing that is wrong does to [`sample`], and what a writer says.
type Unwritable = (fn(&mut ReentryTable), &'static str);

const UNWRITABLE: &[Unwritable] = &[
    (|t| drop(t.contexts.remove(9)), "which has no context"),
    (
        |t| t.contexts.swap(3, 4),
        "does not come behind the one before it",
    ),
    (
        |t| t.contexts.insert(4, t.contexts[4].clone()),
        "does not come behind",
    ),
    (
        |t| t.contexts[5].boundary.0 = 1 << 40,
        "not the start of an instruction",
    ),
    (
        |t| t.recipes[1] = t.recipes[0].clone(),
        "recipe 1: it is there twice",
    ),
    (
        |t| t.recipes[0].registers.reverse(),
        "must come before it, once",
    ),
    (
        |t| t.contexts[2].recovery = Recovery::None("x".repeat(256).into()),
        "1 to 255 bytes",
    ),
    (
        |t| t.contexts[2].recovery = Recovery::None("a\0b".into()),
        "none of them 0",
    ),
    (
        |t| t.contexts[0].recovery = Recovery::Recipe(7),
        "recipe 7 of 2",
    ),
    (
        |t| t.contexts[0].calls[0].at = Location::Register(Register::RSP),
        "a return address is not in memory",
    ),
    (
        |t| t.contexts[0].calls = vec![t.contexts[0].calls[0]; 17],
        "17 calls where 16 are possible",
    ),
    (
        |t| t.contexts[0].function = t.contexts.last().unwrap().function,
        "does not reach it",
    ),
];

#[test]
fn what_could_not_be_read_is_not_written() {
    for (damage, words) in UNWRITABLE {
        let mut table = sample();
        damage(&mut table);
        let reason = SUBJECT.object(&table).expect_err(words);
        assert!(reason.contains(words), "{words}: {reason}");
    }
}

fn source() -> impl Strategy<Value = Source> {
    let scale = any::<i64>().prop_filter("no value", |&scale| scale != 0);
    let numbers = (any::<i64>(), any::<i64>(), any::<i64>(), scale);
    (0..3_u8, 0..16_u8, numbers, any::<bool>()).prop_map(
        |(kind, base, (offset, image, constant, scale), low)| Source {
            location: match kind {
                0 => memory(base, offset),
                1 => Location::Register(Register(base)),
                _ => Location::Nowhere,
            },
            image,
            constant,
            scale,
            low,
        },
    )
}

fn recipe() -> impl Strategy<Value = Recipe> {
    let registers = proptest::collection::btree_map((0..16_u8).prop_map(Register), source(), 0..12);
    let argument = prop::sample::select(vec![5_u8, 4, 1, 2, 8, 9]).prop_map(Register);
    let clear = (argument, any::<i64>(), 1..=8_u8);
    let clear = clear.prop_map(|(argument, offset, size)| Clear {
        argument,
        offset,
        size,
    });
    let clears = proptest::collection::vec(clear, 0..3);
    (registers, clears).prop_map(|(registers, clear)| Recipe {
        registers: registers.into_iter().collect(),
        clear,
    })
}

fn call() -> impl Strategy<Value = Call> {
    let call = (0..2_usize, 0..16_u8, any::<i64>());
    call.prop_map(|(index, base, offset)| Call {
        at: memory(base, offset),
        returns_to: SUBJECT.returns[index],
    })
}

/// What is known of a context, the recovery by an index and a reason.
type Known = (Vec<Call>, bool, Result<Index, String>);

fn known() -> impl Strategy<Value = Known> {
    let recovery = prop_oneof![
        3 => any::<Index>().prop_map(Ok),
        1 => "[^\0]{1,60}".prop_map(Err),
    ];
    (
        proptest::collection::vec(call(), 0..4),
        any::<bool>(),
        recovery,
    )
}

fn table() -> impl Strategy<Value = ReentryTable> {
    let recipes = proptest::collection::btree_set(recipe(), 1..20).prop_shuffled();
    (recipes, proptest::collection::vec(known(), 1..50)).prop_map(|(recipes, known)| {
        let contexts = SUBJECT.contexts(|number| {
            let (calls, reads, recovery) = known[number % known.len()].clone();
            let recovery = match recovery {
                Ok(index) => Recovery::Recipe(index.index(recipes.len()) as u32),
                Err(reason) => Recovery::None(reason.into()),
            };
            (calls, reads, recovery)
        });
        ReentryTable { recipes, contexts }
    })
}

trait Shuffled {
    fn prop_shuffled(self) -> BoxedStrategy<Vec<Recipe>>;
}

impl<S: Strategy<Value = std::collections::BTreeSet<Recipe>> + 'static> Shuffled for S {
    fn prop_shuffled(self) -> BoxedStrategy<Vec<Recipe>> {
        let list = self.prop_map(|set| set.into_iter().collect::<Vec<_>>());
        list.prop_shuffle().boxed()
    }
}

proptest! {
    #[test]
    fn whatever_is_written_is_read(table in table()) {
        assert_survives(&table);
    }

    /// A damaged object is refused, or is a table that could have been written.
    #[test]
    fn damage_is_no_danger(damages in damages()) {
        let object = damaged(&SUBJECT.object(&sample()).unwrap(), &damages);
        if let Ok(Some(table)) = SUBJECT.read(&object) {
            assert_survives(&table);
        }
    }
}
