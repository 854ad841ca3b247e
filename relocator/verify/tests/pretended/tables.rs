//! The tables of the fixtures, as other tools show them and as elf-tools reads them.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};

use elf_tools::image::Image;
use elf_tools::reachability::Code;
use elf_tools::relocation::{FunctionUses, Kind};
use kernel_fixtures::fixture::{self, Fixture, Style};

use crate::pretend_kernel::{home_value, relocations, symtab};

/// What `readelf` prints about an object. It must have nothing to complain about.
fn readelf(bytes: &[u8], arguments: &[&str]) -> String {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    let output = Command::new("readelf")
        .args(arguments)
        .arg(file.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    String::from_utf8(output.stdout).unwrap()
}

fn operands() -> impl Iterator<Item = &'static Fixture> {
    with_tables().filter(|fixture| fixture.generation.style == Style::Operands)
}

fn with_tables() -> impl Iterator<Item = &'static Fixture> {
    fixture::all()
        .iter()
        .filter(|fixture| fixture.generation.is_relocation_capable())
}

pub(crate) fn readelf_shows_everything_without_a_warning() {
    for fixture in fixture::all() {
        for object in [Some(fixture.image), fixture.symtab, fixture.debug]
            .into_iter()
            .flatten()
        {
            readelf(object, &["-aW"]);
        }
    }
}

pub(crate) fn relocations_have_the_types_of_their_style() {
    for fixture in with_tables() {
        let shown = readelf(fixture.image, &["-rW"]);
        let types: BTreeSet<&str> = shown
            .split_whitespace()
            .filter(|word| word.starts_with("R_X86_64_"))
            .collect();
        let expected: &[&str] = match fixture.generation.style {
            Style::Got => &["R_X86_64_64", "R_X86_64_PC64", "R_X86_64_SIZE64"],
            Style::Operands | Style::Stock => &[
                "R_X86_64_32",
                "R_X86_64_32S",
                "R_X86_64_8",
                "R_X86_64_PC32",
                "R_X86_64_SIZE32",
            ],
        };
        assert_eq!(
            types,
            expected.iter().copied().collect(),
            "{}",
            fixture.name
        );
    }
    let bare = readelf(fixture::find("bare").unwrap().image, &["-aW"]);
    for word in ["R_X86_64_", "vDSO", "SYMTAB ", "vvar"] {
        assert!(!bare.contains(word), "{word} in a bare image");
    }
}

pub(crate) fn images_are_made_like_those_of_a_kernel() {
    for fixture in fixture::all() {
        let shown = readelf(fixture.image, &["-aW"]);
        let segments: Vec<&str> = shown
            .lines()
            .filter(|line| line.starts_with("  LOAD "))
            .collect();
        assert!(
            segments.len() == 1 && segments[0].contains(" R E "),
            "{}: {segments:?}",
            fixture.name
        );
        for word in ["TEXTREL", "NEEDED", "GNU_STACK", "RELRO"] {
            assert!(!shown.contains(word), "{}: {word}", fixture.name);
        }
        for word in [
            "Library soname: [linux-vdso.so.1]",
            "NT_GNU_BUILD_ID",
            "  Linux  ",
            ".hash",
            ".gnu.hash",
        ] {
            assert!(shown.contains(word), "{}: no {word}", fixture.name);
        }
        for name in [
            "clock_gettime",
            "gettimeofday",
            "time",
            "clock_getres",
            "getcpu",
        ] {
            let is_export = |line: &&str| line.contains(" DEFAULT ") && line.contains(" FUNC ");
            let exported = |binding: &str, name: &str| {
                let mut lines = shown.lines().filter(is_export);
                lines.any(|line| {
                    line.contains(binding) && line.ends_with(&format!(" {name}@@LINUX_2.6"))
                })
            };
            assert!(exported(" WEAK ", name), "{}: {name}", fixture.name);
            assert!(
                exported(" GLOBAL ", &format!("__vdso_{name}")),
                "{}: {name}",
                fixture.name
            );
        }
    }
}

pub(crate) fn operands_hold_the_values_of_the_home_layout() {
    for fixture in operands() {
        let (symtab, relocations) = (symtab(fixture), relocations(fixture));
        for entry in &relocations.entries {
            let bytes = &fixture.image[entry.place.index()..][..entry.kind.width() as usize];
            let stored = match *bytes {
                [byte] => i64::from(byte as i8),
                [a, b, c, d] => i64::from(i32::from_le_bytes([a, b, c, d])),
                _ => panic!("{}: {}", fixture.name, entry.kind),
            };
            let needed = &relocations.needs[entry.need as usize].reference;
            assert_eq!(
                stored,
                home_value(&symtab, &relocations, entry),
                "{}: {needed}",
                fixture.name
            );
        }
    }
}

pub(crate) fn the_operand_before_an_immediate_has_its_own_addend() {
    for fixture in operands() {
        let addends = relocations(fixture)
            .entries
            .iter()
            .filter(|e| e.kind == Kind::Pc32)
            .map(|e| e.addend)
            .collect();
        assert_eq!(BTreeSet::from([-8, -4]), addends, "{}", fixture.name);
    }
}

/// The references of a fixture that each function uses.
fn users(fixture: &Fixture, reference: &str) -> Vec<String> {
    let image = Image::parse(fixture.image).unwrap();
    let code = Code::of(&image).unwrap();
    let relocations = relocations(fixture);
    let uses = relocations.uses(&code);
    let is_user = |used: &FunctionUses| {
        used.entries.iter().any(|&index| {
            let need = &relocations.needs[relocations.entries[index as usize].need as usize];
            need.reference.to_string().contains(reference)
        })
    };
    let functions = code
        .functions()
        .iter()
        .zip(&uses.by_function)
        .filter(|(_, used)| is_user(used));
    let exports = functions.flat_map(|(function, _)| {
        image
            .exports()
            .iter()
            .filter(|export| export.address == function.entry)
            .map(|export| export.name.to_string())
    });
    let mut names: Vec<String> = exports.filter(|name| name.starts_with("__vdso_")).collect();
    names.sort();
    names
}

pub(crate) fn only_the_functions_that_tell_nanoseconds_need_the_smear() {
    for name in ["required", "defaulted", "defaulted-operands"] {
        let users = users(fixture::find(name).unwrap(), "leap_smear");
        assert_eq!(
            users,
            ["__vdso_clock_gettime", "__vdso_gettimeofday"],
            "{name}"
        );
    }
    let users = users(fixture::find("semantics").unwrap(), "nsec:2");
    assert_eq!(users, ["__vdso_clock_gettime", "__vdso_gettimeofday"]);
}

pub(crate) fn getcpu_needs_nothing() {
    for fixture in with_tables() {
        assert!(
            !users(fixture, "time").contains(&"__vdso_getcpu".to_owned()),
            "{}",
            fixture.name
        );
    }
}

pub(crate) fn defaults_are_those_that_the_generation_states() {
    for fixture in with_tables() {
        let relocations = relocations(fixture);
        let mut defaults: Vec<(String, Vec<u8>)> = relocations
            .needs
            .iter()
            .filter_map(|need| Some((need.reference.to_string(), need.default.clone()?)))
            .collect();
        defaults.sort();
        let stated = fixture
            .generation
            .defaults
            .iter()
            .map(|&(name, bytes)| (name.to_owned(), bytes.to_vec()));
        let mut stated: Vec<_> = stated.collect();
        stated.sort();
        assert_eq!(defaults, stated, "{}", fixture.name);
    }
}

pub(crate) fn a_table_and_its_image_know_each_other() {
    for fixture in with_tables() {
        let image = Image::parse(fixture.image).unwrap();
        let note = image.tables_note().expect(fixture.name);
        let symtab = symtab(fixture);
        assert_eq!(
            symtab.build_id.as_ref(),
            image.build_id(),
            "{}",
            fixture.name
        );
        assert_eq!(
            symtab.linux_version,
            image.linux_version(),
            "{}",
            fixture.name
        );
        assert_eq!(
            note.symtab_size,
            fixture.symtab.unwrap().len() as u64,
            "{}",
            fixture.name
        );
    }
}
