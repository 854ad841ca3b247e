//! What `relocator derive` prints.

use schemars::JsonSchema;
use serde::Serialize;

use super::{Kernel, Need, Reentry};

/// A relocation table that was derived from code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Derive {
    /// `relocator.derive/2`.
    pub schema: &'static str,
    /// The kernel whose vDSO it is of.
    #[serde(flatten)]
    pub kernel: Kernel,
    /// Number of operand fields that take part in constraints.
    pub operand_fields: usize,
    /// By function.
    pub functions: Vec<DerivedFunction>,
    /// What the image needs of a kernel.
    pub needs: Vec<Need>,
    /// What becomes of threads that are stopped in it.
    pub reentry: Reentry,
    /// Addresses of instructions that refer to vvar and that no function reaches.
    pub unreached: Vec<u64>,
}

/// One function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct DerivedFunction {
    /// Its name.
    pub name: String,
    /// Other names of the same code.
    pub aliases: Vec<String>,
    /// Number of instructions that it reaches.
    pub instructions: usize,
    /// Of those, relocations of one place.
    pub entries: usize,
    /// Linear constraints over operand fields.
    pub constraints: usize,
    /// Operand fields in them.
    pub operand_fields: usize,
    /// Instructions that no relocation can describe.
    pub opaque: Vec<OpaqueInstruction>,
}

/// An instruction that no relocation can describe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct OpaqueInstruction {
    /// Relative to the image.
    pub address: u64,
    /// Why.
    pub reason: String,
}
