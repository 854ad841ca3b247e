//! What the `relocator` command refuses: with which status, with which words, and with nothing left behind.
//!
//! Status 1 is an answer, 2 is about what was asked for or what was read: `docs/json.md`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use kernel_fixtures::fixture;
use relocator_tests::command::{run, run_without_room};
use relocator_tests::kernel;
use tempfile::TempDir;

/// A directory for what must not be written.
struct Untouched {
    directory: TempDir,
}

impl Untouched {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { directory }
    }

    fn output(&self) -> PathBuf {
        self.directory.path().join("output.so")
    }

    /// The message of a command that is told to write here and refuses with that status.
    #[track_caller]
    fn refusal(&self, status: i32, arguments: &[&str]) -> String {
        let output = self.output();
        let message = run(arguments
            .iter()
            .map(Path::new)
            .chain([Path::new("-o"), &output]))
        .failure(status);
        let left: Vec<_> = fs::read_dir(self.directory.path()).unwrap().collect();
        assert!(left.is_empty(), "{arguments:?} leaves {left:?}");
        message
    }
}

/// A proxy would lead into code that the processor takes for other instructions.
#[test]
fn a_kernel_of_another_architecture_is_refused() {
    let elsewhere = tempfile::tempdir().unwrap();
    let file = elsewhere.path().join("other.so");
    let untouched = Untouched::new();
    // `EM_386`, `EM_AARCH64`: `e_machine` is at 18.
    for (machine, name) in [(3_u16, "x86"), (183, "arm64")] {
        let mut bytes = fixture::find("bare").unwrap().image.to_vec();
        bytes[18..20].copy_from_slice(&machine.to_le_bytes());
        fs::write(&file, bytes).unwrap();
        for old in ["fixture:operands", "fixture:bare"] {
            for strategy in ["auto", "proxy", "syscall"] {
                let onto = ["link", old, "--onto", file.to_str().unwrap()];
                let arguments = [&onto[..], &["--strategy", strategy]].concat();
                let message = untouched.refusal(1, &arguments);
                assert!(
                    message.contains(&format!("64-bit {name} programs")),
                    "{message}"
                );
            }
        }
        let mut symbols = fixture::find("reordered").unwrap().symtab.unwrap().to_vec();
        symbols[18..20].copy_from_slice(&machine.to_le_bytes());
        fs::write(&file, symbols).unwrap();
        let arguments = ["link", "fixture:operands", "--onto", file.to_str().unwrap()];
        let message = untouched.refusal(2, &arguments);
        assert!(
            message.contains(&format!("64-bit {name} kernels")),
            "{message}"
        );
    }
}

/// What was written is not lost with the report about it.
#[test]
fn a_report_that_cannot_be_written_is_told_from_work_that_was_not_done() {
    let directory = tempfile::tempdir().unwrap();
    for (name, words) in [
        (
            "linked.so",
            &["link", "fixture:operands", "--onto", "self"][..],
        ),
        ("table.so", &["derive", "self"]),
        ("symbols.so", &["symtab", "self"]),
    ] {
        let file = directory.path().join(name);
        let mut arguments: Vec<_> = words.iter().map(Path::new).collect();
        // Nothing but the report was asked for.
        if words[0] != "link" {
            let message = run_without_room(&arguments).failure(2);
            assert!(message.contains("cannot write the report"), "{message}");
        }
        arguments.extend([Path::new("-o"), &file]);
        let message = run_without_room(&arguments).failure(3);
        let done = format!("{} is written, but", file.display());
        assert!(
            message.contains(&done) && message.contains("No space"),
            "{message}"
        );
        assert!(fs::read(&file).unwrap().starts_with(b"\x7fELF"));
    }
}

/// Names that clear the screen, or say what another line would say.
#[test]
fn a_terminal_obeys_no_name_of_a_file() {
    let elsewhere = tempfile::tempdir().unwrap();
    let file = elsewhere.path().join("na\u{1b}[2Jme\u{202e}.so");
    let good = fixture::find("bare").unwrap().image;
    let name = b"__vdso_getcpu\0";
    let at = good.windows(name.len()).position(|bytes| bytes == name);
    let at = at.expect("the fixture exports it");
    for (hostile, escaped) in [
        (&b"\x1b[31mvdso_cpu"[..], "\\u{1b}[31mvdso_cpu"),
        (b"getcpu\nok: 99", "getcpu\\u{a}ok: 99"),
        (b"getcpu\xc2\x9b2Jxx", "getcpu\\u{9b}2Jxx"),
    ] {
        let mut bytes = good.to_vec();
        bytes[at..at + 13].fill(b'x');
        bytes[at..at + hostile.len()].copy_from_slice(hostile);
        fs::write(&file, bytes).unwrap();
        let path = file.to_str().unwrap();
        let text = run(["inspect", path].map(Path::new)).success();
        assert!(text.contains(escaped), "{text}");
        assert!(
            !text.lines().any(|line| line.starts_with("ok: 99")),
            "{text}"
        );
        let json = run(["inspect", path, "--json"].map(Path::new)).success();
        let error = run(["symtab", path].map(Path::new)).failure(2);
        for output in [text, json, error] {
            let obeyed = |letter: char| elf_tools::is_obeyed(letter) && letter != '\n';
            assert!(!output.contains(obeyed), "{output:?}");
        }
    }
}

#[test]
fn a_policy_that_cannot_be_kept_is_an_answer() {
    let untouched = Untouched::new();
    for onto in ["self", "fixture:got", "fixture:bare"] {
        let arguments = ["link", "fixture:required", "--onto", onto];
        let message = untouched.refusal(1, &[&arguments[..], &["--strategy", "relocate"]].concat());
        // Without symbols the first one that is looked up fails; with them only the one that is missing.
        let symbol = if onto == "fixture:bare" {
            "`"
        } else {
            "leap_smear`"
        };
        for word in ["function `__vdso_", "` at 0x", symbol] {
            assert!(message.contains(word), "{onto}: {message}");
        }
        run(arguments).success();
    }
    let message = untouched.refusal(
        1,
        &[
            "link",
            "fixture:semantics",
            "--onto",
            "fixture:got",
            "--strategy",
            "relocate",
        ],
    );
    assert!(message.contains("semantic version"), "{message}");
}

#[test]
fn sources_that_do_not_exist_are_named() {
    let untouched = Untouched::new();
    let absent = untouched.directory.path().join("absent.so");
    let absent = absent.to_str().unwrap();
    for (source, words) in [
        ("fixture:nothing", &["fixture:nothing", "operands"][..]),
        (absent, &[absent, "No such file"]),
        ("pid:0", &["pid:0", "pid:NUMBER"]),
        ("pid:x", &["pid:x", "pid:NUMBER"]),
        ("kernel:", &["kernel:", "kernel:6.12"]),
        ("kernel:../6.12", &["../6.12", "no kernel version"]),
        ("", &["expected self"]),
    ] {
        for arguments in [
            &["link", source, "--onto", "fixture:got"][..],
            &["link", "fixture:got", "--onto", source],
            &["symtab", source],
        ] {
            // Some are refused by the parser of arguments, which explains itself in more than one line.
            let ran = run(arguments.iter().copied().chain(["-o", absent]));
            assert_eq!((ran.status, ran.stdout.as_str()), (Some(2), ""), "{ran:?}");
            for word in words {
                assert!(ran.stderr.contains(word), "{arguments:?}: {}", ran.stderr);
            }
            assert!(!Path::new(absent).exists());
        }
    }
}

#[test]
fn a_process_that_is_gone_is_named() {
    let untouched = Untouched::new();
    let mut child = Command::new("true").spawn().unwrap();
    let source = format!("pid:{}", child.id());
    child.wait().unwrap();
    let message = untouched.refusal(2, &["link", &source, "--onto", "fixture:got"]);
    assert!(message.contains(&source), "{message}");
}

#[test]
fn bad_usage_is_status_2() {
    for arguments in [
        &[][..],
        &["nonsense"],
        &["link", "fixture:got"],
        &[
            "link",
            "fixture:got",
            "--onto",
            "self",
            "--strategy",
            "hope",
        ],
        &["link", "fixture:got", "--onto", "self", "--at", "0x123"],
        &[
            "link",
            "fixture:got",
            "--onto",
            "self",
            "--map",
            "[nothing]=0x1000",
        ],
        &["link", "fixture:got", "--onto", "self", "--at", "0x1000"],
        &["verify", "fixture:got", "--onto", "fixture:bare"],
        &["verify", "fixture:bare", "--unlinked"],
        &["verify", "fixture:got", "--unlinked", "--onto", "self"],
        &["verify", "fixture:got", "--clock", "hpet"],
        &["verify", "fixture:got", "--rounds", "0"],
    ] {
        let ran = run(arguments);
        // One of them is understood, and there is no room below that address.
        let status = if arguments.contains(&"0x1000") { 1 } else { 2 };
        assert_eq!(
            (ran.status, ran.stdout.as_str()),
            (Some(status), ""),
            "{ran:?}"
        );
        assert_ne!(ran.stderr, "");
    }
}

#[test]
fn files_that_are_not_understood_say_where() {
    let untouched = Untouched::new();
    let inputs = tempfile::tempdir().unwrap();
    let image = fixture::find("operands").unwrap().image;
    let kernel = kernel::vmlinux(fixture::find("bare").unwrap().image);
    let packed = kernel::bzimage(&kernel);
    let section_headers = u64::from_le_bytes(image[40..48].try_into().unwrap()) as usize;
    for (name, bytes, words) in [
        ("empty", &[][..], &["ELF header", "0 bytes"][..]),
        (
            "garbage",
            &[0x5a; 5000],
            &["ELF header", "offset 0x0", "magic"],
        ),
        (
            "text",
            b"#!/bin/sh\nexit 0\n",
            &["ELF header", "offset 0x0"],
        ),
        ("header", &image[..40], &["ELF header"]),
        (
            "cut",
            &image[..section_headers + 100],
            &["section headers", "offset 0x"],
        ),
        ("code-cut", &image[..0x600], &["offset 0x"]),
        (
            "vmlinuz",
            &packed[..packed.len() / 2],
            &["bzImage", "offset 0x24c", "do not fit"],
        ),
        ("setup", &packed[..0x230], &["bzImage", "offset 0x248"]),
        (
            "vmlinux",
            &kernel[..kernel.len() / 2],
            &["vmlinux", "offset 0x", "ends before"],
        ),
        ("program", &fs::read("/proc/self/exe").unwrap(), &[]),
    ] {
        let path = inputs.path().join(name);
        fs::write(&path, bytes).unwrap();
        let file = path.to_str().unwrap();
        for arguments in [
            ["link", file, "--onto", "fixture:got"],
            ["link", "fixture:got", "--onto", file],
        ] {
            let message = untouched.refusal(2, &arguments);
            for word in words.iter().chain(&[file]) {
                assert!(message.contains(word), "{name}: no `{word}`: {message}");
            }
        }
    }
    let directory = inputs.path().to_str().unwrap();
    let message = untouched.refusal(2, &["link", directory, "--onto", "fixture:got"]);
    assert!(
        message.contains(directory) && message.contains("regular file"),
        "{message}"
    );
    // The whole ones are understood.
    for (name, bytes) in [("whole", &kernel), ("whole.gz", &packed)] {
        let path = inputs.path().join(name);
        fs::write(&path, bytes).unwrap();
        run(["link", path.to_str().unwrap(), "--onto", "fixture:got"]).success();
    }
}

#[test]
fn every_malformed_fixture_is_refused_for_what_is_wrong() {
    let untouched = Untouched::new();
    let (mut images, mut tables) = (0, 0);
    for malformed in fixture::malformed() {
        let source = format!("fixture:{}", malformed.name);
        let arguments = if malformed.name.starts_with("malformed-symtab-") {
            tables += 1;
            ["link", "fixture:got", "--onto", &source]
        } else {
            images += 1;
            ["link", &source, "--onto", "fixture:got"]
        };
        let message = untouched.refusal(2, &arguments);
        for word in [malformed.expected, &source] {
            assert!(
                message.contains(word),
                "{}: no `{word}`: {message}",
                malformed.what
            );
        }
    }
    assert!(
        images >= 20 && tables >= 14,
        "{images} images, {tables} tables"
    );
}

#[test]
fn an_output_that_cannot_be_written_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let absent = directory.path().join("absent/linked.so");
    for path in [absent.as_path(), directory.path()] {
        let file = path.to_str().unwrap();
        for arguments in [
            &["link", "fixture:got", "--onto", "fixture:got", "-o", file][..],
            &["symtab", "fixture:got", "-o", file],
        ] {
            let message = run(arguments).failure(2);
            assert!(message.contains(file), "{message}");
        }
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn an_output_is_replaced_whole() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("linked.so");
    fs::write(&path, "what was there before").unwrap();
    let file = path.to_str().unwrap();
    // A refusal leaves it alone.
    let refused = [
        "link",
        "fixture:required",
        "--onto",
        "fixture:got",
        "--strategy",
        "relocate",
    ];
    run(refused.iter().chain(&["-o", file])).failure(1);
    assert_eq!(fs::read(&path).unwrap(), b"what was there before");
    run([
        "link",
        "fixture:required",
        "--onto",
        "fixture:got",
        "-o",
        file,
    ])
    .success();
    assert!(fs::read(&path).unwrap().starts_with(b"\x7fELF"));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}
