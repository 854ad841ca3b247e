//! Taking off a kernel's compression.

use std::fmt;
use std::io::{self, Read};

use lz4_flex::block as lz4;
use lzma_rust2::{LzmaReader, XzReader};
use ruzstd::decoding::StreamingDecoder;
use scroll::{Pread, SizeWith};

use super::vmlinux;
use crate::record;
use crate::{Error, Result};

/// The largest kernel we unpack. Real ones have 30 to 100 MB; this bounds what a hostile file can
/// make us allocate.
const MAX_KERNEL: usize = 512 << 20;

/// The largest dictionary or window that a decoder may use. Kernel builds go up to 128 MiB, xz
/// needs some more to work.
const MAX_DECODER_MEMORY: u64 = 192 << 20;
/// The same in the unit of the LZMA decoders.
const MAX_DECODER_KIB: u32 = (MAX_DECODER_MEMORY >> 10) as u32;

/// `lz4 -l` cuts its input into blocks of this size, and so does the kernel's decoder.
const LZ4_BLOCK: usize = 8 << 20;
/// What a block of incompressible data can grow to, by the format's own formula.
const LZ4_COMPRESSED_BLOCK: usize = LZ4_BLOCK + LZ4_BLOCK / 255 + 16;

/// How a kernel is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip (RFC 1952).
    Gzip,
    /// The `.xz` container; x86 kernels add a branch filter.
    Xz,
    /// Zstandard (RFC 8878).
    Zstd,
    /// The legacy frame of LZ4, which is the one the kernel reads.
    Lz4,
    /// The `.lzma` container that came before `.xz`.
    Lzma,
    /// bzip2; recognised, not unpacked.
    Bzip2,
    /// The `lzop` container; recognised, not unpacked.
    Lzo,
}

impl Compression {
    /// Recognises compressed data by the magic number it starts with.
    pub fn detect(bytes: &[u8]) -> Option<Self> {
        const MAGIC: [(&[u8], Compression); 7] = [
            (b"\x1f\x8b\x08", Compression::Gzip),
            (b"\xfd7zXZ\0", Compression::Xz),
            (b"\x28\xb5\x2f\xfd", Compression::Zstd),
            (b"\x02\x21\x4c\x18", Compression::Lz4),
            // Not a magic number, but the properties that kernel builds use, and the low half of a
            // dictionary size.
            (b"\x5d\0\0", Compression::Lzma),
            (b"BZh", Compression::Bzip2),
            (b"\x89LZO\0\r\n\x1a\n", Compression::Lzo),
        ];
        MAGIC
            .iter()
            .find(|(magic, _)| bytes.starts_with(magic))
            .map(|(_, compression)| *compression)
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "uncompressed",
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
            Self::Lz4 => "lz4",
            Self::Lzma => "lzma",
            Self::Bzip2 => "bzip2",
            Self::Lzo => "lzo",
        })
    }
}

/// A kernel inside its container.
///
/// What comes after the compressed data is ignored: kernel builds append the unpacked size to most
/// formats, which is for the kernel's own decoder, and containers pad.
pub(super) struct Payload<'a> {
    /// The kernel, and what else the container counts as payload.
    pub(super) bytes: &'a [u8],
    /// Where it is in the file, for error messages.
    pub(super) offset: u64,
}

impl Payload<'_> {
    /// Unpacks the payload, which may be uncompressed.
    pub(super) fn unpack(&self) -> Result<(Compression, Vec<u8>)> {
        let compression = match Compression::detect(self.bytes) {
            Some(compression) => compression,
            None if vmlinux::is_elf(self.bytes) => Compression::None,
            None => {
                let start = self
                    .bytes
                    .get(..self.bytes.len().min(8))
                    .unwrap_or_default();
                return Err(Error::unsupported(
                    "kernel compression",
                    format!(
                        "unknown magic number {start:02x?} at offset {:#x}",
                        self.offset
                    ),
                ));
            }
        };
        Ok((compression, self.decode(compression)?))
    }

    fn decode(&self, compression: Compression) -> Result<Vec<u8>> {
        // Decoders take from this as they go on, so what is left tells where they stopped.
        let mut rest = self.bytes;
        let decoded = match compression {
            Compression::None => Ok(self.bytes.to_vec()),
            Compression::Gzip => read_bounded(flate2::bufread::GzDecoder::new(&mut rest)),
            Compression::Xz => {
                // One stream: what may come behind it belongs to the container.
                read_bounded(XzReader::new_mem_limit(&mut rest, false, MAX_DECODER_KIB))
            }
            Compression::Lzma => {
                LzmaReader::new_mem_limit(&mut rest, MAX_DECODER_KIB, None).and_then(read_bounded)
            }
            Compression::Zstd => {
                StreamingDecoder::new_with_max_window_size(&mut rest, MAX_DECODER_MEMORY)
                    .map_err(io::Error::other)
                    .and_then(read_bounded)
            }
            Compression::Lz4 => unpack_lz4(&mut rest),
            Compression::Bzip2 | Compression::Lzo => {
                return Err(Error::unsupported(
                    "kernel compression",
                    format!(
                        "{compression} at offset {:#x}; unpack it first with the kernel's scripts/extract-vmlinux",
                        self.offset
                    ),
                ));
            }
        };
        decoded.map_err(|error| {
            let consumed = self.bytes.len().saturating_sub(rest.len());
            Error::malformed(
                format!("{compression} data"),
                self.offset.saturating_add(consumed as u64),
                error.to_string(),
            )
        })
    }
}

/// Reads to the end of the compressed data, within the limit.
fn read_bounded(reader: impl Read) -> io::Result<Vec<u8>> {
    let mut kernel = Vec::new();
    reader
        .take(MAX_KERNEL as u64 + 1)
        .read_to_end(&mut kernel)?;
    within_limit(kernel)
}

fn within_limit(kernel: Vec<u8>) -> io::Result<Vec<u8>> {
    if kernel.len() > MAX_KERNEL {
        let reason = format!("expands to more than {} MiB", MAX_KERNEL >> 20);
        return Err(io::Error::other(reason));
    }
    Ok(kernel)
}

/// What a block of an LZ4 legacy frame begins with.
#[derive(Debug, Clone, Copy, Pread, SizeWith)]
struct LegacyBlock {
    /// Bytes of compressed data.
    size: u32,
}

/// Unpacks an LZ4 legacy frame: a magic number, then blocks that follow their compressed size.
///
/// The frame has no end mark. It ends with a block that is not full, with the data, or before
/// something that cannot be a block size - the unpacked size that kernel builds append, larger than
/// any block in a kernel of this many blocks.
fn unpack_lz4(rest: &mut &[u8]) -> io::Result<Vec<u8>> {
    let mut kernel = Vec::new();
    let mut block = vec![0; LZ4_BLOCK];
    *rest = rest.get(4..).unwrap_or_default();
    while let Some(LegacyBlock { size }) = record::get(rest, 0) {
        let size = size as usize;
        let data = rest.get(4..).unwrap_or_default();
        let ends_here = data.is_empty() || size == 0 || size > LZ4_COMPRESSED_BLOCK;
        if ends_here && !kernel.is_empty() {
            break;
        }
        let compressed = data.get(..size).ok_or_else(|| {
            let left = data.len();
            io::Error::other(format!("a block of {size} bytes, of which {left} are here"))
        })?;
        let length = lz4::decompress_into(compressed, &mut block).map_err(io::Error::other)?;
        kernel.extend_from_slice(block.get(..length).unwrap_or_default());
        kernel = within_limit(kernel)?;
        *rest = data.get(size..).unwrap_or_default();
        if length < LZ4_BLOCK {
            break;
        }
    }
    if kernel.is_empty() {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
    }
    Ok(kernel)
}
