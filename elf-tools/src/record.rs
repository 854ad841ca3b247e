//! Fixed-size records in bytes, by `scroll`'s derives.
//!
//! A record's fields are stated once, in the order in which they are stored. Where a file is read,
//! an error names the record and where it was looked for.

use scroll::ctx::{SizeWith, TryFromCtx, TryIntoCtx};
use scroll::{Endian, LE, Pread, Pwrite};

use crate::{Error, Result};

/// A record that can be read.
pub(crate) trait Record:
    SizeWith<Endian> + for<'a> TryFromCtx<'a, Endian, Error = scroll::Error>
{
}

impl<R> Record for R where
    R: SizeWith<Endian> + for<'a> TryFromCtx<'a, Endian, Error = scroll::Error>
{
}

/// Bytes that a record takes.
pub(crate) fn size<R: SizeWith<Endian>>() -> usize {
    R::size_with(&LE)
}

/// The little-endian record at `offset`, if it is there as a whole.
pub(crate) fn get<R: Record>(bytes: &[u8], offset: usize) -> Option<R> {
    bytes.pread_with(offset, LE).ok()
}

/// The record at `offset` in that byte order; the error says that `what` is cut off.
pub(crate) fn read<R: Record>(bytes: &[u8], what: &str, offset: usize, order: Endian) -> Result<R> {
    bytes.pread_with(offset, order).map_err(|_| {
        let have = bytes.len().saturating_sub(offset);
        let reason = format!("{have} bytes where {} are needed", size::<R>());
        Error::malformed(what, offset as u64, reason)
    })
}

/// The whole little-endian records in bytes.
pub(crate) fn all<R: Record>(bytes: &[u8]) -> impl Iterator<Item = R> {
    let size = size::<R>();
    let whole = bytes.chunks_exact(size.max(1));
    whole.filter_map(|record| get(record, 0))
}

/// A record as it is stored, little-endian.
pub(crate) fn stored<R>(record: R) -> Vec<u8>
where
    R: SizeWith<Endian> + TryIntoCtx<Endian, Error = scroll::Error>,
{
    let mut bytes = vec![0; size::<R>()];
    let written = bytes.pwrite_with(record, 0, LE);
    debug_assert_eq!(written.ok(), Some(bytes.len()), "a record has its own size");
    bytes
}
