//! The kernel modules that a guest needs, with those that they depend on.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use lzma_rust2::XzReader;
use object::{Object as _, ObjectSection as _};

use super::Archive;

/// Disks, and what CRIU asks the kernel about sockets, firewalls and network devices. What a kernel
/// does not have as a module is built in, or missing; CRIU says so.
const WANTED: [&str; 14] = [
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "inet_diag",
    "tcp_diag",
    "udp_diag",
    "raw_diag",
    "unix_diag",
    "af_packet_diag",
    "netlink_diag",
    "nf_tables",
    "nf_conntrack_netlink",
    "tun",
    "veth",
];

/// Where the guest's first program finds the modules, and the order to load them in.
const DIRECTORY: &str = "/lab/modules";

/// An archive with the modules of a kernel, and the list `order`.
pub(crate) fn modules(tree: &Path) -> Result<Archive> {
    let files = index(tree)?;
    let mut archive = Archive::default();
    let (mut order, mut seen) = (String::new(), BTreeSet::new());
    for name in WANTED {
        add(name, &files, &mut archive, &mut order, &mut seen)?;
    }
    archive.file(format!("{DIRECTORY}/order"), 0o644, order.as_bytes())?;
    Ok(archive)
}

/// Adds a module behind those that it depends on.
fn add(
    name: &str,
    files: &BTreeMap<String, PathBuf>,
    archive: &mut Archive,
    order: &mut String,
    seen: &mut BTreeSet<String>,
) -> Result<()> {
    let Some(path) = files.get(name).filter(|_| seen.insert(name.to_owned())) else {
        return Ok(());
    };
    let content = read(path).with_context(|| path.display().to_string())?;
    for needed in dependencies(&content).with_context(|| path.display().to_string())? {
        add(&needed, files, archive, order, seen)?;
    }
    archive.file(format!("{DIRECTORY}/{name}.ko"), 0o644, &content)?;
    order.push_str(&format!("{name}.ko\n"));
    Ok(())
}

/// All modules below a directory, by name.
fn index(tree: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    let mut left = vec![tree.to_owned()];
    while let Some(directory) = left.pop() {
        let entries = fs::read_dir(&directory).with_context(|| directory.display().to_string())?;
        for entry in entries {
            let entry = entry?;
            let file_name = entry.file_name();
            let file_name = file_name.to_string_lossy();
            if entry.file_type()?.is_dir() {
                left.push(entry.path());
            } else if let Some(name) = module_name(&file_name) {
                found.insert(name, entry.path());
            }
        }
    }
    match found.is_empty() {
        true => bail!("there are no modules in {}", tree.display()),
        false => Ok(found),
    }
}

/// The name of a module by that of its file. Kernels take `-` for `_`.
fn module_name(file: &str) -> Option<String> {
    let (name, rest) = file.split_once(".ko")?;
    matches!(rest, "" | ".xz").then(|| name.replace('-', "_"))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(path)?;
    if path.extension().is_none_or(|kind| kind != "xz") {
        return Ok(bytes);
    }
    let mut content = Vec::new();
    XzReader::new(bytes.as_slice(), true).read_to_end(&mut content)?;
    Ok(content)
}

/// What a module's own list says that it depends on.
fn dependencies(module: &[u8]) -> Result<Vec<String>> {
    let file = object::read::elf::ElfFile64::<object::endian::Endianness>::parse(module)?;
    let section = file.section_by_name(".modinfo").context("no .modinfo")?;
    let text = String::from_utf8_lossy(section.data()?).into_owned();
    let list = text
        .split('\0')
        .find_map(|field| field.strip_prefix("depends="));
    let names = list.unwrap_or_default().split(',');
    Ok(names
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_by_their_names() {
        assert_eq!(
            module_name("virtio_blk.ko.xz").as_deref(),
            Some("virtio_blk")
        );
        assert_eq!(
            module_name("crc32c-generic.ko").as_deref(),
            Some("crc32c_generic")
        );
        for other in ["modules.order", "vmlinuz", "x.ko.sig"] {
            assert_eq!(module_name(other), None, "{other}");
        }
    }

    #[test]
    fn a_tree_without_modules_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let error = modules(directory.path()).unwrap_err().to_string();
        assert!(error.contains("no modules"), "{error}");
    }
}
