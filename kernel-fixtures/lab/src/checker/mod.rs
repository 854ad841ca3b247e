//! The checker: the program that is dumped and restored, in several languages, and the page by which
//! it says how it goes.

mod build;
mod go;
mod python;

use serde::{Deserialize, Serialize};

pub(crate) use build::{Libc, compile};
pub(crate) use go::compile as compile_go;
pub(crate) use python::Interpreter;

/// Bytes of the page.
pub(crate) const SIZE: usize = 8192;

/// Threads that the page has room for; the checker in C has so many, with its first one.
const THREADS: usize = 16;

/// The functions that it counts, in the order of the page.
pub(crate) const FUNCTIONS: [&str; 12] = [
    "monotonic",
    "realtime",
    "monotonic coarse",
    "realtime coarse",
    "monotonic raw",
    "boottime",
    "tai",
    "gettimeofday",
    "time",
    "getres",
    "getcpu",
    "getrandom",
];

/// "balcheck", set when all threads have begun.
const MAGIC: u64 = 0x6b63_6568_636c_6162;

/// Offset of the number of the restore, which the watcher counts.
pub(crate) const EPOCH: usize = 16;

const HEAD: usize = 8;
const RANDOM: usize = 64;
const MESSAGES: usize = 1024;
const MESSAGE: usize = 128;

/// What the page says at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Page {
    /// All threads have begun.
    pub(crate) is_ready: bool,
    /// The number of the restore.
    pub(crate) epoch: u64,
    /// How often the first thread woke.
    pub(crate) ticks: u64,
    /// Signals that handlers have seen.
    pub(crate) handled: u64,
    /// Calls by function.
    pub(crate) calls: Vec<u64>,
    /// Wrong answers by function.
    pub(crate) wrong: Vec<u64>,
    /// How far each thread has come; goroutines in Go.
    pub(crate) progress: Vec<u64>,
    /// The first random numbers of this epoch.
    pub(crate) random: Vec<u64>,
    /// The first wrong answers in words.
    pub(crate) messages: Vec<String>,
}

impl Page {
    /// Reads a page; `None` if it is too short.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let words: Vec<u64> = bytes
            .get(..MESSAGES)?
            .chunks_exact(8)
            .map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default()))
            .collect();
        let mut rest = words.get(HEAD..)?;
        let mut take = |count: usize| {
            let (taken, left) = rest.split_at(count.min(rest.len()));
            rest = left;
            taken.to_vec()
        };
        let (calls, wrong) = (take(FUNCTIONS.len()), take(FUNCTIONS.len()));
        let mut progress = take(THREADS);
        progress.truncate(usize::try_from(words[7]).unwrap_or(THREADS));
        let mut random = take(RANDOM);
        random.truncate(usize::try_from(words[6]).unwrap_or(0));
        let messages = bytes.get(MESSAGES..SIZE)?.chunks_exact(MESSAGE);
        let text = |message: &[u8]| {
            let end = message.iter().position(|&byte| byte == 0);
            String::from_utf8_lossy(&message[..end.unwrap_or(MESSAGE)]).into_owned()
        };
        Some(Self {
            is_ready: words[0] == MAGIC,
            epoch: words[2],
            ticks: words[3],
            handled: words[4],
            calls,
            wrong,
            progress,
            random,
            messages: messages
                .map(text)
                .filter(|message| !message.is_empty())
                .collect(),
        })
    }

    /// What has happened since an earlier moment; since the beginning, if that is an empty page.
    pub(crate) fn since(&self, earlier: &Self) -> Observed {
        let differences = |now: &[u64], then: &[u64]| -> Vec<u64> {
            let then = then.iter().copied().chain(std::iter::repeat(0));
            let pairs = now.iter().zip(then);
            pairs.map(|(now, then)| now.wrapping_sub(then)).collect()
        };
        let progress = differences(&self.progress, &earlier.progress);
        let still = progress.iter().zip(0..).filter(|(steps, _)| **steps == 0);
        Observed {
            calls: differences(&self.calls, &earlier.calls),
            wrong: differences(&self.wrong, &earlier.wrong),
            signals: self.handled.wrapping_sub(earlier.handled),
            still: still.map(|(_, thread)| thread).collect(),
            // A call that was under way at the dump has its number already.
            random: self.random.iter().skip(1).copied().collect(),
            messages: self
                .messages
                .iter()
                .skip(earlier.messages.len())
                .cloned()
                .collect(),
        }
    }
}

/// What a checker did between two moments.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Observed {
    /// Calls by function.
    pub(crate) calls: Vec<u64>,
    /// Wrong answers by function.
    pub(crate) wrong: Vec<u64>,
    /// Signals that handlers have seen.
    pub(crate) signals: u64,
    /// Threads that did not come any further.
    pub(crate) still: Vec<usize>,
    /// The first random numbers after the restore.
    pub(crate) random: Vec<u64>,
    /// The first wrong answers in words.
    pub(crate) messages: Vec<String>,
}

impl Observed {
    /// Adds what another process of the same image did. Its threads have numbers behind those of
    /// the first one.
    pub(crate) fn merge(&mut self, other: Self, process: usize) {
        let add = |sums: &mut Vec<u64>, more: &[u64]| {
            sums.resize(sums.len().max(more.len()), 0);
            sums.iter_mut()
                .zip(more)
                .for_each(|(sum, more)| *sum += more);
        };
        add(&mut self.calls, &other.calls);
        add(&mut self.wrong, &other.wrong);
        self.signals += other.signals;
        let still = other.still.iter().map(|thread| thread + process * THREADS);
        self.still.extend(still);
        self.random.extend(other.random);
        self.messages.extend(other.messages);
    }

    /// All wrong answers.
    pub(crate) fn all_wrong(&self) -> u64 {
        self.wrong.iter().sum()
    }

    /// Wrong answers by the name of the function, of those that had any.
    pub(crate) fn wrong_by_name(&self) -> Vec<(&'static str, u64)> {
        let named = FUNCTIONS.iter().zip(&self.wrong);
        named
            .filter(|(_, wrong)| **wrong > 0)
            .map(|(name, wrong)| (*name, *wrong))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(words: &[(usize, u64)], message: &str) -> Vec<u8> {
        let mut bytes = vec![0; SIZE];
        for (place, value) in words {
            bytes[place * 8..][..8].copy_from_slice(&value.to_le_bytes());
        }
        bytes[MESSAGES..][..message.len()].copy_from_slice(message.as_bytes());
        bytes
    }

    #[test]
    fn a_page_is_read_and_a_short_one_refused() {
        let bytes = page(
            &[
                (0, MAGIC),
                (6, 2),
                (7, 8),
                (8, 7),
                (20, 3),
                (32, 9),
                (48, 5),
            ],
            "late",
        );
        let read = Page::parse(&bytes).unwrap();
        assert!(read.is_ready);
        assert_eq!((read.calls[0], read.wrong[0], read.progress[0]), (7, 3, 9));
        assert_eq!((read.random, read.progress.len()), (vec![5, 0], 8));
        assert_eq!(read.messages, ["late"]);
        assert_eq!(Page::parse(&bytes[..SIZE - 1]), None);
    }

    #[test]
    fn a_thread_without_progress_stands_still() {
        let then = Page::parse(&page(&[(7, 16), (32, 4), (33, 4)], "")).unwrap();
        let mut words: Vec<(usize, u64)> = (32..48).map(|place| (place, 5)).collect();
        words[1] = (33, 4);
        words.extend([(31, 6), (7, 16)]);
        let now = Page::parse(&page(&words, "x")).unwrap();
        let observed = now.since(&then);
        assert_eq!(observed.still, [1]);
        assert_eq!(observed.all_wrong(), 6);
        assert_eq!(observed.wrong_by_name(), [("getrandom", 6)]);
        assert_eq!(observed.messages, ["x"]);
        assert_eq!(now.since(&Page::default()).all_wrong(), 6);
        let mut both = observed.clone();
        both.merge(observed, 1);
        assert_eq!((both.still, both.wrong[11]), (vec![1, 17], 12));
    }
}
