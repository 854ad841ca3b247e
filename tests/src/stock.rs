//! Stock kernels, from the distribution or running, taken apart.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use elf_tools::image::Image;
use elf_tools::kernel::KernelFile;
use elf_tools::layout::btf::Btf;
use elf_tools::symtab::{Symtab, stock_symbols};
use kernel_source::{Cache, Pin};

use crate::running::{RUNNING, in_words};

const RUNNING_BTF: &str = "/sys/kernel/btf/vmlinux";

/// A kernel file that was taken apart.
#[derive(Debug)]
pub struct Kernel {
    /// Its vDSO.
    pub image: Image,
    /// Its type information.
    pub btf: Vec<u8>,
}

impl Kernel {
    /// Takes a kernel file apart.
    pub fn open(path: &Path) -> Result<Self, String> {
        let bytes = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let file = KernelFile::parse(&bytes).map_err(|error| error.to_string())?;
        let vdso = file.native_vdso().map_err(|error| error.to_string())?;
        Ok(Self {
            image: Image::parse(&vdso.bytes).map_err(|error| error.to_string())?,
            btf: file.btf.ok_or("the kernel has no BTF")?,
        })
    }

    /// The one that runs the tests.
    pub fn running() -> Result<Self, String> {
        let running = RUNNING.as_ref().map_err(Clone::clone)?;
        Ok(Self {
            image: running.image.clone(),
            btf: fs::read(RUNNING_BTF).map_err(|error| format!("{RUNNING_BTF}: {error}"))?,
        })
    }

    /// Its symbols, derived.
    pub fn symtab(&self) -> Result<Symtab, String> {
        let btf = Btf::parse(&self.btf).map_err(|error| error.to_string())?;
        stock_symbols::from_layout(&btf, &self.image).map_err(|error| error.to_string())
    }
}

/// A kernel that is opened by the first test that needs it.
pub type Shared = Arc<dyn Fn() -> Result<Arc<Kernel>, String> + Send + Sync>;

/// A kernel that is opened once.
pub fn shared(open: impl Fn() -> Result<Kernel, String> + Send + Sync + 'static) -> Shared {
    let opened: OnceLock<Result<Arc<Kernel>, String>> = OnceLock::new();
    Arc::new(move || opened.get_or_init(|| open().map(Arc::new)).clone())
}

/// Says that figures may differ from those that were counted on another package.
fn report(kernel: &kernel_source::Kernel) {
    if let Pin::Other(pinned) = &kernel.pin {
        let (package, version) = (&kernel.package, &kernel.package_version);
        eprintln!(
            "kernel {}: {package} {version} is not the package that figures were counted on ({pinned})",
            kernel.version
        );
    }
}

/// A kernel of the distribution and its file, or why it could not be fetched. `listing` tests is no reason to fetch.
pub fn fetched(cache: &Cache, version: &str, listing: bool) -> (Shared, Result<PathBuf, String>) {
    let path = match listing {
        true => Ok(PathBuf::new()),
        false => cache.fetch(version).map(|kernel| {
            report(&kernel);
            kernel.path
        }),
    };
    let path = path.map_err(|error| in_words(&error));
    let file = path.clone();
    (shared(move || Kernel::open(&file.clone()?)), path)
}
