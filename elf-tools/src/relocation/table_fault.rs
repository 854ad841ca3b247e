//! What can be wrong with an entry of a relocation table.

use super::Kind;
use crate::symtab::name::{MAX_LEN, Reference};
use crate::{Error, Svma};

/// Why an entry of a relocation table cannot be right: the reason of an
/// [`Error::Relocation`], which says which entry it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TableFault {
    /// The table's format does not allow relocations of this type.
    #[error("type {number} is not allowed")]
    TypeNotAllowed {
        /// The type, as the psABI numbers it.
        number: u32,
    },
    /// The architecture specifies no type for what is to be written.
    #[error("no relocation type is specified for {what}")]
    TypeNotSpecified {
        /// What is to be written.
        what: String,
    },
    /// The entry names a symbol that is not in the table's symbol table.
    #[error("symbol {index} of {count} does not exist")]
    NoSymbol {
        /// Index of the symbol.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// The entry names a symbol that is not in the symbol table of a linked image.
    #[error("symbol does not exist")]
    NoLinkedSymbol,
    /// The symbol of a linked image is undefined, as only those of relocation tables are.
    #[error("its symbol is undefined: the image has a relocation table already")]
    SymbolUndefined,
    /// The symbol states nothing that can be needed.
    #[error(transparent)]
    Symbol(Box<Error>),
    /// The bytes of the place are not all in the image.
    #[error("{width} bytes leave the image of {size:#x} bytes")]
    OutsideImage {
        /// Number of bytes that would change.
        width: u64,
        /// Size of what the image loads, in bytes.
        size: u64,
    },
    /// The place is in code that is not an instruction.
    #[error("in code, but not in an instruction")]
    BetweenInstructions,
    /// No instruction has the place of an operand field.
    #[error("not in an instruction")]
    NotInInstruction,
    /// The site is not the start of an instruction.
    #[error("not the start of an instruction")]
    NotBoundary,
    /// The bytes are part of an instruction, and not one of its operands.
    #[error("inside the instruction at {instruction}, but not one of its operands")]
    NotOperand {
        /// The instruction.
        instruction: Svma,
    },
    /// The operand field is one that the instruction does not lack.
    #[error("the instruction has no memory operand that lacks a displacement")]
    NothingLacks,
    /// The relocation is too small for an address.
    #[error("{kind} cannot hold the address of {reference}")]
    NoAddress {
        /// Kind of the relocation.
        kind: Kind,
        /// The symbol.
        reference: Box<Reference>,
    },
    /// The relocation asks for more of a distance between two symbols than its value.
    #[error("{kind} asks for more than the distance {reference}")]
    OnlyDistance {
        /// Kind of the relocation.
        kind: Kind,
        /// The distance.
        reference: Box<Reference>,
    },
    /// A constraint names the distance between two symbols.
    #[error("a constraint is about a symbol, not about {reference}")]
    ConstraintOnDistance {
        /// The distance.
        reference: Box<Reference>,
    },
    /// An addend where there is no value to add it to.
    #[error("an addend of {addend} to nothing")]
    AddendToNothing {
        /// The addend.
        addend: i64,
    },
    /// No term adds up to the address of a constraint.
    #[error("an address that no term adds up to")]
    NoTerms,
    /// A term that does not follow a constraint.
    #[error("a term outside a constraint")]
    TermOutside,
    /// A term of a constraint that only states that a symbol exists.
    #[error("a term of what only has to exist")]
    TermOfPresence,
    /// A term, which has no symbol, names one.
    #[error("a term names symbol {symbol}")]
    TermNamesSymbol {
        /// Index of the symbol.
        symbol: usize,
    },
    /// A term to be written has an operand field that is not in the table.
    #[error("operand field {index} of {count} does not exist")]
    NoOperandField {
        /// Index of the operand field.
        index: u32,
        /// How many there are.
        count: usize,
    },
    /// A term that adds nothing.
    #[error("a term with coefficient 0")]
    ZeroCoefficient,
    /// Two terms of a constraint have the same operand field.
    #[error("a second term of the constraint at {site}")]
    SecondTerm {
        /// Site of the constraint.
        site: Svma,
    },
    /// Two entries change the same bytes.
    #[error("overlaps the one at {other}")]
    Overlap {
        /// Place of the other entry.
        other: Svma,
    },
    /// The reason why an instruction cannot be described is not UTF-8.
    #[error("its reason is not UTF-8")]
    ReasonNotUtf8,
    /// A stored reason is empty or too long.
    #[error("a reason has 1 to {MAX_LEN} bytes, not {length}")]
    ReasonLength {
        /// Length of the reason in bytes.
        length: usize,
    },
    /// A reason that cannot be stored: it is empty or too long, or has a null character in it.
    #[error("a reason has 1 to {MAX_LEN} bytes, none of them 0: {reason:?}")]
    ReasonNotStorable {
        /// The reason.
        reason: String,
    },
}
