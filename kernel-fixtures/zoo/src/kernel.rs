//! A kernel's source and configuration, unpacked.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use kernel_source::{Cache, TreeRequest};

use crate::arch;
use crate::generated;

/// The kernels, oldest first: the series, and the suites that its source is in.
pub(crate) const KERNELS: [(&str, &[&str]); 4] = [
    ("6.1", &["bookworm", "bookworm-security"]),
    ("6.12", &["trixie", "trixie-security"]),
    ("7.2", &["forky", "sid"]),
    ("7.3", &["experimental", "sid"]),
];

/// The file that says that a source was unpacked completely.
const COMPLETE: &str = "complete";

/// A kernel to build vDSOs from.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// The source, as far as the vDSO needs it.
    pub(crate) source: PathBuf,
    /// What the kernel's build would generate, except for the configuration.
    pub(crate) generated: PathBuf,
    /// The distribution's configuration: options and their values, as in `.config`.
    pub(crate) configuration: Vec<(String, String)>,
}

impl Kernel {
    /// The kernel of a series, from the cache or else from the distribution.
    pub(crate) fn fetch(cache: &Cache, series: &str) -> Result<Self> {
        let known = KERNELS.iter().find(|(known, _)| *known == series);
        let (_, suites) = known.with_context(|| format!("there is no source of {series}"))?;
        let name = format!("linux-source-{series}");
        let configuration = format!("linux-config-{series}");
        let tree = cache.tree(&TreeRequest {
            name: &name,
            suites,
            packages: &[&name, &configuration],
        })?;
        let packed = tree.root.join(format!("usr/src/{name}.tar.xz"));
        let source = cache.root().join("zoo").join(&name);
        if !source.join(COMPLETE).exists() {
            unpack(&packed, &name, &source).with_context(|| packed.display().to_string())?;
            generated::write(&source, &source.join("generated"))?;
            fs::write(source.join(COMPLETE), "")?;
        }
        let file = format!("usr/src/{configuration}/config.{}.xz", arch::CONFIGURATION);
        Ok(Self {
            configuration: read_configuration(&tree.root.join(file))?,
            generated: source.join("generated"),
            source,
        })
    }
}

/// Unpacks what a vDSO is made from.
fn unpack(packed: &Path, top: &str, to: &Path) -> Result<()> {
    if to.exists() {
        fs::remove_dir_all(to)?;
    }
    fs::create_dir_all(to)?;
    let wanted = [
        "Makefile",
        "include",
        "lib/vdso",
        "scripts/syscallhdr.sh",
        "arch/x86/entry",
        "arch/x86/include",
        "arch/x86/tools",
    ];
    let status = Command::new("tar")
        .args(["--extract", "--xz", "--strip-components=1"])
        .arg("--file")
        .arg(packed)
        .arg("--directory")
        .arg(to)
        .args(wanted.map(|path| format!("{top}/{path}")))
        .status()
        .context("tar")?;
    if !status.success() {
        bail!("tar: {status}");
    }
    Ok(())
}

fn read_configuration(file: &Path) -> Result<Vec<(String, String)>> {
    let packed = fs::File::open(file).with_context(|| file.display().to_string())?;
    let mut text = String::new();
    lzma_rust2::XzReader::new(packed, true).read_to_string(&mut text)?;
    Ok(parse_configuration(&text))
}

fn parse_configuration(text: &str) -> Vec<(String, String)> {
    let option = |line: &str| {
        let (name, value) = line.strip_prefix("CONFIG_")?.split_once('=')?;
        Some((name.to_owned(), value.to_owned()))
    };
    text.lines().filter_map(option).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_has_the_options_that_are_set() {
        let text = "# CONFIG_A is not set\nCONFIG_B=y\nCONFIG_C=\"x = y\"\n\nCONFIG_D=0x10\n";
        let expected = [("B", "y"), ("C", "\"x = y\""), ("D", "0x10")];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(parse_configuration(text), expected);
    }
}
