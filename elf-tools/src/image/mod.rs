//! The bytes of one vDSO, and what they say about themselves.
//!
//! An [`Image`] is read from a file, cut from a kernel, or copied out of a process: in each case
//! from the ELF header to the end of the section headers, or to the end of the last mapped page.
//! Nothing is executed and nothing is changed; [`alternatives`] gives a copy as a kernel would have
//! patched it at boot.

pub mod alternatives;
mod export;
pub(crate) mod note;

use std::fmt;
use std::ops::Range;

use crate::elf::View;
use crate::{BuildId, Class, Error, Machine, Result, Svma};

pub use export::Export;
pub use note::TablesNote;

/// A vDSO larger than this is not one. The largest stock image has 3 pages; synthetic ones are used
/// to measure scaling.
pub const MAX_IMAGE: usize = 256 << 20;

/// A kernel's version as in `LINUX_VERSION_CODE`: major, minor and patch level in one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinuxVersion(pub u32);

impl LinuxVersion {
    /// Major and minor number, for example `(6, 18)`.
    pub fn series(self) -> (u32, u32) {
        (self.0 >> 16, (self.0 >> 8) & 0xff)
    }
}

impl fmt::Display for LinuxVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = self.series();
        write!(f, "{major}.{minor}.{}", self.0 & 0xff)
    }
}

/// One vDSO image.
#[derive(Debug, Clone)]
pub struct Image {
    bytes: Vec<u8>,
    class: Class,
    machine: Machine,
    exports: Vec<Export>,
    text: Vec<Range<u64>>,
    has_sections: bool,
    loaded: u64,
    build_id: Option<BuildId>,
    linux_version: Option<LinuxVersion>,
    tables: Option<TablesNote>,
}

impl Image {
    /// Reads a vDSO.
    ///
    /// The image must be a little-endian `ET_DYN` that is linked at 0, so that offsets and
    /// image-relative addresses are the same; every vDSO since Linux 3.16 is. It must export at
    /// least one function.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.len() > MAX_IMAGE {
            return Err(Error::malformed(
                "image",
                0,
                format!("{} bytes are too many for a vDSO", bytes.len()),
            ));
        }
        let view = View::parse(bytes)?;
        if view.file_type != object::elf::ET_DYN.0 {
            return Err(Error::malformed(
                "ELF header",
                16,
                match object::elf::FileType(view.file_type) {
                    object::elf::ET_REL => "an object file or a kernel module, not a shared object",
                    object::elf::ET_EXEC => "a program, not a shared object",
                    object::elf::ET_CORE => "a core dump, not a shared object",
                    _ => "not a shared object (ET_DYN)",
                },
            ));
        }
        let loaded = loaded_end(&view)?;
        let text = text_ranges(&view, loaded)?;
        let exports = export::read(&view)?;
        if exports.is_empty() {
            return Err(Error::not_found(
                "exported function",
                "the dynamic symbol table defines none",
            ));
        }
        for export in &exports {
            let end = export.address.0.checked_add(export.size);
            if end.is_none_or(|end| end > loaded) {
                let reason = format!(
                    "{:#x} bytes at {} leave the image",
                    export.size, export.address
                );
                return Err(Error::symbol(&export.name, reason));
            }
        }
        let notes = note::read(&view)?;
        Ok(Self {
            bytes: bytes.to_vec(),
            class: view.class,
            machine: view.machine,
            exports,
            text,
            has_sections: !view.sections.is_empty(),
            loaded,
            build_id: notes.build_id,
            linux_version: notes.linux_version,
            tables: notes.tables,
        })
    }

    /// The bytes, headers included. An image-relative address is an index into them.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Width of addresses in the file format. x32 images are 32-bit although they run on x86-64.
    pub fn class(&self) -> Class {
        self.class
    }

    /// Instruction set.
    pub fn machine(&self) -> Machine {
        self.machine
    }

    /// Exported functions with their aliases, by address and then by name.
    pub fn exports(&self) -> &[Export] {
        &self.exports
    }

    /// The exported function of that name.
    pub fn export(&self, name: &str) -> Option<&Export> {
        self.exports.iter().find(|export| export.name == name)
    }

    /// The names of the function at an entry point: exports that share it are aliases.
    pub fn exports_at(&self, entry: Svma) -> impl Iterator<Item = &Export> + Clone {
        let exports = self.exports.iter();
        exports.filter(move |export| export.address == entry)
    }

    /// Image-relative ranges that hold code, ascending: executable sections, or executable segments
    /// where the image has no section headers.
    pub fn text(&self) -> &[Range<u64>] {
        &self.text
    }

    /// Whether [`Image::text`] holds nothing but code. Without section headers it holds whole
    /// segments, and only control flow tells code from data.
    pub fn has_sections(&self) -> bool {
        self.has_sections
    }

    /// End of what program headers load: relocations must lie below.
    pub fn loaded_size(&self) -> u64 {
        self.loaded
    }

    /// GNU build-id.
    pub fn build_id(&self) -> Option<&BuildId> {
        self.build_id.as_ref()
    }

    /// Version of the kernel the image was built with, from its `Linux` note.
    pub fn linux_version(&self) -> Option<LinuxVersion> {
        self.linux_version
    }

    /// The note that announces a relocation-capable image: `docs/abi.md`, section 1.
    pub fn tables_note(&self) -> Option<&TablesNote> {
        self.tables.as_ref()
    }

    /// Whether `address` lies in code.
    pub fn is_text(&self, address: Svma) -> bool {
        self.text.iter().any(|range| range.contains(&address.0))
    }

    /// The same image after a linker has changed constants of its code, and put more code behind it
    /// or where it has none. `bytes` are no fewer than the image's, and `added` are the ranges of
    /// that code, ascending. Each ends where other code begins.
    pub(crate) fn relinked(&self, bytes: &[u8], mut added: Vec<Range<u64>>) -> Option<Self> {
        let end = added.last().map_or(self.loaded, |range| range.end);
        let is_code = |range: &Range<u64>| self.is_text(Svma(range.start));
        if !self.has_sections {
            // The segment is code as a whole.
            added.retain(|range| !is_code(range));
        }
        for range in &mut added {
            let mut text = self.text.iter();
            if let Some(next) = text.find(|text| text.start >= range.start) {
                range.end = range.end.min(next.start);
            }
        }
        let is_possible =
            bytes.len() as u64 >= end.max(self.bytes.len() as u64) && !added.iter().any(is_code);
        is_possible.then(|| {
            let mut image = self.clone();
            image.bytes = bytes.to_vec();
            image.text.extend(added);
            image.text.sort_by_key(|range| range.start);
            image
        })
    }

    pub(crate) fn view(&self) -> Result<View<'_>> {
        View::parse(&self.bytes)
    }
}

/// Checks the loaded segments and returns their end.
fn loaded_end(view: &View<'_>) -> Result<u64> {
    let mut end = 0;
    for segment in view
        .segments
        .iter()
        .filter(|segment| segment.kind == object::elf::PT_LOAD.0)
    {
        if segment.address != segment.offset {
            let (address, offset) = (segment.address, segment.offset);
            let reason = match offset {
                0 => format!("linked at {address:#x}: only images that are linked at 0 are read"),
                _ => format!(
                    "linked at {address:#x} but stored at {offset:#x}, as in an ordinary shared \
                     object: a vDSO is mapped as it is stored"
                ),
            };
            return Err(Error::malformed(
                "ELF program headers",
                segment.offset,
                reason,
            ));
        }
        view.slice(
            "loaded segment",
            segment.offset,
            segment.memory_size.max(segment.file_size),
        )?;
        end = end.max(segment.address + segment.memory_size.max(segment.file_size));
    }
    match end {
        0 => Err(Error::malformed(
            "ELF program headers",
            0,
            "nothing is loaded",
        )),
        end => Ok(end),
    }
}

fn text_ranges(view: &View<'_>, loaded: u64) -> Result<Vec<Range<u64>>> {
    let executable = object::elf::SHF_ALLOC.0 | object::elf::SHF_EXECINSTR.0;
    let mut ranges = Vec::new();
    for section in &view.sections {
        if section.flags & executable == executable && section.kind == object::elf::SHT_PROGBITS.0 {
            let end = section
                .address
                .checked_add(section.size)
                .filter(|&end| end <= loaded);
            let Some(end) = end.filter(|_| section.address == section.offset) else {
                let reason = format!("section {} is not where it is loaded", section.name);
                return Err(Error::malformed(
                    "ELF section headers",
                    view.section_headers,
                    reason,
                ));
            };
            ranges.push(section.address..end);
        }
    }
    if view.sections.is_empty() {
        let executable = object::elf::PT_LOAD.0;
        let segments = view
            .segments
            .iter()
            .filter(|s| s.kind == executable && s.flags & object::elf::PF_X.0 != 0);
        ranges.extend(segments.map(|s| s.address..s.address + s.memory_size));
    }
    ranges.sort_by_key(|range| range.start);
    if let Some(pair) = ranges.windows(2).find(|pair| pair[1].start < pair[0].end) {
        return Err(Error::malformed(
            "ELF section headers",
            pair[1].start,
            "executable sections overlap",
        ));
    }
    Ok(ranges)
}
