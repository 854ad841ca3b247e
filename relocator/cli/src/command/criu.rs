//! `relocator criu`

use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;
use relocator_criu::{Images, capture};
use relocator_process::running;

use crate::cache;
use crate::command::{Outcome, output};

/// Work with the images of CRIU.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    Capture(CaptureArguments),
}

/// Leave beside images what a restore on another kernel takes.
///
/// To be called on the kernel of the dump, as by an action script at `post-dump`: the vDSO of the
/// running kernel, the symbols of its data, and the derived tables go into the directory `relocator`
/// beside the images, and those of kernels before as far as the cache knows them. With them `check`,
/// and the plugin of CRIU's, need nothing else on the kernel of the restore.
#[derive(clap::Args)]
struct CaptureArguments {
    /// The directory of the images.
    images: PathBuf,
}

pub(crate) fn run(arguments: &Arguments) -> Result<Outcome> {
    let Action::Capture(arguments) = &arguments.action;
    let kernel = running::own()?;
    let kept = cache::locate();
    // What lies beside something else would serve nobody.
    Images::open(&arguments.images)?;
    let captured = capture::capture(&arguments.images, &kernel, kept.as_ref())?;
    output::print_line(&captured)?;
    Ok(Outcome::Done)
}
