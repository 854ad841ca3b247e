//! A few guests at a time.

use std::sync::Mutex;

use crate::interrupt;

/// Does all of the work, `at_once` pieces at a time, and keeps the order of the results. What was
/// not begun when the lab was interrupted has none.
pub(crate) fn all<W: Sync, R: Send>(
    work: &[W],
    at_once: usize,
    each: impl Fn(&W) -> R + Sync,
) -> Vec<Option<R>> {
    let next = Mutex::new(0);
    let results: Vec<Mutex<Option<R>>> = work.iter().map(|_| Mutex::new(None)).collect();
    let take = || {
        let mut next = next.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let index = *next;
        *next += 1;
        (index < work.len() && !interrupt::is_wanted()).then_some(index)
    };
    std::thread::scope(|scope| {
        for _ in 0..at_once.max(1) {
            scope.spawn(|| {
                while let Some(index) = take() {
                    let result = each(&work[index]);
                    let mut place = results[index].lock().unwrap_or_else(|p| p.into_inner());
                    *place = Some(result);
                }
            });
        }
    });
    let done = results.into_iter();
    done.map(|result| {
        result
            .into_inner()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_the_order_of_the_work() {
        let work: Vec<u64> = (0..20).collect();
        let results = all(&work, 3, |number| {
            std::thread::sleep(std::time::Duration::from_millis(20 - number));
            number * 2
        });
        let expected: Vec<Option<u64>> = work.iter().map(|number| Some(number * 2)).collect();
        assert_eq!(results, expected);
        assert_eq!(all(&[0; 0], 2, |_| ()), []);
    }
}
