//! The names of files that are mapped.

use std::collections::HashMap;

use crate::Result;
use crate::directory::Directory;
use crate::image_file::{Format, ImageFile, Kind};
use crate::messages::{FileEntry, RegularFile};

/// Most bytes of all names that are kept, and what each counts for besides. Others are unknown, which
/// harms nothing.
const MOST: usize = 64 << 20;
const EACH: usize = 64;

/// The names of regular files, by number.
#[derive(Debug, Clone, Default)]
pub(crate) struct FileNames {
    names: HashMap<u64, String>,
    bytes: usize,
}

impl FileNames {
    /// Reads `files.img`, and `reg-files.img` of older versions.
    pub(crate) fn read(directory: &Directory, format: Format) -> Result<Self> {
        let mut names = Self::default();
        if let Some(mut file) = ImageFile::open(directory, "files.img", Kind::Files, format)? {
            while let Some((_, entry)) = file.message::<FileEntry>()? {
                if let Some(regular) = entry.regular {
                    names.add(entry.id.or(regular.id), &regular);
                }
            }
        }
        let older = ImageFile::open(directory, "reg-files.img", Kind::RegularFiles, format)?;
        if let Some(mut file) = older {
            while let Some((_, regular)) = file.message::<RegularFile>()? {
                names.add(regular.id, &regular);
            }
        }
        Ok(names)
    }

    fn add(&mut self, id: Option<u32>, file: &RegularFile) {
        if let (Some(id), Some(name)) = (id, &file.name)
            && self.bytes + name.len() + EACH <= MOST
        {
            self.bytes += name.len() + EACH;
            let name = String::from_utf8_lossy(name).into_owned();
            self.names.insert(u64::from(id), name);
        }
    }

    /// The name of a file, if it is known.
    pub(crate) fn get(&self, id: u64) -> Option<&str> {
        self.names.get(&id).map(String::as_str)
    }
}
