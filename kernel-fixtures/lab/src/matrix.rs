//! Every ordered pair of kernels: each image is restored by CRIU alone, and by CRIU and the
//! relocator.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use crate::guest::{By, Fate};
use crate::kind::Kind;
use crate::lab::Lab;
use crate::scenario::{self, Dumps, Restores, Wanted};
use crate::tally::Tally;
use crate::workers;

/// What a matrix is over.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Ordered pairs of kernels.
    pub(crate) pairs: Vec<(String, String)>,
    /// Kinds of subjects.
    pub(crate) kinds: Vec<Kind>,
    /// Images of each kind on each kernel.
    pub(crate) repeat: usize,
    /// How long each restored process is watched.
    pub(crate) observe: Duration,
    /// Guests at once.
    pub(crate) jobs: usize,
    /// Who links what is restored, beside CRIU alone.
    pub(crate) by: By,
}

/// All ordered pairs of kernels, with those of a kernel and itself if wanted.
pub(crate) fn pairs(kernels: &[String], with_same: bool) -> Vec<(String, String)> {
    let pairs = kernels
        .iter()
        .flat_map(|from| kernels.iter().map(move |to| (from.clone(), to.clone())));
    pairs.filter(|(from, to)| with_same || from != to).collect()
}

/// One line of a matrix: a pair of kernels and a kind of subjects.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Row {
    /// The kernel of the dump.
    pub(crate) from: String,
    /// The kernel of the restore.
    pub(crate) to: String,
    /// The kind of subjects.
    #[serde(flatten)]
    pub(crate) kind: Kind,
    /// Whether CRIU was told to take the vDSO for another one although it is the same.
    pub(crate) fault: bool,
    /// CRIU alone.
    pub(crate) plain: Tally,
    /// CRIU and the relocator.
    pub(crate) linked: Tally,
    /// Why there are fewer restores than were wanted: nothing could be dumped.
    pub(crate) ignored: Option<String>,
}

/// Runs a matrix. `began` is told what comes next.
pub(crate) fn run(lab: &Lab, plan: &Plan, began: &(dyn Fn(&str) + Sync)) -> Result<Vec<Row>> {
    let mut kernels: Vec<&String> = plan.pairs.iter().map(|(from, _)| from).collect();
    kernels.sort();
    kernels.dedup();
    let dumps = workers::all(&kernels, plan.jobs, |version| {
        began(&format!("dumps on {version}"));
        scenario::dump(lab, version, &plan.kinds, plan.repeat, plan.by)
    });
    let dumps_on = |version: &String| {
        let index = kernels.iter().position(|kernel| *kernel == version)?;
        dumps[index].as_ref()
    };
    let work: Vec<(&(String, String), bool)> = plan
        .pairs
        .iter()
        .flat_map(|pair| {
            let is_same = pair.0 == pair.1;
            [(pair, false), (pair, true)]
                .into_iter()
                .take(1 + usize::from(is_same))
        })
        .collect();
    let rows = workers::all(&work, plan.jobs, |(pair, fault)| {
        let (from, to) = pair;
        began(&format!("restores of {from} on {to}"));
        match dumps_on(from) {
            Some(Ok(dumps)) => restore(lab, plan, pair, dumps, *fault),
            Some(Err(error)) => Ok(ignored(plan, pair, *fault, &format!("{error:#}"))),
            None => Ok(Vec::new()),
        }
    });
    let mut all = Vec::new();
    for rows in rows.into_iter().flatten() {
        all.extend(rows?);
    }
    Ok(all)
}

fn restore(
    lab: &Lab,
    plan: &Plan,
    pair: &(String, String),
    dumps: &Dumps,
    fault: bool,
) -> Result<Vec<Row>> {
    let mut wanted = Vec::new();
    for kind in &plan.kinds {
        for number in 0..plan.repeat {
            for (by, epoch) in [(By::Criu, 1), (plan.by, 2)] {
                wanted.push(Wanted {
                    image: kind.image(number),
                    kind: kind.clone(),
                    by,
                    epoch,
                    dump: false,
                    fault,
                });
            }
        }
    }
    let restores = scenario::restore(lab, &pair.1, &[dumps], &wanted, plan.observe)?;
    let rows = plan.kinds.iter().map(|kind| {
        let mut row = empty(pair, kind, fault);
        fill(&mut row, kind, plan, dumps, &restores);
        row
    });
    Ok(rows.collect())
}

/// Counts what was restored of one kind.
fn fill(row: &mut Row, kind: &Kind, plan: &Plan, dumps: &Dumps, restores: &Restores) {
    for number in 0..plan.repeat {
        let image = kind.image(number);
        if dumps.image(&image).is_none() {
            let dumped = dumps.dumped.iter().find(|dumped| dumped.image == image);
            let reason = dumped.and_then(|dumped| dumped.failure.clone());
            row.ignored = reason
                .or_else(|| dumps.failure.clone())
                .or(row.ignored.take());
            continue;
        }
        let of = |by: By| {
            let mut all = restores.restored.iter();
            all.find(|restored| restored.image == image && restored.by == by)
        };
        if let (Some(plain), Some(linked)) = (of(By::Criu), of(plan.by))
            && let (Fate::NotRestored(reason), Fate::NotRestored(_)) = (&plain.fate, &linked.fate)
        {
            // CRIU itself cannot: the relocator has had no part in it.
            row.ignored = Some(reason.clone());
            continue;
        }
        let missing = restores
            .failure
            .as_deref()
            .unwrap_or("the guest did not come to it");
        for (tally, by) in [(&mut row.plain, By::Criu), (&mut row.linked, plan.by)] {
            match of(by) {
                Some(restored) => tally.add(restored),
                None => tally.add_missing(missing),
            }
        }
        if let (Some(plain), Some(linked)) = (of(By::Criu), of(plan.by)) {
            row.linked.add_random(linked, plain);
        }
    }
}

fn empty(pair: &(String, String), kind: &Kind, fault: bool) -> Row {
    Row {
        from: pair.0.clone(),
        to: pair.1.clone(),
        kind: kind.clone(),
        fault,
        plain: Tally::default(),
        linked: Tally::default(),
        ignored: None,
    }
}

fn ignored(plan: &Plan, pair: &(String, String), fault: bool, reason: &str) -> Vec<Row> {
    let rows = plan.kinds.iter().map(|kind| Row {
        ignored: Some(reason.to_owned()),
        ..empty(pair, kind, fault)
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::checker::Observed;
    use crate::guest::Restored;

    fn restored(image: &str, by: By, fate: Fate) -> Restored {
        Restored {
            image: image.to_owned(),
            by,
            fate,
            observed: Observed::default(),
            reports: Vec::new(),
            seconds: 1.0,
            dumped: None,
        }
    }

    fn filled(restored: Vec<Restored>, failure: Option<&str>) -> Row {
        let kind = Kind::usual("4.3", "2.36");
        let images = [kind.image(0), kind.image(1)];
        let dumps = Dumps::with_images(&images).unwrap();
        let restores = Restores {
            restored,
            failure: failure.map(str::to_owned),
            dumps: None,
        };
        let plan = Plan {
            pairs: Vec::new(),
            kinds: Vec::new(),
            repeat: 3,
            observe: Duration::ZERO,
            jobs: 1,
            by: By::Relocator,
        };
        let mut row = empty(&("6.1".to_owned(), "6.12".to_owned()), &kind, false);
        // The third image could not be dumped.
        fill(&mut row, &kind, &plan, &dumps, &restores);
        row
    }

    #[test]
    fn images_are_counted_by_who_restored_them() {
        let row = filled(
            vec![
                restored("4.3-2.36-0", By::Criu, Fate::Lost("SIGSEGV".to_owned())),
                restored("4.3-2.36-0", By::Relocator, Fate::Runs),
                restored("4.3-2.36-1", By::Criu, Fate::Runs),
            ],
            Some("the kernel panicked"),
        );
        assert_eq!(
            (row.plain.tried, row.plain.right, row.plain.lost),
            (2, 1, 1)
        );
        // The guest did not come to the second one.
        assert_eq!((row.linked.tried, row.linked.right), (2, 1));
        assert_eq!(row.linked.reasons, ["the kernel panicked"]);
    }

    #[test]
    fn what_criu_cannot_restore_counts_for_nobody() {
        let no = || Fate::NotRestored("no such flag".to_owned());
        let row = filled(
            vec![
                restored("4.3-2.36-0", By::Criu, no()),
                restored("4.3-2.36-0", By::Relocator, no()),
                restored("4.3-2.36-1", By::Criu, Fate::Runs),
                restored("4.3-2.36-1", By::Relocator, no()),
            ],
            None,
        );
        assert_eq!((row.plain.tried, row.linked.tried), (1, 1));
        assert_eq!(row.linked.not_restored, 1);
        assert!(row.ignored.is_some());
    }

    #[test]
    fn pairs_are_ordered_and_of_two_kernels() {
        let kernels = ["5.10", "6.12", "7.3"].map(str::to_owned);
        let found = pairs(&kernels, false);
        assert_eq!(found.len(), 6);
        assert!(found.iter().all(|(from, to)| from != to));
        assert_eq!(pairs(&kernels, true).len(), 9);
    }
}
