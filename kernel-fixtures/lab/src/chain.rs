//! One process over several kernels: dumped on the first one, restored, linked and dumped on the
//! others, and restored on the last one. The last one may be the first one again: home.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use crate::guest::By;
use crate::kind::Kind;
use crate::lab::Lab;
use crate::scenario::{self, Dumps, Wanted};
use crate::tally::Tally;

/// What a chain is over.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// The kernels, in this order.
    pub(crate) kernels: Vec<String>,
    /// The kind of subjects.
    pub(crate) kind: Kind,
    /// Processes that go along.
    pub(crate) repeat: usize,
    /// How long each restored process is watched.
    pub(crate) observe: Duration,
    /// Who makes vDSOs right.
    pub(crate) by: By,
}

/// What became of a chain.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Chain {
    /// The kernels.
    pub(crate) kernels: Vec<String>,
    /// The kind of subjects.
    #[serde(flatten)]
    pub(crate) kind: Kind,
    /// Who made vDSOs right.
    pub(crate) by: By,
    /// Processes that began.
    pub(crate) began: usize,
    /// Processes that are right on the last kernel.
    pub(crate) arrived: usize,
    /// What became of them on each kernel after the first one.
    pub(crate) hops: Vec<Tally>,
    /// Why nothing could be dumped on the first kernel.
    pub(crate) ignored: Option<String>,
}

impl Chain {
    /// Whether all processes arrived, with nothing wrong on the way.
    pub(crate) fn is_good(&self) -> bool {
        self.arrived == self.began && self.hops.iter().all(Tally::is_good)
    }
}

/// Runs a chain. `began` is told what comes next.
pub(crate) fn run(lab: &Lab, plan: &Plan, began: &(dyn Fn(&str) + Sync)) -> Result<Chain> {
    let mut chain = Chain {
        kernels: plan.kernels.clone(),
        kind: plan.kind.clone(),
        by: plan.by,
        began: 0,
        arrived: 0,
        hops: Vec::new(),
        ignored: None,
    };
    let Some((first, others)) = plan.kernels.split_first() else {
        return Ok(chain);
    };
    began(&format!("dumps on {first}"));
    let dumps = scenario::dump(
        lab,
        first,
        std::slice::from_ref(&plan.kind),
        plan.repeat,
        plan.by,
    )?;
    let images: Vec<String> = (0..plan.repeat)
        .map(|number| plan.kind.image(number))
        .collect();
    chain.began = images
        .iter()
        .filter(|image| dumps.image(image).is_some())
        .count();
    if chain.began < plan.repeat {
        let failures = dumps
            .dumped
            .iter()
            .find_map(|dumped| dumped.failure.clone());
        chain.ignored = failures.or_else(|| dumps.failure.clone());
    }
    let mut carried: Vec<Dumps> = vec![dumps];
    for (place, version) in others.iter().enumerate() {
        let is_last = place + 1 == others.len();
        began(&format!("hop {} on {version}", place + 1));
        let Some((tally, next)) = hop(lab, plan, version, &carried, &images, place, is_last)?
        else {
            break;
        };
        if place == 0 && tally.not_restored == tally.tried {
            // CRIU itself cannot: nothing was ever linked.
            chain.ignored = tally.reasons.first().cloned();
            chain.began = 0;
            break;
        }
        if is_last {
            chain.arrived = tally.right;
        }
        chain.hops.push(tally);
        carried.extend(next);
    }
    Ok(chain)
}

/// One kernel further; `None` if no process came this far.
fn hop(
    lab: &Lab,
    plan: &Plan,
    version: &str,
    carried: &[Dumps],
    images: &[String],
    place: usize,
    is_last: bool,
) -> Result<Option<(Tally, Option<Dumps>)>> {
    let Some(from) = carried.last() else {
        return Ok(None);
    };
    let arrived = images.iter().filter(|image| from.image(image).is_some());
    let wanted: Vec<Wanted> = arrived
        .map(|image| Wanted {
            image: image.clone(),
            kind: plan.kind.clone(),
            by: plan.by,
            epoch: place as u64 + 1,
            dump: !is_last,
            fault: false,
        })
        .collect();
    if wanted.is_empty() {
        return Ok(None);
    }
    let olds: Vec<&Dumps> = carried.iter().collect();
    let restores = scenario::restore(lab, version, &olds, &wanted, plan.observe)?;
    let mut tally = Tally::default();
    for one in &wanted {
        let restored = restores
            .restored
            .iter()
            .find(|restored| restored.image == one.image);
        let missing = restores
            .failure
            .as_deref()
            .unwrap_or("the guest did not come to it");
        match restored {
            Some(restored) => tally.add(restored),
            None => tally.add_missing(missing),
        }
    }
    Ok(Some((tally, restores.dumps)))
}
