//! What `relocator compare` reports: as JSON, and as a page.

use crate::json::compare::{Compare, Compared, Summary};
use crate::json::{COMPARE, Kernel};
use relocator_verify::compare::{CompareOptions, Comparison};

impl Compared {
    /// Whether it is a kernel of our own, which nobody's processes come from.
    pub(super) fn is_fixture(&self) -> bool {
        self.old.source.starts_with("fixture:")
    }
}

impl Compare {
    /// The report on a comparison of these kernels, in the order of the comparison.
    pub(super) fn new(
        comparison: &Comparison,
        olds: Vec<Kernel>,
        new: Kernel,
        options: &CompareOptions,
        command: String,
    ) -> Self {
        let since = std::time::SystemTime::UNIX_EPOCH.elapsed();
        let compared = olds.into_iter().zip(&comparison.olds);
        let compared = compared.map(|(old, compared)| Compared {
            old,
            rows: compared.rows.clone(),
        });
        let mut report = Self {
            schema: COMPARE,
            command,
            ended: since.map_or(0, |since| since.as_secs()),
            new,
            time_namespace: options.time_namespace,
            rounds: options.rounds,
            batches: options.batches,
            batch: options.batch,
            links: options.links,
            summary: Vec::new(),
            olds: compared.collect(),
        };
        let rows = report.summarised().flat_map(|old| &old.rows);
        report.summary = Summary::all(&rows.collect::<Vec<_>>());
        report
    }

    /// The old images that summaries are about.
    pub(super) fn summarised(&self) -> impl Iterator<Item = &Compared> {
        let only_fixtures = self.olds.iter().all(Compared::is_fixture);
        let olds = self.olds.iter();
        olds.filter(move |old| only_fixtures || !old.is_fixture())
    }
}
