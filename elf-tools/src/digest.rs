//! The digest of an object that holds a table: `docs/abi.md`, section 1, type 7.
//!
//! A table decides which bytes of a process a linker changes, and a wrong one ends the process. A
//! digest shows that the table is as its writer has left it. It says nothing about who that was.

use sha2::{Digest, Sha256};

use crate::elf::View;
use crate::elf_writer::add_note;
use crate::image::note::{self, Abi, NT_DIGEST, OWNER};
use crate::{Error, Result, record};

/// SHA-256, in bytes.
const SIZE: usize = 32;

/// Adds a note that has room for a digest. [`seal`] fills it in.
pub(crate) fn reserve(notes: &mut Vec<u8>) {
    let mut descriptor = record::stored(Abi::CURRENT);
    descriptor.extend([0; SIZE]);
    add_note(notes, OWNER, NT_DIGEST, &descriptor);
}

/// Writes the digest of an object into its note of type 7, as who has changed one must at the end.
///
/// Errors: the object is no ELF file, or has no such note.
pub fn seal(bytes: &mut [u8]) -> Result<()> {
    let Some(at) = place(&View::parse(bytes)?)? else {
        return Err(missing());
    };
    let digest = digest(bytes, at);
    bytes[at..at + SIZE].copy_from_slice(&digest);
    Ok(())
}

/// Refuses an object that has a digest of something else. Whether it has one at all.
pub(crate) fn check(view: &View<'_>) -> Result<bool> {
    let Some(at) = place(view)? else {
        return Ok(false);
    };
    if view.bytes[at..at + SIZE] == digest(view.bytes, at) {
        return Ok(true);
    }
    let reason = "the object is not what its writer has left: it has another digest";
    Err(Error::malformed("vDSO note", at as u64, reason))
}

/// Refuses an object without a digest, or with one of something else.
pub(crate) fn require(view: &View<'_>) -> Result<()> {
    match check(view)? {
        true => Ok(()),
        false => Err(missing()),
    }
}

fn missing() -> Error {
    Error::not_found(
        "digest of the table",
        "the object has no vDSO note of type 7",
    )
}

/// Where the digest is in the file.
fn place(view: &View<'_>) -> Result<Option<usize>> {
    let Some(found) = note::only(&view.notes()?, NT_DIGEST)? else {
        return Ok(None);
    };
    note::descriptor::<Abi>(&found)?;
    let before = record::size::<Abi>();
    if found.descriptor.len() != before + SIZE {
        let reason = format!(
            "{} bytes where {} are needed",
            found.descriptor.len(),
            before + SIZE
        );
        return Err(Error::malformed("vDSO note", found.offset, reason));
    }
    Ok(Some(found.offset as usize + before))
}

/// The digest of a file in which the digest itself, at `at`, counts as zeros.
fn digest(bytes: &[u8], at: usize) -> [u8; SIZE] {
    let mut hash = Sha256::new();
    hash.update(&bytes[..at]);
    hash.update([0; SIZE]);
    hash.update(&bytes[at + SIZE..]);
    hash.finalize().into()
}
