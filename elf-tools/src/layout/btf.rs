//! BTF, the compact type description that a kernel carries in its `.BTF` section and shows in
//! `/sys/kernel/btf`.
//!
//! The format is documented in the kernel's `Documentation/bpf/btf.rst`. A kernel's blob has some 4
//! to 6 MB and more than a hundred thousand types; parsing is one linear pass that notes where each
//! type starts, and a question reads only the types that its answer consists of.
//!
//! Kernels add kinds of types. One whose size the blob states is skipped, and costs only the
//! answers that need it. Where the blob does not state it, `unknown` looks for the size with which
//! all that follows is well formed to the section's end. Where none or several are, no type behind
//! it can be found: what was found before it can be asked for, and that anything else is missing
//! cannot be told.
//!
//! The blob of a module continues the numbering of types and strings of another one, its *base*
//! ([`Btf::parse_over`]). A *distilled* base has only the names and sizes of what the module refers
//! to; such a struct is no definition.

pub(crate) mod record;
mod references;
mod unknown;

use std::ops::Range;

use scroll::Endian;

use super::{Budget, Layout, MAX_NAME, Member, Structure, Type, array, push_member};
use crate::record::{read, size};
use crate::symtab::Provenance;
use crate::{Error, Result};

use unknown::Undecided;

use record::{
    ArrayRecord, Enum64Record, EnumRecord, KindLayouts, MAGIC, MemberRecord, TypeRecord, VERSION,
    kind, trailing_size,
};

/// Pointers are eight bytes: BTF does not state their size, and only 64-bit kernels are read.
const POINTER_SIZE: u64 = 8;
/// Types are made of 32-bit words.
const WORD: usize = 4;

/// The types that BTF describes: one blob, or one and the base that it continues.
#[derive(Debug, Clone)]
pub struct Btf<'data> {
    /// The base, if there is one, then the blob itself.
    blobs: Vec<Blob<'data>>,
}

/// One blob.
#[derive(Debug, Clone)]
struct Blob<'data> {
    bytes: &'data [u8],
    order: Endian,
    /// The id of its first type; ids below it are of the base. Id 0 is `void`.
    first_id: usize,
    /// Where each type starts in `bytes`.
    types: Vec<u32>,
    /// The type at which the list ends too early, if it does.
    unsized_type: Option<UnsizedType>,
    /// The offset of its first string; offsets below it are of the base.
    first_string: usize,
    strings: &'data [u8],
}

/// A type of a kind whose size is not known.
#[derive(Debug, Clone, Copy)]
struct UnsizedType {
    /// Where it starts in the blob.
    offset: usize,
    kind: u32,
    id: usize,
    /// Why its size could not be found out from what follows.
    reason: Undecided,
}

impl UnsizedType {
    /// The error of a question whose answer may be behind it.
    fn hides(self, what: &str) -> Error {
        let Self {
            offset,
            kind,
            id,
            reason,
        } = self;
        let reason = format!(
            "{what} is not before type {id} at offset {offset:#x}, whose kind {kind} is not known \
             (kinds up to {} are) and whose size the blob does not state ({reason}); types behind \
             it cannot be found",
            kind::LAST
        );
        Error::unsupported("BTF type", reason)
    }
}

/// The `struct btf_type` of a type.
#[derive(Debug, Clone, Copy)]
struct Header {
    /// Position of its blob.
    blob: usize,
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

    /// Whether it only says how large a struct is, as those of a distilled base do.
    fn is_stand_in(&self) -> bool {
        self.is_struct() && self.count == 0 && self.size_or_type > 0
    }
}

impl<'data> Blob<'data> {
    /// Reads a blob that continues `base`, if it continues one.
    fn parse(bytes: &'data [u8], base: Option<&Self>) -> Result<Self> {
        let order = match bytes.first_chunk::<2>() {
            Some(magic) if *magic == MAGIC.to_le_bytes() => Endian::Little,
            Some(magic) if *magic == MAGIC.to_be_bytes() => Endian::Big,
            _ => return Err(Error::malformed("BTF header", 0, "no BTF magic")),
        };
        let header: record::Header = read(bytes, "BTF header", 0, order)?;
        let (types, strings) = sections(bytes, &header)?;
        let mut blob = Self {
            bytes,
            order,
            first_id: base.map_or(1, Self::end_id),
            types: Vec::new(),
            unsized_type: None,
            first_string: base.map_or(0, Self::end_string),
            strings: &bytes[strings],
        };
        // The empty string comes first, and where a blob continues another one, in that one.
        if base.is_none() && blob.strings.first().is_some_and(|&first| first != 0) {
            let reason = "it is split: it continues the BTF of a kernel, as that of a module does, \
                          and means nothing without it";
            return Err(Error::unsupported("BTF", reason));
        }
        blob.index(types, KindLayouts::of(bytes, &header, order)?)?;
        Ok(blob)
    }

    /// The id behind those of its types.
    fn end_id(&self) -> usize {
        self.first_id + self.types.len()
    }

    /// The offset behind those of its strings.
    fn end_string(&self) -> usize {
        self.first_string + self.strings.len()
    }

    /// Finds out where each type in `range` starts.
    fn index(&mut self, range: Range<usize>, layouts: KindLayouts<'_>) -> Result<()> {
        // A kernel's types have 26 to 30 bytes on average.
        self.types.reserve(range.len() / 24);
        let mut at = range.start;
        while at < range.end {
            let record = self.record(at)?;
            let id = self.end_id();
            let (kind, count) = (record.kind(), record.count());
            let trailing = trailing_size(kind, count);
            let Some(trailing) = trailing.or_else(|| layouts.trailing_size(kind, count)) else {
                match unknown::rest(self, at..range.end, layouts) {
                    Ok(rest) => self.types.extend(rest),
                    Err(reason) => {
                        let offset = at;
                        self.unsized_type = Some(UnsizedType {
                            offset,
                            kind,
                            id,
                            reason,
                        });
                    }
                }
                return Ok(());
            };
            let next = (at + size::<TypeRecord>()).checked_add(trailing);
            let Some(next) = next.filter(|&next| next <= range.end) else {
                let what = format!("BTF type {id}");
                return Err(Error::malformed(what, at as u64, "leaves the type section"));
            };
            self.types.push(at as u32);
            at = next;
        }
        Ok(())
    }

    fn record(&self, offset: usize) -> Result<TypeRecord> {
        read(self.bytes, "BTF type", offset, self.order)
    }
}

impl<'data> Btf<'data> {
    /// Reads a whole blob, of either byte order.
    ///
    /// Refuses the BTF of a module, which continues the numbering of the kernel's own and means
    /// nothing without it: see [`parse_over`](Self::parse_over).
    pub fn parse(bytes: &'data [u8]) -> Result<Self> {
        let blobs = vec![Blob::parse(bytes, None)?];
        Ok(Self { blobs })
    }

    /// Reads the blob of a module (`/sys/kernel/btf/MODULE`, the section `.BTF`) over its base: the
    /// kernel's own blob, or the distilled one in the section `.BTF.base`.
    ///
    /// Refuses a base in which not all types could be found, since then no type of the module has a
    /// number. That the two belong together nothing in them says.
    pub fn parse_over(bytes: &'data [u8], base: &'data [u8]) -> Result<Self> {
        let base = Blob::parse(base, None)?;
        if let Some(unsized_type) = base.unsized_type {
            return Err(unsized_type.hides("the first type of the module"));
        }
        let split = Blob::parse(bytes, Some(&base))?;
        let blobs = vec![base, split];
        Ok(Self { blobs })
    }

    /// Number of types that were found, `void` not counted.
    pub fn len(&self) -> usize {
        self.blobs.iter().map(|blob| blob.types.len()).sum()
    }

    /// Whether there is no type at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The type at which the list ends too early.
    fn unsized_type(&self) -> Option<UnsizedType> {
        self.blobs.last()?.unsized_type
    }

    fn header_at(&self, blob: usize, offset: usize) -> Result<Header> {
        let record = self.blobs[blob].record(offset)?;
        Ok(Header {
            blob,
            offset,
            name: record.name,
            kind: record.kind(),
            count: record.count(),
            flag: record.flag(),
            size_or_type: record.size_or_type,
        })
    }

    /// What follows the header of a type, `offset` bytes from the start of its blob.
    fn trailing<T>(&self, header: &Header, what: &'static str, offset: usize) -> Result<T>
    where
        T: crate::record::Record,
    {
        let blob = &self.blobs[header.blob];
        read(blob.bytes, what, offset, blob.order)
    }

    /// The header of type `id`, which `referrer` (an offset) names.
    fn header(&self, id: u32, referrer: usize) -> Result<Header> {
        let blobs = self.blobs.iter().enumerate().rev();
        let found = blobs.filter_map(
            |(
                blob,
                Blob {
                    first_id, types, ..
                },
            )| {
                let index = (id as usize).checked_sub(*first_id)?;
                types.get(index).map(|&offset| (blob, offset))
            },
        );
        match found.take(1).next() {
            Some((blob, offset)) => self.header_at(blob, offset as usize),
            None if id == 0 => Err(Error::malformed(
                "BTF type",
                referrer as u64,
                "needs the size of void",
            )),
            None => Err(match self.unsized_type() {
                Some(end) => end.hides(&format!("type {id}")),
                None => {
                    let reason = format!("refers to type {id} of {}", self.len());
                    Error::malformed("BTF type", referrer as u64, reason)
                }
            }),
        }
    }

    /// What starts at `offset` of the strings, up to the end of those of its blob.
    fn text(&self, offset: u32) -> Option<&'data [u8]> {
        let offset = offset as usize;
        let blob = self
            .blobs
            .iter()
            .rfind(|blob| blob.first_string <= offset)?;
        blob.strings.get(offset - blob.first_string..)
    }

    /// The string at `offset` of the strings; `referrer` is where it is named.
    fn name(&self, offset: u32, referrer: usize) -> Result<String> {
        let malformed = |reason: &str| {
            let size = self.blobs.last().map_or(0, Blob::end_string);
            let reason = format!("{reason} at {offset:#x} of {size:#x} bytes of strings");
            Error::malformed("BTF name", referrer as u64, reason)
        };
        let text = self.text(offset).ok_or_else(|| malformed("nothing"))?;
        let end = text.iter().take(MAX_NAME + 1).position(|&byte| byte == 0);
        let end = end.ok_or_else(|| malformed("unterminated or overlong string"))?;
        let name = std::str::from_utf8(&text[..end])
            .map_err(|_| malformed("a string that is not UTF-8"))?;
        Ok(name.to_owned())
    }

    /// Whether `header` is named `name`, without scanning a string of any length for its end.
    fn is_named(&self, header: &Header, name: &str) -> bool {
        let text = self.text(header.name).unwrap_or_default();
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
        let mut stand_in = None;
        let blobs = self.blobs.iter().enumerate();
        let places =
            blobs.flat_map(|(at, blob)| blob.types.iter().map(move |&offset| (at, offset)));
        for (blob, offset) in places {
            let header = self.header_at(blob, offset as usize)?;
            if !wanted(&header) || !self.is_named(&header, name) {
                continue;
            }
            if header.is_stand_in() {
                stand_in = Some(header.size_or_type);
                continue;
            }
            let this = read(&header, &mut budget)?;
            if found.as_ref().is_some_and(|found| *found != this) {
                let reason = format!("described again at offset {offset:#x} with another content");
                return Err(Error::unsupported(format!("BTF type `{name}`"), reason));
            }
            found = Some(this);
        }
        match (&found, self.unsized_type(), stand_in) {
            (None, Some(end), _) => Err(end.hides(&format!("`{name}`"))),
            (None, None, Some(size)) => Err(Error::unsupported(
                format!("BTF type `{name}`"),
                format!("only its size is described, {size:#x} bytes, and none of its members"),
            )),
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
                let stored: ArrayRecord = self.trailing(&header, "BTF array", header.trailing())?;
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
            let stored: MemberRecord = self.trailing(header, "BTF member", at)?;
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
                    let stored: Enum64Record = self.trailing(header, "BTF enumerator", at)?;
                    let value = (u64::from(stored.high) << 32) | u64::from(stored.low);
                    Ok((self.name(stored.name, at)?, value.cast_signed()))
                }
                _ => {
                    let at = header.trailing() + index * size::<EnumRecord>();
                    budget.member(at as u64)?;
                    let stored: EnumRecord = self.trailing(header, "BTF enumerator", at)?;
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
