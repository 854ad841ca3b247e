//! What `relocator check` prints.

use schemars::JsonSchema;
use serde::Serialize;

use super::{Function, Kernel};

/// What `relocator check --json` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Check {
    /// `relocator.check/1`.
    pub schema: &'static str,
    /// The directory of images, or `pid:N`.
    pub checked: String,
    /// Whether all tasks can be restored on that kernel and linked.
    pub yes: bool,
    /// The kernel that they are to be restored on.
    pub onto: Kernel,
    /// What the processor there can execute, beyond what all of its architecture can.
    pub processor: Vec<&'static str>,
    /// What the processor of the dump could execute and the other one cannot, if the images say.
    pub lost_features: Vec<&'static str>,
    /// Whether a restore puts the tasks into a new time namespace.
    pub new_time_namespace: bool,
    /// The tasks.
    pub tasks: Vec<Task>,
    /// What else is worth knowing.
    pub notes: Vec<String>,
}

/// A task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Task {
    /// Its number, in its own namespace.
    pub pid: i32,
    /// That of its parent; 0 of the first.
    pub parent: i32,
    /// Its name.
    pub name: String,
    /// Whether it can be restored and linked.
    pub yes: bool,
    /// A word that stays as it is: `linked`, `same-vdso`, `taken-for-equal`, `no-old-vdso`, `ended`; or why not.
    pub code: &'static str,
    /// Why not, or null.
    pub reason: Option<String>,
    /// Where its vDSO is, or null.
    pub vdso: Option<u64>,
    /// The build-id of that, hexadecimal.
    pub build_id: Option<String>,
    /// The old vDSOs that a link would change.
    pub texts: Vec<Text>,
    /// Its threads.
    pub threads: Vec<Thread>,
    /// What CRIU does without the relocator, or null if there is no vDSO.
    pub criu_alone: Option<CriuAlone>,
    /// Misleading names and hints.
    pub misleading_names: Vec<String>,
}

/// An old vDSO that a link would change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Text {
    /// Where it is.
    pub address: u64,
    /// Its build-id, hexadecimal.
    pub build_id: String,
    /// Where its relocation table came from: `exported`, `file`, `cache`, `derived`, `none`.
    pub tables: &'static str,
    /// Why it has none, or null.
    pub no_tables: Option<String>,
    /// What would become of its functions.
    pub functions: Vec<Function>,
}

/// A thread.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Thread {
    /// Its number, in its own namespace.
    pub thread: i32,
    /// Its name, if it has one of its own.
    pub name: Option<String>,
    /// Where it goes on; null if that is unknown, as of a thread that runs.
    pub address: Option<u64>,
    /// Its contexts inside an old vDSO.
    pub contexts: Vec<Context>,
}

/// A context inside an old vDSO.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Context {
    /// The signal frame that it is in; null if it is the thread's own.
    pub frame: Option<u64>,
    /// Where it goes on.
    pub address: u64,
    /// The same in the image.
    pub place: u64,
    /// The function that this is in; null in code that several functions share.
    pub function: Option<String>,
    /// How many bytes behind the entry of that.
    pub offset: Option<u64>,
    /// `goes-on` or `re-enters`.
    pub fate: &'static str,
}

/// What a restore by CRIU alone does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct CriuAlone {
    /// `in-place`: the kernel's vDSO takes the place of the old one. `jumps`: entries are overwritten.
    pub restore: &'static str,
    /// The functions whose entries it overwrites.
    pub jumps: Vec<Jump>,
    /// What breaks by that.
    pub breaks: Vec<Breakage>,
}

/// A jump of CRIU's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Jump {
    /// The function.
    pub function: &'static str,
    /// Its entry in the image.
    pub entry: u64,
    /// Whether the new vDSO has it.
    pub has_target: bool,
}

/// What breaks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Breakage {
    /// A word that stays as it is: `in-jump`, `reads-zeros`, `other-code`, `other-time-namespace`, `not-proxied`,
    /// `no-target`, `elsewhere`.
    pub code: &'static str,
    /// The same in words.
    pub message: String,
    /// The thread that it is about, or null.
    pub thread: Option<i32>,
    /// The signal frame that it is about, or null.
    pub frame: Option<u64>,
    /// The function that it is about, or null.
    pub function: Option<String>,
}
