//! Containers around a boot image.
//!
//! Boot loaders want the kernel with other things beside it: an initramfs, a command line, a device
//! tree. What is around the kernel is taken off here, and then it is read as if it were alone.

use std::fmt;

use object::pe;
use object::read::pe::{PeFile, PeFile32, PeFile64};
use scroll::{BE, LE};

use crate::record;
use crate::{Error, Result};

/// What a boot image is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Container {
    /// A unified kernel image: an EFI program with the kernel in its section `.linux`.
    Uki,
    /// Android's `boot.img`.
    AndroidBoot,
    /// U-Boot's legacy image.
    UImage,
}

impl fmt::Display for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uki => "unified kernel image",
            Self::AndroidBoot => "Android boot image",
            Self::UImage => "uImage",
        })
    }
}

/// What is in a container, and where in the file that begins. `None` if the file is no container.
///
/// # Errors
///
/// [`Error::Malformed`] if the kernel would not be in the file.
pub(super) fn content(bytes: &[u8]) -> Result<Option<(Container, &[u8])>> {
    let place = match () {
        () if bytes.starts_with(ANDROID) => Some((Container::AndroidBoot, android(bytes)?)),
        () if bytes.starts_with(&UIMAGE) => Some((Container::UImage, uimage(bytes)?)),
        () => uki(bytes).map(|place| (Container::Uki, place)),
    };
    let Some((container, Place { offset, size })) = place else {
        return Ok(None);
    };
    let end = offset.checked_add(size);
    let kernel = end.and_then(|end| bytes.get(offset..end));
    match kernel {
        Some(kernel) if !kernel.is_empty() => Ok(Some((container, kernel))),
        _ => {
            let have = bytes.len();
            let reason =
                format!("a kernel of {size} bytes at {offset:#x} in a file of {have} bytes");
            Err(Error::malformed("container of a kernel", 0, reason))
        }
    }
}

/// Whether a file is a container, as far as its beginning tells.
pub(super) fn is_container(bytes: &[u8]) -> bool {
    bytes.starts_with(ANDROID) || bytes.starts_with(&UIMAGE) || uki(bytes).is_some()
}

/// Where a kernel is in a file.
struct Place {
    offset: usize,
    size: usize,
}

/// The section `.linux` of an EFI program.
fn uki(bytes: &[u8]) -> Option<Place> {
    if !bytes.starts_with(b"MZ") {
        return None;
    }
    let of_64 = PeFile64::parse(bytes).ok().and_then(|file| section(&file));
    of_64.or_else(|| section(&PeFile32::parse(bytes).ok()?))
}

fn section<Pe: object::read::pe::ImageNtHeaders>(file: &PeFile<'_, Pe>) -> Option<Place> {
    let sections = file.section_table();
    let mut sections = sections.iter();
    let of_kernel: &pe::ImageSectionHeader =
        sections.find(|section| section.raw_name() == b".linux")?;
    let (offset, stored) = of_kernel.pe_file_range();
    // The file has whole blocks; the kernel ends before.
    let used = of_kernel.virtual_size.get(object::LittleEndian);
    let size = if used == 0 { stored } else { used.min(stored) };
    Some(Place {
        offset: offset as usize,
        size: size as usize,
    })
}

const ANDROID: &[u8] = b"ANDROID!";

/// The kernel follows the header, which fills a page. From version 3 on a page has 4 KiB.
fn android(bytes: &[u8]) -> Result<Place> {
    /// Offsets in the header, of 32 bits each.
    const KERNEL_SIZE: usize = 8;
    const PAGE_SIZE: usize = 36;
    const VERSION: usize = 40;
    let field = |offset| record::read::<u32>(bytes, "Android boot image", offset, LE);
    let page = match field(VERSION)? {
        3.. => 4096,
        _ => field(PAGE_SIZE)?,
    };
    Ok(Place {
        offset: page as usize,
        size: field(KERNEL_SIZE)? as usize,
    })
}

/// `IH_MAGIC`.
const UIMAGE: [u8; 4] = 0x2705_1956_u32.to_be_bytes();

/// The kernel follows U-Boot's `struct legacy_img_hdr`, whose numbers are big-endian.
fn uimage(bytes: &[u8]) -> Result<Place> {
    /// Where `ih_size` is, and how large the header is.
    const SIZE: usize = 12;
    const HEADER: usize = 64;
    let size: u32 = record::read(bytes, "uImage", SIZE, BE)?;
    Ok(Place {
        offset: HEADER,
        size: size as usize,
    })
}

#[cfg(test)]
mod tests;
