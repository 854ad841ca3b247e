//! Writing files whole or not at all.

use std::fs::Permissions;
use std::io::{Result, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Puts a file with these bytes at `path`, in place of what is there. On failure that is still there.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    // As for any file that a program creates.
    replace_with(path, bytes, Permissions::from_mode(0o666))
}

/// The same with permissions, of which the process's mask takes away what others may not do.
pub fn replace_with(path: &Path, bytes: &[u8], permissions: Permissions) -> Result<()> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let mut file = tempfile::Builder::new()
        .permissions(permissions)
        .tempfile_in(parent.unwrap_or(Path::new(".")))?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}
