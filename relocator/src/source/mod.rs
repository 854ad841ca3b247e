//! Where images, kernels and tables come from: the edge where files and processes are read.
//!
//! A source names a kernel, old or new: what is running, what a process has, a file, a fixture, or a kernel of the
//! distribution. Opening it gives the vDSO image and the symbol table as far as the source has them.

mod file;
mod live;

use std::fmt;

use elf_tools::image::{Image, LinuxVersion};
use elf_tools::symtab::{Provenance, Symtab};
use elf_tools::{Avma, symtab};
use kernel_fixtures::distribution::Cache;
use kernel_fixtures::fixture;

use crate::placement::Placement;
use crate::{Error, Result};

pub(crate) use file::read as read_file;
pub use live::{LiveMapping, kernel_mapping};

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

/// How a source is spelled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spec {
    /// The running kernel, by this process.
    Own,
    /// A process.
    Pid(i32),
    /// A built-in fixture.
    Fixture(String),
    /// A kernel of the distribution, fetched if need be.
    Kernel(String),
    /// A vDSO, vmlinux, vmlinuz or symbol table file.
    File(std::path::PathBuf),
}

impl std::str::FromStr for Spec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |reason: &str| Error::Source {
            text: text.to_owned(),
            reason: reason.to_owned(),
        };
        match text.split_once(':') {
            _ if text == "self" => Ok(Self::Own),
            Some(("pid", digits)) => match digits.parse() {
                Ok(pid) if pid > 0 => Ok(Self::Pid(pid)),
                _ => Err(bad("a process is named as pid:NUMBER")),
            },
            Some(("fixture", name)) => Ok(Self::Fixture(name.to_owned())),
            Some(("kernel", version)) if !version.is_empty() => {
                Ok(Self::Kernel(version.to_owned()))
            }
            Some(("kernel", _)) => Err(bad(
                "a kernel is named as kernel:VERSION, for example kernel:6.12",
            )),
            _ if text.is_empty() => Err(bad(
                "expected self, pid:N, fixture:NAME, kernel:VERSION or a file",
            )),
            _ => Ok(Self::File(text.into())),
        }
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own => f.write_str("self"),
            Self::Pid(pid) => write!(f, "pid:{pid}"),
            Self::Fixture(name) => write!(f, "fixture:{name}"),
            Self::Kernel(version) => write!(f, "kernel:{version}"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

impl Source {
    /// Opens a source.
    pub fn open(spec: &Spec) -> Result<Self> {
        match spec {
            Spec::Own => live::own(),
            Spec::Pid(pid) => live::process(*pid),
            Spec::Fixture(name) => open_fixture(name),
            Spec::Kernel(version) => {
                let kernel = Cache::locate().fetch(version)?;
                file::open(&kernel.path, spec.to_string())
            }
            Spec::File(path) => file::open(path, spec.to_string()),
        }
    }

    /// A source with nothing in it yet.
    fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            image: None,
            symtab: None,
            no_symtab: None,
            live: Vec::new(),
        }
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
    pub fn build_id(&self) -> Option<&[u8]> {
        let of_table = || {
            self.symtab
                .as_ref()
                .and_then(|symtab| symtab.build_id.as_deref())
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

fn open_fixture(name: &str) -> Result<Source> {
    let spec = Spec::Fixture(name.to_owned()).to_string();
    let Some((image, table)) = fixture_bytes(name) else {
        let good = fixture::all().iter().map(|fixture| fixture.name);
        let bad = fixture::malformed();
        let known: Vec<_> = good
            .chain(bad.iter().map(|malformed| malformed.name))
            .collect();
        let reason = format!("there are {}", known.join(", "));
        return Err(Error::Source { text: spec, reason });
    };
    let mut source = Source::named(spec.clone());
    source.image = Some(Image::parse(&image).map_err(Error::input(&spec))?);
    match table {
        Some(bytes) => {
            let symtab = symtab::elf::read(&bytes, Provenance::Exported);
            source.symtab = Some(symtab.map_err(Error::input(&spec))?);
        }
        None => source.no_symtab = Some("this fixture exports none".to_owned()),
    }
    Ok(source)
}

/// The image and the symbol table of a fixture, well formed or not.
fn fixture_bytes(name: &str) -> Option<(Vec<u8>, Option<Vec<u8>>)> {
    if let Some(found) = fixture::find(name) {
        return Some((found.image.to_vec(), found.symtab.map(<[u8]>::to_vec)));
    }
    let found = fixture::malformed()
        .into_iter()
        .find(|malformed| malformed.name == name)?;
    Some((found.image, found.symtab))
}
