//! The zoo: vDSOs that no distribution ships.
//!
//! A vDSO is what a compiler makes of a few files. The zoo takes these files from the
//! distribution's kernel sources, with the distribution's configuration, and compiles them with
//! many compilers and many options; as backports of vendors do, it moves fields. For each vDSO it
//! derives the tables, links it to the running kernel, compares its answers with system calls, and
//! stops threads inside. What is not understood is counted.
//!
//! Everything comes from the distribution by package name and is unpacked into the cache of
//! `kernel-source`. Nothing is installed, and nothing of a kernel is kept anywhere else.
//!
//! | module | does |
//! |---|---|
//! | `arguments` | the command line |
//! | `variant` | which vDSOs there are: a kernel, a compiler, a change |
//! | `change` | what a configuration, flags and moved fields do to a build |
//! | `kernel` | a kernel's source and configuration, unpacked |
//! | `generated` | the headers that a kernel's own build would generate |
//! | `compiler` | compilers, unpacked |
//! | `build` | a vDSO from all of that |
//! | `judge` | derive, link, verify, sweep: what came of it |
//! | `report` | a table |
//! | `arch` | directories, flags and files of one architecture |

mod arch;
mod arguments;
mod build;
mod change;
mod compiler;
mod generated;
mod judge;
mod kernel;
mod report;
mod run;
mod variant;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    match run::run(&arguments::Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("kernel-zoo: {error:#}");
            ExitCode::from(2)
        }
    }
}
