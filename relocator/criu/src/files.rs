//! The names of files that are mapped.

use std::collections::HashMap;

use crate::Result;
use crate::directory::Directory;
use crate::image_file::{Format, ImageFile, Kind};
use crate::messages::{FileEntry, RegularFile};

/// Most names that are kept. Others are unknown, which harms nothing.
const MOST: usize = 1 << 20;

/// The names of regular files, by number.
#[derive(Debug, Clone, Default)]
pub(crate) struct FileNames(HashMap<u64, String>);

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
            && self.0.len() < MOST
        {
            let name = String::from_utf8_lossy(name).into_owned();
            self.0.insert(u64::from(id), name);
        }
    }

    /// The name of a file, if it is known.
    pub(crate) fn get(&self, id: u64) -> Option<&str> {
        self.0.get(&id).map(String::as_str)
    }
}
