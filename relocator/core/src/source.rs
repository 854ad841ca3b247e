//! A kernel as one source shows it: a process, a file, a table.
//!
//! The caller reads a source, from a file or a process; this module understands the bytes.

use elf_tools::image::{Image, LinuxVersion};
use elf_tools::kernel::{KernelFile, is_kernel_file};
use elf_tools::layout::btf::Btf;
use elf_tools::layout::dwarf::Dwarf;
use elf_tools::symtab::{self, Provenance, Symtab, stock_symbols};
use elf_tools::{Avma, BuildId, printable, relocation};

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

/// Why a source has no symbol table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoSymtab {
    /// It is a vDSO and nothing else.
    #[error("a vDSO alone does not say how its kernel lays out vvar")]
    VdsoAlone,
    /// It is a process whose vDSO is not the running kernel's.
    #[error("its vDSO is not the one of the running kernel")]
    OtherKernel,
    /// It is a fixture without one.
    #[error("this fixture exports none")]
    FixtureWithout,
    /// Its kernel is not known.
    #[error(
        "the vDSO of the process has build-id {build_id}, of which no table is known here (give --old \
         kernel:VERSION or --old-tables FILE)"
    )]
    UnknownKernel {
        /// Build-id of the vDSO in hexadecimal.
        build_id: String,
    },
    /// It should have one, which cannot be read or derived; what is wrong with it.
    #[error("{0}")]
    Unreadable(String),
    /// It has none, and says nothing about that.
    #[error("the source has no symbols")]
    Unknown,
}

impl NoSymtab {
    /// A word for programs, which stays the same from version to version.
    pub fn code(&self) -> &'static str {
        match self {
            Self::VdsoAlone => "vdso-alone",
            Self::OtherKernel => "other-kernel",
            Self::FixtureWithout => "fixture-without",
            Self::UnknownKernel { .. } => "unknown-kernel",
            Self::Unreadable(_) => "unreadable",
            Self::Unknown => "unknown",
        }
    }
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
    pub no_symtab: Option<NoSymtab>,
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

    /// Reads the bytes of a file: a vDSO, a kernel, or a symbol table object.
    pub fn read(bytes: &[u8], name: impl Into<String>) -> Result<Self> {
        let mut source = Self::named(name);
        if symtab::elf::is_symtab(bytes) {
            let table = symtab::elf::read(bytes, Provenance::File);
            source.symtab = Some(table.map_err(Error::input(&source.name))?);
        } else if is_kernel_file(bytes) {
            source.read_kernel(bytes)?;
        } else if relocation::object::is_table(bytes) {
            return Err(Error::TableAsSource { name: source.name });
        } else {
            let image = Image::parse(bytes).map_err(Error::input(&source.name))?;
            source.symtab = own_symbols(bytes, &image);
            source.no_symtab = source.symtab.is_none().then_some(NoSymtab::VdsoAlone);
            source.image = Some(image);
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
            Err(error) => self.no_symtab = Some(NoSymtab::Unreadable(error.to_string())),
        }
        self.image = Some(image);
        Ok(())
    }

    /// The vDSO, or an error that says the source has none.
    pub fn require_image(&self) -> Result<&Image> {
        let name = || self.name.clone();
        self.image
            .as_ref()
            .ok_or_else(|| Error::NoImage { name: name() })
    }

    /// The symbol table, or an error that says why the source has none.
    pub fn require_symtab(&self) -> Result<&Symtab> {
        self.symtab().map_err(|reason| Error::NoSymtab {
            name: self.name.clone(),
            reason,
        })
    }

    /// The symbol table, or why there is none.
    pub fn symtab(&self) -> Result<&Symtab, NoSymtab> {
        let reason = || self.no_symtab.clone().unwrap_or(NoSymtab::Unknown);
        self.symtab.as_ref().ok_or_else(reason)
    }

    /// What the description of the kernel's types did not say, for a report.
    pub fn gaps(&self) -> Vec<String> {
        let gaps = self.symtab.iter().flat_map(|symtab| &symtab.gaps);
        gaps.map(|gap| printable(&gap.to_string()).into_owned())
            .collect()
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

/// The symbols from BTF; or from DWARF where the kernel was built without BTF, and where its BTF
/// cannot be read or says less. What was wrong with the first is among the gaps.
fn symbols(kernel: &KernelFile, image: &Image) -> elf_tools::Result<Symtab> {
    use elf_tools::Error;

    let of_btf = match (&kernel.btf, &kernel.btf_fault) {
        (_, Some(fault)) => Err(fault.clone()),
        (Some(btf), None) => {
            Btf::parse(btf).and_then(|btf| stock_symbols::from_layout(&btf, image))
        }
        (None, None) => Err(Error::not_found("BTF", "the kernel was built without it")),
    };
    let faults = match &of_btf {
        Ok(symtab) if symtab.gaps.is_empty() => return of_btf,
        Ok(symtab) => symtab.gaps.clone(),
        Err(fault) => vec![fault.clone()],
    };
    let dwarf = Dwarf::parse(&kernel.vmlinux);
    match (
        of_btf,
        dwarf.and_then(|dwarf| stock_symbols::from_layout(&dwarf, image)),
    ) {
        (Ok(of_btf), Ok(of_dwarf)) if of_dwarf.gaps.len() >= of_btf.gaps.len() => Ok(of_btf),
        (_, Ok(mut of_dwarf)) => {
            of_dwarf.gaps.splice(..0, faults);
            Ok(of_dwarf)
        }
        (Ok(of_btf), Err(_)) => Ok(of_btf),
        (Err(of_btf), Err(of_dwarf)) => {
            let reason = format!("BTF: {of_btf}; DWARF: {of_dwarf}");
            Err(Error::not_found("description of the vvar", reason))
        }
    }
}

/// The symbols from DWARF in the vDSO itself, as a kernel's build leaves it in `vdso64.so.dbg`.
fn own_symbols(bytes: &[u8], image: &Image) -> Option<Symtab> {
    let dwarf = Dwarf::parse(bytes).ok()?;
    stock_symbols::from_layout(&dwarf, image).ok()
}
