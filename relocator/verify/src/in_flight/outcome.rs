//! What a sweep has found.

use std::fmt;
use std::iter::Sum;

use serde::{Deserialize, Serialize};

use crate::Approach;

/// What became of a thread that was stopped at a boundary and resumed. Later ones are worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Ending {
    /// It said what the new kernel says at the time.
    New,
    /// It said what the old kernel says: it had read everything it needed.
    Old,
    /// It said anything else, or returned in a way that no function may.
    Wrong,
    /// It never returned.
    Hung,
    /// A signal stopped it.
    Crashed,
    /// It could not be carried across, and nothing was written.
    Stuck,
}

impl Ending {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::New,
        Self::Old,
        Self::Wrong,
        Self::Hung,
        Self::Crashed,
        Self::Stuck,
    ];

    /// Whether a program would notice.
    pub fn is_failure(self) -> bool {
        !matches!(self, Self::New | Self::Old)
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::New => "new",
            Self::Old => "old",
            Self::Wrong => "wrong",
            Self::Hung => "hung",
            Self::Crashed => "crashed",
            Self::Stuck => "stuck",
        })
    }
}

/// How many boundaries have which worst ending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Counts {
    /// Boundaries at which a thread said what the new kernel says.
    pub new: u64,
    /// Boundaries at which it said what the old kernel said.
    pub old: u64,
    /// Boundaries at which it said anything else.
    pub wrong: u64,
    /// Boundaries at which a signal killed it.
    pub crashed: u64,
    /// Boundaries from which it never came out.
    pub hung: u64,
    /// Boundaries from which it could not be carried across; nothing was written.
    pub stuck: u64,
}

impl<'a> Sum<&'a Self> for Counts {
    fn sum<I: Iterator<Item = &'a Self>>(counts: I) -> Self {
        counts.fold(Self::default(), |sum, counts| Self {
            new: sum.new + counts.new,
            old: sum.old + counts.old,
            wrong: sum.wrong + counts.wrong,
            crashed: sum.crashed + counts.crashed,
            hung: sum.hung + counts.hung,
            stuck: sum.stuck + counts.stuck,
        })
    }
}

impl Counts {
    /// One of them.
    pub fn of(&self, ending: Ending) -> u64 {
        match ending {
            Ending::New => self.new,
            Ending::Old => self.old,
            Ending::Wrong => self.wrong,
            Ending::Hung => self.hung,
            Ending::Crashed => self.crashed,
            Ending::Stuck => self.stuck,
        }
    }

    /// All that a program would notice.
    pub fn failures(&self) -> u64 {
        self.total() - self.new - self.old
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        Ending::ALL.iter().map(|&ending| self.of(ending)).sum()
    }

    pub(super) fn add(&mut self, ending: Ending) {
        let count = match ending {
            Ending::New => &mut self.new,
            Ending::Old => &mut self.old,
            Ending::Wrong => &mut self.wrong,
            Ending::Hung => &mut self.hung,
            Ending::Crashed => &mut self.crashed,
            Ending::Stuck => &mut self.stuck,
        };
        *count += 1;
    }
}

/// Whether the process is in a time namespace with shifted clocks, before and after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Namespaces {
    /// On the old kernel.
    pub old: bool,
    /// On the new one.
    pub new: bool,
}

impl Namespaces {
    /// All combinations; the one that a restore makes first, which puts every process into a
    /// namespace.
    pub const ALL: [Self; 4] = [
        Self::of(false, true),
        Self::of(false, false),
        Self::of(true, true),
        Self::of(true, false),
    ];

    const fn of(old: bool, new: bool) -> Self {
        Self { old, new }
    }

    /// Whether a namespace is needed at all.
    pub fn any(self) -> bool {
        self.old || self.new
    }
}

impl fmt::Display for Namespaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |on| if on { "on" } else { "off" };
        write!(f, "{} -> {}", word(self.old), word(self.new))
    }
}

/// What the thread was doing, and where the registers are that say that it is inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Variant {
    /// It was stopped at the boundary.
    Direct,
    /// A signal interrupted it there, and it was stopped in the handler: a signal frame has the
    /// registers.
    Frame,
    /// The same with a handler that runs on an alternate stack.
    AlternateStack,
    /// The handler has called a function itself, and was stopped in that: both have to be carried
    /// across.
    Nested,
}

impl Variant {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Direct,
        Self::Frame,
        Self::AlternateStack,
        Self::Nested,
    ];
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "direct",
            Self::Frame => "frame",
            Self::AlternateStack => "alternate-stack",
            Self::Nested => "nested",
        })
    }
}

/// What a sweep of an image has found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct InFlight {
    /// What was done when the kernel was swapped.
    pub approach: Approach,
    /// Combinations of time namespaces that were run.
    pub namespaces: Vec<Namespaces>,
    /// Why others were not.
    pub no_time_namespace: Option<String>,
    /// Every distinct function, by entry point.
    pub functions: Vec<FunctionSweep>,
    /// Functions that were not swept, and why.
    pub skipped: Vec<Skipped>,
    /// What the old kernel does not have, so that no thread can have been inside with it.
    pub left_out: Vec<LeftOut>,
}

impl InFlight {
    /// Number of experiments.
    pub fn experiments(&self) -> u64 {
        self.functions.iter().map(|f| f.experiments).sum()
    }

    /// Number of boundaries with a failure in any function.
    pub fn failures(&self) -> u64 {
        self.functions.iter().map(|f| f.worst.failures()).sum()
    }
}

/// Something that an old kernel can have and this one has not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LeftOut {
    /// What was not tried.
    pub what: String,
    /// How one can tell that the kernel does not have it.
    pub reason: String,
}

/// A function that was not swept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Skipped {
    /// Its name.
    pub name: String,
    /// Why not.
    pub reason: String,
}

/// What a sweep of one function has found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct FunctionSweep {
    /// Its name.
    pub name: String,
    /// Its other names.
    pub aliases: Vec<String>,
    /// How many boundaries it has: those that it can reach by its code, local helpers included.
    pub boundaries: u64,
    /// At how many of them a thread was stopped.
    pub reached: u64,
    /// At how many places it was stopped in code that an earlier link has moved out of line.
    pub out_of_line: u64,
    /// How often a thread was stopped, the kernel swapped, and the thread resumed.
    pub experiments: u64,
    /// Boundaries by the worst that has happened there.
    pub worst: Counts,
    /// The same by what the thread was doing, over all combinations of namespaces.
    pub variants: Vec<VariantCounts>,
    /// The same for each combination of namespaces and each variant.
    pub parts: Vec<Part>,
    /// Boundaries where no thread was ever stopped.
    pub unreached: Vec<Unreached>,
    /// The first few failures.
    pub failures: Vec<FailedExperiment>,
}

/// What has become of threads that were doing one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VariantCounts {
    /// What they were doing.
    pub variant: Variant,
    /// Boundaries by the worst that has happened there.
    pub worst: Counts,
}

/// What a sweep of one function has found under some circumstances.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Part {
    /// Before and after.
    pub namespaces: Namespaces,
    /// What the thread was doing.
    pub variant: Variant,
    /// At how many boundaries a thread was stopped.
    pub reached: u64,
    /// How often.
    pub experiments: u64,
    /// Boundaries by the worst that has happened there.
    pub worst: Counts,
}

/// A boundary where no thread was stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Unreached {
    /// In the image.
    pub address: u64,
    /// Which way does not lead there.
    pub reason: String,
}

/// An experiment that went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct FailedExperiment {
    /// The boundary, in the image.
    pub address: u64,
    /// The instruction there, in bytes.
    pub instruction: String,
    /// Before and after.
    pub namespaces: Namespaces,
    /// What the thread was doing.
    pub variant: Variant,
    /// Arguments, and state of the old kernel's pages.
    pub scenario: String,
    /// What became of it.
    pub ending: Ending,
    /// What came out, in words.
    pub what: String,
}
