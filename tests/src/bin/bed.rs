//! Starts a program as a restore by CRIU on another kernel leaves it, waits for it, and passes its exit status on.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode};

use clap::Parser;
use elf_tools::Avma;
use relocator_cli::source::Spec;
use relocator_tests::bed::{Bed, PARK, Restored, old_vdso};

/// Start a program as a restore by CRIU on another kernel leaves it: with an old vDSO, and the kernel's own parked.
#[derive(Parser)]
struct Arguments {
    /// What it was checkpointed with: kernel:VERSION, fixture:NAME, or a file.
    #[arg(long, value_name = "SOURCE")]
    old: Spec,
    /// Without CRIU's jumps and mark.
    #[arg(long)]
    unpatched: bool,
    /// Where the kernel's mappings begin.
    #[arg(long, value_name = "ADDRESS", value_parser = address, default_value_t = PARK)]
    park: Avma,
    /// Where the old text is.
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    text: Option<Avma>,
    /// Free bytes below the old vvar, before another mapping.
    #[arg(long, value_name = "BYTES")]
    room_below: Option<u64>,
    /// Free bytes behind the old text, before another mapping.
    #[arg(long, value_name = "BYTES")]
    room_behind: Option<u64>,
    /// The program and its arguments.
    #[arg(last = true, required = true)]
    program: Vec<String>,
}

/// An address in hexadecimal, with or without 0x.
fn address(text: &str) -> Result<Avma, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let number = u64::from_str_radix(digits, 16);
    number.map(Avma).map_err(|error| error.to_string())
}

fn launch(arguments: &Arguments) -> Result<Restored, String> {
    let bed = Bed {
        patched: !arguments.unpatched,
        text: arguments.text,
        park: arguments.park,
        room_below: arguments.room_below,
        room_behind: arguments.room_behind,
        ..Bed::new(old_vdso(&arguments.old)?)
    };
    let (program, rest) = arguments.program.split_first().ok_or("no program")?;
    let mut command = Command::new(program);
    command.args(rest);
    Ok(bed.launch(command)?)
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let ended = launch(&arguments).and_then(|mut restored| {
        eprintln!(
            "bed: process {}, old vDSO at {}, the kernel's mappings from {}",
            restored.pid(),
            restored.text.start,
            arguments.park
        );
        if let Err(reason) = &restored.auxv {
            eprintln!("bed: /proc/PID/auxv is as it was: {reason}");
        }
        restored.child.wait().map_err(|error| error.to_string())
    });
    match ended {
        Ok(status) => {
            let code = status.code().or(status.signal().map(|signal| 128 + signal));
            ExitCode::from(code.unwrap_or(1) as u8)
        }
        Err(reason) => {
            eprintln!("bed: {reason}");
            ExitCode::from(2)
        }
    }
}
