//! Each strategy over several old images.

use std::fmt::Write;

use crate::json::compare::{Spread, Summary};

use super::table::grouped;
use relocator_verify::Approach;
use relocator_verify::compare::Row;

impl Spread {
    /// Of some numbers; `None` of none.
    pub(super) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        Some(Self {
            least: *values.first()?,
            median: values[values.len() / 2],
            most: *values.last()?,
        })
    }
}

impl Summary {
    /// By way, in the order of [`Approach::ALL`].
    pub(super) fn all(rows: &[&Row]) -> Vec<Self> {
        let of = |approach| {
            let of_way = rows.iter().copied().filter(|row| row.approach == approach);
            Self::of(approach, &of_way.collect::<Vec<_>>())
        };
        Approach::ALL.map(of).into()
    }

    fn of(approach: Approach, rows: &[&Row]) -> Self {
        let timings = || rows.iter().flat_map(|row| &row.timings);
        let right = timings().filter(|timing| !timing.wrong);
        let costs = || rows.iter().filter_map(|row| row.cost);
        let flights = || rows.iter().filter_map(|row| row.in_flight.as_ref());
        let direct = flights().flat_map(|flight| flight.direct());
        let mut summary = Self {
            approach,
            olds: rows.len(),
            covered: rows.iter().map(|row| row.covered).sum(),
            functions: rows.iter().map(|row| row.functions).sum(),
            calls: rows.iter().map(|row| row.calls).sum(),
            mismatches: rows.iter().map(|row| row.mismatches).sum(),
            ratios: Spread::of(right.filter_map(|timing| timing.ratio).collect()),
            wrong_timings: timings().filter(|timing| timing.wrong).count(),
            link_us: Spread::of(costs().map(|cost| cost.link_us).collect()),
            bytes_written: Spread::of(costs().map(|cost| cost.bytes_written as f64).collect()),
            boundaries_moved: Spread::of(
                costs().map(|cost| cost.boundaries_moved as f64).collect(),
            ),
            swept: flights().count(),
            in_flight: flights().map(|flight| &flight.worst).sum(),
            in_flight_direct: direct.sum(),
            sentence: String::new(),
        };
        summary.sentence = summary.in_words();
        summary
    }

    fn in_words(&self) -> String {
        let mut text = match self.approach {
            Approach::Native => "A program that starts on the new kernel: the baseline".to_owned(),
            Approach::StepOut => format!(
                "The code of {}, for {} of {} functions",
                Approach::Relocate,
                self.covered,
                self.functions
            ),
            _ => format!("Covers {} of {} functions", self.covered, self.functions),
        };
        match (self.calls, self.mismatches) {
            (0, _) => {}
            (calls, 0) => {
                let _ = write!(text, "; all {} calls agree", grouped(calls));
            }
            (calls, wrong) => {
                let _ = write!(
                    text,
                    "; {} of {} calls are wrong",
                    grouped(wrong),
                    grouped(calls)
                );
            }
        }
        if let Some(ratios) = self.ratios.filter(|_| self.approach != Approach::Native) {
            let Spread {
                least,
                median,
                most,
            } = ratios;
            let _ = write!(
                text,
                "; right calls take {median:.2} of the native time ({least:.2} to {most:.2})"
            );
        }
        if self.swept > 0 {
            text.push_str("; ");
            text.push_str(&self.flight_in_words());
        }
        text.push('.');
        text
    }

    fn flight_in_words(&self) -> String {
        let all = self.in_flight.total();
        let failures = self.in_flight.failures();
        let direct = self.in_flight_direct.failures();
        match failures {
            0 => format!("no thread in flight fails, at {} boundaries", grouped(all)),
            _ => format!(
                "threads in flight fail at {} of {} boundaries ({} of them where no signal handler is involved)",
                grouped(failures),
                grouped(all),
                grouped(direct)
            ),
        }
    }
}
