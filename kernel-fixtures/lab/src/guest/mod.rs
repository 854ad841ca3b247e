//! The guest program: this same program, run by a guest's first one (`init.sh`), which finds its
//! job in a file and answers with lines.

mod acts;
mod container;
mod image;
mod job;
mod program;
mod status;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

pub(crate) use job::{
    Act, Answer, By, Container, Criu, Dumped, Fate, IMAGES, JOB, Job, OUT, OWN, PLUGINS, Restore,
    Restored, Subject, TABLES,
};

use crate::arch;

/// The guest's first program.
pub(crate) fn init() -> String {
    include_str!("init.sh").replace("@CHANNEL@", arch::CHANNEL)
}

/// The steps into a container; see `container`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Contain {
    /// Enters new namespaces and starts their first process.
    Begin {
        /// The subject, as JSON.
        subject: String,
    },
    /// Becomes the subject, as the first process of its namespaces.
    First {
        /// The subject, as JSON.
        subject: String,
        /// The root of the container.
        root: PathBuf,
    },
    /// Runs a program as a process of a container.
    Inside {
        /// The container's first process.
        first: i32,
        /// The program and its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
}

/// Takes one step into a container. The result is the status to end with.
pub(crate) fn contain(step: &Contain) -> Result<u8> {
    match step {
        Contain::Begin { subject } => container::begin(subject),
        Contain::First { subject, root } => match container::become_first(subject, root)? {},
        Contain::Inside { first, words } => container::enter(*first, words),
    }
}

/// Where subjects have their pages.
const PAGES: &str = "/run/lab";

/// The page of a process of an image.
pub(crate) fn page(image: &str, number: usize) -> PathBuf {
    Path::new(PAGES).join(format!("{image}.{number}.page"))
}

/// Does the job. The result is the status to end with.
pub(crate) fn run() -> Result<u8> {
    let job = std::fs::read(JOB).context(JOB)?;
    let job: Job = serde_json::from_slice(&job).context(JOB)?;
    match job {
        Job::Command {
            words,
            environment,
            directory,
        } => {
            make_raw()?;
            command(&words, &environment, &directory)
        }
        Job::Shell => shell(),
        Job::Acts(acts) => {
            make_raw()?;
            acts::perform(&acts, &mut say)?;
            Ok(0)
        }
    }
}

/// Says one thing, as a line of its own.
fn say(answer: &Answer) -> Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(&line)?;
    stdout.flush().context("the channel")
}

/// Bytes go out as they are, and nothing that comes in is repeated.
fn make_raw() -> Result<()> {
    use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
    let stdout = std::io::stdout();
    let mut line = tcgetattr(&stdout).context("the channel")?;
    cfmakeraw(&mut line);
    tcsetattr(&stdout, SetArg::TCSANOW, &line).context("the channel")
}

fn command(
    words: &[String],
    environment: &[(String, String)],
    directory: &std::path::Path,
) -> Result<u8> {
    use std::os::unix::process::ExitStatusExt as _;
    let (program, arguments) = words.split_first().context("no command")?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(std::process::Stdio::null())
        .current_dir(directory);
    let status = command.status().with_context(|| program.clone())?;
    let code = status.code().or(status.signal().map(|signal| 128 + signal));
    Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

fn shell() -> Result<u8> {
    println!("This is a guest of the lab. `exit` ends it; what is in {OUT} is not kept.\r");
    // A session of its own, so that the line becomes its terminal and keys make signals.
    let line = arch::CHANNEL;
    let script = format!("exec sh -l < {line} > {line} 2>&1");
    let status = Command::new("setsid").args(["sh", "-c", &script]).status();
    Ok(u8::from(!status.context("setsid")?.success()))
}
