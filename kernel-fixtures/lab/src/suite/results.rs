//! What a suite says in a guest, read while it comes: the output of `libtest` and `libtest-mimic`.
//!
//! Tests write to the same line as the suite, so the end of a test can be some lines after its
//! name. The counts at the end have to agree with what was read.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Results of tests, as far as a guest got.
#[derive(Debug, Default)]
pub(super) struct Results {
    /// Names of tests that passed.
    pub(super) passed: Vec<String>,
    /// Names of tests that failed, with the first line of the reason once it is known.
    pub(super) failed: BTreeMap<String, String>,
    /// Names of tests that cannot be run there, with the reason.
    pub(super) ignored: BTreeMap<String, String>,
    /// The test that has begun and not ended.
    pub(super) running: Option<String>,
    /// When that was.
    began: Option<Instant>,
    /// How long each test took on this side, if they ran one after the other.
    pub(super) took: Vec<(Duration, String)>,
    /// A remark about that test.
    remark: String,
    /// The test whose reason comes next.
    explained: Option<String>,
    /// Passed, failed and ignored, as the suite counts them at its end.
    counted: Option<[usize; 3]>,
    /// A line that has not ended.
    line: Vec<u8>,
}

/// How the line of a test ends.
#[derive(Debug, Clone, Copy)]
enum Outcome {
    Passed,
    Failed,
    Ignored,
}

impl Outcome {
    fn parse(word: &str) -> Option<(Self, &str)> {
        match word {
            "ok" => Some((Self::Passed, "")),
            "FAILED" => Some((Self::Failed, "")),
            _ => {
                let reason = word.strip_prefix("ignored")?;
                let reason = reason
                    .strip_prefix([',', ':'])
                    .or(reason.is_empty().then_some(""));
                Some((Self::Ignored, reason?.trim()))
            }
        }
    }
}

impl Results {
    /// Reads on.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            match byte {
                b'\n' => {
                    let line = std::mem::take(&mut self.line);
                    self.read(String::from_utf8_lossy(&line).trim_end_matches('\r'));
                }
                _ => self.line.push(byte),
            }
        }
        // A test has begun as soon as its name is there.
        let line = String::from_utf8_lossy(&self.line).into_owned();
        if let Some((name, _)) = begun(&line) {
            self.begin(name);
        }
    }

    fn begin(&mut self, name: &str) {
        if self.running.as_deref() != Some(name) {
            self.running = Some(name.to_owned());
            self.began = Some(Instant::now());
        }
    }

    fn read(&mut self, line: &str) {
        if let Some(name) = self.explained.take() {
            self.failed.insert(name, line.to_owned());
        } else if let Some(counts) = line.strip_prefix("test result: ") {
            self.counted = counted(counts);
        } else if let Some(name) = header(line).filter(|name| self.failed.contains_key(*name)) {
            self.explained = Some(name.to_owned());
        } else if let Some((name, remark)) = begun(line) {
            self.begin(name);
            self.remark = remark.to_owned();
            let ended = line.rsplit_once(" ... ").map(|(_, word)| word);
            self.end(ended.unwrap_or_default());
        } else {
            self.end(line);
        }
    }

    /// Notes the end of the test that runs, if the word says that.
    fn end(&mut self, word: &str) {
        let Some((outcome, reason)) = Outcome::parse(word) else {
            return;
        };
        let Some(name) = self.running.take() else {
            return;
        };
        if let Some(began) = self.began.take() {
            self.took.push((began.elapsed(), name.clone()));
        }
        match outcome {
            Outcome::Passed => self.passed.push(name),
            Outcome::Failed => drop(self.failed.insert(name, String::new())),
            Outcome::Ignored => {
                let reason = [reason, &self.remark, "no reason is given"];
                let reason = reason.into_iter().find(|reason| !reason.is_empty());
                self.ignored
                    .insert(name, reason.unwrap_or_default().to_owned());
            }
        }
    }

    /// Whether there is a result of a test.
    pub(super) fn has(&self, name: &str) -> bool {
        self.passed.iter().any(|passed| passed == name)
            || self.failed.contains_key(name)
            || self.ignored.contains_key(name)
    }

    /// What does not fit together in the results of a suite that has ended with this status.
    pub(super) fn contradiction(&self, status: u8) -> Option<String> {
        let read = [self.passed.len(), self.failed.len(), self.ignored.len()];
        let Some(counted) = self.counted else {
            return Some(format!(
                "the suite ended with status {status} before it had counted"
            ));
        };
        if counted != read {
            return Some(format!(
                "the suite counted {counted:?} tests passed, failed and ignored; {read:?} were seen"
            ));
        }
        let is_right = self.failed.is_empty();
        (is_right != (status == 0)).then(|| {
            format!(
                "the suite ended with status {status} and {} failures",
                self.failed.len()
            )
        })
    }
}

/// The name and the remark of a test whose line begins so.
fn begun(line: &str) -> Option<(&str, &str)> {
    let line = line.strip_prefix("test ")?;
    // What is behind the last border is the outcome, or what the test itself says.
    let is_ended = |word: &str| Outcome::parse(word).is_some();
    let (before, _) = match line.rsplit_once(" ... ") {
        Some((before, word)) if is_ended(word) => (before, word),
        _ => line.split_once(" ... ")?,
    };
    let before = before.trim();
    let (remark, name) = match before.strip_prefix('[').and_then(|it| it.rsplit_once("] ")) {
        Some((remark, name)) => (remark, name.trim_start()),
        None => ("", before),
    };
    (!name.is_empty() && !name.contains(' ')).then_some((name, remark))
}

/// The name in the line above the reason of a failure.
fn header(line: &str) -> Option<&str> {
    let name = line.strip_prefix("---- ")?.strip_suffix(" ----")?;
    Some(name.strip_suffix(" stdout").unwrap_or(name))
}

/// Passed, failed and ignored in the last line.
fn counted(line: &str) -> Option<[usize; 3]> {
    let count = |word: &str| {
        let (before, _) = line.split_once(word)?;
        before.trim_end().rsplit(' ').next()?.parse().ok()
    };
    Some([count("passed;")?, count("failed;")?, count("ignored;")?])
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "
running 5 tests
test                         a::quiet ... ok\r
test                         a::loud  ... kernel:6.1: 3 were inside ... so far
and more
ok
test [cannot be run: no cc ] a::other ... ignored
test a::wrong ... cycle 3: odd
FAILED
test a::std ... ignored, not here

failures:

---- a::wrong ----
it is 3 instead of 4
and so on

failures:
    a::wrong

test result: FAILED. 2 passed; 1 failed; 2 ignored; 0 measured; 7 filtered out; finished in 1.2s
";

    fn read(said: &str) -> Results {
        let mut results = Results::default();
        for byte in said.as_bytes() {
            results.take(&[*byte]);
        }
        results
    }

    #[test]
    fn what_a_suite_says_is_read() {
        let results = read(SAID);
        assert_eq!(results.passed, ["a::quiet", "a::loud"]);
        let pair = |name: &str, reason: &str| (name.to_owned(), reason.to_owned());
        let failed = [pair("a::wrong", "it is 3 instead of 4")];
        assert_eq!(results.failed, BTreeMap::from(failed));
        let ignored = [
            pair("a::other", "cannot be run: no cc "),
            pair("a::std", "not here"),
        ];
        assert_eq!(results.ignored, BTreeMap::from(ignored));
        assert_eq!(
            (results.contradiction(101), results.running.as_deref()),
            (None, None)
        );
        assert_eq!(results.took.len(), 5);
        assert!(results.has("a::loud") && !results.has("a::lou"));
    }

    #[test]
    fn a_suite_that_does_not_end_is_noticed() {
        let (begin, _) = SAID.split_once("FAILED").unwrap();
        let results = read(begin);
        assert_eq!(results.running.as_deref(), Some("a::wrong"));
        let words = results.contradiction(139).unwrap();
        assert!(words.contains("status 139 before"), "{words}");
        let begin = begin.strip_suffix("cycle 3: odd\n").unwrap();
        assert_eq!(read(begin).running.as_deref(), Some("a::wrong"));
    }

    #[test]
    fn what_does_not_fit_together_is_noticed() {
        let words = read(SAID).contradiction(0).unwrap();
        assert!(words.contains("status 0 and 1 failures"), "{words}");
        let lost = SAID.replace("so far\nand more\nok", "so far\nand moreok");
        let words = read(&lost).contradiction(101).unwrap();
        assert!(
            words.contains("[2, 1, 2]") && words.contains("[1, 1, 2]"),
            "{words}"
        );
        let right = "test a ... ok\ntest result: ok. 1 passed; 0 failed; 0 ignored; 0 measured\n";
        assert_eq!(read(right).contradiction(0), None);
        let words = read(right).contradiction(1).unwrap();
        assert!(words.contains("status 1 and 0 failures"), "{words}");
    }
}
