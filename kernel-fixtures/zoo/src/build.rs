//! A vDSO from a kernel's source, a compiler and a change.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::arch;
use crate::change::Change;
use crate::compiler::{Family, Toolchain};
use crate::generated;
use crate::kernel::Kernel;

/// A vDSO that was built.
#[derive(Debug)]
pub(crate) struct Built {
    /// The vDSO as a kernel contains it.
    pub(crate) image: Vec<u8>,
    /// The same with debug information.
    pub(crate) debug: Vec<u8>,
}

/// Builds a vDSO.
pub(crate) fn build(kernel: &Kernel, toolchain: &Toolchain, change: &Change) -> Result<Built> {
    let directory = TempDir::with_prefix("kernel-zoo-")?;
    let build = Build {
        kernel,
        toolchain,
        change,
        options: options(kernel, toolchain, change),
        directory: directory.path(),
    };
    build.overlay()?;
    let image = build.link(&build.objects()?)?;
    let stripped = directory.path().join("vdso64.so");
    run(Command::new(&toolchain.objcopy)
        .args(["-S", "--remove-section", "__ex_table"])
        .arg(&image)
        .arg(&stripped))?;
    Ok(Built {
        image: fs::read(stripped)?,
        debug: fs::read(image)?,
    })
}

/// The configuration: the distribution's, what a kernel's build asks the compiler, and the change.
fn options(kernel: &Kernel, toolchain: &Toolchain, change: &Change) -> BTreeMap<String, String> {
    let mut options: BTreeMap<String, String> = kernel.configuration.iter().cloned().collect();
    let version = (toolchain.compiler.version * 10_000).to_string();
    let (is, is_not) = match toolchain.compiler.family {
        Family::Gcc => ("GCC", "CLANG"),
        Family::Clang => ("CLANG", "GCC"),
    };
    options.insert(format!("CC_IS_{is}"), "y".to_owned());
    options.insert(format!("{is}_VERSION"), version);
    options.remove(&format!("CC_IS_{is_not}"));
    options.insert(format!("{is_not}_VERSION"), "0".to_owned());
    // The distribution's packages set it when they are built.
    options.insert("BUILD_SALT".to_owned(), "\"zoo\"".to_owned());
    for (name, value) in change.options {
        match value {
            Some(value) => options.insert((*name).to_owned(), (*value).to_owned()),
            None => options.remove(*name),
        };
    }
    options
}

struct Build<'a> {
    kernel: &'a Kernel,
    toolchain: &'a Toolchain,
    change: &'a Change,
    options: BTreeMap<String, String>,
    directory: &'a Path,
}

impl Build<'_> {
    /// Writes the configuration and the headers that are changed, which are found before all
    /// others.
    fn overlay(&self) -> Result<()> {
        let mut headers: BTreeMap<&str, String> = BTreeMap::new();
        for edit in self.change.edits {
            let text = match headers.get(edit.file) {
                Some(text) => Some(text.clone()),
                None => fs::read_to_string(self.kernel.source.join(edit.file)).ok(),
            };
            match text {
                Some(text) => drop(headers.insert(edit.file, edit.apply(&text)?)),
                None if edit.is_optional() => {}
                None => bail!("there is no {}", edit.file),
            }
        }
        let configuration = generated::autoconf(&self.options);
        headers.insert("include/generated/autoconf.h", configuration);
        for (file, text) in headers {
            let file = self.directory.join(file);
            fs::create_dir_all(file.parent().unwrap_or(self.directory))?;
            fs::write(file, text)?;
        }
        Ok(())
    }

    /// Where the files of the vDSO are.
    fn vdso(&self) -> PathBuf {
        let places = arch::VDSO.map(|place| self.kernel.source.join(place));
        let newer = places.iter().find(|place| place.is_dir());
        newer.unwrap_or(&places[0]).clone()
    }

    /// How headers are found.
    fn includes(&self) -> Vec<OsString> {
        let own = format!("{}/include", arch::DIRECTORY);
        let generated = format!("{own}/generated");
        let kernel = self.kernel;
        let directories = [
            self.directory.join(&own),
            self.directory.join("include"),
            kernel.source.join(&own),
            kernel.generated.join(&generated),
            kernel.source.join("include"),
            kernel.generated.join("include"),
            kernel.source.join(&own).join("uapi"),
            kernel.generated.join(&generated).join("uapi"),
            kernel.source.join("include/uapi"),
            kernel.generated.join("include/generated/uapi"),
            self.vdso(),
            self.vdso().join(".."),
            kernel.source.clone(),
        ];
        let mut arguments = vec![OsString::from("-nostdinc")];
        for directory in directories {
            arguments.extend(["-I".into(), directory.into_os_string()]);
        }
        for header in ["compiler-version.h", "kconfig.h"] {
            let header = kernel.source.join("include/linux").join(header);
            if header.exists() {
                arguments.extend(["-include".into(), header.into_os_string()]);
            }
        }
        arguments.push("-D__KERNEL__".into());
        arguments
    }

    fn is_set(&self, option: &str) -> bool {
        self.options.contains_key(option)
    }

    /// Compiles everything that this kernel has: the files in C, and those in assembly language.
    fn objects(&self) -> Result<Vec<PathBuf>> {
        let vdso = self.vdso();
        let mut objects = Vec::new();
        let mut bare = Vec::new();
        for part in &arch::PARTS {
            let source = vdso.join(part.file);
            if !source.exists() || part.option.is_some_and(|option| !self.is_set(option)) {
                continue;
            }
            let object = self.directory.join(part.file).with_extension("o");
            let is_c = part.file.ends_with(".c");
            let mut command = Command::new(&self.toolchain.cc);
            command.args(self.includes());
            match is_c {
                true => self.flags(&mut command),
                false => drop(command.args(arch::ASSEMBLER_FLAGS)),
            }
            command.arg("-c").arg(&source).arg("-o").arg(&object);
            run(&mut command).with_context(|| part.file.to_owned())?;
            match is_c && self.change.at_link_time {
                true => bare.push(object),
                false => objects.push(object),
            }
        }
        if !bare.is_empty() {
            objects.push(self.at_link_time(&bare)?);
        }
        Ok(objects)
    }

    fn flags(&self, command: &mut Command) {
        let family = self.toolchain.compiler.family;
        let types = self.kernel.source.join("include/linux/compiler_types.h");
        command.arg("-include").arg(types);
        command.args(arch::FLAGS).args(arch::family_flags(family));
        command.arg("-O2");
        if self.is_set("RETPOLINE") || self.is_set("MITIGATION_RETPOLINE") {
            command.args(arch::retpoline_flags(family));
        }
        if self.is_set("X86_KERNEL_IBT") {
            command.args(["-fcf-protection=branch", "-fno-jump-tables"]);
        }
        command.args(self.change.flags);
        if self.change.at_link_time {
            command.arg("-flto");
        }
        command.args([
            "-DKBUILD_MODNAME=\"vdso\"",
            "-DKBUILD_BASENAME=\"vdso\"",
            "-DKBUILD_MODFILE=\"vdso\"",
        ]);
    }

    /// Compiles everything that was left for later, as one file.
    fn at_link_time(&self, objects: &[PathBuf]) -> Result<PathBuf> {
        let merged = self.directory.join("merged.o");
        let mut command = match self.toolchain.compiler.family {
            Family::Gcc => {
                let mut command = Command::new(&self.toolchain.cc);
                command.args(["-nostdlib", "-r", "-flinker-output=nolto-rel"]);
                self.flags(&mut command);
                command
            }
            Family::Clang => {
                let mut command = Command::new(&self.toolchain.lld);
                command.arg("-r").args(arch::LLVM_LINKER_FLAGS);
                command
            }
        };
        run(command.arg("-o").arg(&merged).args(objects)).context("at link time")?;
        Ok(merged)
    }

    /// Links the vDSO.
    fn link(&self, objects: &[PathBuf]) -> Result<PathBuf> {
        let vdso = self.vdso();
        let scripts = arch::LINKER_SCRIPTS.map(|script| vdso.join(script));
        let source = scripts.iter().find(|script| script.exists());
        let source = source.context("there is no linker script")?;
        let script = self.directory.join("vdso.lds");
        let mut command = Command::new(&self.toolchain.cc);
        command
            .args(["-E", "-P", "-C", "-Ux86"])
            .args(self.includes())
            .args(["-D__ASSEMBLY__", "-D__ASSEMBLER__", "-DLINKER_SCRIPT"])
            .args(["-x", "assembler-with-cpp"])
            .arg(source)
            .arg("-o")
            .arg(&script);
        run(&mut command).context("the linker script")?;
        let image = self.directory.join("vdso64.so.dbg");
        let mut command = Command::new(&self.toolchain.ld);
        command
            .args(arch::LINKER_FLAGS)
            .arg("-T")
            .arg(&script)
            .arg("-o")
            .arg(&image)
            .args(objects);
        run(&mut command).context("the linker")?;
        Ok(image)
    }
}

/// Runs a program; what it says where it fails.
fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().display().to_string();
    let output = command.output().with_context(|| program.clone())?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let errors: Vec<&str> = said.lines().filter(|line| line.contains("rror")).collect();
        let first = errors.first().or(said.lines().last().as_ref()).copied();
        bail!("{program}: {}", first.unwrap_or("failed").to_owned());
    }
    Ok(())
}
