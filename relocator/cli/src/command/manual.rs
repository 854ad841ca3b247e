//! `relocator completions SHELL` and `relocator man DIRECTORY`: what packages install besides the command.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_complete::Shell;

use crate::command::{Arguments, Outcome, output};

/// Print a completion script for a shell.
///
/// For example: `relocator completions bash > /etc/bash_completion.d/relocator`.
#[derive(clap::Args)]
pub(crate) struct CompletionArguments {
    /// The shell.
    shell: Shell,
}

/// Write man pages, one for each command, into a directory.
///
/// For example: `relocator man /usr/local/share/man/man1`.
#[derive(clap::Args)]
pub(crate) struct ManArguments {
    /// The directory, which is created if it does not exist.
    directory: PathBuf,
}

pub(crate) fn completions(arguments: &CompletionArguments) -> Result<Outcome> {
    let mut script = Vec::new();
    clap_complete::generate(
        arguments.shell,
        &mut Arguments::command(),
        "relocator",
        &mut script,
    );
    output::print_bytes(&script)?;
    Ok(Outcome::Done)
}

pub(crate) fn write(arguments: &ManArguments) -> Result<Outcome> {
    let directory = &arguments.directory;
    std::fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    let mut command = Arguments::command();
    command.build();
    page(directory, command.clone(), "relocator")?;
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        if sub.get_name() != "help" {
            page(
                directory,
                sub.clone(),
                &format!("relocator-{}", sub.get_name()),
            )?;
        }
    }
    Ok(Outcome::Done)
}

fn page(directory: &std::path::Path, command: clap::Command, name: &str) -> Result<()> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command)
        .title(name.to_uppercase())
        .render(&mut page)?;
    output::write_file(&directory.join(format!("{name}.1")), &page)
}
