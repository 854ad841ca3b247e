//! Putting a thread that was stopped inside a function back to that function's entry.
//!
//! The functions of a vDSO read, and only write what they were asked for when they know it. They
//! keep their arguments as long as they may have to make the system call instead, and the
//! callee-saved registers until they return. So at every *boundary*, the start of an instruction,
//! there is a *recipe* that says where the values are that registers had at the entry, and a thread
//! that was stopped there on one kernel can start over on another.
//!
//! A boundary of a local helper is reached from several functions and through several calls. Each
//! way is a *context*, and return addresses on the stack tell which of them a thread is in.
//!
//! Registers have their DWARF numbers, as in the psABI: [`Register`].
//!
//! A table is derived from code ([`derive()`]), or kept in a relocation table object
//! ([`crate::relocation::object::write_with_reentry`]), so that a process does not wait for an
//! analysis of code.

mod check;
mod digest;
mod encode;
mod no_recipe;
mod read;
mod record;
mod table_fault;

use crate::Svma;

pub use crate::arch::Register;
pub use crate::derive::reentry::{Relinked, derive, derive_relinked};
pub(crate) use encode::Stored;
pub use no_recipe::NoRecipe;
pub(crate) use read::read;
use table_fault::TableFault;

/// Name of the string table of a stored table.
const STRINGS: &str = ".vvar.reentry.strtab";

/// How many calls that have not returned a stored context can have.
const MAX_CALLS: usize = 16;

/// How many contexts a stored table can have. Images have about a thousand.
const MAX_CONTEXTS: usize = 1 << 16;

/// Where a thread that was stopped has a number: as it was stopped, before anything is put back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Location {
    /// In a register.
    Register(Register),
    /// In the 8 bytes of memory at a register's value plus an offset. They are on the thread's
    /// stack.
    Memory {
        /// The register.
        base: Register,
        /// Bytes.
        offset: i64,
    },
    /// Nowhere: the content counts as 0, so that the value is a constant. Code has compared it, and
    /// gone on because it was that.
    Nowhere,
}

/// How a value is computed from what is at a location: `(content - image * IMAGE - constant) /
/// scale`, where IMAGE is the address of the old image's first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    /// Where to look.
    pub location: Location,
    /// How often the image's address is in it.
    pub image: i64,
    /// What was added.
    pub constant: i64,
    /// What the value was multiplied by; not 0. Where the division leaves a remainder, the thread
    /// is not where it seems to be.
    pub scale: i64,
    /// Whether only the lower 32 bits of the content count, and of the result: that of an argument
    /// of 32 bits.
    pub low: bool,
}

/// Bytes in memory that an activation of the function has written and that must be zero before it
/// starts over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Clear {
    /// The argument that points to an object.
    pub argument: Register,
    /// Offset in the object.
    pub offset: i64,
    /// Number of bytes, 1 to 8.
    pub size: u8,
}

/// How to bring back what registers held at the entry of a function.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Recipe {
    /// Registers that have to be put back, each once, by number: the stack pointer, arguments and
    /// callee-saved registers that are not still in their places.
    pub registers: Vec<(Register, Source)>,
    /// What the activation has left in memory. Arguments are as they were at the entry.
    pub clear: Vec<Clear>,
}

/// A call of a local function that has not returned yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Call {
    /// Where the return address is. Always in memory.
    pub at: Location,
    /// The return address, in the image.
    pub returns_to: Svma,
}

/// Whether a thread can be put back.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Recovery {
    /// With the recipe of that index.
    Recipe(u32),
    /// It cannot; why.
    None(NoRecipe),
}

/// What is known of a thread at one boundary, in one of the ways that lead there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Context {
    /// The instruction that the thread would execute next.
    pub boundary: Svma,
    /// Entry point of the exported function that it is in.
    pub function: Svma,
    /// The calls of local functions that lead here, innermost first.
    pub calls: Vec<Call>,
    /// Whether anything may be read from here on that depends on the kernel. If not, the thread is
    /// best left alone.
    pub reads: bool,
    /// How it gets back to the entry.
    pub recovery: Recovery,
}

/// All contexts of an image.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReentryTable {
    /// What contexts refer to. None is there twice.
    pub recipes: Vec<Recipe>,
    /// By boundary, then function, then calls.
    pub contexts: Vec<Context>,
}

impl ReentryTable {
    /// The contexts of a boundary; none if no function that could be followed reaches it.
    pub fn at(&self, boundary: Svma) -> &[Context] {
        let start = self.contexts.partition_point(|c| c.boundary < boundary);
        let end = self.contexts.partition_point(|c| c.boundary <= boundary);
        &self.contexts[start..end]
    }

    /// The recipe of a context, or why there is none.
    pub fn recipe(&self, context: &Context) -> Result<&Recipe, NoRecipe> {
        match &context.recovery {
            Recovery::Recipe(index) => self
                .recipes
                .get(*index as usize)
                .ok_or(NoRecipe::RecipeMissing),
            Recovery::None(reason) => Err(reason.clone()),
        }
    }
}
