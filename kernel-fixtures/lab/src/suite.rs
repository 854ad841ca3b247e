//! Test suites of this workspace in guests: on kernels and processors other than the running ones.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::arguments::Suite;
use crate::lab::Lab;
use crate::programs;
use crate::run::Guest;

/// The package whose tests are run.
const PACKAGE: &str = "relocator-tests";

/// Cargo, by which tests build the command themselves. In a guest it is up to date.
const CARGO: &str = env!("CARGO");

/// Runs suites on kernels, one after the other. The status is that of the last suite that failed.
pub(crate) fn run(lab: &Lab, asked: &Suite) -> Result<u8> {
    let built = build(asked)?;
    let mut worst = 0;
    for version in &asked.kernels {
        for (name, program) in &built.tests {
            eprintln!("== {name} on {version}");
            let mut guest = Guest::default();
            guest.program(program)?;
            for helper in &built.programs {
                guest.program(helper)?;
            }
            guest.kernels(lab, &kernel_source::VERSIONS.map(str::to_owned))?;
            guest.text(Path::new(CARGO), "#!/bin/busybox true\n")?;
            let mut words = vec![program.display().to_string()];
            words.extend(asked.arguments.iter().cloned());
            let limit = Duration::from_secs(asked.limit);
            let status = guest.run(lab, version, words, limit)?;
            if status != 0 {
                eprintln!("== {name} on {version}: status {status}");
                worst = status;
            }
        }
    }
    Ok(worst)
}

struct Built {
    /// Suites by name.
    tests: Vec<(String, PathBuf)>,
    /// Programs that they start.
    programs: Vec<PathBuf>,
}

/// Builds suites, the programs of their package, and the command.
fn build(asked: &Suite) -> Result<Built> {
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
