//! The `relocator` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    relocator_cli::run()
}
