//! Images of real dumps by CRIU: what the reader says of them is what the process was, and what the
//! check says of them. The processes are this program, executed anew.

mod command;
mod dumped;
mod inside;
mod reader;
mod restored;
mod victim;

use std::process::ExitCode;

use elf_tools::symtab::mapping_name::VVAR_VCLOCK;
use libtest_mimic::{Arguments, Trial};
use relocator_tests::criu::{CRIU_3_17, CRIU_4_1, Criu};
use relocator_tests::trials::all_required;

/// A version of CRIU, and whether it can be used here.
struct Version {
    name: &'static str,
    criu: Result<Criu, String>,
    /// Whether this kernel is one that it was made before: nothing on this machine can change that.
    is_too_old: bool,
}

/// Whether the kernel's data is two mappings, which CRIU 3.17 does not know.
fn has_two_data_mappings() -> bool {
    let own = relocator_process::maps::own().unwrap_or_default();
    own.iter().any(|mapping| mapping.name == VVAR_VCLOCK)
}

/// Whether a trial can be run. Where everything is required, one that nothing on this machine could
/// make possible, since its kernel or the packages of CRIU lack what it is about, is named instead:
/// the lab brings other kernels.
fn is_possible(trial: &Trial) -> bool {
    if trial.has_ignored_flag() {
        eprintln!("not for this machine: {}: {}", trial.name(), trial.kind());
    }
    !trial.has_ignored_flag()
}

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    if words.next().as_deref() == Some(victim::ARGUMENT) {
        victim::live(&words.next().expect("what to be"));
        return ExitCode::SUCCESS;
    }
    let arguments = Arguments::from_args();
    let possible = |of: fn() -> Result<Criu, String>| match arguments.list {
        true => Err("only listed".to_owned()),
        false => of(),
    };
    let newest = Version {
        name: "4.3",
        criu: possible(Criu::new),
        is_too_old: false,
    };
    let older = Version {
        name: "4.1",
        criu: possible(|| Criu::of(&CRIU_4_1)),
        is_too_old: false,
    };
    let oldest = Version {
        name: "3.17",
        criu: possible(|| match has_two_data_mappings() {
            true => Err("CRIU 3.17 knows no [vvar_vclock], which this kernel has".to_owned()),
            false => Criu::of(&CRIU_3_17),
        }),
        is_too_old: has_two_data_mappings(),
    };
    let trials = [
        reader::trials(&[&newest, &older, &oldest]),
        inside::trials(&newest),
        restored::trials(&newest),
        command::trials(&newest),
    ];
    let mut trials: Vec<Trial> = trials.into_iter().flatten().collect();
    if all_required() {
        trials.retain(is_possible);
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}
