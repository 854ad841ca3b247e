//! Programs that a guest runs, with a time limit.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a program may take. Emulated processors are slow, and a machine may have other work.
const LIMIT: Duration = Duration::from_secs(120);

/// Bytes of a program's words that are kept.
const KEPT: usize = 2000;

/// What a program said, and how it ended.
#[derive(Debug, Clone)]
pub(super) struct Ran {
    pub(super) is_success: bool,
    pub(super) stdout: String,
    /// How it ended and the last thing that it said, for a message.
    pub(super) failure: String,
}

/// Runs a program. It is killed when it takes too long.
pub(super) fn run<S: AsRef<OsStr>>(
    program: impl AsRef<OsStr>,
    arguments: impl IntoIterator<Item = S>,
    environment: &[(&str, &str)],
) -> Ran {
    let mut command = Command::new(program);
    command.args(arguments).envs(environment.iter().copied());
    match complete(&mut command) {
        Ok(ran) => ran,
        Err(error) => Ran {
            is_success: false,
            stdout: String::new(),
            failure: format!("{}: {error}", command.get_program().to_string_lossy()),
        },
    }
}

fn complete(command: &mut Command) -> std::io::Result<Ran> {
    // Files instead of pipes: what a program leaves running may hold the ends of pipes.
    let (mut stdout, mut stderr) = (tempfile()?, tempfile()?);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(stdout.try_clone()?)
        .stderr(stderr.try_clone()?)
        .spawn()?;
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if began.elapsed() > LIMIT {
            child.kill()?;
            child.wait()?;
            break None;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let (stdout, stderr) = (text(&mut stdout)?, text(&mut stderr)?);
    let last = stderr.trim();
    let last = last.get(last.len().saturating_sub(KEPT)..).unwrap_or(last);
    let failure = match status {
        Some(status) if last.is_empty() => status.to_string(),
        Some(status) => format!("{status}: {last}"),
        None => format!("killed after {} s: {last}", LIMIT.as_secs()),
    };
    Ok(Ran {
        is_success: status.is_some_and(|status| status.success()),
        stdout,
        failure,
    })
}

fn tempfile() -> std::io::Result<File> {
    tempfile::tempfile()
}

fn text(file: &mut File) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_says_is_kept() {
        let ran = run(
            "sh",
            ["-c", "echo $WORD; echo no >&2; exit 3"],
            &[("WORD", "yes")],
        );
        assert_eq!((ran.is_success, ran.stdout.as_str()), (false, "yes\n"));
        assert_eq!(ran.failure, "exit status: 3: no");
        assert!(!run("no-such-program-here", [""; 0], &[]).is_success);
    }

    /// CRIU leaves restored processes behind, which hold its outputs open.
    #[test]
    fn what_is_left_running_is_not_waited_for() {
        let began = Instant::now();
        let ran = run("sh", ["-c", "sleep 30 & echo $!"], &[]);
        assert!(ran.is_success && began.elapsed() < Duration::from_secs(20));
        run("kill", [ran.stdout.trim()], &[]);
    }
}
