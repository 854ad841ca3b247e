//! The commands.
//!
//! Exit status: 0 done; 1 refused, or verification failed; 2 bad usage or bad input.

mod apply;
mod check;
mod compare;
mod criu;
mod demo;
mod derive;
mod dump_vdso;
mod in_flight;
mod inspect;
mod link;
mod manual;
mod output;
mod processor;
mod recognised;
mod running;
mod step_out;
mod symtab;
mod tables;
mod verify;
mod words;

use std::process::ExitCode;

use crate::Error;
use clap::{Parser, Subcommand};

/// The version, and what was built.
const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (",
    env!("RELOCATOR_BUILD"),
    ")"
);

/// A linker for vDSOs: makes an old kernel's vDSO run on a new kernel's vvar.
///
/// A SOURCE is `self` (the running kernel), `pid:N` (a process), `fixture:NAME` (built in),
/// `kernel:VERSION` (fetched from the distribution), or a file: a vDSO, a vmlinux, a vmlinuz, or a
/// symbol table object.
#[derive(Parser)]
#[command(name = "relocator", version = VERSION, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Demo(demo::Arguments),
    /// The program that `demo` works on.
    #[command(hide = true)]
    DemoProgram(demo::program::Arguments),
    /// Show what a source says about itself.
    Inspect(inspect::Arguments),
    /// Show or write the symbol table of a kernel's vvar.
    Symtab(symtab::Arguments),
    /// Derive the relocation table of a vDSO from its code and its kernel's symbols.
    Derive(derive::Arguments),
    DumpVdso(dump_vdso::Arguments),
    /// Link an old vDSO to a new kernel.
    Link(link::Arguments),
    /// Link an old vDSO to a kernel, run it in a child process, and compare it with system calls.
    Verify(verify::Arguments),
    /// Put approaches side by side: relocate, proxy, step out, system call, what CRIU does, nothing.
    Compare(compare::Arguments),
    StepOut(step_out::Arguments),
    Check(check::Arguments),
    Criu(criu::Arguments),
    Apply(apply::Arguments),
    Rollback(apply::RollbackArguments),
    Prepare(apply::PrepareArguments),
    Completions(manual::CompletionArguments),
    Man(manual::ManArguments),
}

/// How a command that did its work ended.
enum Outcome {
    /// What was asked for is done.
    Done,
    /// The answer is no.
    Refused,
}

/// Runs the command that the arguments of this process name.
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Command::Demo(arguments) => demo::run(&arguments),
        Command::DemoProgram(arguments) => demo::program::run(&arguments).map(|()| Outcome::Done),
        Command::Inspect(arguments) => inspect::run(&arguments),
        Command::Symtab(arguments) => symtab::run(&arguments),
        Command::Derive(arguments) => derive::run(&arguments),
        Command::DumpVdso(arguments) => dump_vdso::run(&arguments),
        Command::Link(arguments) => link::run(&arguments),
        Command::Verify(arguments) => verify::run(&arguments),
        Command::Compare(arguments) => compare::run(&arguments),
        Command::StepOut(arguments) => step_out::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Criu(arguments) => criu::run(&arguments),
        Command::Apply(arguments) => apply::run(&arguments),
        Command::Rollback(arguments) => apply::roll_back(&arguments),
        Command::Prepare(arguments) => apply::prepare(&arguments),
        Command::Completions(arguments) => manual::completions(&arguments),
        Command::Man(arguments) => manual::write(&arguments),
    };
    match result {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Refused) => ExitCode::from(1),
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("relocator: {}", output::message(&error));
            ExitCode::from(status(&error))
        }
    }
}

/// 1 where the inputs were understood and the answer is no, 2 where they were not, 3 where all is
/// done but for the report.
fn status(error: &anyhow::Error) -> u8 {
    if let Some(Error::Done { .. }) = error.downcast_ref() {
        return 3;
    }
    let is_refusal = error.downcast_ref::<Error>().map(Error::is_refusal);
    let of_link = || error.downcast_ref().map(relocator::Error::is_refusal);
    let of_process = || {
        error
            .downcast_ref()
            .map(relocator_process::Error::is_refusal)
    };
    let of_images = || error.downcast_ref().map(relocator_criu::Error::is_refusal);
    let of_verify = || {
        error
            .downcast_ref()
            .map(relocator_verify::Error::is_refusal)
    };
    let is_refusal = is_refusal
        .or_else(of_link)
        .or_else(of_process)
        .or_else(of_images)
        .or_else(of_verify);
    match is_refusal {
        Some(true) => 1,
        _ => 2,
    }
}

/// `relocator … | head` is no failure.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let closed = |e: &std::io::Error| e.kind() == std::io::ErrorKind::BrokenPipe;
    error
        .chain()
        .any(|cause| cause.downcast_ref::<std::io::Error>().is_some_and(closed))
}
