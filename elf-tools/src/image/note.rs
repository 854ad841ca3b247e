//! The notes of an image: identity, and the announcement of relocation tables.

use object::elf;

use crate::elf::{Note, View};
use crate::image::LinuxVersion;
use crate::{BuildId, Error, Result};

/// Owner of the notes that `docs/abi.md` specifies.
pub(crate) const OWNER: &[u8] = b"vDSO";
/// Note type of a relocation-capable image.
pub(crate) const NT_TABLES: u32 = 1;
/// Note type of a symbol table object.
pub(crate) const NT_SYMBOLS: u32 = 2;
/// Note type of a relocation table object.
pub(crate) const NT_RELOCATIONS: u32 = 3;
/// Note type of a relocation table object that has a re-entry table as well.
pub(crate) const NT_REENTRY: u32 = 5;
/// The ABI version this crate reads and writes.
pub(crate) const ABI_VERSION: u32 = 1;

/// Size of the descriptor of [`NT_TABLES`].
pub(crate) const TABLES_SIZE: usize = 72;

/// The note that announces a relocation-capable image, `docs/abi.md` section 1. Addresses are image-relative.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TablesNote {
    /// Address of this kernel's exported symbol table minus the image base; 0 with a size of 0 where there is none.
    pub symtab_distance: i64,
    /// Size of the exported symbol table in bytes.
    pub symtab_size: u64,
    /// Address and number of entries of the relocation table.
    pub relocations: (u64, u64),
    /// Address and number of entries of its symbol table.
    pub symbols: (u64, u64),
    /// Address and size in bytes of its string table.
    pub strings: (u64, u64),
    /// Offset of the note's descriptor in the image, for whoever fills it in.
    pub(crate) offset: u64,
}

impl TablesNote {
    /// Whether the note leads to tables without section headers.
    pub fn states_tables(&self) -> bool {
        self.relocations != (0, 0) || self.symbols != (0, 0) || self.strings != (0, 0)
    }

    /// The descriptor as it is stored.
    pub(crate) fn encode(&self) -> [u8; TABLES_SIZE] {
        let mut bytes = [0; TABLES_SIZE];
        bytes[..4].copy_from_slice(&ABI_VERSION.to_le_bytes());
        let words = [
            self.symtab_distance as u64,
            self.symtab_size,
            self.relocations.0,
            self.relocations.1,
            self.symbols.0,
            self.symbols.1,
            self.strings.0,
            self.strings.1,
        ];
        for (slot, word) in bytes[8..].chunks_exact_mut(8).zip(words) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

/// What the notes of an image say.
pub(super) struct Notes {
    pub(super) build_id: Option<BuildId>,
    pub(super) linux_version: Option<LinuxVersion>,
    pub(super) tables: Option<TablesNote>,
}

pub(super) fn read(view: &View<'_>) -> Result<Notes> {
    let notes = view.notes()?;
    let tables = only(&notes, NT_TABLES)?
        .map(|note| tables_note(&note))
        .transpose()?;
    Ok(Notes {
        build_id: build_id(&notes),
        linux_version: linux_version(&notes),
        tables,
    })
}

/// The note of ours of that type. A second one is an error.
pub(crate) fn only<'data>(notes: &[Note<'data>], kind: u32) -> Result<Option<Note<'data>>> {
    let mut of_kind = notes
        .iter()
        .filter(|note| note.owner == OWNER && note.kind == kind);
    let first = of_kind.next();
    match of_kind.next() {
        None => Ok(first.copied()),
        Some(second) => Err(Error::malformed(
            "vDSO note",
            second.offset,
            format!("a second note of type {kind}"),
        )),
    }
}

/// GNU build-id.
pub(crate) fn build_id(notes: &[Note<'_>]) -> Option<BuildId> {
    let wanted = elf::NT_GNU_BUILD_ID.0;
    notes
        .iter()
        .find(|n| n.owner == b"GNU" && n.kind == wanted)
        .and_then(|n| BuildId::new(n.descriptor))
}

/// The `Linux` note of type 0 holds `LINUX_VERSION_CODE`.
pub(crate) fn linux_version(notes: &[Note<'_>]) -> Option<LinuxVersion> {
    let note = notes.iter().find(|n| n.owner == b"Linux" && n.kind == 0)?;
    Some(LinuxVersion(u32::from_le_bytes(
        note.descriptor.get(..4)?.try_into().ok()?,
    )))
}

/// Checks the two words that every note of ours begins with.
pub(crate) fn check_abi(note: &Note<'_>, minimum: usize) -> Result<()> {
    if note.descriptor.len() < minimum {
        let reason = format!("{} bytes where {minimum} are needed", note.descriptor.len());
        return Err(Error::malformed("vDSO note", note.offset, reason));
    }
    let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| note.descriptor[at + i]));
    if word(0) != ABI_VERSION {
        let reason = format!("ABI version {}; only {ABI_VERSION} is understood", word(0));
        return Err(Error::malformed("vDSO note", note.offset, reason));
    }
    if word(4) != 0 {
        return Err(Error::malformed(
            "vDSO note",
            note.offset + 4,
            format!("unknown flags {:#x}", word(4)),
        ));
    }
    Ok(())
}

fn tables_note(note: &Note<'_>) -> Result<TablesNote> {
    check_abi(note, TABLES_SIZE)?;
    let mut words = note.descriptor[8..TABLES_SIZE]
        .chunks_exact(8)
        .map(|chunk| {
            let mut word = [0; 8];
            word.copy_from_slice(chunk);
            u64::from_le_bytes(word)
        });
    let mut next = || words.next().unwrap_or_default();
    Ok(TablesNote {
        symtab_distance: next() as i64,
        symtab_size: next(),
        relocations: (next(), next()),
        symbols: (next(), next()),
        strings: (next(), next()),
        offset: note.offset,
    })
}
