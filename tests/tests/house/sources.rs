//! What sources say, by folder.

use std::fs;
use std::path::{Path, PathBuf};

/// A file that may say what others may not, and why.
type Exception = (&'static str, &'static str);

/// Words that belong into `arch` folders: the decoder, the architecture, registers, relocation types.
const ARCHITECTURE: [&str; 13] = [
    "iced_x86", "x86_64", "X86_64", "rax", "rip", "rsp", "RAX", "rdi", "rsi", "rdx", "rcx", "r10",
    "r11",
];

/// Beginnings of words that belong there as well.
const ARCHITECTURE_BEGINNINGS: [&str; 1] = ["R_X86_64_"];

/// What is about one architecture although it is in no `arch` folder.
const ARCHITECTURE_EXCEPTIONS: [Exception; 2] = [
    (
        "kernel-fixtures/",
        "kernels to test on: images of this architecture, built from our C source",
    ),
    (
        "tests/",
        "tests of this architecture's images and processes",
    ),
];

/// What only the command may do: print, and look at its surroundings.
const SURROUNDINGS: [&str; 7] = [
    "println!",
    "eprintln!",
    "print!",
    "eprint!",
    "env::var",
    "env::args",
    ".cache\"",
];

const SURROUNDINGS_EXCEPTIONS: [Exception; 7] = [
    ("relocator/cli/", "the command"),
    (
        "relocator/criu/plugin/",
        "the environment of CRIU is how its users reach the plugin",
    ),
    ("tests/", "tests are programs of their own"),
    (
        "kernel-fixtures/distribution/",
        "it fetches kernels for the command and for tests, into a directory that the environment may name",
    ),
    ("kernel-fixtures/lab/", "it is a command as well"),
    ("kernel-fixtures/zoo/", "and so is this"),
    (
        "kernel-fixtures/src/synthetic.rs",
        "it calls the compiler that the environment names, for tests",
    ),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every Rust source that is built into something: not tests, benchmarks, examples and build scripts.
fn sources() -> Vec<(String, String)> {
    let mut sources = Vec::new();
    for top in ["elf-tools", "relocator", "kernel-fixtures", "tests"] {
        collect(&root().join(top), &mut sources);
    }
    let is_product = |path: &str| {
        let mut parts = path.split('/');
        !parts.any(|part| {
            matches!(part, "tests" | "benches" | "examples" | "build.rs" | "fuzz")
                || part.ends_with("tests.rs")
        }) || path.starts_with("tests/")
    };
    sources.retain(|(path, _)| is_product(path));
    sources
}

fn collect(directory: &Path, sources: &mut Vec<(String, String)>) {
    let entries = fs::read_dir(directory).expect("a directory");
    for path in entries.map(|entry| entry.expect("an entry").path()) {
        let name = path.file_name().unwrap_or_default();
        if path.is_dir() && name != "target" {
            collect(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let shown = path.strip_prefix(root()).expect("below the root");
            let text = fs::read_to_string(&path).expect("UTF-8");
            sources.push((shown.display().to_string(), text));
        }
    }
}

/// The part of a source that is no test: tests are in a module at its end.
fn without_tests(text: &str) -> &str {
    let end = text.find("\n#[cfg(test)]\nmod tests {");
    &text[..end.unwrap_or(text.len())]
}

/// Places outside of exceptions where a line says something.
fn places(exceptions: &[Exception], says: impl Fn(&str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in sources() {
        let is_arch = path.split('/').any(|part| part == "arch");
        let excepted = exceptions.iter().any(|(begin, _)| path.starts_with(begin));
        if is_arch || excepted {
            continue;
        }
        let lines = without_tests(&text).lines().zip(1..);
        let saying = lines.filter(|(line, _)| says(line));
        found.extend(saying.map(|(line, number)| format!("{path}:{number}: {}", line.trim())));
    }
    found
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn names_architecture(line: &str) -> bool {
    line.split(|c| !is_word(c)).any(|word| {
        ARCHITECTURE.contains(&word)
            || ARCHITECTURE_BEGINNINGS
                .iter()
                .any(|begin| word.starts_with(begin))
    })
}

#[test]
fn architectures_are_named_in_their_folders_only() {
    let found = places(&ARCHITECTURE_EXCEPTIONS, names_architecture);
    assert!(found.is_empty(), "{}:\n{}", found.len(), found.join("\n"));
}

#[test]
fn only_the_command_prints_and_looks_around() {
    let looks = |line: &str| {
        let code = line.split("//").next().unwrap_or_default();
        SURROUNDINGS.iter().any(|word| code.contains(word))
    };
    let found = places(&SURROUNDINGS_EXCEPTIONS, looks);
    assert!(found.is_empty(), "{}:\n{}", found.len(), found.join("\n"));
}

/// Exceptions are needed: one that no file makes use of is gone.
#[test]
fn exceptions_are_needed() {
    for (begin, why) in ARCHITECTURE_EXCEPTIONS
        .iter()
        .chain(&SURROUNDINGS_EXCEPTIONS)
    {
        let is_there = sources().iter().any(|(path, _)| path.starts_with(begin));
        assert!(is_there, "{begin}: {why}");
    }
}

#[test]
fn files_can_be_seen_at_once() {
    let large = sources()
        .into_iter()
        .filter(|(_, text)| text.lines().count() >= 1000);
    let large: Vec<String> = large.map(|(path, _)| path).collect();
    assert!(large.is_empty(), "{large:?}");
}

#[test]
fn words_are_recognised() {
    for (line, expected) in [
        ("let x = registers.rax;", true),
        ("// R_X86_64_PC32 against a symbol", true),
        ("use iced_x86::Decoder;", true),
        ("Machine::X86_64", true),
        ("a description, stripped", false),
        ("trip_count", false),
    ] {
        assert_eq!(names_architecture(line), expected, "{line}");
    }
}
