//! What can be wrong with a re-entry table.

use super::{MAX_CALLS, MAX_CONTEXTS, Register};
use crate::Svma;
use crate::symtab::name::MAX_LEN;

/// Why a part of a re-entry table cannot be right. [`crate::Error`] says which part it is, and
/// where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum TableFault {
    /// What is wrong with the source of a register's value.
    #[error("{register}: {fault}")]
    Source {
        register: Register,
        fault: Box<TableFault>,
    },
    #[error("{second} comes behind {first}, and must come before it, once")]
    RegisterOrder { first: Register, second: Register },
    #[error("it is there twice")]
    Twice,
    #[error("there are more than {MAX_CONTEXTS}")]
    TooManyContexts,
    #[error("recipe {index} of {count} does not exist")]
    NoRecipe { index: u32, count: usize },
    #[error("it does not come behind the one before it, of {before}")]
    ContextOrder { before: Svma },
    #[error("the function at {function} reaches {boundary}, which has no context")]
    NoContext { function: Svma, boundary: Svma },
    #[error("{boundary} is not the start of an instruction")]
    NotBoundary { boundary: Svma },
    #[error("no function begins at {entry}")]
    NoFunction { entry: Svma },
    #[error("the function at {entry} does not reach it")]
    NotReached { entry: Svma },
    #[error("{count} calls where {MAX_CALLS} are possible")]
    TooManyCalls { count: usize },
    #[error("a return address is not in memory")]
    ReturnNotInMemory,
    #[error("{address} does not follow a call")]
    NotBehindCall { address: Svma },
    #[error("{register} does not exist")]
    NoRegister { register: Register },
    #[error("it was multiplied by 0")]
    ZeroScale,
    #[error("{register} is no argument")]
    NoArgument { register: Register },
    #[error("{size} bytes are to be cleared, not 1 to 8")]
    ClearSize { size: u8 },
    #[error("a reason has 1 to {MAX_LEN} bytes, none of them 0: {reason:?}")]
    ReasonNotStorable { reason: String },
    #[error("{count} entries from {first} on, where there are {of}")]
    NoEntries { first: u32, count: u32, of: usize },
    #[error("it begins with step {start}, and {next} is next")]
    StepOrder { start: usize, next: usize },
    #[error("no recipe has it")]
    StrayStep,
    #[error("unknown flags {flags:#x}")]
    UnknownFlags { flags: u16 },
    #[error("call {first} is the first of none")]
    FirstOfNone { first: u32 },
    #[error("no reason of at most {MAX_LEN} bytes is at {offset:#x}")]
    NoReason { offset: u32 },
    #[error("the reason at {offset:#x} is not UTF-8")]
    ReasonNotUtf8 { offset: u32 },
    #[error("its last three bytes are not 0")]
    CallRest,
    #[error("bytes 4 to 7 are not 0")]
    StepRest,
    #[error("an offset of {offset} in a register")]
    OffsetInRegister { offset: i64 },
    #[error("a constant is looked for somewhere")]
    PlaceOfConstant,
    #[error("it has a source, and it only clears")]
    SourceOfClear,
    #[error("kind {kind} is not known")]
    UnknownKind { kind: u8 },
    #[error("a register is put back behind what is cleared")]
    RegisterBehindClear,
    #[error("{size} where only 0 and 1 are possible")]
    NotBoolean { size: u8 },
    #[error("its return address is not in memory")]
    CallNotInMemory,
    #[error("it is too large")]
    TooLarge,
}
