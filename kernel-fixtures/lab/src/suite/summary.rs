//! What suites in guests amount to.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use super::results::Results;

/// What one guest did.
#[derive(Debug)]
pub(super) struct GuestRun {
    pub(super) kernel: String,
    /// The suite and the module.
    pub(super) suite: String,
    /// The tests that it was to run.
    pub(super) listed: Vec<String>,
    pub(super) results: Results,
    /// What went wrong besides tests.
    pub(super) trouble: Option<String>,
    pub(super) took: Duration,
}

impl GuestRun {
    /// Tests without a result.
    fn missing(&self) -> impl Iterator<Item = &String> {
        let tests = self.listed.iter();
        tests.filter(|test| !self.results.has(test))
    }
}

/// What all guests did. Shown as a table, followed by what failed, what did not come to its end,
/// what took long, and what was ignored, with the reasons.
#[derive(Debug, Default)]
pub(super) struct Summary {
    runs: Vec<GuestRun>,
}

impl Summary {
    pub(super) fn add(&mut self, run: GuestRun) {
        self.runs.push(run);
    }

    /// Whether each test has a result, and none failed.
    pub(super) fn is_right(&self) -> bool {
        self.runs.iter().all(|run| {
            let is_whole = run.missing().next().is_none() && run.trouble.is_none();
            is_whole && run.results.failed.is_empty()
        })
    }
}

/// How many slow tests are told, and how long they take at least.
const SLOWEST: usize = 12;
const SLOW: Duration = Duration::from_secs(60);

/// Seconds that slow tests of a guest took, their names, and the kernel.
fn slow(run: &GuestRun) -> impl Iterator<Item = (u64, &str, &str)> {
    let took = run.results.took.iter().filter(|(took, _)| *took >= SLOW);
    took.map(|(took, test)| (took.as_secs(), test.as_str(), run.kernel.as_str()))
}

/// Numbers in a row of the table.
#[derive(Debug, Default)]
struct Row {
    passed: usize,
    failed: usize,
    ignored: usize,
    missing: usize,
    took: Duration,
}

impl Row {
    fn add(&mut self, run: &GuestRun) {
        self.passed += run.results.passed.len();
        self.failed += run.results.failed.len();
        self.ignored += run.results.ignored.len();
        self.missing += run.missing().count();
        self.took += run.took;
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, kernel: &str, tests: &str) -> fmt::Result {
        let Self {
            passed,
            failed,
            ignored,
            missing,
            ..
        } = self;
        let minutes = self.took.as_secs_f64() / 60.0;
        writeln!(
            f,
            "| {kernel} | {tests} | {passed} | {failed} | {ignored} | {missing} | {minutes:.1} |"
        )
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f)?;
        writeln!(
            f,
            "| kernel | tests | passed | failed | ignored | no result | minutes |"
        )?;
        writeln!(f, "|---|---|---|---|---|---|---|")?;
        let mut kernels: BTreeMap<&str, Row> = BTreeMap::new();
        for run in &self.runs {
            let mut row = Row::default();
            row.add(run);
            row.write(f, &run.kernel, &run.suite)?;
            kernels.entry(&run.kernel).or_default().add(run);
        }
        for (kernel, row) in kernels {
            row.write(f, kernel, "all")?;
        }
        for run in &self.runs {
            let GuestRun { kernel, suite, .. } = run;
            for (test, reason) in &run.results.failed {
                writeln!(f, "failed on {kernel}: {test}: {reason}")?;
            }
            if let Some(trouble) = &run.trouble {
                writeln!(f, "{suite} on {kernel}: {trouble}")?;
            }
            for test in run.missing() {
                let is_running = run.results.running.as_ref() == Some(test);
                let how = if is_running {
                    "did not end"
                } else {
                    "did not begin"
                };
                writeln!(f, "no result on {kernel}: {test} {how}")?;
            }
        }
        let mut took: Vec<_> = self.runs.iter().flat_map(slow).collect();
        took.sort_by(|one, another| another.cmp(one));
        for (seconds, test, kernel) in took.into_iter().take(SLOWEST) {
            writeln!(f, "slow on {kernel}: {test} took {seconds} s")?;
        }
        let mut ignored: BTreeMap<&str, BTreeMap<&str, BTreeSet<&str>>> = BTreeMap::new();
        for run in &self.runs {
            for (test, reason) in &run.results.ignored {
                let tests = ignored.entry(reason.trim()).or_default();
                tests.entry(test).or_default().insert(&run.kernel);
            }
        }
        for (reason, tests) in ignored {
            writeln!(f, "ignored, {reason}:")?;
            for (test, kernels) in tests {
                let kernels: Vec<&str> = kernels.into_iter().collect();
                writeln!(f, "    {test} ({})", kernels.join(", "))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(said: &str, listed: &[&str], trouble: Option<&str>) -> GuestRun {
        let mut results = Results::default();
        results.take(said.as_bytes());
        GuestRun {
            kernel: "6.12".to_owned(),
            suite: "apply a".to_owned(),
            listed: listed.iter().map(|name| (*name).to_owned()).collect(),
            results,
            trouble: trouble.map(str::to_owned),
            took: Duration::from_secs(90),
        }
    }

    #[test]
    fn only_a_whole_run_is_right() {
        let summary = |run| Summary { runs: vec![run] };
        let said = "test a ... ok\ntest [no cc] b ... ignored\n";
        assert!(summary(run(said, &["a", "b"], None)).is_right());
        assert!(!summary(run(said, &["a", "b", "c"], None)).is_right());
        assert!(!summary(run(said, &["a", "b"], Some("it hangs"))).is_right());
        let failed = "test a ... ok\ntest b ... FAILED\n";
        assert!(!summary(run(failed, &["a", "b"], None)).is_right());
    }

    #[test]
    fn everything_is_told() {
        let said = "test a ... ok\ntest [no cc] b ... ignored\ntest c ... FAILED\ntest d ... so\n";
        let mut summary = Summary::default();
        summary.add(run(said, &["a", "b", "c", "d", "e"], Some("it hangs")));
        summary.add(run("test f ... ok\n", &["f"], None));
        let told = summary.to_string();
        for words in [
            "| 6.12 | apply a | 1 | 1 | 1 | 2 | 1.5 |",
            "| 6.12 | all | 2 | 1 | 1 | 2 | 3.0 |",
            "failed on 6.12: c: ",
            "apply a on 6.12: it hangs",
            "no result on 6.12: d did not end",
            "no result on 6.12: e did not begin",
            "ignored, no cc:\n    b (6.12)",
        ] {
            assert!(told.contains(words), "{words}\n{told}");
        }
    }
}
