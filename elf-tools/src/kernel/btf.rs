//! The kernel's BTF, as bytes. What it says is for [`crate::layout`] to read.

use memchr::memmem;
use scroll::LE;

use super::vmlinux;
use crate::layout::btf::record::{Header, MAGIC, VERSION, kind_layouts};
use crate::record;
use crate::{Error, Result};

/// How far a header may still grow before we call it implausible.
const MAX_HEADER: usize = 128;
/// Type records are made of 32-bit words.
const TYPE_ALIGNMENT: usize = 4;

/// Magic, version and flags, as a little-endian kernel stores them.
const SIGNATURE: [u8; 4] = {
    let [low, high] = MAGIC.to_le_bytes();
    [low, high, VERSION, 0]
};

/// The BTF of a kernel: its `.BTF` section, or in a kernel without section headers the largest blob
/// that has a BTF header. (Other blobs are those of programs that the kernel preloads, by orders of
/// magnitude smaller.)
///
/// Errors where the kernel is cut off. What is wrong with a BTF that is there is another matter: the
/// rest of the kernel is none the worse.
pub(super) fn find(kernel: &[u8]) -> Result<Result<Option<&[u8]>, Error>> {
    let Some((offset, section)) = vmlinux::section(kernel, ".BTF")? else {
        return Ok(Ok(scan(kernel)));
    };
    Ok(match size(section) {
        Some(_) => Ok(Some(section)),
        None => Err(Error::malformed(
            "BTF header",
            offset,
            "magic, version, or the extent of types and strings is wrong",
        )),
    })
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
    let header: Header = record::get(bytes, 0)?;
    let header_size = header.header_size as usize;
    let is_btf = (header.magic, header.version) == (MAGIC, VERSION)
        && (record::size::<Header>()..=MAX_HEADER).contains(&header_size);
    if !is_btf {
        return None;
    }
    let types = header.types.range(header_size)?;
    let strings = header.strings.range(header_size)?;
    let aligned = types.start % TYPE_ALIGNMENT == 0 && types.len() % TYPE_ALIGNMENT == 0;
    if !aligned || types.is_empty() || strings.start < types.end {
        return None;
    }
    // The string section starts with the empty string, and its last string is terminated.
    let string_bytes = bytes.get(strings.clone())?;
    if string_bytes.first() != Some(&0) || string_bytes.last() != Some(&0) {
        return None;
    }
    let layouts = kind_layouts(bytes, &header, LE).ok()?;
    let end = match layouts {
        Some(layouts) => strings.end.max(layouts.range(header_size)?.end),
        None => strings.end,
    };
    (end <= bytes.len()).then_some(end)
}
