//! Where images are: a directory, or bytes that stand for one.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::libc;

use crate::{Error, Result, Unsupported};

/// What CRIU calls the link to the directory of the dump before.
const PARENT: &str = "parent";

/// What a directory of images has in any case.
pub(crate) const INVENTORY: &str = "inventory.img";

/// A directory of images.
#[derive(Debug, Clone)]
pub(crate) struct Directory {
    place: Place,
}

#[derive(Debug, Clone)]
enum Place {
    Disk(PathBuf),
    Held(Rc<Held>),
}

/// Images that are in memory, as a directory with files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    /// The files, by name.
    pub files: BTreeMap<String, Vec<u8>>,
    /// The directory of the dump before.
    pub parent: Option<Rc<Held>>,
}

/// What tells one directory from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Identity {
    Disk { device: u64, inode: u64 },
    Held(usize),
}

/// Where the images are of a directory, or of an unpacked checkpoint of a container.
pub(crate) fn of_images(path: &Path) -> PathBuf {
    let inside = path.join("checkpoint");
    match !path.join(INVENTORY).exists() && inside.join(INVENTORY).exists() {
        true => inside,
        false => path.to_owned(),
    }
}

impl Directory {
    /// A directory of the file system. Where an unpacked checkpoint of a container is given, its
    /// images are in a directory of that.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let metadata = std::fs::metadata(path).map_err(Error::path(path))?;
        let unsupported = |reason| Error::Unsupported {
            path: path.display().to_string(),
            reason,
        };
        if !metadata.is_dir() {
            return Err(unsupported(Unsupported::File));
        }
        let images = of_images(path);
        match images.join(INVENTORY).exists() {
            true => Ok(Self::at(&images)),
            false if has_sockets(path) => Err(unsupported(Unsupported::Stream)),
            false => Err(unsupported(Unsupported::NoInventory)),
        }
    }

    fn at(path: &Path) -> Self {
        let place = Place::Disk(path.to_owned());
        Self { place }
    }

    pub(crate) fn held(files: Held) -> Self {
        let place = Place::Held(Rc::new(files));
        Self { place }
    }

    /// The name of one of its files for errors.
    pub(crate) fn name(&self, file: &str) -> String {
        match &self.place {
            Place::Disk(path) => path.join(file).display().to_string(),
            Place::Held(_) => file.to_owned(),
        }
    }

    /// One of its files; `None` if there is none of that name.
    pub(crate) fn file(&self, name: &str) -> Result<Option<Content>> {
        match &self.place {
            Place::Disk(path) => Content::open(&path.join(name)),
            Place::Held(held) => Ok(held.files.contains_key(name).then(|| Content::Held {
                held: held.clone(),
                name: name.to_owned(),
            })),
        }
    }

    /// The directory of the dump before, if this one is incremental.
    pub(crate) fn parent(&self) -> Result<Option<Self>> {
        match &self.place {
            Place::Disk(path) => {
                let parent = path.join(PARENT);
                match std::fs::metadata(&parent) {
                    Ok(metadata) if metadata.is_dir() => Ok(Some(Self::at(&parent))),
                    Ok(_) => Err(Error::path(parent)(io::ErrorKind::NotADirectory.into())),
                    // A link that leads nowhere is no missing one.
                    Err(error) if std::fs::symlink_metadata(&parent).is_ok() => {
                        Err(Error::path(parent)(error))
                    }
                    Err(_) => Ok(None),
                }
            }
            Place::Held(held) => Ok(held.parent.as_ref().map(|parent| Self {
                place: Place::Held(parent.clone()),
            })),
        }
    }

    /// What it is, however it is named.
    pub(crate) fn identity(&self) -> Result<Identity> {
        match &self.place {
            Place::Disk(path) => {
                let metadata = std::fs::metadata(path).map_err(Error::path(path))?;
                Ok(Identity::Disk {
                    device: metadata.dev(),
                    inode: metadata.ino(),
                })
            }
            Place::Held(held) => Ok(Identity::Held(Rc::as_ptr(held).addr())),
        }
    }
}

/// Whether there are sockets, as of a program that streams images.
fn has_sockets(path: &Path) -> bool {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let mut kinds = entries.filter_map(|entry| entry.file_type().ok());
    kinds.any(|kind| kind.is_socket())
}

/// What a file holds. Parts of it are read when they are needed.
#[derive(Debug)]
pub(crate) enum Content {
    File { file: File, size: u64 },
    Held { held: Rc<Held>, name: String },
}

impl Content {
    /// Opens a regular file. Anything else under that name could block, or have no end.
    fn open(path: &Path) -> Result<Option<Self>> {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_NONBLOCK);
        let file = match options.open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::path(path)(error)),
        };
        let metadata = file.metadata().map_err(Error::path(path))?;
        match metadata.is_file() {
            true => Ok(Some(Self::File {
                file,
                size: metadata.len(),
            })),
            false => {
                let reason = io::Error::other("it is no regular file");
                Err(Error::path(path)(reason))
            }
        }
    }

    /// Its size in bytes, when it was opened.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::File { size, .. } => *size,
            Self::Held { .. } => self.bytes().len() as u64,
        }
    }

    /// Fills `bytes` from an offset on.
    pub(crate) fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        match self {
            Self::File { file, .. } => file.read_exact_at(bytes, offset),
            Self::Held { .. } => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                let rest = self.bytes().get(start..).unwrap_or_default();
                let part = rest.get(..bytes.len());
                bytes.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::File { .. } => &[],
            Self::Held { held, name } => held.files.get(name).map_or(&[], Vec::as_slice),
        }
    }
}
