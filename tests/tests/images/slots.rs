//! What slots hold after linking, against an oracle that shares no code with the linker: the relocations of the image
//! and the symbols of the new kernel are taken from the text that `readelf` prints, and the psABI's formulas are
//! calculated here.

use std::collections::{BTreeMap, HashMap};

use kernel_fixtures::fixture::{self, Style};
use relocator_tests::pretend::Pretend;
use relocator_tests::readelf::{Relocation, Symbol, readelf_bytes, relocations, symbols};

/// A new kernel as readelf shows its table.
struct Kernel {
    symbols: HashMap<String, Symbol>,
    /// Where it has its own vDSO, in the address space of the table.
    vdso: u64,
}

impl Kernel {
    fn read(bytes: &[u8]) -> Self {
        let sections = readelf_bytes(&["-SW"], bytes).unwrap();
        let line = sections.lines().find(|line| line.contains(" [vdso] "));
        let words: Vec<&str> = line.unwrap().split_whitespace().collect();
        let name = words.iter().position(|word| *word == "[vdso]").unwrap();
        let vdso = u64::from_str_radix(words[name + 2], 16).unwrap();
        let listed = symbols(bytes).unwrap();
        let symbols = listed
            .into_iter()
            .map(|symbol| (symbol.name.clone(), symbol));
        let symbols = symbols.collect();
        Self { symbols, vdso }
    }

    /// Distance from the base of an image that is where this kernel has its own.
    fn distance(&self, symbol: &Symbol) -> i64 {
        symbol.value as i64 - self.vdso as i64
    }

    /// Distances of all elements that a name stands for, from the first one.
    fn elements(&self, name: &str) -> Vec<u64> {
        let mut distances = vec![0];
        for (end, _) in name.match_indices("[]") {
            let [whole, element] =
                [&name[..end], &name[..end + 2]].map(|name| self.symbols[name].size);
            let repeated = distances
                .iter()
                .flat_map(|&start| (0..whole / element).map(move |index| start + index * element));
            distances = repeated.collect();
        }
        distances
    }
}

/// What a slot must hold.
#[derive(Debug, PartialEq, Eq)]
enum Expected {
    Value(i64),
    /// The distance to bytes of the image, in each of these places from the first one on.
    Default(Vec<u8>, Vec<u64>),
    /// What it held before: the new kernel does not have it.
    Nothing,
}

fn expected(relocation: &Relocation, image: &[u8], defined: &[Symbol], new: &Kernel) -> Expected {
    let Relocation {
        place,
        kind,
        symbol,
        addend,
    } = relocation;
    if let Some(members) = symbol.strip_prefix("offsetof(") {
        assert_eq!(kind, "R_X86_64_64");
        let (object, member) = members.trim_end_matches(')').split_once(',').unwrap();
        let [Some(object), Some(member)] = [object, member].map(|name| new.symbols.get(name))
        else {
            return Expected::Nothing;
        };
        return Expected::Value(member.value as i64 - object.value as i64 + addend);
    }
    match (kind.as_str(), new.symbols.get(symbol)) {
        ("R_X86_64_PC64", Some(found)) => {
            Expected::Value(new.distance(found) + addend - *place as i64)
        }
        ("R_X86_64_SIZE64", Some(found)) => Expected::Value(found.size as i64 + addend),
        ("R_X86_64_PC64", None) => {
            let default = defined.iter().find(|found| found.name == *symbol);
            default.map_or(Expected::Nothing, |default| {
                let bytes = &image[default.value as usize..][..default.size as usize];
                Expected::Default(bytes.to_vec(), new.elements(symbol))
            })
        }
        other => panic!("{other:?} in a slot"),
    }
}

fn word(bytes: &[u8], place: u64) -> i64 {
    i64::from_le_bytes(bytes[place as usize..][..8].try_into().unwrap())
}

/// Compares every slot of an image, linked to every kernel, with what it must hold. `change` is added to all addends,
/// which are 0 in what compilers make. Returns how often each kind was filled in which way.
fn compare(change: i64) -> BTreeMap<(&'static str, &'static str), usize> {
    let mut ways: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let kernels: Vec<Pretend> = fixture::all().iter().map(Pretend::of).collect();
    let tables = kernels
        .iter()
        .filter_map(|kernel| Some((kernel, Kernel::read(kernel.fixture.symtab?))));
    let tables: Vec<(&Pretend, Kernel)> = tables.collect();
    let is_got = |old: &&Pretend| old.fixture.generation.style == Style::Got;
    for mut old in kernels.iter().filter(is_got).cloned() {
        let image = old.fixture.image;
        let mut slots = relocations(image).unwrap();
        let entries = &mut old.old.relocations.as_mut().unwrap().entries;
        assert!(!slots.is_empty() && slots.len() == entries.len());
        slots.iter_mut().for_each(|slot| slot.addend += change);
        entries.iter_mut().for_each(|entry| entry.addend += change);
        let mut defined = symbols(image).unwrap();
        defined.retain(|symbol| symbol.section != "UND");
        for (new, table) in &tables {
            let linked = old.onto(new).bytes;
            for slot in &slots {
                let pair = format!("{} onto {}: {slot:?}", old.fixture.name, new.fixture.name);
                let expected = expected(slot, image, &defined, table);
                let way = check(slot, expected, image, &linked, &pair);
                *ways.entry((kind(slot), way)).or_default() += 1;
            }
        }
    }
    ways
}

fn check(
    slot: &Relocation,
    expected: Expected,
    image: &[u8],
    linked: &[u8],
    pair: &str,
) -> &'static str {
    let found = word(linked, slot.place);
    match expected {
        Expected::Value(value) => {
            assert_eq!(found, value, "{pair}");
            "value"
        }
        Expected::Nothing => {
            assert_eq!(found, word(image, slot.place), "{pair}");
            "nothing"
        }
        Expected::Default(bytes, elements) => {
            // An addend moves within the object, so without it the object is found.
            let start = slot.place as i64 + found - slot.addend;
            assert!(start >= image.len() as i64, "{pair}: {start:#x}");
            for element in elements {
                let at = start as usize + element as usize;
                assert_eq!(linked[at..][..bytes.len()], bytes, "{pair}: {element:#x}");
            }
            "default"
        }
    }
}

#[test]
fn slots_hold_what_the_formulas_say() {
    for change in [0, 0x28, -0x30] {
        let ways = compare(change);
        // Every way to fill a slot was met, and no other.
        let met: Vec<(&str, &str)> = ways.keys().copied().collect();
        let expected = [
            ("R_X86_64_64", "nothing"),
            ("R_X86_64_64", "value"),
            ("R_X86_64_PC64", "default"),
            ("R_X86_64_PC64", "nothing"),
            ("R_X86_64_PC64", "value"),
            ("R_X86_64_SIZE64", "value"),
        ];
        assert_eq!(met, expected, "{ways:?}");
    }
}

fn kind(relocation: &Relocation) -> &'static str {
    match relocation.kind.as_str() {
        "R_X86_64_64" => "R_X86_64_64",
        "R_X86_64_PC64" => "R_X86_64_PC64",
        "R_X86_64_SIZE64" => "R_X86_64_SIZE64",
        other => panic!("{other}"),
    }
}

/// All fixtures default to zeros, which memory is full of. So here the image says something else.
#[test]
fn defaults_are_laid_out_for_every_element() {
    let mut old = Pretend::open("defaulted");
    let new = Pretend::open("reordered");
    let table = Kernel::read(new.fixture.symtab.unwrap());
    let relocations_of = old.old.relocations.as_mut().unwrap();
    let mut expected = HashMap::new();
    for (need, number) in relocations_of.needs.iter_mut().zip(1u8..) {
        if let Some(default) = &mut need.default {
            default.copy_from_slice(&[number, 0xd1, 0xd2, 0xd3, 0xd4, 0xd5, 0xd6, number]);
            expected.insert(need.reference.to_string(), default.clone());
        }
    }
    assert_eq!(expected.len(), 4);
    let linked = old.onto(&new).bytes;
    let mut checked = 0;
    for slot in relocations(old.fixture.image).unwrap() {
        let Some(default) = expected.get(&slot.symbol) else {
            continue;
        };
        let start = slot.place as i64 + word(&linked, slot.place) - slot.addend;
        let elements = table.elements(&slot.symbol);
        assert_eq!(elements.len(), 2, "one for each clock");
        for element in elements {
            let at = start as usize + element as usize;
            assert_eq!(linked[at..][..8], default[..], "{slot:?}: {element:#x}");
            checked += 1;
        }
    }
    assert_eq!(checked, 8);
}
