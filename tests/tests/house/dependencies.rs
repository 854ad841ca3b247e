//! Which crates a crate is built from, by `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// A crate, what it is never built from, directly or by way of others, and why.
struct Never {
    package: &'static str,
    crates: &'static [&'static str],
    why: &'static str,
}

/// What needs a kernel, a terminal, or a C compiler.
const EDGES: &[&str] = &[
    "kernel-fixtures",
    "kernel-source",
    "relocator-process",
    "relocator-verify",
    "relocator-cli",
    "clap",
    "nix",
    "libc",
    "procfs",
    "tempfile",
    "comfy-table",
    "indicatif",
    "anyhow",
    "cc",
];

/// What must not be loaded into CRIU. Not anyhow: the derive of prost, which runs in the compiler, is
/// built from that.
const NOT_IN_CRIU: &[&str] = &[
    "kernel-fixtures",
    "kernel-source",
    "relocator-verify",
    "relocator-cli",
    "clap",
    "comfy-table",
    "indicatif",
    "cc",
    "prost-build",
];

const NEVERS: [Never; 6] = [
    Never {
        package: "elf-tools",
        crates: EDGES,
        why: "it says what bytes mean, and builds without a C compiler",
    },
    Never {
        package: "relocator",
        crates: EDGES,
        why: "it takes bytes and tables and returns bytes and a report, inside of any program",
    },
    Never {
        package: "relocator-process",
        crates: &[
            "kernel-fixtures",
            "kernel-source",
            "relocator-verify",
            "relocator-cli",
            "clap",
            "comfy-table",
            "indicatif",
            "anyhow",
            "cc",
        ],
        why: "a plugin of CRIU's is to be built on it",
    },
    Never {
        package: "relocator-criu",
        crates: NOT_IN_CRIU,
        why: "a plugin of CRIU's is to be built on it, and no compiler of messages is needed for it",
    },
    Never {
        package: "relocator-plugin",
        crates: NOT_IN_CRIU,
        why: "it is loaded into CRIU",
    },
    Never {
        package: "relocator-verify",
        crates: &[
            "kernel-fixtures",
            "kernel-source",
            "relocator-cli",
            "clap",
            "comfy-table",
        ],
        why: "it judges any image, ours or not, and prints nothing",
    },
];

/// For each package, those that it is built from directly: without what only its own tests need.
fn graph() -> BTreeMap<String, BTreeSet<String>> {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .args(["--filter-platform", TARGET, "--manifest-path", manifest])
        .output()
        .expect("cargo can be run");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let text = |value: &Value| value.as_str().expect("a string").to_owned();
    let packages = metadata["packages"].as_array().expect("packages");
    let names: BTreeMap<String, String> = packages
        .iter()
        .map(|package| (text(&package["id"]), text(&package["name"])))
        .collect();
    let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for node in metadata["resolve"]["nodes"].as_array().expect("nodes") {
        let needed = graph.entry(names[&text(&node["id"])].clone()).or_default();
        for dependency in node["deps"].as_array().expect("dependencies") {
            let kinds = dependency["dep_kinds"].as_array().expect("kinds");
            if kinds.iter().any(|kind| kind["kind"] != "dev") {
                needed.insert(names[&text(&dependency["pkg"])].clone());
            }
        }
    }
    graph
}

/// The machine that this was built for: others have other dependencies.
const TARGET: &str = env!("RELOCATOR_TESTS_TARGET");

/// The shortest chain from a package to a crate, if there is one.
fn chain(graph: &BTreeMap<String, BTreeSet<String>>, from: &str, to: &str) -> Option<Vec<String>> {
    let mut chains = vec![vec![from.to_owned()]];
    let mut seen = BTreeSet::from([from.to_owned()]);
    while !chains.is_empty() {
        let mut longer = Vec::new();
        for chain in chains {
            for next in &graph[chain.last()?] {
                let extended = [chain.as_slice(), std::slice::from_ref(next)].concat();
                if next == to {
                    return Some(extended);
                }
                if seen.insert(next.clone()) {
                    longer.push(extended);
                }
            }
        }
        chains = longer;
    }
    None
}

#[test]
fn no_crate_is_built_from_what_it_may_not_know() {
    let graph = graph();
    for never in NEVERS {
        for name in never.crates {
            let found = chain(&graph, never.package, name);
            assert!(found.is_none(), "{found:?}; {}", never.why);
        }
    }
}

/// A chain that there is is found, so that its absence means something.
#[test]
fn chains_are_found() {
    let graph = graph();
    for (from, to) in [
        ("relocator-cli", "clap"),
        ("relocator-cli", "nix"),
        ("relocator-process", "libc"),
        ("relocator-criu", "prost"),
        ("relocator", "iced-x86"),
        ("kernel-fixtures", "elf-tools"),
    ] {
        let found = chain(&graph, from, to).unwrap_or_default();
        let ends = (
            found.first().map(String::as_str),
            found.last().map(String::as_str),
        );
        assert_eq!(ends, (Some(from), Some(to)));
    }
    // What only tests need does not count: the linker's are made with fixtures.
    assert_eq!(chain(&graph, "relocator", "criterion"), None);
}
