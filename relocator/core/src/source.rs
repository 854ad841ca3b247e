//! A kernel as one source shows it: a process, a file, a table.
//!
//! Reading a source is the business of whoever has it; the bytes of a file are understood here.

use elf_tools::image::{Image, LinuxVersion};
use elf_tools::kernel::{KernelFile, is_kernel_file};
use elf_tools::layout::btf::Btf;
use elf_tools::layout::dwarf::Dwarf;
use elf_tools::symtab::{self, Provenance, Symtab, stock_symbols};
use elf_tools::{Avma, BuildId, relocation};

use crate::placement::Placement;
use crate::{Error, Result};

/// One of the kernel's mappings in a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveMapping {
    /// As in `/proc/PID/maps`.
    pub name: String,
    /// First byte.
    pub start: Avma,
    /// Size in bytes.
    pub size: u64,
}

/// A kernel as one source shows it.
#[derive(Debug, Clone)]
pub struct Source {
    /// As it was asked for.
    pub name: String,
    /// The vDSO.
    pub image: Option<Image>,
    /// The symbols of its vvar.
    pub symtab: Option<Symtab>,
    /// Why there is no symbol table, if there is none.
    pub no_symtab: Option<String>,
    /// The mappings of the process, if the source is one.
    pub live: Vec<LiveMapping>,
}

impl Source {
    /// A source with nothing in it yet.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            image: None,
            symtab: None,
            no_symtab: None,
            live: Vec::new(),
        }
    }

    /// What the bytes of a file say: a vDSO, a kernel, or a symbol table object.
    pub fn read(bytes: &[u8], name: impl Into<String>) -> Result<Self> {
        let mut source = Self::named(name);
        if symtab::elf::is_symtab(bytes) {
            let table = symtab::elf::read(bytes, Provenance::File);
            source.symtab = Some(table.map_err(Error::input(&source.name))?);
        } else if is_kernel_file(bytes) {
            source.read_kernel(bytes)?;
        } else if relocation::object::is_table(bytes) {
            let reason = "a relocation table belongs to an image and is no source of its own; see --old-tables";
            return Err(Error::Source {
                text: source.name,
                reason: reason.to_owned(),
            });
        } else {
            source.image = Some(Image::parse(bytes).map_err(Error::input(&source.name))?);
            source.no_symtab =
                Some("a vDSO alone does not say how its kernel lays out vvar".to_owned());
        }
        Ok(source)
    }

    fn read_kernel(&mut self, bytes: &[u8]) -> Result<()> {
        let kernel = KernelFile::parse(bytes).map_err(Error::input(&self.name))?;
        let vdso = kernel.native_vdso().map_err(Error::input(&self.name))?;
        let image = Image::parse(&vdso.bytes);
        let image = image.map_err(Error::input(format!("{}, vDSO", self.name)))?;
        match symbols(&kernel, &image) {
            Ok(symtab) => self.symtab = Some(symtab),
            Err(error) => self.no_symtab = Some(error.to_string()),
        }
        self.image = Some(image);
        Ok(())
    }

    /// The vDSO, or an error that says the source has none.
    pub fn require_image(&self) -> Result<&Image> {
        self.image.as_ref().ok_or_else(|| Error::Source {
            text: self.name.clone(),
            reason: "it has no vDSO image".to_owned(),
        })
    }

    /// The symbol table, or an error that says why the source has none.
    pub fn require_symtab(&self) -> Result<&Symtab> {
        self.symtab.as_ref().ok_or_else(|| Error::Source {
            text: self.name.clone(),
            reason: format!(
                "no symbol table: {}",
                self.no_symtab.as_deref().unwrap_or("the source has none")
            ),
        })
    }

    /// Where the symbol table came from.
    pub fn provenance(&self) -> Option<Provenance> {
        self.symtab.as_ref().map(Symtab::provenance)
    }

    /// The kernel's version, by its image or its table.
    pub fn linux_version(&self) -> Option<LinuxVersion> {
        let of_image = self.image.as_ref().and_then(Image::linux_version);
        of_image.or_else(|| self.symtab.as_ref().and_then(|symtab| symtab.linux_version))
    }

    /// The build-id of the vDSO.
    pub fn build_id(&self) -> Option<&BuildId> {
        let of_table = || {
            self.symtab
                .as_ref()
                .and_then(|symtab| symtab.build_id.as_ref())
        };
        self.image
            .as_ref()
            .and_then(Image::build_id)
            .or_else(of_table)
    }

    /// The mappings of a live source as a placement for an image at `image`.
    pub fn placement(&self, image: Avma) -> Placement {
        let mappings = self
            .live
            .iter()
            .map(|mapping| (mapping.name.clone(), mapping.start))
            .collect();
        Placement { image, mappings }
    }
}

/// The symbols from BTF, or from DWARF where the kernel was built without BTF.
fn symbols(kernel: &KernelFile, image: &Image) -> elf_tools::Result<Symtab> {
    match &kernel.btf {
        Some(btf) => stock_symbols::from_layout(&Btf::parse(btf)?, image),
        None => stock_symbols::from_layout(&Dwarf::parse(&kernel.vmlinux)?, image),
    }
}
