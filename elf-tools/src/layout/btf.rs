//! BTF, the compact type description that a kernel carries in its `.BTF` section and shows in
//! `/sys/kernel/btf`.
//!
//! The format is documented in the kernel's `Documentation/bpf/btf.rst`. A kernel's blob has some 4
//! to 6 MB and more than a hundred thousand types; parsing is one linear pass that notes where each
//! type starts, and a question reads only the types that its answer consists of.

//!
//! Kernels add kinds of types. One whose size the blob states is skipped, and costs only the
//! answers that need it. Behind one whose size nothing states no type can be found: what was found
//! before it can be asked for, and that anything else is missing cannot be told.

pub(crate) mod record;

use std::ops::Range;

use scroll::Endian;

use super::{Budget, Layout, MAX_NAME, Member, Structure, Type, array, push_member};
use crate::record::{read, size};
use crate::symtab::Provenance;
use crate::{Error, Result};

use record::{
    ArrayRecord, Enum64Record, EnumRecord, KindLayouts, MAGIC, MemberRecord, TypeRecord, VERSION,
    kind, trailing_size,
};

/// Pointers are eight bytes: BTF does not state their size, and only 64-bit kernels are read.
const POINTER_SIZE: u64 = 8;
/// Types are made of 32-bit words.
const WORD: usize = 4;

/// The types that one BTF blob describes.
#[derive(Debug, Clone)]
pub struct Btf<'data> {
    bytes: &'data [u8],
    order: Endian,
    /// Where each type starts in `bytes`; the type with id 1 comes first, since id 0 is `void`.
    types: Vec<u32>,
    /// The type at which the list ends too early, if it does.
    unsized_type: Option<UnsizedType>,
    strings: &'data [u8],
}

/// A type of a kind whose size is not known.
#[derive(Debug, Clone, Copy)]
struct UnsizedType {
    /// Where it starts in the blob.
    offset: usize,
    kind: u32,
    id: usize,
}

impl UnsizedType {
    /// The error of a question whose answer may be behind it.
    fn hides(self, what: &str) -> Error {
        let Self { offset, kind, id } = self;
        let reason = format!(
            "{what} is not before type {id} at offset {offset:#x}, whose kind {kind} is not known \
             (kinds up to {} are) and whose size the blob does not state; types behind it cannot \
             be found",
            kind::LAST
        );
        Error::unsupported("BTF type", reason)
    }
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
    /// In a struct: the members' positions include bitfield widths. In an enum: its values are
    /// signed.
    flag: bool,
    /// Size in bytes or the type that is referred to.
    size_or_type: u32,
}

impl Header {
    /// Where the bytes behind the header start.
    fn trailing(&self) -> usize {
        self.offset + size::<TypeRecord>()
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
    /// Refuses the BTF of a module, which continues the numbering of the kernel's own and means
    /// nothing without it, as soon as a question touches a type of the kernel.
    pub fn parse(bytes: &'data [u8]) -> Result<Self> {
        let order = match bytes.first_chunk::<2>() {
            Some(magic) if *magic == MAGIC.to_le_bytes() => Endian::Little,
            Some(magic) if *magic == MAGIC.to_be_bytes() => Endian::Big,
            _ => return Err(Error::malformed("BTF header", 0, "no BTF magic")),
        };
        let header: record::Header = read(bytes, "BTF header", 0, order)?;
        let (types, strings) = sections(bytes, &header)?;
        let mut btf = Self {
            bytes,
            order,
            types: Vec::new(),
            unsized_type: None,
            strings: &bytes[strings],
        };
        btf.index(types, KindLayouts::of(bytes, &header, order)?)?;
        Ok(btf)
    }

    /// Number of types that were found, `void` not counted.
    pub fn len(&self) -> usize {
        self.types.len()
    }

    /// Whether there is no type at all.
    pub fn is_empty(&self) -> bool {
        self.types.is_empty()
    }

    /// Finds out where each type in `range` starts.
    fn index(&mut self, range: Range<usize>, layouts: KindLayouts<'_>) -> Result<()> {
        // A kernel's types have 26 to 30 bytes on average.
        self.types.reserve(range.len() / 24);
        let mut at = range.start;
        while at < range.end {
            let header = self.header_at(at)?;
            let id = self.types.len() + 1;
            let (kind, count) = (header.kind, header.count);
            let trailing = trailing_size(kind, count);
            let Some(trailing) = trailing.or_else(|| layouts.trailing_size(kind, count)) else {
                let offset = at;
                self.unsized_type = Some(UnsizedType { offset, kind, id });
                return Ok(());
            };
            let next = header.trailing().checked_add(trailing);
            let Some(next) = next.filter(|&next| next <= range.end) else {
                let what = format!("BTF type {id}");
                return Err(Error::malformed(what, at as u64, "leaves the type section"));
            };
            self.types.push(at as u32);
            at = next;
        }
        Ok(())
    }

    fn header_at(&self, offset: usize) -> Result<Header> {
        let record: TypeRecord = read(self.bytes, "BTF type", offset, self.order)?;
        Ok(Header {
            offset,
            name: record.name,
            kind: record.kind(),
            count: record.count(),
            flag: record.flag(),
            size_or_type: record.size_or_type,
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
            None => Err(match self.unsized_type {
                Some(end) => end.hides(&format!("type {id}")),
                None => {
                    let reason = format!("refers to type {id} of {}", self.types.len());
                    Error::malformed("BTF type", referrer as u64, reason)
                }
            }),
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

    /// The one answer that all types of that name agree on. The same struct can be described
    /// several times, where deduplication failed, and two unrelated ones can share a name, since C
    /// scopes them to a file.
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
        match (&found, self.unsized_type) {
            (None, Some(end)) => Err(end.hides(&format!("`{name}`"))),
            _ => Ok(found),
        }
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
                let stored: ArrayRecord =
                    read(self.bytes, "BTF array", header.trailing(), self.order)?;
                let element = self.type_of(stored.element, header.offset, budget)?;
                array(element, stored.count.into(), offset)?
            }
            unknown if unknown > kind::LAST => {
                let reason = format!("kind {unknown} at offset {offset:#x} is not known");
                return Err(Error::unsupported("BTF type", reason));
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
            let at = header.trailing() + index * size::<MemberRecord>();
            budget.member(at as u64)?;
            let stored: MemberRecord = read(self.bytes, "BTF member", at, self.order)?;
            let name = self.name(stored.name, at)?;
            let (bit, width) = match header.flag {
                true => (stored.position & 0xff_ffff, stored.position >> 24),
                false => (stored.position, 0),
            };
            let kind = match width {
                0 if bit % 8 != 0 => {
                    // Before BTF had widths, bitfields were described by a special INT.
                    let reason = format!("`{name}` starts in the middle of a byte");
                    return Err(Error::malformed("BTF member", at as u64, reason));
                }
                0 => self.type_of(stored.kind, at, budget)?,
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
        (0..header.count)
            .map(|index| match header.kind {
                kind::ENUM64 => {
                    let at = header.trailing() + index * size::<Enum64Record>();
                    budget.member(at as u64)?;
                    let stored: Enum64Record = read(self.bytes, "BTF enumerator", at, self.order)?;
                    let value = (u64::from(stored.high) << 32) | u64::from(stored.low);
                    Ok((self.name(stored.name, at)?, value.cast_signed()))
                }
                _ => {
                    let at = header.trailing() + index * size::<EnumRecord>();
                    budget.member(at as u64)?;
                    let stored: EnumRecord = read(self.bytes, "BTF enumerator", at, self.order)?;
                    let value = match header.flag {
                        true => stored.value.cast_signed().into(),
                        false => stored.value.into(),
                    };
                    Ok((self.name(stored.name, at)?, value))
                }
            })
            .collect()
    }
}

/// The ranges of types and strings.
fn sections(bytes: &[u8], header: &record::Header) -> Result<(Range<usize>, Range<usize>)> {
    let malformed = |offset, reason: &str| Err(Error::malformed("BTF header", offset, reason));
    // Type offsets are kept in 32 bits, and a kernel's blob is a thousand times smaller.
    if u32::try_from(bytes.len()).is_err() {
        return malformed(0, "larger than 4 GiB");
    }
    if header.version != VERSION {
        let reason = format!("version {}, only {VERSION} is known", header.version);
        return Err(Error::unsupported("BTF", reason));
    }
    let header_size = header.header_size as usize;
    if header_size < size::<record::Header>() {
        return malformed(4, "header length is less than the header");
    }
    let within = |extent: record::Extent| {
        let range = extent.range(header_size);
        range.filter(|range| range.end <= bytes.len())
    };
    let Some(types) = within(header.types) else {
        return malformed(8, "types lie outside the blob");
    };
    let Some(strings) = within(header.strings) else {
        return malformed(16, "strings lie outside the blob");
    };
    // The kernel refuses both as well. Without the rule, damage could pass for a kind from the
    // future.
    if types.len() % WORD != 0 {
        return malformed(12, "types are no whole number of words");
    }
    if types.start < strings.end && strings.start < types.end {
        return malformed(8, "types and strings overlap");
    }
    Ok((types, strings))
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
