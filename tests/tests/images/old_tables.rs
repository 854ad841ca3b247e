//! Where the relocation table of an image that carries none comes from, as the command has it.

use std::fs;
use std::path::{Path, PathBuf};

use elf_tools::image::Image;
use elf_tools::relocation::{Relocations, object};
use elf_tools::symtab;
use kernel_fixtures::fixture;
use relocator_process::kept::TableDirectory;
use relocator_tests::command::{Ran, run, run_with_cache};
use relocator_tests::constraints::as_constraints;
use relocator_tests::pretend::Pretend;
use serde_json::Value;
use tempfile::TempDir;

/// An image that has lost its tables, and a table for it.
struct Lost {
    directory: TempDir,
    image: Image,
    object: Vec<u8>,
}

impl Lost {
    fn new() -> Self {
        let pretend = Pretend::open("operands");
        let found = pretend.old.relocations.as_ref().unwrap();
        let table = as_constraints(found, &pretend.old.code);
        assert!(table.constraints.len() > 20 && table.entries.len() > 5);
        // A note of a type that nobody knows, so that nothing announces the table that is still there.
        let mut bytes = pretend.old.image.bytes().to_vec();
        let note = [&1_u32.to_le_bytes()[..], b"vDSO\0"].concat();
        let at = bytes.windows(note.len()).position(|bytes| bytes == note);
        bytes[at.unwrap()] = 9;
        let image = Image::parse(&bytes).unwrap();
        let object = object::write(&table, image.build_id(), image.linux_version());
        let lost = Self {
            directory: tempfile::tempdir().unwrap(),
            image,
            object: object.unwrap(),
        };
        fs::write(lost.file("vdso.so"), lost.image.bytes()).unwrap();
        fs::write(lost.file("table.so"), &lost.object).unwrap();
        fs::create_dir(lost.file("cache")).unwrap();
        lost
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Where the cache would have the table.
    fn cached(&self) -> PathBuf {
        TableDirectory::at(self.file("cache"))
            .path(&self.image)
            .unwrap()
    }

    /// Links the image with more arguments.
    fn link(&self, more: &[&Path]) -> Ran {
        let image = self.file("vdso.so");
        let words = ["--onto", "fixture:reordered"].map(Path::new);
        let arguments = [&[Path::new("link"), &image], &words[..], more].concat();
        run_with_cache(&self.file("cache"), arguments)
    }

    /// Where its table came from, and why there is none.
    #[track_caller]
    fn tables(&self, more: &[&Path]) -> (String, Option<String>) {
        let printed = self.link(&[more, &[Path::new("--json")]].concat());
        let report: Value = serde_json::from_str(&printed.success()).unwrap();
        let text = |value: &Value| value.as_str().map(str::to_owned);
        (
            text(&report["old"]["tables"]).unwrap(),
            text(&report["no_tables"]),
        )
    }
}

fn from(name: &Path) -> [&Path; 2] {
    [Path::new("--old-tables"), name]
}

#[test]
fn an_image_alone_has_none_and_the_reason_is_told() {
    let lost = Lost::new();
    let (tables, reason) = lost.tables(&[]);
    assert_eq!(tables, "none");
    assert!(reason.unwrap().contains("a vDSO alone"));
    let text = lost.link(&[]).success();
    let line = "no relocations of the old image: a vDSO alone";
    assert!(text.contains(line), "{text}");
}

#[test]
fn a_file_that_is_named_comes_before_the_cache() {
    let lost = Lost::new();
    let found = |words: &str| (words.to_owned(), None);
    assert_eq!(lost.tables(&from(&lost.file("table.so"))), found("file"));
    fs::write(lost.cached(), &lost.object).unwrap();
    assert_eq!(lost.tables(&[]), found("cache"));
    assert_eq!(lost.tables(&from(&lost.file("table.so"))), found("file"));
    // What an image carries comes before everything.
    fs::write(
        lost.file("vdso.so"),
        Pretend::open("operands").old.image.bytes(),
    )
    .unwrap();
    assert_eq!(
        lost.tables(&from(&lost.file("table.so"))),
        found("exported")
    );
}

#[test]
fn a_cache_that_is_damaged_is_not_believed() {
    let lost = Lost::new();
    let mut flipped = lost.object.clone();
    let id = lost.image.build_id().unwrap().as_bytes();
    let at = flipped.windows(id.len()).position(|b| b == id).unwrap();
    flipped[at] ^= 1;
    for bytes in [&b""[..], b"not a table", &lost.object[..300], &flipped] {
        fs::write(lost.cached(), bytes).unwrap();
        assert_eq!(lost.tables(&[]).0, "none");
    }
    fs::remove_file(lost.cached()).unwrap();
    fs::create_dir(lost.cached()).unwrap();
    assert_eq!(lost.tables(&[]).0, "none");
}

/// Symbols of the image's own kernel lead to a table as well, as far as the code can be described.
#[test]
fn symbols_of_its_kernel_are_used() {
    let lost = Lost::new();
    let bytes = fixture::find("operands").unwrap().symtab.unwrap();
    fs::write(lost.file("symbols.so"), bytes).unwrap();
    let (tables, reason) = lost.tables(&from(&lost.file("symbols.so")));
    match tables.as_str() {
        "derived" => assert_eq!(reason, None),
        "none" => assert!(!reason.unwrap().contains("a vDSO alone")),
        other => panic!("{other}"),
    }
}

/// One wrong bit may be a wrong instruction in a process.
#[test]
fn a_file_with_one_wrong_bit_is_refused() {
    let lost = Lost::new();
    let file = lost.file("given.so");
    fs::write(&file, &lost.object).unwrap();
    lost.link(&from(&file)).success();
    let bits = lost.object.len() * 8;
    for bit in (0..bits).step_by(bits / 40 + 1) {
        let mut bytes = lost.object.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(&file, bytes).unwrap();
        let message = lost.link(&from(&file)).failure(2);
        assert!(message.contains("given.so"), "bit {bit}: {message}");
    }
    let code = elf_tools::reachability::Code::of(&lost.image).unwrap();
    for bit in 0..bits {
        let mut bytes = lost.object.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let read = object::read(&bytes, &lost.image, &code);
        assert!(read.is_err(), "bit {bit}");
    }
}

#[test]
fn a_file_that_does_not_fit_is_refused() {
    let lost = Lost::new();
    let own = lost.image.build_id().unwrap().to_string();
    let other = Pretend::open("got");
    let other_id = other.old.image.build_id().unwrap();
    let others = object::write(&Relocations::default(), Some(other_id), None).unwrap();
    let mut symbols = other.symtab.clone().unwrap();
    symbols.build_id = Some(other_id.clone());
    let symbols = symtab::elf::write(&symbols).unwrap();
    let mut table = object::read(
        &lost.object,
        &lost.image,
        &elf_tools::reachability::Code::of(&lost.image).unwrap(),
    )
    .unwrap();
    table.constraints[3].terms[0].coefficient = 0;
    let id = lost.image.build_id().unwrap();
    let wrong = object::write(&table, Some(id), None).unwrap();
    let other = other_id.to_string();
    for (bytes, words) in [
        (&others[..], &[&*own, &*other][..]),
        (&symbols, &[&own, &other]),
        (lost.image.bytes(), &["neither", "symbol table object"]),
        (b"nothing", &["neither"]),
        (&lost.object[..300], &["another digest"]),
        (&wrong, &["relocation ", "a term with coefficient 0"]),
    ] {
        let file = lost.file("given.so");
        fs::write(&file, bytes).unwrap();
        let message = lost.link(&from(&file)).failure(2);
        for word in words.iter().chain(&[file.to_str().unwrap()]) {
            assert!(message.contains(word), "no `{word}`: {message}");
        }
    }
    let absent = lost.file("absent.so");
    let message = lost.link(&from(&absent)).failure(2);
    assert!(message.contains(absent.to_str().unwrap()), "{message}");
    assert_eq!(fs::read_dir(lost.file("cache")).unwrap().count(), 0);
}

#[test]
fn a_table_is_no_source() {
    let lost = Lost::new();
    let message = run([Path::new("inspect"), &lost.file("table.so")]).failure(2);
    assert!(message.contains("--old-tables"), "{message}");
}

#[test]
fn what_cannot_be_derived_is_named() {
    for source in ["fixture:bare", "/dev/null"] {
        let message = run(["derive", source]).failure(2);
        assert!(message.contains(source), "{message}");
    }
    let message = run(["derive", "fixture:bare"]).failure(2);
    assert!(message.contains("this fixture exports none"), "{message}");
}
