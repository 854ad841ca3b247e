//! What a guest is told to do, and what it says about it. Both are JSON: the job is a file in the
//! guest, each answer is a line.

use std::fmt;
use std::path::PathBuf;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::checker::Observed;

/// Where a job is in a guest.
pub(crate) const JOB: &str = "/lab/job.json";

/// Where images of processes are that a guest is given.
pub(crate) const IMAGES: &str = "/lab/images";

/// Where a guest keeps derived tables: those that came with old vDSOs, and its own kernel's.
pub(crate) const TABLES: &str = "/lab/tables";

/// Where a guest has plugins of CRIU's.
pub(crate) const PLUGINS: &str = "/lab/plugins";

/// Where a guest leaves files.
pub(crate) const OUT: &str = "/out";

/// Where a guest has this program.
pub(crate) const OWN: &str = "/lab/kernel-lab";

/// What a guest does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Job {
    /// Runs a command. What it prints goes out as it is; its status is the guest program's.
    Command {
        /// The program and its arguments.
        words: Vec<String>,
        /// The environment, besides what the guest has itself.
        environment: Vec<(String, String)>,
        /// The directory to run it in.
        directory: PathBuf,
    },
    /// A shell for a person.
    Shell,
    /// Dumps and restores, one after the other.
    Acts(Vec<Act>),
}

/// One thing that a guest does with processes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Act {
    /// Hands out the kernel's vDSO, and derives its tables, which are handed out as well: what one
    /// carries to another kernel.
    Describe,
    /// Starts a subject and dumps it.
    Dump(Subject),
    /// Restores an image.
    Restore(Restore),
}

impl Act {
    /// Whether it needs what another guest has dumped.
    pub(crate) fn restores(&self) -> bool {
        matches!(self, Self::Restore(_))
    }
}

/// A program that is dumped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Subject {
    /// The name of its image.
    pub(crate) image: String,
    /// The program and its arguments. It gets the paths of its pages behind them.
    pub(crate) command: Vec<String>,
    /// Its pages: one for each process, the program and its children.
    pub(crate) pages: Vec<PathBuf>,
    /// Its environment.
    pub(crate) environment: Vec<(String, String)>,
    /// What dumps it.
    pub(crate) criu: Criu,
    /// The container that it lives in.
    pub(crate) container: Option<Container>,
    /// The process number that it gets if that is free: no process of another guest has it. In a
    /// container it is the first process, whatever this says.
    pub(crate) pid: i32,
}

/// The containers that subjects live in: namespaces of their own for processes, mounts, host names,
/// IPC and networks.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Container {
    /// Linked from outside.
    Usual,
    /// With a time namespace as well: its clocks are days ahead of the guest's.
    Time,
    /// Linked from inside: the relocator is a process of the container.
    Inside,
}

impl fmt::Display for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Usual => "container",
            Self::Time => "container-time",
            Self::Inside => "container-inside",
        })
    }
}

/// CRIU in a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Criu {
    /// The version as it was asked for.
    pub(crate) version: String,
    /// The directory with the program, its dynamic linker and libraries.
    pub(crate) directory: PathBuf,
    /// Whether it loads the relocator's plugin.
    pub(crate) has_plugin: bool,
}

/// A restore, what is done to the process, and whether it is dumped again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Restore {
    /// The image, below [`IMAGES`].
    pub(crate) image: String,
    /// How often this image was restored before.
    pub(crate) epoch: u64,
    /// What restores it.
    pub(crate) criu: Criu,
    /// The container that its processes live in.
    pub(crate) container: Option<Container>,
    /// Who makes its vDSO right.
    pub(crate) by: By,
    /// Old vDSOs that the relocator is told of.
    pub(crate) old: Vec<PathBuf>,
    /// Whether CRIU is told to take the vDSO for another one although it is the same.
    pub(crate) fault: bool,
    /// How long the process is watched, in milliseconds.
    pub(crate) observe_ms: u64,
    /// Whether it is dumped afterwards, to an image of the same name.
    pub(crate) dump: bool,
}

/// Who makes the vDSO of a restored process right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum By {
    /// CRIU, with its jumps.
    Criu,
    /// The relocator, before the process goes on.
    Relocator,
    /// The relocator in CRIU: its plugin, at the dump as well.
    Plugin,
}

/// What a guest says about an act.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// What kernel runs.
    Kernel {
        /// Its release.
        release: String,
        /// What it counts time with.
        clock: String,
    },
    /// The vDSO and its tables were handed out, or why not.
    Described(Result<f64, String>),
    /// A subject was dumped.
    Dumped(Dumped),
    /// An image was restored.
    Restored(Box<Restored>),
    /// All acts are done.
    Done,
}

/// How a dump went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Dumped {
    /// The image.
    pub(crate) image: String,
    /// Why there is none.
    pub(crate) failure: Option<String>,
    /// Wrong answers before the dump.
    pub(crate) wrong_before: u64,
    /// How long the dump took, in seconds of the guest.
    pub(crate) seconds: f64,
}

/// How a restore went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Restored {
    /// The image.
    pub(crate) image: String,
    /// Who made its vDSO right.
    pub(crate) by: By,
    /// What became of the process.
    pub(crate) fate: Fate,
    /// What it did while it was watched.
    pub(crate) observed: Observed,
    /// What the relocator said about each process, as JSON.
    pub(crate) reports: Vec<serde_json::Value>,
    /// How long restoring and linking took, in seconds of the guest.
    pub(crate) seconds: f64,
    /// The dump afterwards.
    pub(crate) dumped: Option<Dumped>,
}

/// What became of a restored process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state", content = "reason")]
pub(crate) enum Fate {
    /// It runs, with all its threads.
    Runs,
    /// CRIU did not restore it.
    NotRestored(String),
    /// The relocator did not link it. It is still stopped.
    Refused(String),
    /// It ended, or some of its threads do not move.
    Lost(String),
}

impl Answer {
    /// Reads a line; `None` if it is none of the guest program's.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        serde_json::from_str(line).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_others_are_no_answers() {
        for line in ["", "[    1.2] random: crng", "{}", "insmod: x"] {
            assert_eq!(Answer::parse(line), None, "{line}");
        }
    }

    #[test]
    fn answers_survive() {
        let answer = Answer::Restored(Box::new(Restored {
            image: "a".to_owned(),
            by: By::Relocator,
            fate: Fate::Refused("it cannot go on".to_owned()),
            observed: Observed::default(),
            reports: vec![serde_json::json!({"state": "linked"})],
            seconds: 1.5,
            dumped: None,
        }));
        let line = serde_json::to_string(&answer).unwrap();
        assert_eq!(Answer::parse(&line), Some(answer));
    }
}
