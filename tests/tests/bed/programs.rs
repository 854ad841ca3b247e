//! Real programs on a bed.

use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use relocator_tests::bed::python::{self, Python};
use relocator_tests::bed::server::Server;
use relocator_tests::trials::ensure;

use crate::look::looks_restored;
use crate::{ANY, SECOND, any, io};

const SERVER: &str = env!("CARGO_BIN_EXE_server");
const BED: &str = env!("CARGO_BIN_EXE_bed");

pub(crate) fn python_is_right() -> Result<(), String> {
    let bed = any()?;
    let python = Python::start(&bed, &python::interpreter()?)?;
    looks_restored(&bed, &python.restored)?;
    thread::sleep(SECOND);
    let count = python.finish()?;
    ensure(count > 10, || format!("only {count}"))
}

/// It notices a function that is not right: nothing is linked here.
pub(crate) fn python_notices() -> Result<(), String> {
    let bed = any()?;
    let mut python = Python::start(&bed, &python::interpreter()?)?;
    python.linked()?;
    thread::sleep(SECOND / 2);
    let ended = python.finish();
    let is_noticed = ended
        .as_ref()
        .is_err_and(|error| error.contains("clock_getres("));
    ensure(is_noticed, || format!("{ended:?}"))
}

pub(crate) fn server_is_right() -> Result<(), String> {
    let bed = any()?;
    let server = Server::start(&bed, Path::new(SERVER), 4)?;
    looks_restored(&bed, &server.restored)?;
    thread::sleep(SECOND);
    let count = server.finish()?;
    ensure(count > 100, || format!("only {count}"))
}

/// The command passes on what its program says and how it ends.
pub(crate) fn command_passes_the_status_on() -> Result<(), String> {
    let run = |arguments: &[&str]| {
        let output = Command::new(BED)
            .args(["--old", &format!("fixture:{ANY}")])
            .args(arguments)
            .stdin(Stdio::null())
            .output();
        output.map_err(io)
    };
    let output = run(&["--", "cat", "/proc/self/maps"])?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure(output.status.success(), || format!("{output:?}"))?;
    ensure(said.starts_with("00030000-"), || said.clone().into_owned())?;
    for (program, status) in [("exit 7", 7), ("kill -9 $$", 137)] {
        let output = run(&["--unpatched", "--", "sh", "-c", program])?;
        ensure(output.status.code() == Some(status), || {
            format!("{output:?}")
        })?;
    }
    let output = run(&["--", "/proc/nothing"])?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure(
        output.status.code() == Some(2) && said.contains("bed: "),
        || format!("{output:?}"),
    )
}
