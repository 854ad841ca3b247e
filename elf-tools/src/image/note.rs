//! The notes of an image: identity, and the announcement of relocation tables.

use object::elf;
use scroll::{LE, Pread, Pwrite, SizeWith};

use crate::elf::{Note, View};
use crate::image::LinuxVersion;
use crate::record::{self, Record};
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
/// Note type of the digest of an object that holds a table.
pub(crate) const NT_DIGEST: u32 = 7;
/// The ABI version this crate reads and writes.
pub(crate) const ABI_VERSION: u32 = 1;

/// What the descriptor of every note of ours begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pread, Pwrite, SizeWith)]
pub(crate) struct Abi {
    /// [`ABI_VERSION`].
    version: u32,
    /// None are assigned.
    flags: u32,
}

impl Abi {
    /// What this crate writes.
    pub(crate) const CURRENT: Self = Self {
        version: ABI_VERSION,
        flags: 0,
    };
}

/// The descriptor of [`NT_TABLES`]. Addresses are image-relative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pread, Pwrite, SizeWith)]
pub(crate) struct Tables {
    abi: Abi,
    symtab_distance: i64,
    symtab_size: u64,
    relocations: u64,
    relocation_count: u64,
    symbols: u64,
    symbol_count: u64,
    strings: u64,
    strings_size: u64,
}

/// The descriptor of [`NT_REENTRY`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pread, Pwrite, SizeWith)]
pub(crate) struct Reentry {
    pub(crate) abi: Abi,
    /// What instructions the table is of.
    pub(crate) digest: u32,
}

/// The descriptor of the `Linux` note of type 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pread, Pwrite, SizeWith)]
pub(crate) struct Version {
    /// `LINUX_VERSION_CODE`.
    pub(crate) code: u32,
}

/// The note that announces a relocation-capable image, `docs/abi.md` section 1. Addresses are
/// image-relative.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TablesNote {
    /// Address of this kernel's exported symbol table minus the image base; 0 with a size of 0
    /// where there is none.
    pub symtab_distance: i64,
    /// Size of the exported symbol table in bytes.
    pub symtab_size: u64,
    /// Address and number of entries of the relocation table.
    pub relocations: (u64, u64),
    /// Address and number of entries of its symbol table.
    pub symbols: (u64, u64),
    /// Address and size in bytes of its string table.
    pub strings: (u64, u64),
    /// Offset of the note's descriptor in the image, for the writer that fills it in.
    pub(crate) offset: u64,
}

impl TablesNote {
    /// Whether the note leads to tables without section headers.
    pub fn states_tables(&self) -> bool {
        self.relocations != (0, 0) || self.symbols != (0, 0) || self.strings != (0, 0)
    }

    /// The descriptor as it is stored.
    pub(crate) fn encode(&self) -> Vec<u8> {
        record::stored(Tables {
            abi: Abi::CURRENT,
            symtab_distance: self.symtab_distance,
            symtab_size: self.symtab_size,
            relocations: self.relocations.0,
            relocation_count: self.relocations.1,
            symbols: self.symbols.0,
            symbol_count: self.symbols.1,
            strings: self.strings.0,
            strings_size: self.strings.1,
        })
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
    let version: Version = record::get(note.descriptor, 0)?;
    Some(LinuxVersion(version.code))
}

/// Reads a descriptor of ours, and checks what it begins with. It may be longer than the record.
pub(crate) fn descriptor<R: Record>(note: &Note<'_>) -> Result<R> {
    let size = record::size::<R>();
    let abi: Option<Abi> = record::get(note.descriptor, 0);
    let Some(abi) = abi.filter(|_| note.descriptor.len() >= size) else {
        let reason = format!("{} bytes where {size} are needed", note.descriptor.len());
        return Err(Error::malformed("vDSO note", note.offset, reason));
    };
    if abi.version != ABI_VERSION {
        let reason = format!(
            "ABI version {}; only {ABI_VERSION} is understood",
            abi.version
        );
        return Err(Error::malformed("vDSO note", note.offset, reason));
    }
    if abi.flags != 0 {
        let reason = format!("unknown flags {:#x}", abi.flags);
        return Err(Error::malformed("vDSO note", note.offset + 4, reason));
    }
    record::read(note.descriptor, "vDSO note", 0, LE)
}

fn tables_note(note: &Note<'_>) -> Result<TablesNote> {
    let stored: Tables = descriptor(note)?;
    Ok(TablesNote {
        symtab_distance: stored.symtab_distance,
        symtab_size: stored.symtab_size,
        relocations: (stored.relocations, stored.relocation_count),
        symbols: (stored.symbols, stored.symbol_count),
        strings: (stored.strings, stored.strings_size),
        offset: note.offset,
    })
}
