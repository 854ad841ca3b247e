//! Sources in files: a vDSO, a kernel, or a symbol table object.

use std::path::Path;

use elf_tools::image::Image;
use elf_tools::kernel::{KernelFile, is_kernel_file};
use elf_tools::layout::btf::Btf;
use elf_tools::layout::dwarf::Dwarf;
use elf_tools::relocation;
use elf_tools::symtab::{self, Provenance, Symtab, vocabulary};

use crate::source::Source;
use crate::{Error, Result};

/// Largest file that is read. Kernels with debug information come close to 1 GiB.
const MAX_FILE: u64 = 2 << 30;

/// The bytes of a regular file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    let metadata = std::fs::metadata(path).map_err(Error::path(path))?;
    if !metadata.is_file() || metadata.len() > MAX_FILE {
        let text = path.display().to_string();
        let reason = format!("not a regular file of at most {MAX_FILE} bytes");
        return Err(Error::Source { text, reason });
    }
    std::fs::read(path).map_err(Error::path(path))
}

pub(super) fn open(path: &Path, name: String) -> Result<Source> {
    let bytes = read(path)?;
    let mut source = Source::named(name);
    if symtab::elf::is_symtab(&bytes) {
        let table =
            symtab::elf::read(&bytes, Provenance::File).map_err(Error::input(&source.name))?;
        source.symtab = Some(table);
    } else if is_kernel_file(&bytes) {
        open_kernel(&bytes, &mut source)?;
    } else if relocation::object::is_table(&bytes) {
        let reason =
            "a relocation table belongs to an image and is no source of its own; see --old-tables"
                .to_owned();
        return Err(Error::Source {
            text: source.name,
            reason,
        });
    } else {
        source.image = Some(Image::parse(&bytes).map_err(Error::input(&source.name))?);
        source.no_symtab =
            Some("a vDSO alone does not say how its kernel lays out vvar".to_owned());
    }
    Ok(source)
}

fn open_kernel(bytes: &[u8], source: &mut Source) -> Result<()> {
    let kernel = KernelFile::parse(bytes).map_err(Error::input(&source.name))?;
    let vdso = kernel.native_vdso().map_err(Error::input(&source.name))?;
    let image =
        Image::parse(&vdso.bytes).map_err(Error::input(format!("{}, vDSO", source.name)))?;
    match derive(&kernel, &image) {
        Ok(symtab) => source.symtab = Some(symtab),
        Err(error) => source.no_symtab = Some(error.to_string()),
    }
    source.image = Some(image);
    Ok(())
}

/// The symbols from BTF, or from DWARF where the kernel was built without BTF.
fn derive(kernel: &KernelFile, image: &Image) -> elf_tools::Result<Symtab> {
    match &kernel.btf {
        Some(btf) => vocabulary::from_layout(&Btf::parse(btf)?, image),
        None => vocabulary::from_layout(&Dwarf::parse(&kernel.vmlinux)?, image),
    }
}
