//! Boot images other than x86's: the raw arm64 `Image`, and zboot, an EFI program around a compressed kernel.

use super::decompress::Payload;
use super::u32_at;
use crate::{Error, Result};

/// `Documentation/arch/arm64/booting.rst`: the magic number in the 64-byte header of an `Image`.
const IMAGE_MAGIC: (usize, &[u8]) = (56, b"ARM\x64");

/// `drivers/firmware/efi/libstub/zboot-header.S`: what follows the DOS magic of a zboot file.
const ZBOOT_MAGIC: (usize, &[u8]) = (4, b"zimg");
const ZBOOT_PAYLOAD_OFFSET: usize = 8;
const ZBOOT_PAYLOAD_SIZE: usize = 12;

/// Whether bytes are a raw arm64 kernel.
pub(super) fn is_image(bytes: &[u8]) -> bool {
    has(bytes, IMAGE_MAGIC)
}

/// Whether bytes are a kernel wrapped in an EFI program.
pub(super) fn is_zboot(bytes: &[u8]) -> bool {
    bytes.starts_with(b"MZ") && has(bytes, ZBOOT_MAGIC)
}

/// The compressed kernel in a zboot file.
///
/// The header names the compression as well. That name is not read: it varies between kernel versions ("xz" and
/// "xzkern"), while the data's own magic number does not.
pub(super) fn zboot_payload(bytes: &[u8]) -> Result<Payload<'_>> {
    let malformed =
        |offset: usize, reason: String| Error::malformed("zboot header", offset as u64, reason);
    let field = |offset| {
        u32_at(bytes, offset)
            .and_then(|value| usize::try_from(value).ok())
            .ok_or_else(|| malformed(offset, "the file ends before this field".to_owned()))
    };
    let start = field(ZBOOT_PAYLOAD_OFFSET)?;
    let length = field(ZBOOT_PAYLOAD_SIZE)?;
    let payload = start
        .checked_add(length)
        .and_then(|end| bytes.get(start..end))
        .filter(|payload| !payload.is_empty())
        .ok_or_else(|| {
            malformed(
                ZBOOT_PAYLOAD_OFFSET,
                format!(
                    "{length:#x} bytes of payload at {start:#x} in a file of {:#x}",
                    bytes.len()
                ),
            )
        })?;
    Ok(Payload {
        bytes: payload,
        offset: start as u64,
    })
}

fn has(bytes: &[u8], (offset, magic): (usize, &[u8])) -> bool {
    bytes
        .get(offset..)
        .is_some_and(|rest| rest.starts_with(magic))
}
