//! Suites and the programs that they start, built by cargo.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::arguments::Suite;
use crate::programs;

/// The package whose tests are run.
const PACKAGE: &str = "relocator-tests";

/// What cargo has built.
pub(super) struct Built {
    /// Suites by name.
    pub(super) tests: Vec<(String, PathBuf)>,
    /// Programs that they start.
    pub(super) programs: Vec<PathBuf>,
}

/// Builds suites, the programs of their package, and the command.
pub(super) fn build(asked: &Suite) -> Result<Built> {
    let mut command = programs::cargo("test")?;
    command.args([
        "--no-run",
        "--message-format",
        "json",
        "--profile",
        &asked.profile,
    ]);
    command.args(["--package", PACKAGE, "--bins"]);
    for suite in &asked.suites {
        command.args(["--test", suite]);
    }
    let output = command.stderr(std::process::Stdio::inherit()).output();
    let output = output.context("cargo")?;
    if !output.status.success() {
        bail!("the suites cannot be built: {}", output.status);
    }
    let mut built = read(&String::from_utf8_lossy(&output.stdout), &asked.suites);
    let mut command = programs::cargo("build")?;
    command.args([
        "--package",
        "relocator-cli",
        "--bin",
        "relocator",
        "--profile",
        &asked.profile,
    ]);
    if !command.status().context("cargo")?.success() {
        bail!("relocator cannot be built");
    }
    let directory = match asked.profile.as_str() {
        "dev" | "test" => "debug",
        other => other,
    };
    built.programs.push(
        programs::target_directory()?
            .join(directory)
            .join("relocator"),
    );
    Ok(built)
}

/// The programs in cargo's messages.
fn read(messages: &str, suites: &[String]) -> Built {
    let mut built = Built {
        tests: Vec::new(),
        programs: Vec::new(),
    };
    for line in messages.lines() {
        let message: Value = serde_json::from_str(line).unwrap_or_default();
        let Some(executable) = message["executable"].as_str().map(PathBuf::from) else {
            continue;
        };
        let target = &message["target"];
        let name = target["name"].as_str().unwrap_or_default().to_owned();
        let is_test = target["kind"][0] == "test" && suites.contains(&name);
        let is_program = target["kind"][0] == "bin" && message["profile"]["test"] == false;
        if is_test {
            built.tests.push((name, executable));
        } else if is_program {
            built.programs.push(executable);
        }
    }
    built
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_and_programs_are_told_apart() {
        let messages = r#"{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"hammer"},"profile":{"test":false},"executable":"/t/hammer"}
{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"hammer"},"profile":{"test":true},"executable":"/t/hammer-1"}
{"reason":"compiler-artifact","target":{"kind":["test"],"name":"apply"},"profile":{"test":true},"executable":"/t/apply-2"}
{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"x"},"profile":{"test":false},"executable":null}
no message"#;
        let built = read(messages, &["apply".to_owned()]);
        assert_eq!(
            built.tests,
            [("apply".to_owned(), PathBuf::from("/t/apply-2"))]
        );
        assert_eq!(built.programs, [PathBuf::from("/t/hammer")]);
    }
}
