//! The argument of all commands that read an old image.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use relocator::source::Source;
use relocator::tables::{self, Given, Options, Store};

use crate::cache;
use crate::source::read_file;

#[derive(clap::Args)]
pub(crate) struct OldTables {
    /// Relocations of an old vDSO that carries none: a file that `relocator derive` has written; or
    /// the symbols of its kernel, a file that `relocator symtab` has written, to derive them from.
    #[arg(long, value_name = "FILE")]
    old_tables: Option<PathBuf>,
}

impl OldTables {
    /// These, and the user's cache of derived tables.
    pub(crate) fn options(&self) -> Result<Options> {
        let given = |path: &PathBuf| {
            let name = path.display().to_string();
            let bytes = read_file(path)?.into();
            anyhow::Ok(Given { name, bytes })
        };
        let file = self.old_tables.as_ref().map(given).transpose()?;
        Ok(Options { file, ..kept() })
    }
}

/// Keeps the vDSO of a source in the user's cache. It is of use when a process with that vDSO is restored on another
/// kernel; a cache that cannot be written is no reason to fail.
pub(crate) fn remember(source: &Source) {
    if let (Some(cache), Some(image)) = (cache::locate(), &source.image) {
        cache.keep_image(image);
    }
}

/// The same, and its tables, unless they are there.
pub(crate) fn remember_all(source: &Source) {
    let (Some(cache), Some(image)) = (cache::locate(), &source.image) else {
        return;
    };
    let is_known = cache.path(image).is_none_or(|path| path.exists());
    if cache.keep_image(image) && !is_known && source.symtab.is_some() {
        // The next command tries it again.
        let _ = tables::derive(source, Some(&cache));
    }
}

/// The user's cache of derived tables alone.
pub(crate) fn kept() -> Options {
    let cache = cache::locate().map(|cache| Arc::new(cache) as _);
    Options { file: None, cache }
}
