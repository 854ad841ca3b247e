//! The records of BTF: `include/uapi/linux/btf.h` of the kernel. Here are their fields, and how
//! many bytes follow a type of each kind.

use scroll::{Endian, Pread, SizeWith};

use crate::record;
use crate::{Error, Result};

pub(crate) const MAGIC: u16 = 0xeb9f;
pub(crate) const VERSION: u8 = 1;

/// `struct btf_header`, as far as version 1 always had it. Offsets are relative to the header's
/// end.
#[derive(Debug, Clone, Copy, Pread, SizeWith)]
pub(crate) struct Header {
    pub(crate) magic: u16,
    pub(crate) version: u8,
    pub(crate) _flags: u8,
    /// Bytes of the header; later kernels append fields.
    pub(crate) header_size: u32,
    pub(crate) types: Extent,
    pub(crate) strings: Extent,
}

/// Where a section is, relative to the header's end.
#[derive(Debug, Clone, Copy, Pread, SizeWith)]
pub(crate) struct Extent {
    pub(crate) offset: u32,
    pub(crate) size: u32,
}

impl Extent {
    /// The section's range in the blob.
    pub(crate) fn range(self, header_size: usize) -> Option<std::ops::Range<usize>> {
        let start = header_size.checked_add(self.offset as usize)?;
        Some(start..start.checked_add(self.size as usize)?)
    }
}

/// The section of [`KindLayout`]s, by a header that has the field for it.
pub(crate) fn kind_layouts(bytes: &[u8], header: &Header, order: Endian) -> Result<Option<Extent>> {
    let at = record::size::<Header>();
    match header.header_size as usize >= at + record::size::<Extent>() {
        true => record::read(bytes, "BTF header", at, order).map(Some),
        false => Ok(None),
    }
}

/// `struct btf_layout`: what follows a type of the kind whose number is the position in the
/// section.
#[derive(Debug, Clone, Copy, Pread, SizeWith)]
pub(super) struct KindLayout {
    /// Bytes that follow every type.
    pub(super) fixed: u8,
    /// Bytes of each element.
    pub(super) element: u8,
    _flags: u16,
}

/// `struct btf_type`.
#[derive(Debug, Clone, Copy, Pread, SizeWith)]
pub(super) struct TypeRecord {
    pub(super) name: u32,
    pub(super) info: u32,
    pub(super) size_or_type: u32,
}

impl TypeRecord {
    /// 7 bits since the kinds have layouts; 5 before, with zeros above.
    pub(super) fn kind(&self) -> u32 {
        (self.info >> 24) & 0x7f
    }

    /// 24 bits since the kinds have layouts; 16 before, with zeros above.
    pub(super) fn count(&self) -> usize {
        (self.info & 0xff_ffff) as usize
    }

    pub(super) fn flag(&self) -> bool {
        self.info >> 31 != 0
    }
}

/// `struct btf_array`.
#[derive(Debug, Clone, Copy, Pread, SizeWith)]
pub(super) struct ArrayRecord {
    pub(super) element: u32,
    pub(super) index: u32,
    pub(super) count: u32,
}

/// `struct btf_member`.
#[derive(Debug, Clone, Copy, Pread, SizeWith)]
pub(super) struct MemberRecord {
    pub(super) name: u32,
    pub(super) kind: u32,
    /// In bits, with the width of a bitfield above.
    pub(super) position: u32,
}

/// `struct btf_enum`.
#[derive(Debug, Clone, Copy, Pread, SizeWith)]
pub(super) struct EnumRecord {
    pub(super) name: u32,
    pub(super) value: u32,
}

/// `struct btf_enum64`.
#[derive(Debug, Clone, Copy, Pread, SizeWith)]
pub(super) struct Enum64Record {
    pub(super) name: u32,
    pub(super) low: u32,
    pub(super) high: u32,
}

/// `BTF_KIND_*`.
pub(super) mod kind {
    pub(crate) const INT: u32 = 1;
    pub(crate) const PTR: u32 = 2;
    pub(crate) const ARRAY: u32 = 3;
    pub(crate) const STRUCT: u32 = 4;
    pub(crate) const UNION: u32 = 5;
    pub(crate) const ENUM: u32 = 6;
    pub(crate) const FWD: u32 = 7;
    pub(crate) const TYPEDEF: u32 = 8;
    pub(crate) const VOLATILE: u32 = 9;
    pub(crate) const CONST: u32 = 10;
    pub(crate) const RESTRICT: u32 = 11;
    pub(crate) const FUNC: u32 = 12;
    pub(crate) const FUNC_PROTO: u32 = 13;
    pub(crate) const VAR: u32 = 14;
    pub(crate) const DATASEC: u32 = 15;
    pub(crate) const FLOAT: u32 = 16;
    pub(crate) const DECL_TAG: u32 = 17;
    pub(crate) const TYPE_TAG: u32 = 18;
    pub(crate) const ENUM64: u32 = 19;
    /// The last kind that this module knows.
    pub(crate) const LAST: u32 = ENUM64;
}

/// Bytes that follow a type of this kind, `None` for a kind that is not known.
pub(super) fn trailing_size(kind: u32, count: usize) -> Option<usize> {
    /// `struct btf_param`.
    const PARAMETER: usize = 8;
    /// `struct btf_var_secinfo`.
    const VARIABLE: usize = 12;
    match kind {
        kind::INT | kind::VAR | kind::DECL_TAG => Some(4),
        kind::ARRAY => Some(record::size::<ArrayRecord>()),
        kind::STRUCT | kind::UNION => Some(record::size::<MemberRecord>() * count),
        kind::ENUM => Some(record::size::<EnumRecord>() * count),
        kind::ENUM64 => Some(record::size::<Enum64Record>() * count),
        kind::DATASEC => Some(VARIABLE * count),
        kind::FUNC_PROTO => Some(PARAMETER * count),
        kind::PTR
        | kind::TYPEDEF
        | kind::VOLATILE
        | kind::CONST
        | kind::RESTRICT
        | kind::FLOAT
        | kind::TYPE_TAG
        | kind::FWD
        | kind::FUNC => Some(0),
        _ => None,
    }
}

/// The layouts of kinds that a blob states.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct KindLayouts<'data> {
    bytes: &'data [u8],
}

impl<'data> KindLayouts<'data> {
    /// Those of a blob; none in one without the section.
    pub(super) fn of(bytes: &'data [u8], header: &Header, order: Endian) -> Result<Self> {
        let Some(extent) = kind_layouts(bytes, header, order)? else {
            return Ok(Self::default());
        };
        let range = extent.range(header.header_size as usize);
        let Some(bytes) = range.and_then(|range| bytes.get(range)) else {
            let at = record::size::<Header>() as u64;
            let reason = "layouts of kinds lie outside the blob";
            return Err(Error::malformed("BTF header", at, reason));
        };
        Ok(Self { bytes })
    }

    /// Bytes that follow a type of a kind that this module does not know; `None` if the blob does
    /// not say it either. Kind 0 is none.
    pub(super) fn trailing_size(&self, kind: u32, count: usize) -> Option<usize> {
        // Single bytes, so that their order does not matter.
        let at = (kind as usize).checked_mul(record::size::<KindLayout>())?;
        let layout: KindLayout = record::get(self.bytes, at).filter(|_| kind != 0)?;
        let elements = usize::from(layout.element).checked_mul(count)?;
        elements.checked_add(layout.fixed.into())
    }
}
