//! The x86 boot image: real-mode code with a header, then protected-mode code that holds the
//! compressed kernel.
//!
//! Offsets are those of the boot protocol, `Documentation/arch/x86/boot.rst` of the kernel.

use std::mem::offset_of;

use scroll::{LE, Pread, SizeWith};

use super::decompress::Payload;
use super::release;
use crate::record;
use crate::{Error, Result};

/// Where the header starts.
const HEADER: usize = 0x1f1;
/// Where the fields of protocol 2.08 start.
const PAYLOAD: usize = 0x248;

/// `struct setup_header` of `arch/x86/include/uapi/asm/bootparam.h`, as far as all versions have
/// it.
#[derive(Debug, Clone, Copy, Pread, SizeWith)]
#[repr(C, packed)]
struct Header {
    setup_sectors: u8,
    root_flags: u16,
    system_size: u32,
    ram_size: u16,
    video_mode: u16,
    root_device: u16,
    boot_flag: u16,
    jump: u16,
    magic: [u8; 4],
    version: u16,
    real_mode_switch: u32,
    start_system: u16,
    kernel_version: u16,
}

/// Its fields about the payload.
#[derive(Debug, Clone, Copy, Pread, SizeWith)]
#[repr(C, packed)]
struct PayloadFields {
    offset: u32,
    length: u32,
}

const VERSION: usize = HEADER + offset_of!(Header, version);
const PAYLOAD_OFFSET: usize = PAYLOAD + offset_of!(PayloadFields, offset);
const PAYLOAD_LENGTH: usize = PAYLOAD + offset_of!(PayloadFields, length);

/// The boot sector's signature.
const BOOT_SIGNATURE: u16 = 0xaa55;
/// The protocol that brought the payload fields, in Linux 2.6.26.
const PAYLOAD_PROTOCOL: u16 = 0x208;
const SECTOR: usize = 512;
/// Boot loaders have to read a sector count of 0 as this one.
const DEFAULT_SETUP_SECTORS: u8 = 4;

const WHAT: &str = "bzImage setup header";

/// The header, where bytes have the one of the x86 boot protocol.
fn header(bytes: &[u8]) -> Option<Header> {
    let header: Header = record::get(bytes, HEADER)?;
    (&header.magic == b"HdrS" && { header.boot_flag } == BOOT_SIGNATURE).then_some(header)
}

/// Whether bytes have the header of the x86 boot protocol.
pub(super) fn is_bzimage(bytes: &[u8]) -> bool {
    header(bytes).is_some()
}

/// The compressed kernel.
pub(super) fn payload(bytes: &[u8]) -> Result<Payload<'_>> {
    let malformed = |offset: usize, reason: String| Error::malformed(WHAT, offset as u64, reason);
    let header: Header = record::read(bytes, WHAT, HEADER, LE)?;
    let version = header.version;
    if version < PAYLOAD_PROTOCOL {
        return Err(Error::unsupported(
            "bzImage",
            format!(
                "boot protocol {}.{:02} at offset {VERSION:#x} does not say where the kernel is, \
                 2.08 and later do",
                version >> 8,
                version & 0xff
            ),
        ));
    }
    let fields: PayloadFields = record::read(bytes, WHAT, PAYLOAD, LE)?;
    let (offset, length) = (fields.offset as usize, fields.length as usize);
    // Fields of 32 bits each cannot overflow the sum where addresses have 64; checked for where
    // they have 32.
    let start = offset
        .checked_add(setup_size(&header))
        .ok_or_else(|| malformed(PAYLOAD_OFFSET, "the payload starts past the end".to_owned()))?;
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
    let pointer = usize::from(header(bytes)?.kernel_version);
    if pointer == 0 {
        return None;
    }
    release::leading(bytes.get(pointer.checked_add(SECTOR)?..)?)
}

/// The size of the real-mode part: the boot sector and the setup sectors that follow it.
fn setup_size(header: &Header) -> usize {
    let sectors = match header.setup_sectors {
        0 => DEFAULT_SETUP_SECTORS,
        sectors => sectors,
    };
    (usize::from(sectors) + 1) * SECTOR
}
