//! The argument of all commands that read an old image.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use relocator::tables::{Given, Options};

use crate::cache::Cache;
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

/// The user's cache of derived tables alone.
pub(crate) fn kept() -> Options {
    let cache = Cache::locate().map(|cache| Arc::new(cache) as _);
    Options { file: None, cache }
}
