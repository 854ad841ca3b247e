//! BTF, the compact type description that a kernel carries in its `.BTF` section and shows in `/sys/kernel/btf`.
//!
//! The format is documented in the kernel's `Documentation/bpf/btf.rst`. A kernel's blob has some 4 to 6 MB and more
//! than a hundred thousand types; parsing is one linear pass that notes where each type starts, and a question reads
//! only the types that its answer consists of.

use super::{Budget, Layout, MAX_NAME, Member, Structure, Type, array, push_member};
use crate::symtab::Provenance;
use crate::{Error, Result};

/// Pointers are eight bytes: BTF does not state their size, and only 64-bit kernels are read.
const POINTER_SIZE: u64 = 8;

const MAGIC: u16 = 0xeb9f;
/// Bytes of `struct btf_header` in version 1. Later kernels may append fields.
const HEADER_SIZE: usize = 24;
/// Bytes of `struct btf_type`, which starts every type.
const TYPE_SIZE: usize = 12;
/// Bytes of `struct btf_member` and `struct btf_enum64`.
const TRIPLE: usize = 12;
/// Bytes of `struct btf_enum`.
const PAIR: usize = 8;

/// `BTF_KIND_*` of `include/uapi/linux/btf.h`, where they have a meaning for layouts.
mod kind {
    pub(super) const INT: u32 = 1;
    pub(super) const PTR: u32 = 2;
    pub(super) const ARRAY: u32 = 3;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const ENUM: u32 = 6;
    pub(super) const TYPEDEF: u32 = 8;
    pub(super) const VOLATILE: u32 = 9;
    pub(super) const CONST: u32 = 10;
    pub(super) const RESTRICT: u32 = 11;
    pub(super) const FLOAT: u32 = 16;
    pub(super) const TYPE_TAG: u32 = 18;
    pub(super) const ENUM64: u32 = 19;
}

/// Bytes that follow the `struct btf_type` of a type of this kind, `None` for a kind that is not known.
fn trailing_size(kind: u32, count: usize) -> Option<usize> {
    const FUNC_PROTO: u32 = 13;
    const VAR: u32 = 14;
    const DATASEC: u32 = 15;
    const DECL_TAG: u32 = 17;
    /// `BTF_KIND_FWD` and `BTF_KIND_FUNC`.
    const BARE: [u32; 2] = [7, 12];
    match kind {
        kind::INT | VAR | DECL_TAG => Some(4),
        kind::ARRAY => Some(12),
        kind::STRUCT | kind::UNION | kind::ENUM64 | DATASEC => Some(TRIPLE * count),
        kind::ENUM | FUNC_PROTO => Some(PAIR * count),
        kind::PTR
        | kind::TYPEDEF
        | kind::VOLATILE
        | kind::CONST
        | kind::RESTRICT
        | kind::FLOAT
        | kind::TYPE_TAG => Some(0),
        kind if BARE.contains(&kind) => Some(0),
        _ => None,
    }
}

/// The types that one BTF blob describes.
#[derive(Debug, Clone)]
pub struct Btf<'data> {
    bytes: &'data [u8],
    big_endian: bool,
    /// Where each type starts in `bytes`; the type with id 1 comes first, since id 0 is `void`.
    types: Vec<u32>,
    strings: &'data [u8],
}

/// The `struct btf_type` of a type.
#[derive(Debug, Clone, Copy)]
struct Header {
    /// Where it starts in the blob.
    offset: usize,
    name: u32,
    kind: u32,
    /// Number of members or enumerators.
    count: usize,
    /// In a struct: the members' positions include bitfield widths. In an enum: its values are signed.
    flag: bool,
    /// Size in bytes or the type that is referred to.
    size_or_type: u32,
}

impl Header {
    /// Where the bytes behind the header start.
    fn trailing(&self) -> usize {
        self.offset + TYPE_SIZE
    }

    fn is_struct(&self) -> bool {
        matches!(self.kind, kind::STRUCT | kind::UNION)
    }

    fn is_enum(&self) -> bool {
        matches!(self.kind, kind::ENUM | kind::ENUM64)
    }
}

impl<'data> Btf<'data> {
    /// Reads a whole blob, of either byte order.
    ///
    /// Refuses the BTF of a module, which continues the numbering of the kernel's own and means nothing without it, as
    /// soon as a question touches a type of the kernel.
    pub fn parse(bytes: &'data [u8]) -> Result<Self> {
        let mut btf = Self {
            bytes,
            big_endian: false,
            types: Vec::new(),
            strings: &[],
        };
        btf.big_endian = match bytes.first_chunk::<2>() {
            Some(magic) if u16::from_le_bytes(*magic) == MAGIC => false,
            Some(magic) if u16::from_be_bytes(*magic) == MAGIC => true,
            _ => return Err(Error::malformed("BTF header", 0, "no BTF magic")),
        };
        let (types, strings) = btf.sections()?;
        btf.strings = strings;
        btf.types = btf.index(types)?;
        Ok(btf)
    }

    /// Number of types, `void` not counted.
    pub fn len(&self) -> usize {
        self.types.len()
    }

    /// Whether there is no type at all.
    pub fn is_empty(&self) -> bool {
        self.types.is_empty()
    }

    /// The type section's range and the string section.
    fn sections(&self) -> Result<(std::ops::Range<usize>, &'data [u8])> {
        let malformed = |offset, reason: &str| Err(Error::malformed("BTF header", offset, reason));
        if self.bytes.len() < HEADER_SIZE {
            return malformed(0, "shorter than its own format");
        }
        // Type offsets are kept in 32 bits, and a kernel's blob is a thousand times smaller.
        if u32::try_from(self.bytes.len()).is_err() {
            return malformed(0, "larger than 4 GiB");
        }
        if self.bytes[2] != 1 {
            return Err(Error::unsupported(
                "BTF",
                format!("version {}, only 1 is known", self.bytes[2]),
            ));
        }
        let header = self.word(4)? as usize;
        let section = |at: usize| -> Result<Option<std::ops::Range<usize>>> {
            let start = header.checked_add(self.word(at)? as usize);
            let end = start.and_then(|start| start.checked_add(self.word(at + 4).ok()? as usize));
            Ok(start
                .zip(end)
                .map(|(start, end)| start..end)
                .filter(|range| range.end <= self.bytes.len()))
        };
        if header < HEADER_SIZE {
            return malformed(4, "header length is less than the header");
        }
        let Some(types) = section(8)? else {
            return malformed(8, "types lie outside the blob");
        };
        let Some(strings) = section(16)? else {
            return malformed(16, "strings lie outside the blob");
        };
        Ok((types, &self.bytes[strings]))
    }

    /// Where each type in `range` starts.
    fn index(&self, range: std::ops::Range<usize>) -> Result<Vec<u32>> {
        // A kernel's types have 26 to 30 bytes on average.
        let mut types = Vec::with_capacity(range.len() / 24);
        let mut at = range.start;
        while at < range.end {
            let header = self.header_at(at)?;
            let Some(size) = trailing_size(header.kind, header.count) else {
                // Without the size of its trailing bytes, nothing behind it can be found either.
                let reason = format!(
                    "kind {} of type {} at offset {at:#x} is not known",
                    header.kind,
                    types.len() + 1
                );
                return Err(Error::unsupported("BTF type", reason));
            };
            let next = header.trailing() + size;
            if next > range.end {
                return Err(Error::malformed(
                    format!("BTF type {}", types.len() + 1),
                    at as u64,
                    "leaves the type section",
                ));
            }
            types.push(at as u32);
            at = next;
        }
        Ok(types)
    }

    fn word(&self, offset: usize) -> Result<u32> {
        let word = self
            .bytes
            .get(offset..)
            .and_then(|rest| rest.first_chunk::<4>());
        let word = word.ok_or_else(|| Error::malformed("BTF", offset as u64, "truncated"))?;
        Ok(if self.big_endian {
            u32::from_be_bytes(*word)
        } else {
            u32::from_le_bytes(*word)
        })
    }

    fn header_at(&self, offset: usize) -> Result<Header> {
        let info = self.word(offset + 4)?;
        Ok(Header {
            offset,
            name: self.word(offset)?,
            kind: (info >> 24) & 0x1f,
            count: (info & 0xffff) as usize,
            flag: info >> 31 != 0,
            size_or_type: self.word(offset + 8)?,
        })
    }

    /// The header of type `id`, which `referrer` (an offset) names.
    fn header(&self, id: u32, referrer: usize) -> Result<Header> {
        let index = (id as usize).checked_sub(1);
        match index.and_then(|index| self.types.get(index)) {
            Some(&offset) => self.header_at(offset as usize),
            None if id == 0 => Err(Error::malformed(
                "BTF type",
                referrer as u64,
                "needs the size of void",
            )),
            None => {
                let reason = format!("refers to type {id} of {}", self.types.len());
                Err(Error::malformed("BTF type", referrer as u64, reason))
            }
        }
    }

    /// The string at `offset` of the string section; `referrer` is where it is named.
    fn name(&self, offset: u32, referrer: usize) -> Result<String> {
        let malformed = |reason: &str| {
            let reason = format!(
                "{reason} at {offset:#x} of {:#x} bytes of strings",
                self.strings.len()
            );
            Error::malformed("BTF name", referrer as u64, reason)
        };
        let text = self
            .strings
            .get(offset as usize..)
            .ok_or_else(|| malformed("nothing"))?;
        let end = text.iter().take(MAX_NAME + 1).position(|&byte| byte == 0);
        let end = end.ok_or_else(|| malformed("unterminated or overlong string"))?;
        let name = std::str::from_utf8(&text[..end])
            .map_err(|_| malformed("a string that is not UTF-8"))?;
        Ok(name.to_owned())
    }

    /// Whether `header` is named `name`, without scanning a string of any length for its end.
    fn is_named(&self, header: &Header, name: &str) -> bool {
        let text = self.strings.get(header.name as usize..).unwrap_or_default();
        text.strip_prefix(name.as_bytes())
            .is_some_and(|rest| rest.first() == Some(&0))
    }

    /// The one answer that all types of that name agree on. The same struct can be described several times, where
    /// deduplication failed, and two unrelated ones can share a name, since C scopes them to a file.
    fn find<T: PartialEq>(
        &self,
        name: &str,
        wanted: impl Fn(&Header) -> bool,
        read: impl Fn(&Header, &mut Budget) -> Result<T>,
    ) -> Result<Option<T>> {
        // One budget for all of them: a blob can repeat a name as often as it has types.
        let mut budget = Budget::new();
        let mut found: Option<T> = None;
        for &offset in &self.types {
            let header = self.header_at(offset as usize)?;
            if !wanted(&header) || !self.is_named(&header, name) {
                continue;
            }
            let this = read(&header, &mut budget)?;
            if found.as_ref().is_some_and(|found| *found != this) {
                let reason = format!("described again at offset {offset:#x} with another content");
                return Err(Error::unsupported(format!("BTF type `{name}`"), reason));
            }
            found = Some(this);
        }
        Ok(found)
    }

    /// The type `id`, past typedefs and qualifiers; `referrer` is where it is named.
    fn type_of(&self, id: u32, referrer: usize, budget: &mut Budget) -> Result<Type> {
        let header = self.header(id, referrer)?;
        let offset = header.offset as u64;
        budget.enter(offset)?;
        let kind = match header.kind {
            kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => {
                self.type_of(header.size_or_type, header.offset, budget)?
            }
            kind::INT | kind::ENUM | kind::ENUM64 | kind::FLOAT => Type::Scalar {
                size: header.size_or_type.into(),
            },
            kind::PTR => Type::Scalar { size: POINTER_SIZE },
            kind::STRUCT | kind::UNION => Type::Structure(self.structure_at(&header, budget)?),
            kind::ARRAY => {
                let element = self.type_of(self.word(header.trailing())?, header.offset, budget)?;
                array(element, self.word(header.trailing() + 8)?.into(), offset)?
            }
            other => {
                return Err(Error::malformed(
                    "BTF type",
                    offset,
                    format!("kind {other} has no size"),
                ));
            }
        };
        budget.leave();
        Ok(kind)
    }

    fn structure_at(&self, header: &Header, budget: &mut Budget) -> Result<Structure> {
        let mut structure = Structure {
            name: self.name(header.name, header.offset)?,
            size: header.size_or_type.into(),
            members: Vec::new(),
        };
        for index in 0..header.count {
            let at = header.trailing() + index * TRIPLE;
            budget.member(at as u64)?;
            let name = self.name(self.word(at)?, at)?;
            let position = self.word(at + 8)?;
            let (bit, width) = if header.flag {
                (position & 0xff_ffff, position >> 24)
            } else {
                (position, 0)
            };
            let kind = match width {
                0 if bit % 8 != 0 => {
                    // Before BTF had widths, bitfields were described by a special INT.
                    let reason = format!("`{name}` starts in the middle of a byte");
                    return Err(Error::malformed("BTF member", at as u64, reason));
                }
                0 => self.type_of(self.word(at + 4)?, at, budget)?,
                bits => Type::Bitfield {
                    first_bit: (bit % 8) as u8,
                    bits,
                },
            };
            push_member(
                &mut structure,
                Member {
                    name,
                    offset: (bit / 8).into(),
                    kind,
                },
                at as u64,
            )?;
        }
        Ok(structure)
    }

    fn enumerators_at(&self, header: &Header, budget: &mut Budget) -> Result<Vec<(String, i64)>> {
        let wide = header.kind == kind::ENUM64;
        let size = if wide { TRIPLE } else { PAIR };
        (0..header.count)
            .map(|index| {
                let at = header.trailing() + index * size;
                budget.member(at as u64)?;
                let name = self.name(self.word(at)?, at)?;
                let low = self.word(at + 4)?;
                let value = match (wide, header.flag) {
                    (true, _) => ((u64::from(self.word(at + 8)?) << 32) | u64::from(low)) as i64,
                    (false, true) => (low as i32).into(),
                    (false, false) => low.into(),
                };
                Ok((name, value))
            })
            .collect()
    }
}

impl Layout for Btf<'_> {
    fn structure(&self, name: &str) -> Result<Option<Structure>> {
        self.find(name, Header::is_struct, |header, budget| {
            self.structure_at(header, budget)
        })
    }

    fn enumeration(&self, name: &str) -> Result<Option<Vec<(String, i64)>>> {
        self.find(name, Header::is_enum, |header, budget| {
            self.enumerators_at(header, budget)
        })
    }

    fn provenance(&self) -> Provenance {
        Provenance::Btf
    }
}

#[cfg(test)]
mod tests;
