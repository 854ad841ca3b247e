//! Files that are believed: what they say decides which bytes of a process the linker changes.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::libc;
use nix::unistd::geteuid;
use sha2::{Digest, Sha256};

use crate::persist;

/// Most bytes of a file of the cache. The largest table of a stock kernel has some 20 KiB.
const MAX: u64 = 4 << 20;

/// Whoever may write to a file, besides its owner.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// The bytes of a regular file that only the caller and the administrator can have written. `None`
/// for all others, and for what cannot be read.
pub(super) fn read(path: &Path) -> Option<Vec<u8>> {
    let mut options = OpenOptions::new();
    // Neither leads a link elsewhere, nor does a pipe make the caller wait.
    options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = options.read(true).open(path).ok()?;
    if !is_believed(&file).ok()? {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(MAX).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

fn is_believed(file: &File) -> io::Result<bool> {
    let metadata = file.metadata()?;
    let owner = metadata.uid();
    let is_own = owner == 0 || owner == geteuid().as_raw();
    let is_closed = metadata.mode() & WRITABLE_BY_OTHERS == 0;
    Ok(metadata.is_file() && metadata.len() <= MAX && is_own && is_closed)
}

/// Writes a file that [`read`] believes later, and the directories on the way to it.
pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        let mut directories = DirBuilder::new();
        directories.recursive(true).mode(0o755).create(parent)?;
    }
    let of_owner: Permissions = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    persist::replace_with(path, bytes, of_owner)
}

/// Bytes that carry no digest of their own, and theirs behind them.
pub(super) fn sealed(bytes: &[u8]) -> Vec<u8> {
    [bytes, &Sha256::digest(bytes)].concat()
}

/// What [`sealed`] was given, if it is still that.
pub(super) fn unsealed(mut bytes: Vec<u8>) -> Option<Vec<u8>> {
    let digest = Sha256::output_size();
    let stated = bytes.split_off(bytes.len().checked_sub(digest)?);
    (Sha256::digest(&bytes).as_slice() == stated).then_some(bytes)
}
