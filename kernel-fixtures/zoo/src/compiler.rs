//! Compilers of the distribution's releases, unpacked.
//!
//! A compiler runs with the libraries that it was unpacked with. Its driver calls other programs,
//! which need the same, so each of them gets a script that calls it through its own dynamic linker.

use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use kernel_source::{Cache, TreeRequest};

use crate::arch::{DYNAMIC_LINKER, TRIPLET};

/// Whose compiler it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    Gcc,
    Clang,
}

/// A compiler by its version, and the suites that it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Compiler {
    pub(crate) family: Family,
    pub(crate) version: u32,
    suites: &'static [&'static str],
}

const fn gcc(version: u32, suites: &'static [&'static str]) -> Compiler {
    Compiler {
        family: Family::Gcc,
        version,
        suites,
    }
}

const fn clang(version: u32, suites: &'static [&'static str]) -> Compiler {
    Compiler {
        family: Family::Clang,
        version,
        suites,
    }
}

/// The compilers that the archive has: those of releases, and the newest.
pub(crate) const COMPILERS: [Compiler; 14] = [
    gcc(11, &["bookworm"]),
    gcc(12, &["bookworm"]),
    gcc(13, &["trixie"]),
    gcc(14, &["trixie"]),
    gcc(15, &["forky"]),
    gcc(16, &["forky"]),
    clang(14, &["bookworm"]),
    clang(15, &["bookworm"]),
    clang(16, &["bookworm"]),
    clang(17, &["trixie"]),
    clang(18, &["trixie"]),
    clang(19, &["trixie"]),
    clang(21, &["forky"]),
    clang(22, &["forky"]),
];

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = match self.family {
            Family::Gcc => "gcc",
            Family::Clang => "clang",
        };
        write!(f, "{family}-{}", self.version)
    }
}

/// A compiler that can be called, with the linker and the tools that belong to it.
#[derive(Debug)]
pub(crate) struct Toolchain {
    pub(crate) compiler: Compiler,
    pub(crate) cc: PathBuf,
    pub(crate) ld: PathBuf,
    pub(crate) objcopy: PathBuf,
    /// LLVM's linker, which links what Clang has compiled for a later stage.
    pub(crate) lld: PathBuf,
}

impl Compiler {
    /// The compiler from the cache, or else from the distribution.
    pub(crate) fn fetch(self, cache: &Cache) -> Result<Toolchain> {
        let name = self.to_string();
        let lld = format!("lld-{}", self.version);
        let packages: &[&str] = match self.family {
            Family::Gcc => &[&name],
            Family::Clang => &[&name, &lld],
        };
        let tree = cache.tree(&TreeRequest {
            name: &name,
            suites: self.suites,
            packages,
        })?;
        let scripts = Scripts {
            root: tree.root,
            to: cache.root().join("zoo/bin").join(&name),
            llvm: format!("usr/lib/llvm-{}/lib", self.version),
        };
        scripts.write(self).with_context(|| name.clone())
    }
}

/// The scripts that call a tree's programs.
struct Scripts {
    root: PathBuf,
    to: PathBuf,
    /// Where LLVM's libraries are, below the root.
    llvm: String,
}

impl Scripts {
    fn write(&self, compiler: Compiler) -> Result<Toolchain> {
        fs::create_dir_all(&self.to)?;
        let version = compiler.version;
        let tool = |name: &str| -> Result<PathBuf> {
            let places = [
                format!("usr/bin/{TRIPLET}-{name}"),
                format!("usr/bin/{name}"),
            ];
            self.script(name, &self.first(&places)?, "")
        };
        tool("as")?;
        let (ld, objcopy) = (tool("ld.bfd")?, tool("objcopy")?);
        fs::copy(&ld, self.to.join("ld"))?;
        let cc = match compiler.family {
            Family::Gcc => self.gcc(version)?,
            Family::Clang => {
                let program = self.first(&[format!("usr/bin/clang-{version}")])?;
                // It calls itself by the name that it was called by, which is the script.
                self.script("clang", &program, "-no-canonical-prefixes")?
            }
        };
        let lld = match compiler.family {
            Family::Gcc => PathBuf::new(),
            Family::Clang => {
                let program = self.first(&[format!("usr/bin/ld.lld-{version}")])?;
                self.script("ld.lld", &program, "")?
            }
        };
        Ok(Toolchain {
            compiler,
            cc,
            ld,
            objcopy,
            lld,
        })
    }

    /// GCC's driver and the programs that it calls, which it looks for where `-B` says.
    fn gcc(&self, version: u32) -> Result<PathBuf> {
        let places = ["lib", "libexec"];
        let places = places.map(|place| format!("usr/{place}/gcc/{TRIPLET}/{version}"));
        for name in ["cc1", "collect2", "lto1", "lto-wrapper"] {
            let places = places.clone().map(|place| format!("{place}/{name}"));
            self.script(name, &self.first(&places)?, "")?;
        }
        let plugin = places.map(|place| format!("{place}/liblto_plugin.so"));
        let (plugin, link) = (self.first(&plugin)?, self.to.join("liblto_plugin.so"));
        if !link.exists() {
            std::os::unix::fs::symlink(plugin, link)?;
        }
        let driver = [
            format!("usr/bin/{TRIPLET}-gcc-{version}"),
            format!("usr/bin/gcc-{version}"),
        ];
        let further = format!("-B {}/", self.to.display());
        self.script("gcc", &self.first(&driver)?, &further)
    }

    /// The first of some files that the tree has.
    fn first(&self, places: &[String]) -> Result<PathBuf> {
        let mut places = places.iter().map(|place| self.root.join(place));
        let found = places.clone().find(|place| place.exists());
        found.with_context(|| {
            let wanted = places.next().unwrap_or_default();
            format!("there is no {}", wanted.display())
        })
    }

    /// Writes the script that calls a program under that name.
    fn script(&self, name: &str, program: &Path, further: &str) -> Result<PathBuf> {
        let linkers = [
            "lib64",
            "usr/lib64",
            &format!("usr/lib/{TRIPLET}"),
            &format!("lib/{TRIPLET}"),
        ]
        .map(|directory| format!("{directory}/{DYNAMIC_LINKER}"));
        let linker = self.first(&linkers)?;
        let libraries = [
            format!("usr/lib/{TRIPLET}"),
            format!("lib/{TRIPLET}"),
            self.llvm.clone(),
        ];
        let libraries = libraries.map(|directory| self.root.join(directory).display().to_string());
        let path = self.to.join(name);
        // Where a driver calls itself, its first argument says as what.
        let text = format!(
            "#!/bin/sh\ncase $1 in -cc1*) ;; *) set -- {further} \"$@\" ;; esac\n\
             exec {} --argv0 {} --library-path {} {} \"$@\"\n",
            linker.display(),
            path.display(),
            libraries.join(":"),
            program.display(),
        );
        fs::write(&path, text).with_context(|| path.display().to_string())?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(path)
    }
}
