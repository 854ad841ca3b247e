//! The x86 boot image: real-mode code with a header, then protected-mode code that holds the compressed kernel.
//!
//! Offsets are those of the boot protocol, `Documentation/arch/x86/boot.rst` of the kernel.

use super::decompress::Payload;
use super::{release, u16_at, u32_at};
use crate::{Error, Result};

const SETUP_SECTS: usize = 0x1f1;
const BOOT_FLAG: usize = 0x1fe;
const HEADER_MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const KERNEL_VERSION: usize = 0x20e;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;

/// The boot sector's signature.
const BOOT_SIGNATURE: u16 = 0xaa55;
/// The protocol that brought the payload fields, in Linux 2.6.26.
const PAYLOAD_PROTOCOL: u16 = 0x208;
const SECTOR: usize = 512;
/// Boot loaders have to read a sector count of 0 as this one.
const DEFAULT_SETUP_SECTORS: usize = 4;

/// Whether bytes have the header of the x86 boot protocol.
pub(super) fn is_bzimage(bytes: &[u8]) -> bool {
    bytes
        .get(HEADER_MAGIC..)
        .is_some_and(|rest| rest.starts_with(b"HdrS"))
        && u16_at(bytes, BOOT_FLAG) == Some(BOOT_SIGNATURE)
}

/// The compressed kernel.
pub(super) fn payload(bytes: &[u8]) -> Result<Payload<'_>> {
    let malformed = |offset: usize, reason: String| {
        Error::malformed("bzImage setup header", offset as u64, reason)
    };
    let field = |offset| {
        u32_at(bytes, offset)
            .and_then(|value| usize::try_from(value).ok())
            .ok_or_else(|| malformed(offset, "the file ends before this field".to_owned()))
    };
    let version = u16_at(bytes, VERSION)
        .ok_or_else(|| malformed(VERSION, "the file ends before this field".to_owned()))?;
    if version < PAYLOAD_PROTOCOL {
        return Err(Error::unsupported(
            "bzImage",
            format!(
                "boot protocol {}.{:02} does not say where the kernel is, 2.08 and later do",
                version >> 8,
                version & 0xff
            ),
        ));
    }
    // Fields of 32 bits each cannot overflow the sum where addresses have 64; checked for where they have 32.
    let start = field(PAYLOAD_OFFSET)?
        .checked_add(setup_size(bytes))
        .ok_or_else(|| malformed(PAYLOAD_OFFSET, "the payload starts past the end".to_owned()))?;
    let length = field(PAYLOAD_LENGTH)?;
    let payload = start
        .checked_add(length)
        .and_then(|end| bytes.get(start..end))
        .ok_or_else(|| {
            malformed(
                PAYLOAD_LENGTH,
                format!(
                    "{length:#x} bytes of payload at {start:#x} do not fit in a file of {:#x}",
                    bytes.len()
                ),
            )
        })?;
    if payload.is_empty() {
        return Err(malformed(PAYLOAD_LENGTH, "the payload is empty".to_owned()));
    }
    Ok(Payload {
        bytes: payload,
        offset: start as u64,
    })
}

/// The release from the version string that boot loaders show.
pub(super) fn release(bytes: &[u8]) -> Option<String> {
    let pointer = usize::from(u16_at(bytes, KERNEL_VERSION)?);
    if pointer == 0 {
        return None;
    }
    release::leading(bytes.get(pointer.checked_add(SECTOR)?..)?)
}

/// The size of the real-mode part: the boot sector and the setup sectors that follow it.
fn setup_size(bytes: &[u8]) -> usize {
    let sectors = match bytes.get(SETUP_SECTS) {
        None | Some(0) => DEFAULT_SETUP_SECTORS,
        Some(&sectors) => usize::from(sectors),
    };
    (sectors + 1) * SECTOR
}
