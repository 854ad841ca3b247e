//! The kernel's BTF, as bytes. What it says is for [`crate::layout`] to read.

use memchr::memmem;

use super::{u16_at, u32_at, vmlinux};
use crate::{Error, Result};

const MAGIC: u16 = 0xeb9f;
const VERSION: u8 = 1;
/// A header without the fields that later kernels append.
const HEADER: usize = 24;
/// A header with the offset and length of the type layouts behind it.
const HEADER_WITH_LAYOUT: usize = 32;
/// How far a header may still grow before we call it implausible.
const MAX_HEADER: usize = 128;
/// Type records are made of 32-bit words.
const TYPE_ALIGNMENT: usize = 4;

/// Magic, version and flags, as a little-endian kernel stores them.
const SIGNATURE: [u8; 4] = [0x9f, 0xeb, VERSION, 0];

/// The BTF of a kernel: its `.BTF` section, or in a kernel without section headers the largest blob that has a BTF
/// header. (Other blobs are those of programs that the kernel preloads, by orders of magnitude smaller.)
pub(super) fn find(kernel: &[u8]) -> Result<Option<&[u8]>> {
    let Some((offset, section)) = vmlinux::section(kernel, ".BTF")? else {
        return Ok(scan(kernel));
    };
    match size(section) {
        Some(_) => Ok(Some(section)),
        None => Err(Error::malformed(
            "BTF header",
            offset,
            "magic, version, or the extent of types and strings is wrong",
        )),
    }
}

/// The largest blob with a valid header.
fn scan(kernel: &[u8]) -> Option<&[u8]> {
    memmem::find_iter(kernel, &SIGNATURE)
        .filter_map(|position| {
            let blob = kernel.get(position..)?;
            blob.get(..size(blob)?)
        })
        .max_by_key(|blob| blob.len())
}

/// The size of the BTF that bytes start with, if it is one.
fn size(bytes: &[u8]) -> Option<usize> {
    let word = |offset| u32_at(bytes, offset).and_then(|value| usize::try_from(value).ok());
    let header = word(4)?;
    let is_btf = u16_at(bytes, 0)? == MAGIC
        && *bytes.get(2)? == VERSION
        && (HEADER..=MAX_HEADER).contains(&header);
    if !is_btf {
        return None;
    }
    let types = Extent::new(header, word(8)?, word(12)?)?;
    let strings = Extent::new(header, word(16)?, word(20)?)?;
    let aligned = types.start % TYPE_ALIGNMENT == 0 && types.length % TYPE_ALIGNMENT == 0;
    if !aligned || types.length == 0 || strings.start < types.end {
        return None;
    }
    // The string section starts with the empty string, and its last string is terminated.
    let string_bytes = bytes.get(strings.start..strings.end)?;
    if string_bytes.first() != Some(&0) || string_bytes.last() != Some(&0) {
        return None;
    }
    if header < HEADER_WITH_LAYOUT {
        return Some(strings.end);
    }
    let layouts = Extent::new(header, word(24)?, word(28)?)?;
    let end = strings.end.max(layouts.end);
    (end <= bytes.len()).then_some(end)
}

/// A part of the blob; the header gives its place relative to the header's end.
struct Extent {
    start: usize,
    end: usize,
    length: usize,
}

impl Extent {
    fn new(header: usize, offset: usize, length: usize) -> Option<Self> {
        let start = header.checked_add(offset)?;
        let end = start.checked_add(length)?;
        Some(Self { start, end, length })
    }
}
