//! The headers that a kernel's own build would generate.
//!
//! A whole configured kernel has many more. No code of a vDSO depends on the numbers in `bounds.h`,
//! `asm-offsets.h` and `rq-offsets.h`; headers that it includes want them to be there.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::arch;

/// Writes them, but for the configuration, below `to`.
pub(crate) fn write(source: &Path, to: &Path) -> Result<()> {
    let own = to.join(arch::DIRECTORY).join("include/generated");
    for directory in ["asm", "uapi/asm"] {
        fs::create_dir_all(own.join(directory))?;
    }
    fs::create_dir_all(to.join("include/generated/uapi/linux"))?;
    let include = source.join(arch::DIRECTORY).join("include");
    for (of, generic) in [("asm", "asm-generic"), ("uapi/asm", "uapi/asm-generic")] {
        let wrapped = wrapped(&include.join(of), &source.join("include").join(generic))?;
        for header in wrapped {
            let text = format!("#include <asm-generic/{header}>\n");
            fs::write(own.join(of).join(header), text)?;
        }
    }
    system_calls(source, &own)?;
    masks(source, &own)?;
    let version = Version::of(&fs::read_to_string(source.join("Makefile"))?)?;
    for (name, text) in [
        ("bounds.h", BOUNDS.to_owned()),
        ("timeconst.h", String::new()),
        ("asm-offsets.h", arch::RECORD_SIZES.to_owned()),
        ("rq-offsets.h", "#define RQ_nr_pinned 0\n".to_owned()),
        ("utsrelease.h", version.release()),
        ("uapi/linux/version.h", version.code()),
    ] {
        fs::write(to.join("include/generated").join(name), text)?;
    }
    Ok(())
}

/// What `kernel/bounds.c` comes to in some configuration.
const BOUNDS: &str = "\
#define NR_PAGEFLAGS 24
#define MAX_NR_ZONES 5
#define NR_CPUS_BITS 13
#define SPINLOCK_SIZE 4
#define LRU_GEN_WIDTH 3
#define __LRU_REFS_WIDTH 2
";

/// The headers of a directory that stand for generic ones.
fn wrapped(own: &Path, generic: &Path) -> Result<Vec<String>> {
    let mut headers = listed(&own.join("Kbuild"), "generic-y")?;
    let mandatory = listed(&generic.join("Kbuild"), "mandatory-y")?;
    let missing = mandatory
        .into_iter()
        .filter(|header| !own.join(header).exists());
    headers.extend(missing);
    Ok(headers)
}

/// The files that a `Kbuild` adds to a list.
fn listed(kbuild: &Path, list: &str) -> Result<Vec<String>> {
    let text = fs::read_to_string(kbuild).with_context(|| kbuild.display().to_string())?;
    let added = text.lines().filter_map(|line| {
        let (name, files) = line.split_once("+=")?;
        (name.trim() == list).then_some(files)
    });
    Ok(added
        .flat_map(str::split_whitespace)
        .map(str::to_owned)
        .collect())
}

fn system_calls(source: &Path, own: &Path) -> Result<()> {
    let tables = source.join(arch::DIRECTORY).join("entry/syscalls");
    for (header, table, abis, further) in arch::SYSTEM_CALLS {
        let header = own.join(header);
        let status = Command::new("sh")
            .arg(source.join("scripts/syscallhdr.sh"))
            .args(["--abis", abis, "--emit-nr"])
            .args(further)
            .arg(tables.join(table))
            .arg(&header)
            .status()
            .context("sh")?;
        if !status.success() {
            bail!("{}: {status}", header.display());
        }
    }
    Ok(())
}

/// Masks of processor features, since Linux 6.15; none of a feature is known to be missing.
fn masks(source: &Path, own: &Path) -> Result<()> {
    let script = source
        .join(arch::DIRECTORY)
        .join("tools/cpufeaturemasks.awk");
    if !script.exists() {
        return Ok(());
    }
    let output = Command::new("awk")
        .arg("-f")
        .arg(&script)
        .arg(
            source
                .join(arch::DIRECTORY)
                .join("include/asm/cpufeatures.h"),
        )
        .arg("/dev/null")
        .output()
        .context("awk")?;
    if !output.status.success() {
        bail!("{}: {}", script.display(), output.status);
    }
    fs::write(own.join("asm/cpufeaturemasks.h"), output.stdout)?;
    Ok(())
}

/// A kernel's version, from its `Makefile`.
#[derive(Debug, PartialEq, Eq)]
struct Version([u32; 3]);

impl Version {
    fn of(makefile: &str) -> Result<Self> {
        let assigned: BTreeMap<&str, &str> = makefile
            .lines()
            .take(10)
            .filter_map(|line| line.split_once('='))
            .map(|(name, value)| (name.trim(), value.trim()))
            .collect();
        let number = |name: &str| -> Result<u32> {
            let value = assigned.get(name);
            let value = value.with_context(|| format!("the Makefile has no {name}"))?;
            value.parse().with_context(|| format!("{name} is {value}"))
        };
        Ok(Self([
            number("VERSION")?,
            number("PATCHLEVEL")?,
            number("SUBLEVEL")?,
        ]))
    }

    /// `utsrelease.h`
    fn release(&self) -> String {
        let [major, minor, patch] = self.0;
        format!("#define UTS_RELEASE \"{major}.{minor}.{patch}\"\n")
    }

    /// `version.h`
    fn code(&self) -> String {
        let [major, minor, patch] = self.0;
        let code = (major << 16) | (minor << 8) | patch.min(255);
        let mut text = format!("#define LINUX_VERSION_CODE {code}\n");
        text.push_str("#define KERNEL_VERSION(a,b,c) (((a) << 16) + ((b) << 8) + (c))\n");
        for (name, value) in [("MAJOR", major), ("PATCHLEVEL", minor), ("SUBLEVEL", patch)] {
            let _ = writeln!(text, "#define LINUX_VERSION_{name} {value}");
        }
        text
    }
}

/// `autoconf.h` of a configuration.
pub(crate) fn autoconf(configuration: &BTreeMap<String, String>) -> String {
    let mut text = String::new();
    for (name, value) in configuration {
        let _ = match value.as_str() {
            "y" => writeln!(text, "#define CONFIG_{name} 1"),
            "m" => writeln!(text, "#define CONFIG_{name}_MODULE 1"),
            value => writeln!(text, "#define CONFIG_{name} {value}"),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_from_the_makefile() {
        let makefile = "# SPDX\nVERSION = 6\nPATCHLEVEL = 12\nSUBLEVEL = 300\nEXTRAVERSION =\n";
        let version = Version::of(makefile).unwrap();
        assert_eq!(version, Version([6, 12, 300]));
        assert!(
            version
                .code()
                .starts_with("#define LINUX_VERSION_CODE 396543\n")
        );
        assert!(Version::of("VERSION = 6\n").is_err());
    }

    #[test]
    fn options_become_macros() {
        let options = [("A", "y"), ("B", "m"), ("C", "\"x\""), ("D", "0x10")];
        let options = options.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let expected = "#define CONFIG_A 1\n#define CONFIG_B_MODULE 1\n#define CONFIG_C \"x\"\n\
                        #define CONFIG_D 0x10\n";
        assert_eq!(autoconf(&options.into_iter().collect()), expected);
    }
}
