//! `relocator dump-vdso SOURCE -o FILE`.

use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::Result;
use elf_tools::image::Image;
use relocator::source::Source;
use relocator_process::apply::{RunningKernel, originals};

use crate::Error;
use crate::command::tables::{kept, remember};
use crate::command::{Outcome, output};
use crate::source::Spec;

/// Write the vDSO of a source: the ELF image itself.
///
/// Of a process that carries an old vDSO, this is the old one, as it was before a restore or a link
/// changed it. If CRIU has overwritten entries of it, this machine must have seen that vDSO before,
/// or `--old` must name it. The file serves as `--old FILE` on any machine.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// What has the vDSO: self, pid:N, kernel:VERSION, or a file.
    source: Spec,
    /// Where to write it; `-` for the standard output, unless that is a terminal.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// The old vDSO of a process, if CRIU has overwritten parts of it. May be repeated.
    #[arg(long, value_name = "SOURCE")]
    old: Vec<Spec>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<Outcome> {
    let image = match arguments.source {
        Spec::Pid(pid) => of_process(pid, &arguments.old)?,
        _ => of_source(&arguments.source.open()?)?,
    };
    match arguments.output.as_os_str() == "-" {
        true if std::io::stdout().is_terminal() => {
            let text = "-".to_owned();
            let reason = "an ELF image is not for a terminal: name a file (-o FILE)".to_owned();
            return Err(Error::Output { text, reason }.into());
        }
        true => output::print_bytes(image.bytes())?,
        false => output::write_file(&arguments.output, image.bytes())?,
    }
    Ok(Outcome::Done)
}

fn of_source(source: &Source) -> Result<Image> {
    remember(source);
    Ok(source.require_image()?.clone())
}

/// The old vDSO of a process, or else the kernel's own.
fn of_process(pid: i32, old: &[Spec]) -> Result<Image> {
    let sources: Vec<Source> = old.iter().map(Spec::open).collect::<Result<_, _>>()?;
    let kernel = RunningKernel::read(&kept())?;
    let mut all = originals::of(pid, &kernel, &sources, &kept())?;
    // The one that the program was told of.
    all.sort_by_key(|one| !one.is_by_auxv);
    match all.into_iter().next() {
        Some(original) => Ok(original.image),
        None => of_source(&Spec::Pid(pid).open()?),
    }
}
