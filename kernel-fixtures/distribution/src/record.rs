//! A kernel in the cache: the file, and a record of what it is beside it.

use std::fs;
use std::path::{Path, PathBuf};

use super::package::Package;
use super::{FetchError, Kernel, pin};

const KERNEL: &str = "vmlinuz";
const RECORD: &str = "kernel.txt";

/// Reads a kernel's directory, `None` if there is no complete kernel in it.
pub(super) fn read(directory: &Path, version: &str) -> Option<Kernel> {
    let record = fs::read_to_string(directory.join(RECORD)).ok()?;
    let field = |name: &str| {
        record.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            (key == name).then(|| value.to_owned())
        })
    };
    let path = directory.join(KERNEL);
    let size: u64 = field("size")?.parse().ok()?;
    let is_whole = fs::metadata(&path).is_ok_and(|file| file.is_file() && file.len() == size);
    let package = Package {
        name: field("package")?,
        version: field("package-version")?,
        size,
        sha256: field("package-sha256"),
    };
    is_whole.then(|| kernel(version, package, path))
}

/// Puts a kernel into its directory. `write` gets the path of a file to write it to.
///
/// Both files are written under other names and renamed, the record last: it says that the kernel is complete.
pub(super) fn write(
    directory: &Path,
    version: &str,
    package: &Package,
    write: impl FnOnce(&Path) -> Result<(), FetchError>,
) -> Result<Kernel, FetchError> {
    fs::create_dir_all(directory).map_err(FetchError::io(directory))?;
    let path = directory.join(KERNEL);
    let new = tempfile::NamedTempFile::new_in(directory).map_err(FetchError::io(directory))?;
    write(new.path())?;
    let size = fs::metadata(new.path())
        .map_err(FetchError::io(&path))?
        .len();
    persist(new, &path)?;

    let mut record = format!(
        "version: {version}\npackage: {}\npackage-version: {}\nsize: {size}\n",
        package.name, package.version
    );
    if let Some(sha256) = &package.sha256 {
        record.push_str(&format!("package-sha256: {sha256}\n"));
    }
    let path_of_record = directory.join(RECORD);
    let new = tempfile::NamedTempFile::new_in(directory).map_err(FetchError::io(directory))?;
    fs::write(new.path(), record).map_err(FetchError::io(new.path()))?;
    persist(new, &path_of_record)?;
    Ok(kernel(version, package.clone(), path))
}

fn kernel(version: &str, package: Package, path: PathBuf) -> Kernel {
    Kernel {
        version: version.to_owned(),
        pin: pin::of(version, &package),
        package: package.name,
        package_version: package.version,
        path,
    }
}

fn persist(file: tempfile::NamedTempFile, path: &Path) -> Result<(), FetchError> {
    let sync = file.as_file().sync_all();
    sync.map_err(FetchError::io(path))?;
    let persisted = file.persist(path).map_err(|error| error.error);
    persisted.map(drop).map_err(FetchError::io(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package() -> Package {
        Package {
            name: "linux-image-6.12.94+deb13-cloud-amd64".to_owned(),
            version: "6.12.94-1".to_owned(),
            size: 1,
            sha256: Some("0123".to_owned()),
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().join("kernels/6.12");
        let fill = |file: &Path| fs::write(file, "kernel").map_err(FetchError::io(file));
        let kernel = write(&directory, "6.12", &package(), fill).unwrap();
        assert_eq!(read(&directory, "6.12"), Some(kernel));
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 2);
    }

    #[test]
    fn an_incomplete_kernel_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let fail = |_: &Path| Err(FetchError::NoArchive);
        write(directory.path(), "6.12", &package(), fail).unwrap_err();
        assert_eq!(read(directory.path(), "6.12"), None);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);

        let fill = |file: &Path| fs::write(file, "kernel").map_err(FetchError::io(file));
        let kernel = write(directory.path(), "6.12", &package(), fill).unwrap();
        fs::write(&kernel.path, "ker").unwrap();
        assert_eq!(read(directory.path(), "6.12"), None);
    }
}
