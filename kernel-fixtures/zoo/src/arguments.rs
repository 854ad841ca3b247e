//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

/// vDSOs from kernel sources, by many compilers and in many configurations
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) action: Action,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Print the names of the vDSOs.
    List(Chosen),
    /// Build vDSOs and judge them: status 1 if anything is not as it should be.
    Run {
        #[command(flatten)]
        chosen: Chosen,
        /// How far they are judged.
        #[arg(long, value_enum, default_value_t)]
        until: Until,
        /// Write the table to this file as well, as Markdown.
        #[arg(long, value_name = "FILE")]
        markdown: Option<PathBuf>,
    },
    /// Build one vDSO, as `vdso64.so` and with debug information as `vdso64.so.dbg`.
    Build {
        /// Its name, as `list` prints it.
        name: String,
        /// Where to put the files.
        #[arg(short, long, default_value = ".")]
        output: PathBuf,
    },
}

/// Which vDSOs.
#[derive(Debug, clap::Args)]
pub(crate) struct Chosen {
    /// The dozen that every change is tested with.
    #[arg(long)]
    pub(crate) few: bool,
    /// Those whose names contain one of these; all if there are none.
    #[arg(value_name = "PART")]
    pub(crate) parts: Vec<String>,
}

/// How far a vDSO is judged. Each includes those before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, ValueEnum)]
pub(crate) enum Until {
    /// Tables are derived.
    Tables,
    /// It is linked, and its answers are compared.
    Calls,
    /// Threads are stopped inside, and brought from a kernel without a time namespace into one, as
    /// a restore does it first.
    #[default]
    Threads,
    /// The same in all combinations of time namespaces.
    Namespaces,
}
