//! What a C compiler says about a file of C, against what the same compiler's `offsetof` says.

use std::fs;
use std::process::Command;

use object::{ObjectSection, ObjectSymbol};
use proptest::prelude::*;

use super::*;

/// Asks for everything that a description can contain; the expected places are in the object as
/// data.
const SOURCE: &str = r#"
#include <stddef.h>
enum mode { NONE, TSC = 200, NEGATIVE = -3, TIMENS = 0x7fffffff };
enum big { HUGE = 0xffffffffffff };
struct stamp { unsigned long long sec; const unsigned long long nsec; };
typedef volatile struct stamp stamp_t;
struct declared;
struct data {
    unsigned seq;
    enum mode mode;
    union { stamp_t basetime[12]; struct stamp offset[12]; };
    struct declared *pointer;
    int grid[3][5];
    unsigned first : 3, : 2, second : 7;
    signed char last;
    char flexible[];
};
struct data data;
enum big big;
union either { short narrow; long wide; } either;
const unsigned long expected[] = {
    sizeof(struct data), offsetof(struct data, seq), offsetof(struct data, mode), offsetof(struct data, basetime),
    offsetof(struct data, offset), offsetof(struct data, pointer), offsetof(struct data, grid),
    offsetof(struct data, last), offsetof(struct data, flexible),
};
"#;

fn compile(options: &[&str]) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let (source, output) = (
        directory.path().join("types.c"),
        directory.path().join("types.elf"),
    );
    fs::write(&source, SOURCE).unwrap();
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let status = Command::new(compiler)
        .args(options)
        .arg("-o")
        .arg(&output)
        .arg(&source)
        .status()
        .unwrap();
    assert!(status.success());
    fs::read(output).unwrap()
}

/// The compiler's own answers.
fn expected(file: &[u8]) -> Vec<u64> {
    let file = object::File::parse(file).unwrap();
    let symbol = file
        .symbols()
        .find(|symbol| symbol.name() == Ok("expected"))
        .unwrap();
    let section = file
        .section_by_index(symbol.section_index().unwrap())
        .unwrap();
    let start = (symbol.address() - section.address()) as usize;
    let words = section.data().unwrap()[start..start + symbol.size() as usize].chunks(8);
    words
        .map(|word| u64::from_le_bytes(word.try_into().unwrap()))
        .collect()
}

#[test]
fn layouts_are_those_of_the_compiler() {
    for options in [
        &["-gdwarf-4", "-c"][..],
        &["-gdwarf-5", "-c"],
        &["-gdwarf-4", "-shared", "-nostdlib"],
        &["-gdwarf-5", "-shared", "-nostdlib"],
    ] {
        let file = compile(options);
        let dwarf = Dwarf::parse(&file).unwrap();
        let data = dwarf.structure("data").unwrap().unwrap();
        let names = [
            "seq", "mode", "basetime", "offset", "pointer", "grid", "last", "flexible",
        ];
        let offsets = names.map(|name| {
            data.member(name)
                .unwrap_or_else(|| panic!("no {name}"))
                .offset
        });
        assert_eq!(
            [&[data.size], &offsets[..]].concat(),
            expected(&file),
            "{options:?}"
        );

        let Type::Array { element, count: 12 } = &data.member("basetime").unwrap().kind else {
            panic!("no array")
        };
        assert_eq!(element.size(), 16);
        let Type::Array { element, count: 3 } = &data.member("grid").unwrap().kind else {
            panic!("no array")
        };
        assert!(matches!(element.as_ref(), Type::Array { count: 5, .. }));
        assert!(matches!(
            data.member("flexible").unwrap().kind,
            Type::Array { count: 0, .. }
        ));
        assert_eq!(
            data.member("pointer").unwrap().kind,
            Type::Scalar { size: 8 }
        );
    }
}

#[test]
fn bitfields_are_reported_as_such() {
    for version in ["-gdwarf-4", "-gdwarf-5"] {
        let file = compile(&[version, "-c"]);
        let data = Dwarf::parse(&file)
            .unwrap()
            .structure("data")
            .unwrap()
            .unwrap();
        let (grid, first) = (data.member("grid").unwrap(), data.member("first").unwrap());
        assert_eq!(first.offset, grid.offset + 60, "{version}");
        assert_eq!(
            first.kind,
            Type::Bitfield {
                first_bit: 0,
                bits: 3
            },
            "{version}"
        );
        assert_eq!(
            data.member("second").unwrap().kind,
            Type::Bitfield {
                first_bit: 5,
                bits: 7
            },
            "{version}"
        );
    }
}

#[test]
fn enumerators_keep_their_values() {
    let file = compile(&["-g", "-c"]);
    let dwarf = Dwarf::parse(&file).unwrap();
    let mode = dwarf.enumeration("mode").unwrap().unwrap();
    let values: Vec<_> = mode
        .iter()
        .map(|(name, value)| (name.as_str(), *value))
        .collect();
    assert_eq!(
        values,
        [
            ("NONE", 0),
            ("TSC", 200),
            ("NEGATIVE", -3),
            ("TIMENS", 0x7fff_ffff)
        ]
    );
    assert_eq!(
        dwarf.enumeration("big").unwrap().unwrap(),
        [("HUGE".to_owned(), 0xffff_ffff_ffff)]
    );
    assert_eq!(dwarf.enumeration("data").unwrap(), None);
    assert_eq!(dwarf.structure("declared").unwrap(), None);
    let either = dwarf.structure("either").unwrap().unwrap();
    assert!(either.members.iter().all(|member| member.offset == 0));
}

#[test]
fn files_without_readable_debug_information_say_why() {
    assert!(matches!(
        Dwarf::parse(&compile(&["-c"])),
        Err(Error::NotFound { .. })
    ));
    assert!(matches!(
        Dwarf::parse(b"not ELF"),
        Err(Error::Malformed { .. })
    ));
    let compressed = Dwarf::parse(&compile(&["-g", "-gz=zlib", "-c"])).unwrap_err();
    assert!(
        compressed
            .to_string()
            .contains("--decompress-debug-sections"),
        "{compressed}"
    );
}

fn ask_everything(file: &[u8]) {
    let Ok(dwarf) = Dwarf::parse(file) else {
        return;
    };
    for name in ["data", "stamp", "either"] {
        if let Ok(Some(structure)) = dwarf.structure(name) {
            assert!(
                structure
                    .members
                    .iter()
                    .all(|m| m.offset + m.kind.size() <= structure.size)
            );
        }
    }
    for name in ["mode", "big"] {
        let _ = dwarf.enumeration(name);
    }
}

/// The linked file, and where the entries and their abbreviations are in it: damage elsewhere says
/// little.
fn sample() -> (Vec<u8>, Vec<usize>) {
    let bytes = compile(&["-gdwarf-5", "-shared", "-nostdlib"]);
    let file = object::File::parse(&*bytes).unwrap();
    let sections = file
        .sections()
        .filter(|s| matches!(s.name(), Ok(".debug_info" | ".debug_abbrev")));
    let places = sections
        .filter_map(|s| s.file_range())
        .flat_map(|(at, size)| at as usize..(at + size) as usize);
    let places = places.collect();
    (bytes, places)
}

#[test]
fn flipped_bits_are_survived() {
    let (good, places) = sample();
    for &at in &places {
        for bit in 0..8 {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << bit;
            ask_everything(&bytes);
        }
    }
}

#[test]
fn random_damage_is_survived() {
    let (good, places) = sample();
    let damage = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20);
    proptest!(|(damage in damage)| {
        let mut bytes = good.clone();
        for (index, value) in damage {
            bytes[places[index.index(places.len())]] = value;
        }
        ask_everything(&bytes);
    });
}
