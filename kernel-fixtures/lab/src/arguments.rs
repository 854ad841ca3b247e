//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::guest::{Contain, Container};
use crate::kind::Language;
use crate::machine::Settings;
use crate::packages;

/// Real kernels in virtual machines: dump with CRIU on one, restore on another, with and without
/// the relocator, and check every answer of the vDSO.
#[derive(Debug, Parser)]
#[command(name = "kernel-lab", version)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) settings: Settings,
    /// The relocator that guests run. Else the workspace's own, which is built.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) relocator: Option<PathBuf>,
    /// Show what guests say besides results.
    #[arg(long, short, global = true)]
    pub(crate) verbose: bool,
    #[command(subcommand)]
    pub(crate) action: Action,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Run a command in a guest: a program of this machine, with its libraries, at the same path.
    Run(Run),
    /// A shell in a guest, with CRIU, the relocator and the checker.
    Shell {
        /// The kernel: 6.12, 6.12.94, or a package.
        kernel: String,
    },
    /// Run test suites of this workspace in a guest.
    Suite(Suite),
    /// Restore on every kernel what was dumped on every other one.
    Matrix(Matrix),
    /// Take processes over several kernels, one after the other.
    Chain(Chain),
    /// Four pairs and a chain, in a short time.
    Ci(Output),
    /// Fetch everything that the other commands need.
    Fetch {
        /// Kernels.
        #[arg(default_values = kernel_source::VERSIONS)]
        kernels: Vec<String>,
    },
    /// What a guest runs.
    #[command(hide = true)]
    Guest,
    /// What a guest runs to set up containers.
    #[command(hide = true, subcommand)]
    Contain(Contain),
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The kernel: 6.12, 6.12.94, or a package.
    pub(crate) kernel: String,
    /// A file or directory that the guest gets at the same path. May be repeated.
    #[arg(long, value_name = "PATH")]
    pub(crate) with: Vec<PathBuf>,
    /// The kernels in the cache that the guest gets as well: 5.10,6.12.
    #[arg(long, value_name = "VERSIONS", value_delimiter = ',')]
    pub(crate) with_kernels: Vec<String>,
    /// How long the guest may take, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 1800)]
    pub(crate) limit: u64,
    /// The command; `uname -a` if there is none.
    #[arg(last = true)]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Suite {
    /// The targets in `tests/tests`: apply, step_out.
    #[arg(required = true)]
    pub(crate) suites: Vec<String>,
    /// Kernels to run them on.
    #[arg(
        long,
        value_name = "VERSIONS",
        value_delimiter = ',',
        default_value = "6.12"
    )]
    pub(crate) kernels: Vec<String>,
    /// The cargo profile to build tests with.
    #[arg(long, value_name = "NAME", default_value = "release")]
    pub(crate) profile: String,
    /// How long each guest may take, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 7200)]
    pub(crate) limit: u64,
    /// All tests of a suite in one guest. Else each module of it has a guest of its own.
    #[arg(long)]
    pub(crate) together: bool,
    /// Arguments for the tests.
    #[arg(last = true)]
    pub(crate) arguments: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Matrix {
    /// Kernels; all ordered pairs of them.
    #[arg(long, value_name = "VERSIONS", value_delimiter = ',', default_values = kernel_source::VERSIONS)]
    pub(crate) kernels: Vec<String>,
    /// Versions of CRIU: 3.17, 4.1, 4.3.
    #[arg(long, value_name = "VERSIONS", value_delimiter = ',', default_value = packages::USUAL_CRIU)]
    pub(crate) criu: Vec<String>,
    /// C libraries: 2.36, newest, musl.
    #[arg(long, value_name = "VERSIONS", value_delimiter = ',', default_value = packages::USUAL_LIBC)]
    pub(crate) libc: Vec<String>,
    /// Pairs of a kernel and itself as well: as it is, and with `CRIU_FAULT=127`.
    #[arg(long)]
    pub(crate) same: bool,
    /// Languages of the checker: c, python, go. There is no Python with musl, and Go has no C
    /// library.
    #[arg(
        long,
        value_name = "LANGUAGES",
        value_delimiter = ',',
        default_value = "c"
    )]
    pub(crate) language: Vec<Language>,
    /// Processes live in containers, which are linked from outside. `--container=time` gives them a
    /// time namespace as well; `--container=inside` links them from inside; with several, there are
    /// images of each.
    #[arg(
        long,
        value_name = "KINDS",
        value_delimiter = ',',
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "usual"
    )]
    pub(crate) container: Vec<Container>,
    /// The plugin in CRIU links, instead of the command after a restore that leaves processes stopped.
    #[arg(long)]
    pub(crate) plugin: bool,
    #[command(flatten)]
    pub(crate) times: Times,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Chain {
    /// Kernels, in this order.
    #[arg(required = true, num_args = 2..)]
    pub(crate) kernels: Vec<String>,
    /// The version of CRIU.
    #[arg(long, value_name = "VERSION", default_value = packages::USUAL_CRIU)]
    pub(crate) criu: String,
    /// The C library.
    #[arg(long, value_name = "VERSION", default_value = packages::USUAL_LIBC)]
    pub(crate) libc: String,
    /// The language of the checker.
    #[arg(long, value_name = "LANGUAGE", default_value = "c")]
    pub(crate) language: Language,
    /// Processes live in containers: see `matrix`.
    #[arg(
        long,
        value_name = "KIND",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "usual"
    )]
    pub(crate) container: Option<Container>,
    /// CRIU alone.
    #[arg(long)]
    pub(crate) plain: bool,
    /// The plugin in CRIU links: see `matrix`.
    #[arg(long, conflicts_with = "plain")]
    pub(crate) plugin: bool,
    #[command(flatten)]
    pub(crate) times: Times,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Times {
    /// Processes of each kind.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) repeat: u32,
    /// Processes in each image: a program and its children.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=20))]
    pub(crate) tree: u32,
    /// How long each restored process is watched, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 2000)]
    pub(crate) observe: u64,
    /// Guests at once.
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub(crate) jobs: usize,
}

#[derive(Debug, Args)]
pub(crate) struct Output {
    /// Write the report as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write the report as a page.
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Write the report as tables for a document.
    #[arg(long, value_name = "FILE")]
    pub(crate) markdown: Option<PathBuf>,
}
