//! Real kernels: those of the distribution, and the one that runs the tests.

use std::fs;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use elf_tools::image::Image;
use elf_tools::kernel::KernelFile;
use elf_tools::layout::btf::Btf;
use elf_tools::symtab::{Symtab, vocabulary};

use crate::running::RUNNING;

const RUNNING_BTF: &str = "/sys/kernel/btf/vmlinux";

/// A kernel that was taken apart.
#[derive(Debug)]
pub struct Real {
    /// Its vDSO; of a kernel that is not running, before boot.
    pub image: Image,
    /// Its type information.
    pub btf: Vec<u8>,
}

impl Real {
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

    /// Its symbols, by its type information.
    pub fn symtab(&self) -> Result<Symtab, String> {
        let btf = Btf::parse(&self.btf).map_err(|error| error.to_string())?;
        vocabulary::from_layout(&btf, &self.image).map_err(|error| error.to_string())
    }
}

/// Something that is opened by the first test that needs it.
pub type Shared<T> = Arc<dyn Fn() -> Result<Arc<T>, String> + Send + Sync>;

/// Opens something once, when it is first needed.
pub fn shared<T: Send + Sync + 'static>(
    open: impl Fn() -> Result<T, String> + Send + Sync + 'static,
) -> Shared<T> {
    let opened: OnceLock<Result<Arc<T>, String>> = OnceLock::new();
    Arc::new(move || opened.get_or_init(|| open().map(Arc::new)).clone())
}
