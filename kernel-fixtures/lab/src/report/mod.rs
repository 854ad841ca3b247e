//! What a run of the lab found: text, JSON, a page, tables for a document.

mod markdown;
mod page;
mod text;

use serde::Serialize;

use crate::chain::Chain;
use crate::matrix::Row;

pub(crate) use markdown::markdown;
pub(crate) use page::page;
pub(crate) use text::text;

/// What a run of the lab found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Report {
    /// How machines were set up: what they run with, the model of the processor, how many.
    pub(crate) machines: String,
    /// Packages, by what they are to the lab.
    pub(crate) packages: Vec<(String, String)>,
    /// The lines of the matrix.
    pub(crate) rows: Vec<Row>,
    /// The chains.
    pub(crate) chains: Vec<Chain>,
    /// What could not run, and why.
    pub(crate) ignored: Vec<String>,
    /// How long it took, in seconds.
    pub(crate) seconds: f64,
}

impl Report {
    /// Whether the relocator was right everywhere: no wrong answer, no process lost or refused.
    pub(crate) fn is_good(&self) -> bool {
        let rows = self.rows.iter().all(|row| row.linked.is_good());
        rows && self.chains.iter().all(Chain::is_good)
    }

    /// Whether something could not run.
    pub(crate) fn has_ignored(&self) -> bool {
        let rows = self.rows.iter().any(|row| row.ignored.is_some());
        let chains = self.chains.iter().any(|chain| chain.ignored.is_some());
        rows || chains || !self.ignored.is_empty()
    }

    /// Whether anything was restored at all.
    pub(crate) fn has_results(&self) -> bool {
        let rows = self.rows.iter().any(|row| row.linked.tried > 0);
        rows || self.chains.iter().any(|chain| !chain.hops.is_empty())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::guest::By;
    use crate::kind::Kind;
    use crate::tally::Tally;

    /// A report with a pair where CRIU alone is wrong, one that could not run, and a chain.
    pub(crate) fn example() -> Report {
        let plain = Tally {
            tried: 5,
            right: 0,
            wrong: 4,
            lost: 1,
            calls: 1_000_000,
            wrong_calls: 20_000,
            wrong_by_function: [("getres", 20_000)].into(),
            reasons: vec!["SIGSEGV <1>".to_owned()],
            ..Tally::default()
        };
        let linked = Tally {
            tried: 5,
            right: 5,
            calls: 1_000_000,
            carried: 9,
            ..Tally::default()
        };
        let row = Row {
            from: "5.10".to_owned(),
            to: "6.12".to_owned(),
            kind: Kind::usual("4.3", "2.36"),
            fault: false,
            plain,
            linked: linked.clone(),
            ignored: None,
        };
        let ignored = Row {
            from: "6.12".to_owned(),
            to: "5.10".to_owned(),
            plain: Tally::default(),
            linked: Tally::default(),
            ignored: Some("CRIU: it does not know".to_owned()),
            ..row.clone()
        };
        Report {
            machines: "tcg, max, 1 processor".to_owned(),
            packages: vec![("CRIU 4.3".to_owned(), "4.3-1".to_owned())],
            rows: vec![row, ignored],
            chains: vec![Chain {
                kernels: ["6.1", "6.12", "6.1"].map(str::to_owned).into(),
                kind: Kind {
                    processes: 3,
                    ..Kind::usual("4.3", "newest")
                },
                by: By::Relocator,
                began: 5,
                arrived: 4,
                hops: vec![
                    linked.clone(),
                    Tally {
                        right: 4,
                        lost: 1,
                        ..linked
                    },
                ],
                ignored: None,
            }],
            ignored: vec!["Linux 6.18: no package".to_owned()],
            seconds: 61.0,
        }
    }

    #[test]
    fn a_lost_process_is_no_good() {
        let mut report = example();
        assert!(!report.is_good() && report.has_results());
        report.chains.clear();
        assert!(report.is_good());
        report.rows[0].linked.wrong = 1;
        report.rows[0].linked.right = 4;
        assert!(!report.is_good());
        report.rows.clear();
        assert!(!report.has_results());
    }

    #[test]
    fn json_has_the_figures() {
        let json = serde_json::to_value(example()).unwrap();
        assert_eq!(
            json["rows"][0]["plain"]["wrong_by_function"]["getres"],
            20_000
        );
        assert_eq!(json["chains"][0]["by"], "relocator");
    }
}
