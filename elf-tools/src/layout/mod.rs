//! Struct layouts: where the members of a kernel's structs are.
//!
//! [`btf`] and [`dwarf`] read the two formats in which a kernel describes its own types; both
//! answer through [`Layout`], so that a caller does not depend on which one it was. Answers are
//! owned trees, complete down to scalars, with anonymous members flattened into the struct that
//! holds them, as C's member access does.

pub mod btf;
pub mod dwarf;

use crate::symtab::Provenance;
use crate::{Error, Result};

/// How deep types may nest before a description is taken to be cyclic. The structs of a vvar nest
/// four levels.
const MAX_DEPTH: u32 = 32;

/// How many members one structure may have in total, so that a few hostile bytes cannot expand into
/// gigabytes: `n` structs that each hold the next one twice describe `2^n` members.
const MAX_MEMBERS: u32 = 1 << 16;

/// A source of struct layouts.
pub trait Layout {
    /// The struct or union of that name, `None` where the source does not define it.
    ///
    /// Errors where the description is malformed, or where several definitions of the name
    /// contradict each other.
    fn structure(&self, name: &str) -> Result<Option<Structure>>;

    /// The enumerators of the enum of that name in the order of declaration, `None` where the
    /// source does not define it. Unsigned values beyond [`i64::MAX`] wrap around.
    fn enumeration(&self, name: &str) -> Result<Option<Vec<(String, i64)>>>;

    /// What a symbol table made from this source states as its origin.
    fn provenance(&self) -> Provenance;
}

/// A struct or union.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Structure {
    /// Tag name, empty for an anonymous one.
    pub name: String,
    /// Size in bytes, padding included.
    pub size: u64,
    /// Members in the order of declaration.
    pub members: Vec<Member>,
}

impl Structure {
    /// The member of that name.
    pub fn member(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.name == name)
    }
}

/// A member of a struct or union.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Member {
    /// Name, never empty: members without a name are flattened or, where they cannot be named at
    /// all, left out.
    pub name: String,
    /// Offset in bytes from the start of the outermost struct that is not anonymous. For a
    /// bitfield, of the byte that holds its first bit.
    pub offset: u64,
    /// What is stored there.
    pub kind: Type,
}

/// What a member or an array element is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Type {
    /// An integer, enum, float or pointer.
    Scalar {
        /// Size in bytes.
        size: u64,
    },
    /// A bitfield. Reported so that a caller can refuse it: nothing in a vvar is one.
    Bitfield {
        /// Position of the first bit in its byte, counted as the target's ABI does.
        first_bit: u8,
        /// Width in bits.
        bits: u32,
    },
    /// A struct or union with a name of its own.
    Structure(Structure),
    /// An array; of several dimensions if the element is one as well.
    Array {
        /// What each element is. Its size is the array's stride.
        element: Box<Type>,
        /// Number of elements, 0 for a flexible array member.
        count: u64,
    },
}

impl Type {
    /// Size in bytes. Of a bitfield, the bytes that its bits touch.
    pub fn size(&self) -> u64 {
        match self {
            Self::Scalar { size } => *size,
            Self::Bitfield { first_bit, bits } => {
                (u64::from(*first_bit) + u64::from(*bits)).div_ceil(8)
            }
            Self::Structure(structure) => structure.size,
            // Readers refuse an array whose size does not fit, see `array`.
            Self::Array { element, count } => element.size().saturating_mul(*count),
        }
    }
}

/// Longest name that is read, in bytes; the kernel's own limit is 512 (`KSYM_NAME_LEN`). Without
/// one, each of many members could name the same string of megabytes.
const MAX_NAME: usize = 1023;

/// Bounds the work that one question can cause, whatever the bytes say.
#[derive(Debug)]
struct Budget {
    depth: u32,
    members: u32,
}

impl Budget {
    fn new() -> Self {
        Self {
            depth: MAX_DEPTH,
            members: MAX_MEMBERS,
        }
    }

    /// Goes one level further down, to what is described at `offset`; [`leave`](Self::leave) comes
    /// back up.
    fn enter(&mut self, offset: u64) -> Result<()> {
        let Some(depth) = self.depth.checked_sub(1) else {
            return Err(Error::malformed(
                "type",
                offset,
                format!("nested deeper than {MAX_DEPTH} levels, or cyclic"),
            ));
        };
        self.depth = depth;
        Ok(())
    }

    /// After an error there is no need to: it ends the question.
    fn leave(&mut self) {
        self.depth += 1;
    }

    /// Accounts for one member.
    fn member(&mut self, offset: u64) -> Result<()> {
        let Some(members) = self.members.checked_sub(1) else {
            return Err(Error::malformed(
                "type",
                offset,
                format!("more than {MAX_MEMBERS} members"),
            ));
        };
        self.members = members;
        Ok(())
    }
}

/// An array type; `offset` is where it was described. Refuses one whose size in bytes does not fit
/// 63 bits.
fn array(element: Type, count: u64, offset: u64) -> Result<Type> {
    let size = element
        .size()
        .checked_mul(count)
        .filter(|&size| i64::try_from(size).is_ok());
    if size.is_none() {
        return Err(Error::malformed(
            "array",
            offset,
            format!("{count} elements of {:#x} bytes", element.size()),
        ));
    }
    Ok(Type::Array {
        element: Box::new(element),
        count,
    })
}

/// Adds a member to `structure`: an anonymous struct or union contributes its members instead of
/// itself, an anonymous bitfield is padding. `described` is where the source describes the member.
/// Refuses a member that leaves its struct.
fn push_member(structure: &mut Structure, member: Member, described: u64) -> Result<()> {
    let end = member.offset.checked_add(member.kind.size());
    if end.is_none_or(|end| end > structure.size) {
        let reason = format!(
            "`{}` of {:#x} bytes at {:#x} leaves the {:#x} bytes of `{}`",
            member.name,
            member.kind.size(),
            member.offset,
            structure.size,
            structure.name
        );
        return Err(Error::malformed("member", described, reason));
    }
    match member.kind {
        Type::Structure(anonymous) if member.name.is_empty() => {
            // Members of the inner struct end inside it, so adding its offset cannot wrap.
            structure
                .members
                .extend(anonymous.members.into_iter().map(|inner| Member {
                    offset: member.offset + inner.offset,
                    ..inner
                }));
        }
        _ if member.name.is_empty() => {}
        _ => structure.members.push(member),
    }
    Ok(())
}
