//! Why each function goes on as it does, as values.
//!
//! Every reason has a stable code for programs and words for people. The words are made where they
//! are printed, so that linking costs no text.

use std::fmt;

use elf_tools::processor::ProcessorFeatures;
use elf_tools::relocation::{Kind, OpaqueReason, OperandField, Width};
use elf_tools::{Avma, Svma};

/// Why a strategy was chosen for a function.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// It stays where it is: the kernel returns to it by address.
    ReturnAddress {
        /// Its name.
        name: String,
    },
    /// Only the kernel's own vDSO may hold it: the kernel compares program counters with it.
    KernelRecognised {
        /// Its name.
        name: String,
        /// Whether the new vDSO has a function that it can jump to.
        has_target: bool,
    },
    /// It needs no relocation.
    ReadsNoVvar,
    /// The linker applied all relocations that it uses.
    Resolved {
        /// Number of relocations.
        relocations: usize,
        /// Number of instructions that are out of line now.
        detours: usize,
        /// Whether the linker knows that no fewer would do.
        fewest: bool,
    },
    /// The caller's policy asks for another implementation.
    Requested,
    /// The old image has no relocation table.
    NoTable,
    /// The function jumps to a place that only registers or memory know.
    IndirectFlow {
        /// The jump.
        place: Svma,
    },
    /// The table says that a reference cannot be relocated.
    Opaque {
        /// The instruction.
        site: Svma,
        /// Why, by the table.
        reason: OpaqueReason,
    },
    /// An operand leaves the image, and no relocation covers it.
    StrayReference {
        /// The instruction.
        place: Svma,
    },
    /// The processor does not have an instruction of it, which the old one had.
    Processor {
        /// The instruction.
        place: Svma,
        /// What the processor lacks.
        lacks: ProcessorFeatures,
    },
    /// It reads the clocks as if there were no time namespaces, which the new kernel has.
    NoTimeNamespaces,
    /// The new kernel does not offer what the function needs.
    Unresolved(Unresolved),
    /// The value of a relocation does not fit its place.
    OutOfRange {
        /// What the relocation refers to.
        reference: String,
        /// The place.
        place: Svma,
        /// The value.
        value: i128,
        /// The kind of relocation.
        kind: Kind,
    },
    /// A linear constraint of the table cannot be met by any values.
    Constraint {
        /// What the constraint refers to.
        reference: String,
        /// The instruction that it is about.
        site: Svma,
        /// What is wrong with it.
        fault: ConstraintFault,
    },
    /// The solver found no values for the constants of a constraint.
    Unsolvable {
        /// What the constraint refers to.
        reference: String,
        /// The instruction that it is about.
        site: Svma,
        /// The constants that would have to change.
        operand_fields: Vec<OperandField>,
        /// Why there are none.
        fault: Unsolvable,
    },
    /// It runs into code of a function that is replaced.
    SharedCode {
        /// The other function.
        with: String,
    },
    /// The caller forces it to the system call.
    Forced(Forced),
    /// For this reason it is replaced, and a jump to the new vDSO does not fit into it.
    NoRoomForJump(Box<Reason>),
    /// For this reason it is replaced, and the new vDSO has no such function.
    NotInNewVdso(Box<Reason>),
}

impl Reason {
    /// A word for programs, which stays the same from version to version. A reason that was found
    /// on the way to another one has the code of the first.
    pub fn code(&self) -> &'static str {
        match self {
            Self::ReturnAddress { .. } => "kernel-returns-to-it",
            Self::KernelRecognised { .. } => "kernel-recognised",
            Self::ReadsNoVvar => "reads-no-vvar",
            Self::Resolved { .. } => "resolved",
            Self::Requested => "requested",
            Self::NoTable => "no-relocation-table",
            Self::IndirectFlow { .. } => "indirect-flow",
            Self::Opaque { reason, .. } => reason.code(),
            Self::StrayReference { .. } => "stray-reference",
            Self::Processor { .. } => "processor-lacks",
            Self::NoTimeNamespaces => "no-time-namespaces",
            Self::Unresolved(unresolved) => unresolved.code(),
            Self::OutOfRange { .. } => "out-of-range",
            Self::Constraint { fault, .. } => fault.code(),
            Self::Unsolvable { fault, .. } => fault.code(),
            Self::SharedCode { .. } => "shared-code",
            Self::Forced(forced) => forced.code(),
            Self::NoRoomForJump(reason) | Self::NotInNewVdso(reason) => reason.code(),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReturnAddress { name } => write!(f, "the kernel returns to `{name}` by address"),
            Self::KernelRecognised { name, has_target } => {
                write!(
                    f,
                    "the kernel recognises `{name}` by its place in its own vDSO"
                )?;
                match has_target {
                    true => Ok(()),
                    false => f.write_str(", and the new vDSO has no such function"),
                }
            }
            Self::ReadsNoVvar => f.write_str("it reads no vvar"),
            Self::Resolved {
                relocations,
                detours,
                fewest,
            } => resolved(*relocations, *detours, *fewest, f),
            Self::Requested => f.write_str("the policy asks for it"),
            Self::NoTable => f.write_str("the image carries no relocation table"),
            Self::IndirectFlow { place } => {
                write!(f, "the target of the jump at {place} is unknown")
            }
            Self::Opaque { site, reason } => write!(f, "{site}: {reason}"),
            Self::StrayReference { place } => write!(
                f,
                "{place} refers to memory outside the image, and no relocation covers it"
            ),
            Self::Processor { place, lacks } => {
                write!(f, "this processor cannot execute {place}: it lacks {lacks}")
            }
            Self::NoTimeNamespaces => {
                f.write_str("it knows no time namespaces, and the new kernel has them")
            }
            Self::Unresolved(unresolved) => unresolved.fmt(f),
            Self::OutOfRange {
                reference,
                place,
                value,
                kind,
            } => write!(
                f,
                "`{reference}` at {place}: {value:#x} does not fit {kind}"
            ),
            Self::Constraint {
                reference,
                site,
                fault,
            } => write!(f, "`{reference}` at {site}: {fault}"),
            Self::Unsolvable {
                reference,
                site,
                operand_fields,
                fault,
            } => {
                write!(f, "`{reference}` at {site}: the constants at ")?;
                list(operand_fields, f)?;
                write!(f, " {fault}")
            }
            Self::SharedCode { with } => {
                write!(f, "it shares code with {with}, which the linker replaces")
            }
            Self::Forced(forced) => forced.fmt(f),
            Self::NoRoomForJump(reason) => {
                write!(f, "{reason}; a jump to the new vDSO does not fit")
            }
            Self::NotInNewVdso(reason) => {
                write!(f, "{reason}; the new vDSO has no such function")
            }
        }
    }
}

fn resolved(
    relocations: usize,
    detours: usize,
    fewest: bool,
    f: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    write!(f, "all {relocations} relocations resolved")?;
    match detours {
        0 => return Ok(()),
        1 => f.write_str(", 1 instruction moved out of line")?,
        detours => write!(f, ", {detours} instructions moved out of line")?,
    }
    match fewest {
        true => Ok(()),
        false => f.write_str(" (fewer may do)"),
    }
}

fn list(operand_fields: &[OperandField], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (index, OperandField { place, width }) in operand_fields.iter().enumerate() {
        let separator = if index == 0 { "" } else { ", " };
        let width = match width {
            Width::None => "no constant",
            Width::I8 => "1 byte",
            Width::I32 => "4 bytes",
        };
        write!(f, "{separator}{place} ({width})")?;
    }
    Ok(())
}

/// Why a caller forces a function to the system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Forced {
    /// The function keeps random states, and the caller cannot find them to make them stale.
    #[error(
        "no memory of the process is marked as holding random states, so none can be made stale"
    )]
    RandomStatesUnknown,
    /// The same, and there is memory that may hold states without being marked.
    #[error(
        "the memory at {at} may hold random states, though it is not marked as such: a restore may have lost that, so not all states can be made stale"
    )]
    RandomStatesUnmarked {
        /// The first such memory.
        at: Avma,
    },
}

impl Forced {
    /// A word for programs.
    pub fn code(self) -> &'static str {
        match self {
            Self::RandomStatesUnknown => "random-states-unknown",
            Self::RandomStatesUnmarked { .. } => "random-states-unmarked",
        }
    }
}

/// Why the new kernel does not offer what an image needs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unresolved {
    /// There is no table to look in.
    #[error("cannot look up `{0}`: no symbol table of the new kernel")]
    NoTable(String),
    /// The new kernel does not have it.
    #[error("`{0}` is missing in the new kernel")]
    Missing(String),
    /// The new kernel stores something else under the name.
    #[error("`{name}` has semantic version {found} in the new kernel, {wanted} in the image")]
    Version {
        /// The symbol.
        name: String,
        /// What the image reads.
        wanted: u32,
        /// What the kernel stores.
        found: u32,
    },
    /// The field has another width.
    #[error("`{name}` has {found} bytes in the new kernel, {wanted} in the image")]
    Size {
        /// The symbol.
        name: String,
        /// What the image reads.
        wanted: u64,
        /// What the kernel stores.
        found: u64,
    },
    /// The array is shorter than the indices that the image may use.
    #[error("`{name}` has {found} elements in the new kernel, {wanted} in the image")]
    Count {
        /// The array.
        name: String,
        /// What the image may index.
        wanted: u64,
        /// What the kernel has.
        found: u64,
    },
    /// The placement leaves the symbol's mapping out.
    #[error("`{name}` lies in {mapping}, which is not mapped")]
    Unmapped {
        /// The symbol.
        name: String,
        /// Its mapping.
        mapping: String,
    },
    /// Two symbols of one distance are in mappings that move on their own.
    #[error("`{0}` spans two mappings of the new kernel")]
    Split(String),
    /// Copies of the default would take too much memory.
    #[error("the default of `{name}` would take {size:#x} bytes; at most {most:#x} are laid out")]
    DefaultTooLarge {
        /// The symbol.
        name: String,
        /// Bytes.
        size: u64,
        /// The limit.
        most: u64,
    },
    /// The default stands for elements of an array that the new kernel does not have.
    #[error("the new kernel has no `{0}[]` that the default could follow")]
    DefaultWithoutArray(String),
}

impl Unresolved {
    /// A word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoTable(_) => "no-symbol-table",
            Self::Missing(_) => "symbol-missing",
            Self::Version { .. } => "symbol-version",
            Self::Size { .. } => "symbol-size",
            Self::Count { .. } => "array-too-short",
            Self::Unmapped { .. } => "mapping-absent",
            Self::Split(_) => "two-mappings",
            Self::DefaultTooLarge { .. } => "default-too-large",
            Self::DefaultWithoutArray(_) => "default-without-array",
        }
    }
}

/// Why no values meet a linear constraint, whatever the other constraints say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConstraintFault {
    /// It asks for the address or the size of a distance.
    #[error("a distance has neither an address nor a size")]
    Distance,
    /// Its right-hand side does not fit 64 bits.
    #[error("an address beyond 64 bits")]
    Overflow,
    /// It has no term, and its right-hand side is not 0.
    #[error("it is off by {0:#x}, and no constant of the code can take that")]
    NoTerms(i64),
    /// A term is about an operand field that no instruction has.
    #[error("operand field {0} is no constant")]
    NoConstant(u32),
    /// Its terms are not in order.
    #[error("the terms are not in order")]
    Unordered,
}

impl ConstraintFault {
    /// A word for programs.
    pub fn code(self) -> &'static str {
        match self {
            Self::Distance => "constraint-on-distance",
            Self::Overflow => "constraint-overflow",
            Self::NoTerms(_) => "constraint-without-terms",
            Self::NoConstant(_) => "constraint-without-constant",
            Self::Unordered => "constraint-unordered",
        }
    }
}

/// Why a system of constraints has no solution. The words go on after "the constants at ...".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unsolvable {
    /// It contradicts itself, or what the instructions can hold.
    #[error("cannot take values that fit their instructions")]
    Contradiction,
    /// Numbers beyond 64 bits.
    #[error("would exceed 64 bits")]
    Overflow,
    /// Finding out takes too long.
    #[error("depend on too many others to be solved for")]
    Exhausted,
}

impl Unsolvable {
    /// A word for programs.
    pub fn code(self) -> &'static str {
        match self {
            Self::Contradiction => "constants-contradict",
            Self::Overflow => "constants-overflow",
            Self::Exhausted => "constants-too-many",
        }
    }
}

/// Why no strategy is left for a function.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The policy allows relocation only.
    #[error("{0}")]
    NotRelocated(Box<Reason>),
    /// There is neither a function to jump to nor a system call.
    #[error("{0}; the new vDSO has no such function, and no system call does the same")]
    NoReplacement(Box<Reason>),
    /// It is forced to the system call, and there is none.
    #[error("{0}, and no system call does the same")]
    NoSystemCall(Forced),
    /// What would replace it is longer than the function.
    #[error("{reason}; it has {size} bytes, and its replacement {replacement}")]
    TooShort {
        /// Why it is replaced.
        reason: Box<Reason>,
        /// Bytes of the function.
        size: u64,
        /// Bytes of what would replace it.
        replacement: usize,
    },
    /// It begins inside what replaces another function.
    #[error("it begins inside the replacement of {0}")]
    InsideReplacement(String),
    /// It is too short to be changed by a single write.
    #[error("it is too short to be replaced by a single write")]
    TooShortAtOnce,
}

impl Refusal {
    /// A word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotRelocated(reason) => reason.code(),
            Self::NoReplacement(_) => "no-replacement",
            Self::NoSystemCall(_) => "no-system-call",
            Self::TooShort { .. } => "too-short",
            Self::InsideReplacement(_) => "inside-replacement",
            Self::TooShortAtOnce => "too-short-at-once",
        }
    }
}

#[cfg(test)]
mod tests;
