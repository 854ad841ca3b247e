//! The lab: real kernels in virtual machines, real CRIU, real C libraries.
//!
//! A process is dumped by CRIU on one kernel and restored on another, by CRIU alone and by CRIU and
//! the relocator. A checker inside compares every answer of the vDSO with system calls. Packages
//! come from the distribution by name, through the machine's own apt configuration; nothing is
//! installed, and no privileges are needed.
//!
//! | module | does |
//! |---|---|
//! | `packages` | what is taken from the distribution: the emulator, CRIU, C libraries, kernels |
//! | `programs`, `libraries` | programs of this workspace for guests; the libraries they need |
//! | `initramfs` | a guest's file system, in layers; the kernel's modules |
//! | `machine` | one run of a virtual machine: console, channel, time limit, what it leaves |
//! | `guest` | what runs inside: the first program, jobs, CRIU, the relocator |
//! | `checker` | the program that is dumped and restored, and the page of its counts |
//! | `lab` | what guests are made of, prepared once |
//! | `kind` | kinds of subjects: CRIU, language, C library, container |
//! | `scenario` | dump on one kernel, restore on another |
//! | `matrix`, `chain`, `commands` | many scenarios |
//! | `run`, `suite` | other programs in guests: a shell, a command, the workspace's tests |
//! | `scratch`, `interrupt`, `workers` | temporary directories; an early end; guests at a time |
//! | `tally`, `report` | what it amounts to: text, JSON, a page |
//!
//! The program is the same on both sides: guests run it as `kernel-lab guest`, so jobs and answers
//! have the same types there.

mod arch;
mod arguments;
mod chain;
mod checker;
mod commands;
mod guest;
mod initramfs;
mod interrupt;
mod kind;
mod lab;
mod libraries;
mod machine;
mod matrix;
mod packages;
mod programs;
mod report;
mod run;
mod scenario;
mod scratch;
mod suite;
mod tally;
mod workers;

use std::process::ExitCode;

use clap::Parser as _;

use arguments::{Action, Arguments};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.action {
        Action::Guest => guest::run(),
        Action::Contain(step) => guest::contain(step),
        _ => interrupt::watch().and_then(|()| commands::run(&arguments)),
    };
    match done {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("kernel-lab: {error:#}");
            ExitCode::from(2)
        }
    }
}
