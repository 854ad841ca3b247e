//! What becomes of threads that are inside the old image when the kernel is swapped.

use crate::Approach;
use std::num::NonZero;
use std::sync::{Mutex, PoisonError};
use std::thread::available_parallelism;

use serde::{Deserialize, Serialize};

use super::{OldComparison, OldKernel, Options, Row};
use crate::in_flight::{self, Counts, InFlight, Namespaces, Variant, VariantCounts, sweep};
use crate::{Error, Result};
use crate::{OldImage, Running};
use relocator::in_words;

/// A sweep in short: [`InFlight`] has everything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flight {
    /// Whether there were time namespaces, before and after.
    pub namespaces: Vec<Namespaces>,
    /// Number of boundaries of all functions; those of local helpers count for each function.
    pub boundaries: u64,
    /// At how many of them a thread was stopped.
    pub reached: u64,
    /// How often a thread was stopped, the kernel swapped, and the thread resumed.
    pub experiments: u64,
    /// Boundaries by the worst that has happened there.
    pub worst: Counts,
    /// The same by what the thread was doing: stopped there, or in the handler of a signal that interrupted it there.
    pub variants: Vec<VariantCounts>,
    /// The same by function.
    pub functions: Vec<FunctionFlight>,
}

/// A sweep of one function in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionFlight {
    /// Its name.
    pub name: String,
    /// Number of its boundaries.
    pub boundaries: u64,
    /// At how many of them a thread was stopped.
    pub reached: u64,
    /// Boundaries by the worst that has happened there.
    pub worst: Counts,
    /// The first failure: where, and what came out.
    pub first_failure: Option<String>,
}

impl Flight {
    /// What has become of threads that were stopped there themselves.
    pub fn direct(&self) -> Option<&Counts> {
        let mut variants = self.variants.iter();
        let direct = variants.find(|found| found.variant == Variant::Direct);
        direct.map(|found| &found.worst)
    }
}

impl From<InFlight> for Flight {
    fn from(found: InFlight) -> Self {
        let functions = found.functions.iter().map(|function| FunctionFlight {
            name: function.name.clone(),
            boundaries: function.boundaries,
            reached: function.reached,
            worst: function.worst,
            first_failure: function.failures.first().map(|failure| {
                let (address, ending, what) = (failure.address, failure.ending, &failure.what);
                format!("at {address:#x}, {ending}: {what} ({})", failure.scenario)
            }),
        });
        let functions: Vec<FunctionFlight> = functions.collect();
        let sum = |count: fn(&FunctionFlight) -> u64| functions.iter().map(count).sum();
        let all = || {
            found
                .functions
                .iter()
                .flat_map(|function| &function.variants)
        };
        let variants = Variant::ALL.into_iter().filter_map(|variant| {
            let of_variant = all().filter(|found| found.variant == variant);
            let worst = of_variant.map(|found| &found.worst).sum::<Counts>();
            (worst.total() > 0).then_some(VariantCounts { variant, worst })
        });
        Self {
            namespaces: found.namespaces.clone(),
            boundaries: sum(|function| function.boundaries),
            reached: sum(|function| function.reached),
            experiments: found.experiments(),
            worst: functions.iter().map(|function| &function.worst).sum(),
            variants: variants.collect(),
            functions,
        }
    }
}

/// Sweeps every old image with what its rows do to threads, or says in the row why that cannot be.
pub(super) fn measure(
    kernels: &[OldKernel],
    compared: &mut [OldComparison],
    running: &Running,
    options: &Options,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<()> {
    let options = &Options {
        in_flight: namespaces(&options.in_flight)?,
        ..options.clone()
    };
    let rows = kernels.iter().zip(compared);
    let rows = rows.flat_map(|(kernel, old)| old.rows.iter_mut().map(move |row| (kernel, row)));
    let jobs = Mutex::new(rows);
    let work = || -> Result<()> {
        loop {
            let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((kernel, row)) = job else {
                return Ok(());
            };
            match sweep_row(kernel, running, row, options, progress)? {
                Ok(flight) => row.in_flight = Some(flight),
                Err(reason) => row.no_in_flight = Some(reason),
            }
        }
    };
    let processors = available_parallelism().map_or(1, NonZero::get);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..processors).map(|_| scope.spawn(work)).collect();
        let mut results = workers.into_iter().map(|worker| worker.join());
        let failed = || {
            let what = "was lost with the thread that waited for it".to_owned();
            Error::Child { what }
        };
        results.try_for_each(|result| result.unwrap_or_else(|_| Err(failed())))
    })
}

/// The combinations that the system allows; one that needs no time namespace where it allows none.
fn namespaces(wanted: &[Namespaces]) -> Result<Vec<Namespaces>> {
    const WITHOUT: Namespaces = Namespaces {
        old: false,
        new: false,
    };
    if !wanted.iter().any(|namespaces| namespaces.any()) {
        return Ok(wanted.to_vec());
    }
    match crate::probe_time_namespace() {
        Ok(()) => Ok(wanted.to_vec()),
        Err(error) if crate::is_time_namespace_refusal(&error) => Ok(vec![WITHOUT]),
        Err(error) => Err(error),
    }
}

fn sweep_row(
    kernel: &OldKernel,
    running: &Running,
    row: &Row,
    options: &Options,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<Result<Flight, String>> {
    let approach = row.approach;
    if !Approach::OF_OLD_PROCESSES.contains(&approach) {
        return Ok(Err("no thread is inside the old code".to_owned()));
    }
    if options.in_flight.is_empty() {
        return Ok(Err("it was not asked for".to_owned()));
    }
    if let Some(reason) = &kernel.no_in_flight {
        return Ok(Err(reason.clone()));
    }
    if kernel.home.is_none() {
        let reason = "the symbols of its kernel are not known, which would have to be emulated";
        return Ok(Err(reason.to_owned()));
    }
    progress(&format!(
        "threads in flight, {}, {}",
        kernel.name, row.approach
    ));
    let image = OldImage::from(&kernel.old).with_home(kernel.home.as_ref());
    let wanted = in_flight::Options {
        approach,
        namespaces: options.in_flight.clone(),
        deadline: options.deadline,
        ..in_flight::Options::default()
    };
    match sweep(image, running, &wanted) {
        Ok(found) if found.namespaces.is_empty() => {
            let refused = found.no_time_namespace.unwrap_or_default();
            Ok(Err(format!(
                "the system refuses time namespaces: {refused}"
            )))
        }
        Ok(found) => Ok(Ok(found.into())),
        Err(error) if error.is_refusal() => Ok(Err(in_words(&error))),
        Err(error) => Err(error),
    }
}
