//! Stock kernels, from the distribution or running, taken apart.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use elf_tools::image::Image;
use elf_tools::kernel::KernelFile;
use elf_tools::layout::btf::Btf;
use elf_tools::symtab::{Symtab, stock_symbols};
use kernel_source::{Cache, Pin, VERSIONS};
use relocator::link::Old;

use crate::running::{RUNNING, in_words};

const RUNNING_BTF: &str = "/sys/kernel/btf/vmlinux";

/// A kernel file that was taken apart.
#[derive(Debug)]
pub struct Kernel {
    /// Its vDSO.
    pub image: Image,
    /// Its type information.
    pub btf: Vec<u8>,
    /// What has been derived from both, by the first test that needed it.
    symtab: OnceLock<Result<Symtab, String>>,
    /// The same, for what links.
    old: OnceLock<Result<Old, String>>,
}

impl Kernel {
    fn new(image: Image, btf: Vec<u8>) -> Self {
        Self {
            image,
            btf,
            symtab: OnceLock::new(),
            old: OnceLock::new(),
        }
    }

    /// Takes a kernel file apart.
    pub fn open(path: &Path) -> Result<Self, String> {
        let bytes = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let file = KernelFile::parse(&bytes).map_err(|error| error.to_string())?;
        let vdso = file.native_vdso().map_err(|error| error.to_string())?;
        let image = Image::parse(&vdso.bytes).map_err(|error| error.to_string())?;
        Ok(Self::new(image, file.btf.ok_or("the kernel has no BTF")?))
    }

    /// The one that runs the tests.
    pub fn running() -> Result<Self, String> {
        let running = RUNNING.as_ref().map_err(Clone::clone)?;
        let btf = fs::read(RUNNING_BTF).map_err(|error| format!("{RUNNING_BTF}: {error}"))?;
        Ok(Self::new(running.image.clone(), btf))
    }

    /// Its symbols, derived.
    pub fn symtab(&self) -> Result<&Symtab, String> {
        let symtab = self.symtab.get_or_init(|| {
            let btf = Btf::parse(&self.btf).map_err(|error| error.to_string())?;
            stock_symbols::from_layout(&btf, &self.image).map_err(|error| error.to_string())
        });
        symtab.as_ref().map_err(Clone::clone)
    }

    /// Its image with the table that is derived from its code, as an old one that is to be linked.
    pub fn old(&self) -> Result<&Old, String> {
        let old = self.old.get_or_init(|| {
            Old::derive(self.image.clone(), self.symtab()?).map_err(|error| in_words(&error))
        });
        old.as_ref().map_err(Clone::clone)
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

/// The kernels that modules of tests have asked for, by file: one that two of them need is taken
/// apart once.
static FETCHED: Mutex<BTreeMap<PathBuf, Shared>> = Mutex::new(BTreeMap::new());

/// Whether a kernel of the distribution can be had; what is only listed needs none.
pub fn can_be_had(version: &str, listing: bool) -> Result<(), String> {
    let fetched = match listing {
        true => Ok(()),
        false => Cache::locate().fetch(version).map(drop),
    };
    fetched.map_err(|error| in_words(&error))
}

/// The kernels of the distribution, each with its version and whether it can be had, and the one that
/// runs.
pub fn all(listing: bool) -> Vec<(&'static str, Shared, Result<(), String>)> {
    let cache = Cache::locate();
    let stock = VERSIONS.into_iter().map(|version| {
        let (kernel, path) = fetched(&cache, version, listing);
        (version, kernel, path.map(drop))
    });
    let running = RUNNING.as_ref().map(drop).map_err(Clone::clone);
    stock
        .chain([("running", shared(Kernel::running), running)])
        .collect()
}

/// A kernel of the distribution and its file, or why it could not be fetched. `listing` tests is no
/// reason to fetch.
pub fn fetched(cache: &Cache, version: &str, listing: bool) -> (Shared, Result<PathBuf, String>) {
    let path = match listing {
        true => Ok(PathBuf::new()),
        false => cache.fetch(version).map(|kernel| {
            report(&kernel);
            kernel.path
        }),
    };
    let path = path.map_err(|error| in_words(&error));
    let kernel = match &path {
        Ok(path) => opened_once(path),
        Err(reason) => {
            let reason = reason.clone();
            shared(move || Err(reason.clone()))
        }
    };
    (kernel, path)
}

/// The kernel of a file, which the first test that needs it opens, whichever module it is of.
fn opened_once(path: &Path) -> Shared {
    let mut fetched = FETCHED.lock().unwrap_or_else(PoisonError::into_inner);
    let entry = fetched.entry(path.to_owned());
    let open = || {
        let path = path.to_owned();
        shared(move || Kernel::open(&path))
    };
    entry.or_insert_with(open).clone()
}
