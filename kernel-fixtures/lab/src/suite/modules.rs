//! Which tests a suite has, and which of them share a guest.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// What stands between a module and what is in it.
const BORDER: &str = "::";

/// Tests that share a guest.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Module {
    /// What their names begin with; empty if nothing is common to them.
    pub(super) name: String,
    /// Their names.
    pub(super) tests: Vec<String>,
    /// By which the suite runs no others.
    pub(super) arguments: Vec<String>,
}

/// The modules of a suite, with what these arguments select, in the suite's own order.
pub(super) fn of(program: &Path, arguments: &[String], together: bool) -> Result<Vec<Module>> {
    let mut command = Command::new(program);
    command.args(arguments).arg("--list").stdin(Stdio::null());
    let output = command.output();
    let output = output.with_context(|| program.display().to_string())?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{} --list: {}", program.display(), said.trim());
    }
    let names = names(&String::from_utf8_lossy(&output.stdout));
    Ok(divide(names, together))
}

/// The names in a list of tests. A remark in brackets may stand before each.
fn names(list: &str) -> Vec<String> {
    let tests = list.lines().filter_map(|line| line.strip_suffix(": test"));
    let name = |line: &str| match line.starts_with('[') {
        true => line.rsplit("] ").next().unwrap_or(line).to_owned(),
        false => line.to_owned(),
    };
    tests.map(name).collect()
}

fn divide(names: Vec<String>, together: bool) -> Vec<Module> {
    let mut modules: Vec<Module> = Vec::new();
    for test in names {
        let name = test.split_once(BORDER).map_or("", |(module, _)| module);
        let name = if together { "" } else { name };
        match modules.iter_mut().find(|module| module.name == name) {
            Some(module) => module.tests.push(test),
            None => modules.push(Module {
                name: name.to_owned(),
                tests: vec![test],
                arguments: Vec::new(),
            }),
        }
    }
    let prefix = |module: &Module| format!("{}{BORDER}", module.name);
    // A suite skips every test whose name has the word anywhere.
    let is_clear = modules.iter().all(|module| {
        let others = modules.iter().filter(|other| other.name != module.name);
        let mut words = others.filter(|other| !other.name.is_empty()).map(prefix);
        words.all(|word| module.tests.iter().all(|test| !test.contains(&word)))
    });
    if !is_clear {
        let names = modules.into_iter().flat_map(|module| module.tests);
        return divide(names.collect(), true);
    }
    let words: Vec<(String, String)> = modules
        .iter()
        .map(|module| (module.name.clone(), prefix(module)))
        .collect();
    for module in &mut modules {
        let others = words
            .iter()
            .filter(|(name, _)| *name != module.name && !name.is_empty());
        let skip = others.flat_map(|(_, word)| ["--skip".to_owned(), word.clone()]);
        module.arguments = skip.collect();
    }
    modules
}

#[cfg(test)]
mod tests {
    use super::*;

    fn divided(names: &[&str], together: bool) -> Vec<(String, usize, String)> {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let modules = divide(names, together).into_iter();
        modules
            .map(|module| (module.name, module.tests.len(), module.arguments.join(" ")))
            .collect()
    }

    #[test]
    fn lists_are_read() {
        let list = "[cannot be run: no [x] here] a::b: test\nc: test\n\n2 tests, 0 benchmarks\n";
        assert_eq!(names(list), ["a::b", "c"]);
    }

    #[test]
    fn each_module_skips_the_others() {
        let modules = divided(&["a::x", "b::x", "a::y", "alone"], false);
        let expected = [
            ("a", 2, "--skip b::"),
            ("b", 1, "--skip a::"),
            ("", 1, "--skip a:: --skip b::"),
        ];
        assert_eq!(
            modules,
            expected.map(|(a, b, c)| (a.to_owned(), b, c.to_owned()))
        );
        let modules = divided(&["a::x", "b::x"], true);
        assert_eq!(modules, [(String::new(), 2, String::new())]);
    }

    /// Else `--skip a::` would leave out a test of `aa`.
    #[test]
    fn modules_whose_names_are_alike_stay_together() {
        let modules = divided(&["a::x", "aa::x", "b::y"], false);
        assert_eq!(modules, [(String::new(), 3, String::new())]);
    }
}
