//! What the lab takes from the distribution: the emulator, CRIU, C libraries, Python, Go,
//! kernels with modules.
//!
//! Suites are named by code name, which stays with a release.

use anyhow::{Context, Result, bail};
use kernel_source::{Cache, Kernel, Tree, TreeRequest};

use crate::arch;

/// The emulator, with its firmware.
pub(crate) fn emulator(cache: &Cache) -> Result<Tree> {
    let request = TreeRequest {
        name: "emulator",
        suites: &["trixie"],
        packages: &[arch::EMULATOR_PACKAGE],
    };
    cache.tree(&request).context("the emulator")
}

/// A shell and the usual commands in one static program.
pub(crate) fn busybox(cache: &Cache) -> Result<Tree> {
    let request = TreeRequest {
        name: "busybox",
        suites: &["trixie"],
        packages: &["busybox-static"],
    };
    cache.tree(&request).context("busybox")
}

/// Versions of CRIU: how one asks for it, the suites, and the packages. Those of the newest one are
/// named by version, so that what it depends on is not taken from `experimental` as well.
const CRIU: [(&str, &[&str], &[&str]); 3] = [
    ("3.17", &["bookworm"], &["criu"]),
    ("4.1", &["trixie"], &["criu"]),
    (
        "4.3",
        kernel_source::CRIU.suites,
        kernel_source::CRIU.packages,
    ),
];

/// The version of CRIU that is used where none is asked for.
pub(crate) const USUAL_CRIU: &str = "4.3";

/// CRIU, with its libraries. What a rolling suite has now can be newer than what was asked for; the
/// tree says what it is.
pub(crate) fn criu(cache: &Cache, version: &str) -> Result<Tree> {
    let Some((_, suites, packages)) = CRIU.iter().find(|(name, ..)| *name == version) else {
        let known: Vec<&str> = CRIU.iter().map(|(name, ..)| *name).collect();
        bail!("no CRIU {version}: {} are known", known.join(", "));
    };
    let request = TreeRequest {
        name: &format!("criu-{version}"),
        suites,
        packages,
    };
    cache
        .tree(&request)
        .with_context(|| format!("CRIU {version}"))
}

/// C libraries: how one asks for it, the suite, and the packages.
const LIBCS: [(&str, &str, &[&str]); 3] = [
    ("2.36", "bookworm", &["libc6"]),
    ("newest", "sid", &["libc6"]),
    ("musl", "sid", &["musl", "musl-dev"]),
];

/// The C library that is used where none is asked for.
pub(crate) const USUAL_LIBC: &str = "2.36";

/// A C library.
pub(crate) fn libc(cache: &Cache, version: &str) -> Result<Tree> {
    let Some((_, suite, packages)) = LIBCS.iter().find(|(name, ..)| *name == version) else {
        let known: Vec<&str> = LIBCS.iter().map(|(name, ..)| *name).collect();
        bail!("no C library {version}: {} are known", known.join(", "));
    };
    let request = TreeRequest {
        name: &format!("libc-{version}"),
        suites: &[suite],
        packages,
    };
    cache
        .tree(&request)
        .with_context(|| format!("C library {version}"))
}

/// Python interpreters: the C library that one uses, and the suite that has both.
const PYTHONS: [(&str, &str); 2] = [("2.36", "bookworm"), ("newest", "sid")];

/// Whether there is a Python interpreter for a C library.
pub(crate) fn has_python(libc: &str) -> bool {
    PYTHONS.iter().any(|(name, _)| *name == libc)
}

/// The Python interpreter that a suite builds for its C library, with both.
pub(crate) fn python(cache: &Cache, libc: &str) -> Result<Tree> {
    let Some((_, suite)) = PYTHONS.iter().find(|(name, _)| *name == libc) else {
        let known: Vec<&str> = PYTHONS.iter().map(|(name, _)| *name).collect();
        bail!(
            "no Python with C library {libc}: {} are known",
            known.join(", ")
        );
    };
    let request = TreeRequest {
        name: &format!("python-{libc}"),
        suites: &[suite],
        packages: &["python3"],
    };
    cache
        .tree(&request)
        .with_context(|| format!("Python with C library {libc}"))
}

/// The Go compiler with its library's sources.
pub(crate) fn go(cache: &Cache) -> Result<Tree> {
    let request = TreeRequest {
        name: "go",
        suites: &["trixie"],
        packages: &["golang-go"],
    };
    cache.tree(&request).context("Go")
}

/// A kernel and its modules.
pub(crate) fn kernel(cache: &Cache, version: &str) -> Result<(Kernel, Tree)> {
    let kernel = cache.fetch(version)?;
    let modules = cache.modules(&kernel);
    let modules = modules.with_context(|| format!("the modules of {}", kernel.package))?;
    Ok((kernel, modules))
}

/// Fetches everything that the usual commands need.
pub(crate) fn fetch_all(cache: &Cache, kernels: &[String]) -> Result<Vec<(String, Tree)>> {
    let mut trees = vec![
        ("emulator".to_owned(), emulator(cache)?),
        ("busybox".to_owned(), busybox(cache)?),
    ];
    for (version, ..) in CRIU {
        trees.push((format!("CRIU {version}"), criu(cache, version)?));
    }
    for (version, ..) in LIBCS {
        trees.push((format!("C library {version}"), libc(cache, version)?));
    }
    for (libc, _) in PYTHONS {
        let name = format!("Python with C library {libc}");
        trees.push((name, python(cache, libc)?));
    }
    trees.push(("Go".to_owned(), go(cache)?));
    for version in kernels {
        trees.push((format!("Linux {version}"), kernel(cache, version)?.1));
    }
    Ok(trees)
}
