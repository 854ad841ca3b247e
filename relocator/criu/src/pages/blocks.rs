//! Compressed pages, as CRIU 4.3 writes them with `--compress`.
//!
//! A run of pages is a row of blocks of equally many pages; the last one may have fewer. Each is
//! compressed by itself, in LZ4's block format. A block of zeros takes no bytes, and one that LZ4
//! makes hardly smaller is stored as it is; the size that a block takes tells.

use relocator::placement::PAGE;

use crate::Compression;
use crate::messages::PageBlocks;

/// The most pages of a block: 4 MiB, the most that `--compress-block` takes.
const MOST_PAGES: u32 = (4 << 20) / PAGE as u32;

/// The blocks of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Blocks {
    /// Bytes of each block, decompressed, but for the last.
    bytes: u64,
    /// Bytes of the run, decompressed.
    total: u64,
    /// Bytes that each takes, and where it begins behind the first byte of the run.
    sizes: Vec<(u32, u64)>,
}

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Block {
    /// Where its pages begin behind the run's.
    pub(super) start: u64,
    /// Where it is stored behind the first byte of the run.
    pub(super) offset: u64,
    /// Bytes that it takes.
    pub(super) size: u32,
    /// Bytes that it holds.
    pub(super) raw: u64,
}

impl Block {
    /// Whether it is all zeros, and takes nothing.
    pub(super) fn is_zero(&self) -> bool {
        self.size == 0
    }

    /// Whether it is stored as it is.
    pub(super) fn is_raw(&self) -> bool {
        u64::from(self.size) == self.raw
    }
}

impl Blocks {
    /// The blocks of a run of pages. Nothing in the message is trusted.
    pub(super) fn read(message: &PageBlocks, pages: u64) -> Result<Self, Compression> {
        let each = message.pages.unwrap_or(0);
        if each == 0 || each > MOST_PAGES {
            return Err(Compression::BlockPages(each));
        }
        let found = message.sizes.len() as u64;
        let expected = pages.div_ceil(u64::from(each));
        if found != expected {
            return Err(Compression::Count { found, expected });
        }
        let mut blocks = Self {
            bytes: u64::from(each) * PAGE,
            // There are at most 2^32 blocks of at most 2^22 bytes.
            total: pages * PAGE,
            sizes: Vec::with_capacity(message.sizes.len()),
        };
        let mut offset = 0;
        for (index, &size) in message.sizes.iter().enumerate() {
            let raw = blocks.raw(index as u64);
            if u64::from(size) > raw {
                return Err(Compression::Size { size, raw });
            }
            blocks.sizes.push((size, offset));
            offset += u64::from(size);
        }
        let stated = message.total.unwrap_or(0);
        match offset == stated {
            true => Ok(blocks),
            false => Err(Compression::Total {
                found: offset,
                stated,
            }),
        }
    }

    /// Bytes that all of them take.
    pub(super) fn stored(&self) -> u64 {
        self.sizes
            .last()
            .map_or(0, |(size, offset)| offset + u64::from(*size))
    }

    /// The block that a byte of the run is in.
    pub(super) fn of(&self, distance: u64) -> Block {
        let index = distance / self.bytes;
        let (size, offset) = self.sizes[index as usize];
        Block {
            start: index * self.bytes,
            offset,
            size,
            raw: self.raw(index),
        }
    }

    fn raw(&self, index: u64) -> u64 {
        self.bytes.min(self.total - index * self.bytes)
    }
}

/// What a block holds.
pub(super) fn decompress(stored: &[u8], raw: u64) -> Result<Vec<u8>, Compression> {
    let mut bytes = vec![0; raw as usize];
    let written = lz4_flex::block::decompress_into(stored, &mut bytes);
    let written = written.map_err(|error| Compression::Block(error.to_string()))?;
    match written == bytes.len() {
        true => Ok(bytes),
        false => Err(Compression::Block(format!(
            "a block holds {written} bytes and not {raw}"
        ))),
    }
}
