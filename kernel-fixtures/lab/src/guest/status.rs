//! What the kernel says about a process in `/proc/PID/status`.

use std::fs;

use anyhow::{Context, Result};

/// What the kernel says about a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Status {
    /// Its number in its own namespace of processes.
    pub(super) own: i32,
    /// How many threads it has.
    pub(super) threads: usize,
    /// It has ended, and its parent does not know yet.
    pub(super) is_dead: bool,
}

impl Status {
    /// The status of a process.
    ///
    /// # Errors
    ///
    /// There is no such process.
    pub(super) fn read(pid: i32) -> Result<Self> {
        let path = format!("/proc/{pid}/status");
        let text = fs::read_to_string(&path).with_context(|| path.clone())?;
        Self::parse(&text).with_context(|| format!("{path} is unlike what kernels write"))
    }

    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| {
            let mut lines = text.lines();
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim))
        };
        // One number for each namespace, from the outermost one to its own.
        let own = field("NSpid")?.split_whitespace().last()?;
        Some(Self {
            own: own.parse().ok()?,
            threads: field("Threads")?.parse().ok()?,
            is_dead: field("State")?.starts_with(['Z', 'X']),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_number_is_the_last_one() {
        let text = "Name:\tchecker\nState:\tT (stopped)\nNSpid:\t612\t3\t1\nThreads:\t16\n";
        let status = Status::parse(text).unwrap();
        let expected = Status {
            own: 1,
            threads: 16,
            is_dead: false,
        };
        assert_eq!(status, expected);
        assert_eq!(Status::parse("State:\tR\nThreads:\t1\n"), None);
        assert!(Status::parse(&text.replace('T', "Z")).is_none());
        assert!(Status::parse(&text.replace("T (", "Z (")).unwrap().is_dead);
    }

    #[test]
    fn this_process_has_a_status() {
        let own = i32::try_from(std::process::id()).unwrap();
        let status = Status::read(own).unwrap();
        assert!(status.threads >= 1 && !status.is_dead);
    }
}
