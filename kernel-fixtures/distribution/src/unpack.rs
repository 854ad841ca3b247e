//! The kernel in a package.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use super::package::Package;
use super::{FetchError, Kernel, record};

/// Takes the kernel out of a package and puts it into a directory of the cache.
pub(super) fn kernel(
    deb: &Path,
    package: &Package,
    directory: &Path,
    version: &str,
) -> Result<Kernel, FetchError> {
    let failed = |reason: String| FetchError::Unpack {
        package: package.name.clone(),
        reason,
    };
    let listing = tar(deb, package, &["--list"], Stdio::piped())?;
    let listing = String::from_utf8_lossy(&listing);
    let mut members = listing.lines().filter(|member| is_kernel(member));
    let (member, more) = (members.next(), members.next());
    let member = match (member, more) {
        (Some(member), None) => member,
        (None, _) => return Err(failed("there is no vmlinuz in it".to_owned())),
        (Some(one), Some(other)) => {
            return Err(failed(format!(
                "there are two kernels in it, {one} and {other}"
            )));
        }
    };
    record::write(directory, version, package, |path| {
        let file = File::create(path).map_err(FetchError::io(path))?;
        let arguments = ["--extract", "--to-stdout", "--no-wildcards", "--", member];
        tar(deb, package, &arguments, Stdio::from(file))?;
        match std::fs::metadata(path) {
            Ok(file) if file.len() > 0 => Ok(()),
            Ok(_) => Err(failed(format!("{member} is empty"))),
            Err(error) => Err(FetchError::io(path)(error)),
        }
    })
}

/// Where packages have the kernel: in `boot`, from 7.x with the modules.
fn is_kernel(member: &str) -> bool {
    let path: Vec<&str> = member.trim_start_matches("./").split('/').collect();
    match path.as_slice() {
        ["boot", file] => file.starts_with("vmlinuz-"),
        ["usr", "lib", "modules", _, file] => *file == "vmlinuz",
        _ => false,
    }
}

/// Runs tar over the files of a package. The result is its output, if that is a pipe.
fn tar(
    deb: &Path,
    package: &Package,
    arguments: &[&str],
    output: Stdio,
) -> Result<Vec<u8>, FetchError> {
    let missing = |program: &str| {
        let program = program.to_owned();
        move |source| FetchError::MissingProgram { program, source }
    };
    let failed = |reason: String| FetchError::Unpack {
        package: package.name.clone(),
        reason,
    };
    let mut reader = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(deb)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(missing("dpkg-deb"))?;
    let files = reader.stdout.take().map_or_else(Stdio::null, Stdio::from);
    let result = Command::new("tar")
        .args(["--file", "-"])
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(files)
        .stdout(output)
        .stderr(Stdio::piped())
        .spawn()
        .and_then(|tar| tar.wait_with_output());
    // Wait in any case, to leave no zombie behind; tar holds the other end of the pipe, so this ends when it does.
    let read = reader.wait();
    let result = result.map_err(missing("tar"))?;
    if !result.status.success() {
        let reason = String::from_utf8_lossy(&result.stderr);
        let reason = reason.lines().next().unwrap_or_default();
        return Err(failed(format!("tar: {} {reason}", result.status)));
    }
    match read {
        Ok(status) if status.success() => Ok(result.stdout),
        Ok(status) => Err(failed(format!("dpkg-deb: {status}"))),
        Err(error) => Err(failed(format!("dpkg-deb: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_told_from_other_files() {
        assert!(is_kernel("./boot/vmlinuz-6.12.94+deb13-cloud-amd64"));
        assert!(is_kernel("./usr/lib/modules/7.3-cloud-amd64/vmlinuz"));
        assert!(is_kernel("usr/lib/modules/7.3-cloud-amd64/vmlinuz"));
        for other in [
            "./boot/",
            "./boot/config-6.12",
            "./boot/old/vmlinuz-6.12",
            "./usr/lib/modules/7.3/vmlinuz.sig",
            "./usr/share/doc/vmlinuz",
        ] {
            assert!(!is_kernel(other), "{other}");
        }
    }

    /// Needs dpkg-deb and tar, as all of this module does; elsewhere there is nothing to test.
    #[test]
    fn a_package_is_unpacked_and_a_broken_one_refused() {
        let directory = tempfile::tempdir().unwrap();
        let tree = directory.path().join("tree");
        std::fs::create_dir_all(tree.join("DEBIAN")).unwrap();
        std::fs::create_dir_all(tree.join("boot")).unwrap();
        let control =
            "Package: k\nVersion: 1\nArchitecture: all\nMaintainer: none\nDescription: none\n";
        std::fs::write(tree.join("DEBIAN/control"), control).unwrap();
        std::fs::write(tree.join("boot/vmlinuz-6.12"), "kernel").unwrap();
        let deb = directory.path().join("k.deb");
        let built = Command::new("dpkg-deb")
            .arg("--build")
            .args([&tree, &deb])
            .output();
        if !built.is_ok_and(|output| output.status.success()) {
            return;
        }
        let package = Package {
            name: "k".to_owned(),
            version: "1".to_owned(),
            size: 1,
            sha256: None,
        };
        let target = directory.path().join("kernel");
        let unpacked = kernel(&deb, &package, &target, "6.12").unwrap();
        assert_eq!(std::fs::read(unpacked.path).unwrap(), b"kernel");

        let bytes = std::fs::read(&deb).unwrap();
        std::fs::write(&deb, &bytes[..bytes.len() - 20]).unwrap();
        let target = directory.path().join("broken");
        let error = kernel(&deb, &package, &target, "6.12").unwrap_err();
        assert!(matches!(error, FetchError::Unpack { .. }), "{error}");
        assert_eq!(record::read(&target, "6.12"), None);
    }
}
