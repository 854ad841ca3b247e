//! The `relocator` command as a user runs it: what it prints, what it writes, and how it ends.

use std::fs;
use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::process::{Command, Stdio};

use elf_tools::Avma;
use kernel_fixtures::fixture;
use relocator_tests::bed::{Bed, old_vdso};
use relocator_tests::command::{relocator, run};
use relocator_tests::readelf::readelf;
use relocator_tests::running::EMULATION;
use relocator_tests::table;
use relocator_tests::trials::all_required;
use relocator_verify::Approach;
use serde_json::{Map, Value};

/// What a command with `--json` prints, which must be of that schema.
#[track_caller]
fn json(schema: &str, arguments: &[&str]) -> Map<String, Value> {
    let printed = run(arguments.iter().chain(&["--json"])).success();
    let Value::Object(object) = serde_json::from_str(&printed).unwrap() else {
        panic!("{printed}");
    };
    assert_eq!(object["schema"], schema);
    object
}

/// The members of an object, which must be just these: an undocumented one is a gap in `docs/json.md`.
#[track_caller]
fn assert_members(object: &Value, members: &[&str]) {
    let mut found: Vec<&str> = object
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let mut expected = members.to_vec();
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
}

const KERNEL: [&str; 4] = ["source", "build_id", "kernel", "tables"];

#[track_caller]
fn assert_kernel(kernel: &Value, source: &str, tables: &[&str]) {
    assert_members(kernel, &KERNEL);
    assert_eq!(kernel["source"], source);
    assert!(
        tables.contains(&kernel["tables"].as_str().unwrap()),
        "{kernel}"
    );
    let build_id = kernel["build_id"].as_str().unwrap();
    assert!(build_id.len() >= 16 && build_id.bytes().all(|b| b.is_ascii_hexdigit()));
    let version = kernel["kernel"].as_str().unwrap().split('.');
    assert!(version.clone().all(|part| part.parse::<u32>().is_ok()));
    assert_eq!(version.count(), 3);
}

const STRATEGIES: [&str; 4] = ["keep", "relocate", "proxy", "syscall"];

#[test]
fn dump_vdso_writes_the_image_whole_or_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("vdso.so");
    let file = path.to_str().unwrap();
    assert_eq!(run(["dump-vdso", "self", "-o", file]).success(), "");
    let own = fs::read(&path).unwrap();
    assert!(own.starts_with(b"\x7fELF"));
    let inspected = json("relocator.inspect/2", &["inspect", "self"]);
    let written = json("relocator.inspect/2", &["inspect", file]);
    assert_eq!(inspected["build_id"], written["build_id"]);

    let got = fixture::find("got").unwrap().image;
    run(["dump-vdso", "fixture:got", "-o", file]).success();
    assert_eq!(fs::read(&path).unwrap(), got);
    let output = relocator().args(["dump-vdso", file, "-o", "-"]).output();
    assert_eq!(output.unwrap().stdout, got);

    let table = directory.path().join("vvar.so");
    let table = table.to_str().unwrap();
    run(["symtab", "fixture:got", "-o", table]).success();
    run(["dump-vdso", table, "-o", file]).failure(2);
    run(["dump-vdso", "no-such-file", "-o", file]).failure(2);
    assert_eq!(fs::read(&path).unwrap(), got);
    let files = fs::read_dir(directory.path()).unwrap();
    assert_eq!(files.count(), 2, "nothing else is left");
    let missing = run(["dump-vdso", "self"]);
    assert_eq!(missing.status, Some(2));
    let nowhere = directory.path().join("nowhere/vdso.so");
    run(["dump-vdso", "self", "-o", nowhere.to_str().unwrap()]).failure(2);
}

/// The names of all functions, sorted.
#[track_caller]
fn functions(report: &Map<String, Value>, members: &[&str]) -> Vec<String> {
    let functions = report["functions"].as_array().unwrap();
    let name = |function: &Value| {
        assert_members(function, members);
        assert!(STRATEGIES.contains(&function["strategy"].as_str().unwrap()));
        assert_ne!(function["reason"], "");
        let name = function["name"].as_str().unwrap();
        let plain = name.strip_prefix("__vdso_").unwrap();
        assert_eq!(function["aliases"], serde_json::json!([plain]));
        name.to_owned()
    };
    let mut names: Vec<String> = functions.iter().map(name).collect();
    names.sort();
    names
}

const FUNCTIONS: [&str; 5] = [
    "__vdso_clock_getres",
    "__vdso_clock_gettime",
    "__vdso_getcpu",
    "__vdso_gettimeofday",
    "__vdso_time",
];

#[test]
fn link_reports_what_becomes_of_each_function() {
    let report = json(
        "relocator.link/1",
        &["link", "fixture:required", "--onto", "fixture:reordered"],
    );
    assert_members(
        &report.clone().into(),
        &[
            "schema",
            "old",
            "new",
            "no_tables",
            "size",
            "functions",
            "moved",
        ],
    );
    assert_eq!(report["no_tables"], Value::Null);
    // Slots always fit.
    assert_eq!(report["moved"], Value::Array(Vec::new()));
    assert_kernel(&report["old"], "fixture:required", &["exported"]);
    assert_kernel(&report["new"], "fixture:reordered", &["exported"]);
    let members = [
        "name",
        "aliases",
        "strategy",
        "reason",
        "reason_code",
        "relocations",
        "detours",
    ];
    assert_eq!(functions(&report, &members), FUNCTIONS);
    let functions = report["functions"].as_array().unwrap();
    for function in functions {
        let count = function["relocations"].as_u64().unwrap();
        assert_eq!(count > 0, function["strategy"] == "relocate", "{function}");
        assert_eq!(function["detours"], 0);
    }
    // The image and, behind it, two copies of each default: one for each clock.
    let image = fixture::find("required").unwrap().image.len() as u64;
    assert!(report["size"].as_u64().unwrap() > image);
}

#[test]
fn verify_reports_calls_and_differences() {
    let arguments = ["verify", "fixture:got", "--rounds", "2"];
    let report = json("relocator.verify/2", &arguments);
    assert_members(
        &report.clone().into(),
        &[
            "schema",
            "old",
            "new",
            "emulated",
            "clock",
            "time_namespace",
            "processor",
            "functions",
        ],
    );
    assert_eq!(report["processor"]["cannot_run"], Value::Array(Vec::new()));
    assert_kernel(&report["old"], "fixture:got", &["exported"]);
    assert_kernel(&report["new"], "self", &["exported", "btf", "none"]);
    assert_eq!(report["emulated"], false);
    assert_eq!(report["clock"], "tsc");
    assert_eq!(report["time_namespace"], false);
    let members = [
        "name",
        "aliases",
        "strategy",
        "reason",
        "calls",
        "mismatches",
        "repeated",
        "like_native",
        "like_home",
        "first_mismatch",
    ];
    assert_eq!(functions(&report, &members), FUNCTIONS);
    for function in report["functions"].as_array().unwrap() {
        assert!(function["calls"].as_u64().unwrap() > 0, "{function}");
        assert_eq!(function["mismatches"], 0);
        assert_eq!(function["first_mismatch"], Value::Null);
    }
    let text = run(arguments).success();
    assert!(text.contains("agree with the system calls"), "{text}");
}

/// An image that alternatives made for a processor with `rdpid`, and one that lacks it.
#[test]
fn verify_says_what_a_processor_cannot_run() {
    const NEEDS_RDPID: [u8; 5] = [0xf3, 0x0f, 0xc7, 0xf8, 0xc3];
    let fixture = fixture::find("bare").unwrap();
    let image = elf_tools::image::Image::parse(fixture.image).unwrap();
    let entry = image.export("__vdso_getcpu").unwrap().address.index();
    let mut bytes = fixture.image.to_vec();
    bytes[entry..entry + NEEDS_RDPID.len()].copy_from_slice(&NEEDS_RDPID);
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    let path = file.path().to_str().unwrap();
    let verify = |cpu| ["verify", path, "--rounds", "2", "--cpu", cpu];
    for cpu in ["base", "self,-rdpid"] {
        let report = json("relocator.verify/2", &verify(cpu));
        let processor = &report["processor"];
        let features = processor["features"].as_array().unwrap();
        assert!(!features.contains(&"rdpid".into()), "{processor}");
        let [lacking] = &processor["cannot_run"].as_array().unwrap()[..] else {
            panic!("{processor}");
        };
        assert_members(lacking, &["function", "instructions"]);
        assert!(lacking["function"].as_str().unwrap().ends_with("getcpu"));
        let instructions = serde_json::json!([{"address": entry, "lacks": ["rdpid"]}]);
        assert_eq!(lacking["instructions"], instructions);
        // It is not called, so its wrong answer is not seen.
        let functions = report["functions"].as_array().unwrap();
        let is_it = |function: &&Value| function["name"] == lacking["function"];
        let function = functions.iter().find(is_it).unwrap();
        assert_eq!(function["strategy"], "proxy", "{function}");
        assert_eq!(function["mismatches"], 0);
        let text = run(verify(cpu)).success();
        assert!(text.contains(&format!("{entry:#x} needs rdpid")), "{text}");
    }
    let refused = run(["verify", "fixture:bare", "--cpu", "nosuch"]);
    assert!(
        refused.stderr.contains("\"nosuch\" is not known"),
        "{}",
        refused.stderr
    );
    // Nothing is linked there.
    let unlinked = run(["verify", "fixture:got", "--unlinked", "--cpu", "base"]);
    assert!(
        unlinked.stderr.contains("cannot be used with"),
        "{}",
        unlinked.stderr
    );
}

#[test]
fn verify_says_what_is_emulated() {
    if let Err(reason) = &*EMULATION {
        assert!(!all_required(), "{reason}");
        eprintln!("not run: {reason}");
        return;
    }
    let arguments = ["verify", "fixture:got", "--rounds", "2"];
    let with = |more: &[&'static str]| {
        let arguments = [&arguments[..], more].concat();
        let report = json("relocator.verify/2", &arguments);
        let text = run(arguments).success();
        assert!(text.contains("agree with the system calls"), "{text}");
        (report, text)
    };
    let (report, text) = with(&["--onto", "fixture:shuffled"]);
    assert_kernel(&report["new"], "fixture:shuffled", &["exported"]);
    assert_eq!(
        (&report["emulated"], &report["clock"]),
        (&true.into(), &"tsc".into())
    );
    assert!(text.contains("emulated here, counting with tsc"), "{text}");
    let (report, _) = with(&["--clock", "pvclock"]);
    assert_kernel(&report["new"], "self", &["exported", "btf"]);
    assert_eq!(
        (&report["emulated"], &report["clock"]),
        (&true.into(), &"pvclock".into())
    );
    let (report, text) = with(&["--unlinked"]);
    assert_kernel(&report["new"], "fixture:got", &["exported"]);
    let functions = report["functions"].as_array().unwrap();
    assert!(functions.iter().all(|f| f["strategy"] == "native"));
    assert!(text.contains("not linked"), "{text}");
}

#[test]
fn compare_puts_strategies_side_by_side() {
    let report = json(
        "relocator.compare/3",
        &["compare", "fixture:got", "--rounds", "1"],
    );
    assert_members(
        &report.clone().into(),
        &[
            "schema",
            "command",
            "ended",
            "new",
            "time_namespace",
            "rounds",
            "batches",
            "batch",
            "links",
            "summary",
            "olds",
        ],
    );
    assert_kernel(&report["new"], "self", &["exported", "btf", "none"]);
    let [old] = report["olds"].as_array().unwrap().as_slice() else {
        panic!("{report:?}");
    };
    assert_members(old, &["old", "rows"]);
    assert_kernel(&old["old"], "fixture:got", &["exported"]);
    let rows = old["rows"].as_array().unwrap();
    let strategies: Vec<&str> = rows
        .iter()
        .map(|row| row["approach"].as_str().unwrap())
        .collect();
    let known = "relocate proxy step-out syscall criu nothing native";
    assert_eq!(strategies.join(" "), known);
    let members = [
        "approach",
        "covered",
        "functions",
        "calls",
        "mismatches",
        "first_mismatch",
        "like_native",
        "checks",
        "timings",
        "cost",
        "code_of",
        "in_flight",
        "no_in_flight",
        "reason",
        "failure",
    ];
    for row in rows {
        assert_members(row, &members);
        let is_on_zeros = ["criu", "nothing"].contains(&row["approach"].as_str().unwrap());
        assert_eq!(row["mismatches"] != 0, is_on_zeros, "{row}");
        let is_carried =
            ["relocate", "proxy", "syscall"].contains(&row["approach"].as_str().unwrap());
        if is_carried {
            let worst = &row["in_flight"]["worst"];
            for ending in ["wrong", "crashed", "hung", "stuck"] {
                assert_eq!(worst[ending], 0, "{row}");
            }
            assert_ne!(worst["new"], 0);
        }
        assert_eq!(row["in_flight"].is_null(), row["no_in_flight"].is_string());
        assert!(row["covered"].as_u64().unwrap() <= row["functions"].as_u64().unwrap());
        for timing in row["timings"].as_array().unwrap() {
            assert_members(timing, &["call", "ns", "ratio", "wrong"]);
            assert!(timing["ns"].as_f64().unwrap() > 0.0);
        }
    }
}

/// A crash costs the rows that execute the code, and the command fails because some of them are ours.
#[test]
fn compare_fails_where_code_crashes() {
    const INVALID: [u8; 2] = [0x0f, 0x0b];
    let fixture = fixture::find("operands").unwrap();
    let image = elf_tools::image::Image::parse(fixture.image).unwrap();
    let entry = image.export("__vdso_getcpu").unwrap().address.index();
    let mut bytes = fixture.image.to_vec();
    bytes[entry..entry + INVALID.len()].copy_from_slice(&INVALID);
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    let path = file.path().to_str().unwrap();
    let ran = run(["compare", path, "--rounds", "1", "--json"]);
    assert_eq!(ran.status, Some(1), "{}", ran.stderr);
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    let rows = report["olds"][0]["rows"].as_array().unwrap();
    for (approach, row) in Approach::ALL.iter().zip(rows) {
        let executes = [Approach::Relocate, Approach::StepOut, Approach::Nothing];
        let code = executes.contains(approach).then_some("crashed");
        assert_eq!(row["failure"]["code"].as_str(), code, "{row}");
    }
}

#[test]
fn compare_writes_a_page() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("report.html");
    let words = [
        "compare",
        "fixture:operands",
        "--rounds",
        "1",
        "--no-in-flight",
        "--full",
        "--report",
    ];
    let arguments = words.map(Path::new).into_iter().chain([file.as_path()]);
    let text = run(arguments).success();
    let page = fs::read_to_string(&file).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>\n<html lang=\"en\""));
    assert!(page.trim_end().ends_with("</html>"));
    let shown = text.lines().find(|line| line.starts_with("relocate: "));
    let sentence = shown.unwrap().trim_start_matches("relocate: ");
    assert!(page.contains(sentence), "{sentence}");
}

#[test]
fn inspect_shows_image_tables_and_mappings() {
    let members: Vec<&str> = KERNEL
        .into_iter()
        .chain([
            "schema",
            "image",
            "symtab",
            "no_symtab",
            "mappings",
            "recognised",
        ])
        .collect();
    let report = json("relocator.inspect/2", &["inspect", "fixture:operands"]);
    assert_members(&report.clone().into(), &members);
    let image = &report["image"];
    let parts = [
        "size",
        "machine",
        "relocation_capable",
        "alternatives",
        "exports",
        "needs",
        "opaque",
        "reentry",
        "no_reentry",
    ];
    assert_members(image, &parts);
    assert_eq!(image["opaque"], 0);
    let found = fixture::find("operands").unwrap();
    assert_eq!(image["size"], found.image.len());
    assert_eq!(image["machine"], "x86-64");
    assert_eq!(image["relocation_capable"], true);
    assert_ne!(image["alternatives"], 0);
    let exports = image["exports"].as_array().unwrap();
    assert_eq!(exports.len(), 2 * FUNCTIONS.len());
    for export in exports {
        assert_members(
            export,
            &["name", "version", "address", "size", "relocations"],
        );
        assert_eq!(export["version"], "LINUX_2.6");
        let needs_nothing = export["name"].as_str().unwrap().ends_with("getcpu");
        assert_eq!(export["relocations"] == 0, needs_nothing, "{export}");
    }
    let needs = image["needs"].as_array().unwrap();
    for need in needs {
        assert_members(need, &["reference", "places", "constraints", "has_default"]);
        assert_eq!(need["constraints"], 0);
        let defaulted = need["reference"].as_str().unwrap().ends_with("max_cycles");
        assert_eq!(need["has_default"], defaulted, "{need}");
        assert_ne!(need["places"], 0, "{need}");
    }
    assert!(needs.len() > 20);
    assert_members(&report["symtab"], &["symbols", "mappings"]);
    assert_eq!(report["no_symtab"], Value::Null);
    assert_eq!(report["mappings"], serde_json::json!([]));
    assert_eq!(report["recognised"], Value::Null);

    let bare = json("relocator.inspect/2", &["inspect", "fixture:bare"]);
    assert_eq!(bare["symtab"], Value::Null);
    assert_eq!(bare["tables"], "none");
    assert_ne!(bare["no_symtab"], Value::Null);
    assert_eq!(bare["image"]["relocation_capable"], false);

    let own = json("relocator.inspect/2", &["inspect", "self"]);
    let mappings = own["mappings"].as_array().unwrap();
    for mapping in mappings {
        assert_members(mapping, &["name", "address", "size"]);
    }
    for name in ["[vvar]", "[vdso]"] {
        assert!(mappings.iter().any(|mapping| mapping["name"] == name));
    }
}

#[test]
fn inspect_recognises_what_a_restored_process_has() {
    let old = old_vdso(&"fixture:got".parse().unwrap()).unwrap();
    for patched in [false, true] {
        let bed = Bed {
            patched,
            ..Bed::new(old.clone())
        };
        let mut command = Command::new("sleep");
        command.arg("60");
        let restored = bed.launch(command).unwrap();
        let source = format!("pid:{}", restored.pid());
        let report = json("relocator.inspect/2", &["inspect", &source]);
        let recognised = &report["recognised"];
        assert_members(recognised, &["kernel", "old", "misleading_names"]);
        let kernel = &recognised["kernel"];
        assert_members(kernel, &["mappings", "missing", "whole", "mark"]);
        assert_eq!(kernel["whole"], true);
        assert_eq!(kernel["missing"], serde_json::json!([]));
        let mappings = kernel["mappings"].as_array().unwrap();
        assert_eq!(mappings.len(), restored.parked.len());
        for (found, parked) in mappings.iter().zip(&restored.parked) {
            assert_members(found, &["name", "address", "size"]);
            assert_eq!(found["name"], parked.name);
            assert_eq!(found["address"], parked.start.0);
            assert_eq!(found["size"], parked.size);
        }
        let size = |range: &Range<Avma>| range.end.0 - range.start.0;
        match patched {
            true => {
                assert_members(&kernel["mark"], &["old_vdso", "old_vvar", "new_vvar"]);
                assert_eq!(kernel["mark"]["old_vdso"], restored.text.start.0);
            }
            false => assert_eq!(kernel["mark"], Value::Null),
        }
        let [old] = &recognised["old"].as_array().unwrap()[..] else {
            panic!("{recognised}");
        };
        let members = [
            "address",
            "size",
            "build_id",
            "by_auxv",
            "mapping",
            "vvar_placeholder",
            "link",
        ];
        assert_members(old, &members);
        assert_eq!(old["link"], Value::Null);
        assert_eq!(old["address"], restored.text.start.0);
        assert_eq!(old["size"], fixture::find("got").unwrap().image.len());
        assert_eq!(old["by_auxv"], restored.auxv.is_ok());
        for (name, range) in [
            ("mapping", &restored.text),
            ("vvar_placeholder", &restored.zeros),
        ] {
            assert_members(&old[name], &["address", "size"]);
            assert_eq!(old[name]["address"], range.start.0, "{name}");
            assert_eq!(old[name]["size"], size(range), "{name}");
        }
        if restored.auxv.is_ok() {
            assert_eq!(recognised["misleading_names"], serde_json::json!([]));
        }
        let text = run(["inspect", &source]).success();
        for (word, at) in [
            ("kernel's", restored.parked[0].start),
            ("old vDSO", restored.text.start),
            ("old vvar", restored.zeros.start),
        ] {
            let line = text.lines().find(|line| line.starts_with(word)).unwrap();
            assert!(line.contains(&at.to_string()), "{line}");
        }
    }
    let ended = run(["inspect", "pid:4194305"]);
    assert_eq!(ended.status, Some(2), "{}", ended.stderr);
}

#[test]
fn symtab_lists_every_symbol() {
    let members: Vec<&str> = KERNEL
        .into_iter()
        .chain(["schema", "mappings", "symbols"])
        .collect();
    let report = json("relocator.symtab/1", &["symtab", "fixture:semantics"]);
    assert_members(&report.clone().into(), &members);
    for mapping in report["mappings"].as_array().unwrap() {
        assert_members(mapping, &["name", "address", "size"]);
    }
    let symbols = report["symbols"].as_array().unwrap();
    for symbol in symbols {
        assert_members(symbol, &["name", "version", "mapping", "offset", "size"]);
        let name = symbol["name"].as_str().unwrap();
        let version = if name.ends_with("basetime[].nsec") {
            2
        } else {
            1
        };
        assert_eq!(symbol["version"], version, "{symbol}");
    }
    assert!(symbols.len() > 50);
}

#[test]
fn link_writes_an_image_that_readelf_shows() {
    let directory = tempfile::tempdir().unwrap();
    for fixture in fixture::all() {
        let path = directory.path().join(fixture.name);
        let old = format!("fixture:{}", fixture.name);
        let output = path.to_str().unwrap();
        // Its defaults, if there are any, are behind the section headers.
        let report = json(
            "relocator.link/1",
            &["link", &old, "--onto", "fixture:reordered", "-o", output],
        );
        assert_eq!(report["size"], fs::metadata(&path).unwrap().len());
        let shown = readelf(&["-aW"], &path).unwrap_or_else(|e| panic!("{}: {e}", fixture.name));
        assert!(shown.contains("__vdso_clock_gettime@@LINUX_2.6"));
        let written = fs::read(&path).unwrap();
        assert_ne!(written, fixture.image, "{}", fixture.name);
        assert_eq!(files(directory.path()), [fixture.name]);
        fs::remove_file(path).unwrap();
    }
}

/// The names of the files in a directory.
fn files(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_dry_run_writes_nothing_and_says_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("linked.so");
    let arguments = ["link", "fixture:got", "--onto", "fixture:shuffled", "-o"];
    let with = |more: &[&str]| {
        let mut arguments = arguments.to_vec();
        arguments.push(path.to_str().unwrap());
        arguments.extend(more);
        run(arguments).success()
    };
    let dry = with(&["--dry-run"]);
    assert_eq!(files(directory.path()), [""; 0]);
    assert_eq!(with(&[]), dry);
    assert_eq!(files(directory.path()), ["linked.so"]);
}

#[test]
fn tables_survive_being_written() {
    for fixture in fixture::all().iter().filter(|f| f.symtab.is_some()) {
        let source = format!("fixture:{}", fixture.name);
        table::survives(source.as_ref()).unwrap_or_else(|what| panic!("{source}: {what}"));
    }
}

#[test]
fn a_closed_pipe_is_no_error() {
    for arguments in [
        &["symtab", "fixture:got", "--json"][..],
        &["symtab", "fixture:got"],
        &["inspect", "fixture:got"],
        &["link", "fixture:got", "--onto", "fixture:got"],
    ] {
        let mut command = relocator();
        command.args(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // Nobody reads before anything is written, so every write finds the pipe closed.
        drop(child.stdout.take());
        let mut messages = String::new();
        let mut stderr = child.stderr.take().unwrap();
        stderr.read_to_string(&mut messages).unwrap();
        assert_eq!(messages, "", "{arguments:?}");
        assert!(child.wait().unwrap().success(), "{arguments:?}");
    }
}
