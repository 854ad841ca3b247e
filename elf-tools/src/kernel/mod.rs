//! The vDSO images and the BTF inside a kernel file.
//!
//! No distribution packages vDSO files, and BTF is only offered by the running kernel. Both are
//! inside the kernel file that is packaged, under up to four layers, which the modules here take
//! off one by one:
//!
//! | layer | module |
//! |---|---|
//! | what boot loaders want around it: UKI, Android boot image, uImage | `container` |
//! | the boot image: bzImage, zboot | `bzimage`, `arm64` |
//! | the compression | `decompress` |
//! | the kernel itself: `vmlinux`, or an arm64 `Image` | `vmlinux` |
//! | in it, as data: vDSO images, BTF, the release banner | `embedded`, `btf`, `release` |

mod arm64;
mod btf;
mod bzimage;
mod container;
mod decompress;
mod embedded;
#[cfg(test)]
mod fixture;
mod release;
#[cfg(test)]
mod tests;
mod vmlinux;

use std::fmt;

pub use container::Container;
pub use decompress::Compression;
pub use embedded::EmbeddedVdso;

use crate::foreign::foreign;
pub use crate::{Class, Machine};
use crate::{Error, Result};

/// A kernel file, taken apart.
#[derive(Debug, Clone)]
pub struct KernelFile {
    /// What the kernel is in, beside other things.
    pub container: Option<Container>,
    /// What the file is, or what is in the container.
    pub format: Format,
    /// The architecture the kernel was built for, where the file says so. A compressed payload that
    /// is neither ELF nor an arm64 `Image` does not.
    pub machine: Option<Machine>,
    /// The kernel release as `uname -r` prints it.
    pub release: Option<String>,
    /// The vDSO images, in the order in which they lie in [`KernelFile::vmlinux`].
    pub vdsos: Vec<EmbeddedVdso>,
    /// The kernel's own BTF, if it was built with it.
    pub btf: Option<Vec<u8>>,
    /// What is wrong with a BTF that is there and is not read. The rest of the kernel is none the
    /// worse.
    pub btf_fault: Option<Error>,
    /// The kernel with containers and compression taken off: an ELF, or a raw `Image`.
    pub vmlinux: Vec<u8>,
}

impl KernelFile {
    /// Takes a kernel file apart.
    ///
    /// A kernel without vDSOs or without BTF is not an error here: ask [`KernelFile::native_vdso`].
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if this is no kernel file or one that is compressed in a way that is
    /// not handled, [`Error::Malformed`] if a part of it contradicts its format.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let content = container::content(bytes)?;
        let container = content.map(|(container, _)| container);
        let bytes = content.map_or(bytes, |(_, kernel)| kernel);
        let (format, vmlinux) = unpack(bytes)?;
        let machine = match format {
            Format::Arm64Image { .. } => Some(Machine::Aarch64),
            _ if arm64::is_image(&vmlinux) => Some(Machine::Aarch64),
            _ => vmlinux::machine(&vmlinux),
        };
        let release = release::find(&vmlinux).or_else(|| match format {
            Format::BzImage { .. } => bzimage::release(bytes),
            _ => None,
        });
        let vdsos = embedded::find(&vmlinux);
        let (btf, btf_fault) = match btf::find(&vmlinux)? {
            Ok(btf) => (btf.map(<[u8]>::to_vec), None),
            Err(fault) => (None, Some(fault)),
        };
        Ok(Self {
            container,
            format,
            machine,
            release,
            vdsos,
            btf,
            btf_fault,
            vmlinux,
        })
    }

    /// The vDSO for programs of the kernel's own architecture and word size.
    ///
    /// A kernel embeds one vDSO for each kind of program it runs: an x86-64 kernel has one for
    /// 64-bit, one for x32 and one for 32-bit programs, of which the first two agree in machine and
    /// the last two in class.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], naming the images that are there instead.
    pub fn native_vdso(&self) -> Result<&EmbeddedVdso> {
        let class = match self.machine {
            Some(machine) if machine.is_32_bit() => Class::Elf32,
            _ => Class::Elf64,
        };
        let native = |vdso: &&EmbeddedVdso| {
            vdso.class == class && self.machine.is_none_or(|machine| vdso.machine == machine)
        };
        self.vdsos.iter().find(native).ok_or_else(|| {
            let found: Vec<String> = self.vdsos.iter().map(EmbeddedVdso::to_string).collect();
            let found = if found.is_empty() {
                "no vDSO at all".to_owned()
            } else {
                found.join(", ")
            };
            Error::not_found(
                "vDSO of the kernel's own architecture",
                format!("the {} has {found}", self.format),
            )
        })
    }
}

/// Whether bytes look like a kernel file, as far as their first few kilobytes tell.
///
/// This is for telling a kernel file from a bare vDSO image or from something else before reading
/// on. Anything compressed counts, since it takes decompression to know more; a vDSO image and an
/// ordinary program do not.
pub fn is_kernel_file(bytes: &[u8]) -> bool {
    bzimage::is_bzimage(bytes)
        || arm64::is_image(bytes)
        || arm64::is_zboot(bytes)
        || Compression::detect(bytes).is_some()
        || vmlinux::is_vmlinux(bytes)
        || container::is_container(bytes)
}

/// Takes off containers and compression.
fn unpack(bytes: &[u8]) -> Result<(Format, Vec<u8>)> {
    if bzimage::is_bzimage(bytes) {
        let payload = bzimage::payload(bytes)?;
        let (compression, kernel) = payload.unpack()?;
        if !vmlinux::is_elf(&kernel) {
            return Err(Error::malformed(
                "bzImage payload",
                payload.offset,
                format!("{compression} data that unpacks to something else than an ELF"),
            ));
        }
        return Ok((Format::BzImage { compression }, kernel));
    }
    // A zboot file is a PE file as well, and so are arm64 Images, so the more specific one goes
    // first.
    if arm64::is_zboot(bytes) {
        let (compression, kernel) = arm64::zboot_payload(bytes)?.unpack()?;
        return Ok((Format::Zboot { compression }, kernel));
    }
    if let Some(plain) = plain(bytes, Compression::None) {
        return Ok((plain, bytes.to_vec()));
    }
    if Compression::detect(bytes).is_some() {
        let (compression, kernel) = decompress::Payload { bytes, offset: 0 }.unpack()?;
        if let Some(format) = plain(&kernel, compression) {
            return Ok((format, kernel));
        }
        return Err(Error::unsupported(
            "kernel file",
            format!("{compression} data that holds neither a vmlinux nor an arm64 Image"),
        ));
    }
    Err(not_a_kernel(bytes))
}

/// The format of a kernel that is in no container.
fn plain(kernel: &[u8], compression: Compression) -> Option<Format> {
    if vmlinux::is_vmlinux(kernel) {
        Some(Format::Vmlinux { compression })
    } else if arm64::is_image(kernel) {
        Some(Format::Arm64Image { compression })
    } else {
        None
    }
}

/// Says what is there instead of a kernel file.
fn not_a_kernel(bytes: &[u8]) -> Error {
    let found = if embedded::is_vdso(bytes) {
        "a bare vDSO image"
    } else if vmlinux::is_elf(bytes) {
        "an ELF that is not linked into the kernel's half of the address space"
    } else {
        foreign(bytes).unwrap_or("an unknown format")
    };
    Error::unsupported(
        "kernel file",
        format!(
            "{found}; understood are vmlinux, bzImage, arm64 Image, zboot, compressed ones of the first and third, \
             and all of them in a unified kernel image, an Android boot image or a uImage"
        ),
    )
}

/// What a kernel file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// The kernel as an ELF: `vmlinux`, or with compression `vmlinux.xz` and the like.
    Vmlinux {
        /// What the whole file is compressed with.
        compression: Compression,
    },
    /// The x86 boot image.
    BzImage {
        /// What the kernel inside is compressed with.
        compression: Compression,
    },
    /// The arm64 boot image: `Image`, or with compression `Image.gz` and the like.
    Arm64Image {
        /// What the whole file is compressed with.
        compression: Compression,
    },
    /// An EFI program that decompresses the kernel it holds (`vmlinuz.efi`; arm64, RISC-V,
    /// LoongArch).
    Zboot {
        /// What the kernel inside is compressed with.
        compression: Compression,
    },
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, compression) = match self {
            Self::Vmlinux { compression } => ("vmlinux", compression),
            Self::BzImage { compression } => ("bzImage", compression),
            Self::Arm64Image { compression } => ("arm64 Image", compression),
            Self::Zboot { compression } => ("zboot", compression),
        };
        match compression {
            Compression::None => f.write_str(name),
            _ => write!(f, "{name} ({compression})"),
        }
    }
}

/// The width of addresses of programs of a class.
fn address_bits(class: Class) -> u32 {
    match class {
        Class::Elf32 => 32,
        Class::Elf64 => 64,
    }
}
