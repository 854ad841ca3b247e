//! The argument of all commands that read an old image.

use std::path::PathBuf;

use relocator::tables::Options;

#[derive(clap::Args)]
pub(crate) struct OldTables {
    /// Where to take the old vDSO's relocations from if it carries none: a relocation table that `relocator derive` has
    /// written, or a symbol table of its kernel that `relocator symtab` has written, to derive them with.
    #[arg(long, value_name = "FILE")]
    old_tables: Option<PathBuf>,
}

impl OldTables {
    /// These, and the user's cache of derived tables.
    pub(crate) fn options(&self) -> Options {
        Options::usual(self.old_tables.clone())
    }
}
