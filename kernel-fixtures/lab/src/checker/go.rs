//! The checker in Go is compiled by the distribution's compiler, out of its unpacked packages.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use kernel_source::{Cache, Tree};

const SOURCE: &str = include_str!("checker.go");

/// The module that the source is.
const MODULE: &str = "module checker\n\ngo 1.24\n";

/// Compiles the checker as the static program `output`, without any network. What the compiler makes
/// of Go's library is kept in the cache.
pub(crate) fn compile(tree: &Tree, cache: &Cache, output: &Path) -> Result<()> {
    let directory = crate::scratch::directory()?;
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).with_context(|| path.display().to_string())
    };
    file("checker.go", SOURCE)?;
    file("go.mod", MODULE)?;
    // With a file in assembly language, functions may be declared without a body: those of the
    // runtime.
    file("empty.s", "")?;
    let root = std::path::absolute(tree.root.join("usr/lib/go"))?;
    let root = root.canonicalize().context("the Go compiler")?;
    let result = Command::new(root.join("bin/go"))
        .args(["build", "-trimpath", "-ldflags=-s -w", "-o"])
        .arg(std::path::absolute(output)?)
        .arg(".")
        .current_dir(directory.path())
        .env("GOROOT", &root)
        .env(
            "GOCACHE",
            std::path::absolute(cache.root().join("go-build"))?,
        )
        .env("GOPATH", directory.path().join("path"))
        // It counts its runs there.
        .env("HOME", directory.path())
        .env("XDG_CONFIG_HOME", directory.path())
        .envs([
            ("CGO_ENABLED", "0"),
            ("GOENV", "off"),
            ("GOFLAGS", "-mod=mod"),
            ("GOPROXY", "off"),
            ("GOTOOLCHAIN", "local"),
            ("GOWORK", "off"),
        ])
        .output();
    let result = result.context("the Go compiler")?;
    if !result.status.success() {
        let said = String::from_utf8_lossy(&result.stderr);
        bail!("the checker in Go does not compile: {said}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::checker::FUNCTIONS;

    /// The page has the functions in the same order everywhere.
    #[test]
    fn functions_have_the_same_places() {
        for (name, constant) in [
            ("monotonic", "monotonic "),
            ("realtime", "realtime "),
            ("gettimeofday", "gettimeofday"),
            ("time", "second "),
            ("getrandom", "getrandom "),
        ] {
            let place = FUNCTIONS.iter().position(|found| *found == name).unwrap();
            let line = super::SOURCE
                .lines()
                .find(|line| line.trim().starts_with(constant) && line.contains(" = "))
                .unwrap();
            assert!(line.ends_with(&format!("= {place}")), "{line}");
        }
    }
}
