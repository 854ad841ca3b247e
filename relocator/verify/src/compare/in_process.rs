//! Ways to go on that are mapped in the calling process, for benchmarks.

use std::time::Duration;

use super::code::Code;
use super::{Timing, measure};
use crate::calls::timing::TimedCall;
use crate::entry::Entry;
use crate::linked::Prepared;
use crate::{Approach, Result};
use crate::{OldImage, Running};

/// The functions of an old image in one way, ready to be timed in this process.
///
/// [`compare`](super::compare) contains linked code in a child process. A benchmark that wants to
/// time calls itself cannot, so this does without the child.
#[derive(Debug)]
pub struct InProcess {
    entries: Vec<Entry>,
}

impl InProcess {
    /// Links `old` in this way to the running kernel and maps it here, for as long as the process
    /// lives. For [`Approach::Native`], the running kernel's own functions that `old` has too. Code
    /// that is on zeros is not mapped in this process: [`Approach::Criu`] and [`Approach::Nothing`]
    /// have no functions here.
    ///
    /// Only functions that can go on in this way are there: with [`Approach::Relocate`], none that
    /// had to be replaced.
    ///
    /// # Safety
    ///
    /// `old` must be a vDSO whose tables are right, and it must have been
    /// [verified](crate::verify): it is executed in this process, and what it does wrong it does to
    /// this process.
    pub unsafe fn map<'a>(
        old: impl Into<OldImage<'a>>,
        running: &'a Running,
        approach: Approach,
    ) -> Result<Self> {
        let prepared = Prepared::new(old.into(), running)?;
        let code = Code::from(approach);
        if let Code::Unlinked { .. } = code {
            return Ok(Self {
                entries: Vec::new(),
            });
        }
        Ok(Self {
            entries: code.entries(&prepared, None, approach)?,
        })
    }

    /// Makes `calls` calls and returns how long they took; `None` if the function is not there.
    pub fn time(&self, call: TimedCall, calls: u32) -> Option<Duration> {
        self.entries
            .iter()
            .find_map(|&entry| call.time(entry, calls))
    }
}

/// Times a call of each, as [`compare`](super::compare) does: `batches` batches of `batch` calls,
/// in turns.
///
/// Ratios are to the first. `None` for one that does not have the function.
pub fn side_by_side(
    approaches: &[&InProcess],
    call: TimedCall,
    batches: u32,
    batch: u32,
) -> Vec<Option<Timing>> {
    let entries: Vec<&[Entry]> = approaches
        .iter()
        .map(|approach| approach.entries.as_slice())
        .collect();
    let samples = measure::in_turns(&entries, call, (batches, batch), &mut |_| {});
    let first = samples.first().cloned().unwrap_or_default();
    samples
        .iter()
        .map(|samples| measure::summarise(call, samples, &first))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::running;

    #[test]
    fn the_native_functions_are_as_fast_as_themselves() {
        let running = running();
        // SAFETY: nothing is linked; these are the running kernel's own functions.
        let native = unsafe { InProcess::map(&running.image, &running, Approach::Native) }.unwrap();
        let timings = side_by_side(&[&native, &native], TimedCall::Monotonic, 21, 200);
        let ratios: Vec<f64> = timings
            .iter()
            .filter_map(|timing| timing.as_ref()?.ratio)
            .collect();
        assert_eq!(ratios.first(), Some(&1.0));
        // Generous: the machine may be busy.
        assert!(
            ratios.len() == 2 && (0.3..3.0).contains(&ratios[1]),
            "{ratios:?}"
        );
        assert!(native.time(TimedCall::Getcpu, 10).is_some());
    }
}
