//! Where images, kernels and tables come from: the edge where files and processes are read.
//!
//! A source names a kernel, old or new: what is running, what a process has, a file, a fixture, or a kernel of the
//! distribution. Opening it gives the vDSO image and the symbol table as far as the source has them.

use std::fmt;
use std::path::Path;

use elf_tools::image::Image;
use elf_tools::symtab::{self, Provenance};
use kernel_fixtures::fixture;
use kernel_source::Cache;
use relocator::source::{NoSymtab, Source};
use relocator_process::running;

use crate::{Error, Result};

/// Largest file that is read. Kernels with debug information come close to 1 GiB.
const MAX_FILE: u64 = 2 << 30;

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

impl Spec {
    /// Opens the source.
    pub fn open(&self) -> Result<Source> {
        Ok(match self {
            Self::Own => running::own()?,
            Self::Pid(pid) => running::process(*pid)?,
            Self::Fixture(name) => open_fixture(name)?,
            Self::Kernel(version) => {
                let kernel = Cache::locate().fetch(version)?;
                Source::read(&read_file(&kernel.path)?, self.to_string())?
            }
            Self::File(path) => Source::read(&read_file(path)?, self.to_string())?,
        })
    }
}

/// The bytes of a regular file.
pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>> {
    let metadata = std::fs::metadata(path).map_err(Error::path(path))?;
    if !metadata.is_file() || metadata.len() > MAX_FILE {
        let text = path.display().to_string();
        let reason = format!("not a regular file of at most {MAX_FILE} bytes");
        return Err(Error::Source { text, reason });
    }
    std::fs::read(path).map_err(Error::path(path))
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
        None => source.no_symtab = Some(NoSymtab::FixtureWithout),
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
