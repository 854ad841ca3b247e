//! What becomes of threads that are inside the old image when the kernel is swapped.

use crate::Approach;
use serde::{Deserialize, Serialize};

use super::{CompareOptions, Failure, OldComparison, OldKernel, Row};
use crate::in_flight::{self, Counts, InFlight, Namespaces, Variant, VariantCounts, sweep};
use crate::{Error, Result};
use crate::{OldImage, Running};
use relocator::in_words;

/// A sweep in short; `relocator verify --in-flight` has everything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
    /// The same by what the thread was doing: stopped there, or in the handler of a signal that
    /// interrupted it there.
    pub variants: Vec<VariantCounts>,
    /// The same by function.
    pub functions: Vec<FunctionFlight>,
}

/// A sweep of one function in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
    options: &CompareOptions,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<()> {
    let options = &CompareOptions {
        in_flight: namespaces(&options.in_flight)?,
        ..options.clone()
    };
    for (kernel, old) in kernels.iter().zip(compared) {
        match obstacle(kernel, options) {
            Some(reason) => leave_out(&mut old.rows, &reason),
            None => {
                progress(&format!("threads in flight, {}", kernel.name));
                sweep_rows(kernel, running, &mut old.rows, options)?;
            }
        }
    }
    Ok(())
}

/// Why no thread can be stopped on this kernel, if none can.
fn obstacle(kernel: &OldKernel, options: &CompareOptions) -> Option<String> {
    if options.in_flight.is_empty() {
        return Some("it was not asked for".to_owned());
    }
    if kernel.home.is_none() && kernel.no_in_flight.is_none() {
        let reason = "the symbols of its kernel are not known, which would have to be emulated";
        return Some(reason.to_owned());
    }
    kernel.no_in_flight.clone()
}

fn leave_out(rows: &mut [Row], reason: &str) {
    for row in rows {
        row.no_in_flight = Some(match is_swept(row) {
            true => reason.to_owned(),
            false => "no thread is inside the old code".to_owned(),
        });
    }
}

fn is_swept(row: &Row) -> bool {
    Approach::OF_OLD_PROCESSES.contains(&row.approach)
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

/// Sweeps with all approaches at once. If the process that does is lost, each is swept alone, so
/// that only the one is lost that is at fault.
fn sweep_rows(
    kernel: &OldKernel,
    running: &Running,
    rows: &mut [Row],
    options: &CompareOptions,
) -> Result<()> {
    leave_out(rows, "");
    let mut rows: Vec<&mut Row> = rows.iter_mut().filter(|row| is_swept(row)).collect();
    let sweep = |approaches: Vec<Approach>| {
        let image = OldImage::from(&kernel.old).with_home(kernel.home.as_ref());
        let wanted = in_flight::SweepOptions {
            approaches,
            namespaces: options.in_flight.clone(),
            deadline: options.deadline,
            ..in_flight::SweepOptions::default()
        };
        sweep(image, running, &wanted)
    };
    let approaches: Vec<Approach> = rows.iter().map(|row| row.approach).collect();
    let swept = match sweep(approaches.clone()) {
        Err(Error::Child { .. }) if approaches.len() > 1 => {
            let alone = approaches.into_iter().map(|approach| {
                let mut swept = sweep(vec![approach])?;
                swept.pop().unwrap_or_else(|| Err(lost()))
            });
            Ok(alone.collect())
        }
        Err(error) if error.is_refusal() => {
            let reason = in_words(&error);
            rows.iter_mut()
                .for_each(|row| row.no_in_flight = Some(reason.clone()));
            return Ok(());
        }
        swept => swept,
    }?;
    for (row, swept) in rows.into_iter().zip(swept) {
        row.no_in_flight = match swept {
            Ok(found) if found.namespaces.is_empty() => {
                let refused = found.no_time_namespace.unwrap_or_default();
                Some(format!("the system refuses time namespaces: {refused}"))
            }
            Ok(found) => {
                row.in_flight = Some(found.into());
                None
            }
            Err(error) => {
                let reason = in_words(&error);
                match error {
                    Error::Child { what } => {
                        row.failure.get_or_insert(Failure::Child { what });
                    }
                    error if !error.is_refusal() => return Err(error),
                    _ => {}
                }
                Some(reason)
            }
        };
    }
    Ok(())
}

fn lost() -> Error {
    Error::Child {
        what: "has swept nothing".to_owned(),
    }
}
