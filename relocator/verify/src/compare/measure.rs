//! Timing several implementations in turns.

use super::{CompareOptions, Timing};
use crate::Approach;
use crate::calls::timing::TimedCall;
use crate::child::Progress;
use crate::entry::Entry;

/// Times every call of every approach, by approach. `at` is told the index of the approach whose
/// code is executed next.
pub(super) fn interleaved(
    mapped: &[(Approach, Vec<Entry>)],
    options: &CompareOptions,
    progress: &mut Progress,
    at: &mut dyn FnMut(usize),
) -> Vec<Vec<Timing>> {
    let native = mapped
        .iter()
        .position(|(approach, _)| *approach == Approach::Native);
    let entries = mapped.iter().map(|(_, entries)| entries.as_slice());
    let entries: Vec<&[Entry]> = entries.collect();
    let mut timings = vec![Vec::new(); mapped.len()];
    for call in TimedCall::ALL {
        progress.at(format!("timing {}", call.name()));
        let samples = in_turns(&entries, call, (options.batches, options.batch), at);
        let native = native.map(|index| samples[index].clone());
        let native = native.unwrap_or_default();
        for (index, samples) in samples.iter().enumerate() {
            at(index);
            let timing = summarise(call, samples, &native).map(|timing| Timing {
                wrong: is_wrong(entries[index], call),
                ..timing
            });
            timings[index].extend(timing);
        }
    }
    timings
}

/// Times a call of several implementations: one batch of each in turns, many times over.
/// Nanoseconds a call, by batch; nothing for an implementation that does not have the function.
///
/// Which one begins changes from turn to turn, so that none always follows the same other one. `at`
/// is told which one is next.
pub(super) fn in_turns(
    implementations: &[&[Entry]],
    call: TimedCall,
    (batches, calls): (u32, u32),
    at: &mut dyn FnMut(usize),
) -> Vec<Vec<f64>> {
    let mut samples = vec![Vec::new(); implementations.len()];
    for turn in 0..batches as usize {
        for position in 0..implementations.len() {
            let index = (turn + position) % implementations.len();
            at(index);
            samples[index].extend(batch(implementations[index], call, calls));
        }
    }
    samples
}

/// Nanoseconds a call in one batch; `None` if the function is not there.
fn batch(entries: &[Entry], call: TimedCall, calls: u32) -> Option<f64> {
    let elapsed = entries.iter().find_map(|&entry| call.time(entry, calls))?;
    Some(elapsed.as_nanos() as f64 / f64::from(calls.max(1)))
}

/// Medians of what [`in_turns`] has measured, and the ratio to `native`, batch by batch.
pub(super) fn summarise(call: TimedCall, samples: &[f64], native: &[f64]) -> Option<Timing> {
    let nanoseconds = median(samples.to_vec())?;
    let ratios = samples
        .iter()
        .zip(native)
        .filter(|(_, native)| **native > 0.0)
        .map(|(own, native)| own / native);
    Some(Timing {
        call: call.name().to_owned(),
        nanoseconds,
        ratio: median(ratios.collect()),
        wrong: false,
    })
}

/// Whether what is timed is not even right.
fn is_wrong(entries: &[Entry], call: TimedCall) -> bool {
    let mut agrees = entries.iter().filter_map(|&entry| call.agrees(entry));
    agrees.next() == Some(false)
}

pub(super) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_taken_within_a_batch() {
        // The machine became three times slower on the way; the ratio was 2 all the time.
        let timing = summarise(TimedCall::Time, &[20.0, 40.0, 60.0], &[10.0, 20.0, 30.0]).unwrap();
        assert_eq!((timing.nanoseconds, timing.ratio), (40.0, Some(2.0)));
        let alone = summarise(TimedCall::Time, &[20.0], &[]).unwrap();
        assert_eq!(alone.ratio, None);
        assert_eq!(summarise(TimedCall::Time, &[], &[1.0]), None);
    }

    #[test]
    fn an_outlier_does_not_move_a_median() {
        assert_eq!(median(vec![3.0, 1000.0, 1.0, 2.0, 2.0]), Some(2.0));
        assert_eq!(median(Vec::new()), None);
    }
}
