//! Boot images other than x86's: the raw arm64 `Image`, and zboot, an EFI program around a
//! compressed kernel.

use scroll::{LE, Pread, SizeWith};

use super::decompress::Payload;
use crate::record;
use crate::{Error, Result};

/// The header of an `Image`: `Documentation/arch/arm64/booting.rst`.
#[derive(Debug, Clone, Copy, Pread, SizeWith)]
struct ImageHeader {
    _code: [u32; 2],
    _text_offset: u64,
    _image_size: u64,
    _flags: u64,
    _reserved: [u64; 3],
    magic: [u8; 4],
    _pe_header: u32,
}

const IMAGE_MAGIC: [u8; 4] = *b"ARM\x64";

/// The header of a zboot file: `drivers/firmware/efi/libstub/zboot-header.S`.
///
/// It names the compression as well. That name is not read: it varies between kernel versions ("xz"
/// and "xzkern"), while the data's own magic number does not.
#[derive(Debug, Clone, Copy, Pread, SizeWith)]
struct ZbootHeader {
    dos_magic: [u8; 2],
    _reserved: u16,
    magic: [u8; 4],
    payload_offset: u32,
    payload_size: u32,
}

/// Where `payload_offset` is.
const ZBOOT_PAYLOAD_OFFSET: u64 = 8;

/// Whether bytes are a raw arm64 kernel.
pub(super) fn is_image(bytes: &[u8]) -> bool {
    record::get(bytes, 0).is_some_and(|header: ImageHeader| header.magic == IMAGE_MAGIC)
}

/// Whether bytes are a kernel wrapped in an EFI program.
pub(super) fn is_zboot(bytes: &[u8]) -> bool {
    record::get(bytes, 0)
        .is_some_and(|header: ZbootHeader| (&header.dos_magic, &header.magic) == (b"MZ", b"zimg"))
}

/// The compressed kernel in a zboot file.
pub(super) fn zboot_payload(bytes: &[u8]) -> Result<Payload<'_>> {
    let header: ZbootHeader = record::read(bytes, "zboot header", 0, LE)?;
    let (start, length) = (header.payload_offset as usize, header.payload_size as usize);
    let payload = start
        .checked_add(length)
        .and_then(|end| bytes.get(start..end))
        .filter(|payload| !payload.is_empty())
        .ok_or_else(|| {
            let reason = format!(
                "{length:#x} bytes of payload at {start:#x} in a file of {:#x}",
                bytes.len()
            );
            Error::malformed("zboot header", ZBOOT_PAYLOAD_OFFSET, reason)
        })?;
    Ok(Payload {
        bytes: payload,
        offset: start as u64,
    })
}
