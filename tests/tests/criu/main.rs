//! Images of real dumps by CRIU: what the reader says of them is what the process was, and what the
//! check says of them. The processes are this program, executed anew.

mod command;
mod dumped;
mod inside;
mod reader;
mod restored;
mod victim;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use relocator_tests::criu::{CRIU_4_1, Criu};

/// A version of CRIU, and whether it can be used here.
struct Version {
    name: &'static str,
    criu: Result<Criu, String>,
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
    };
    let older = Version {
        name: "4.1",
        criu: possible(|| Criu::of(&CRIU_4_1)),
    };
    let trials = [
        reader::trials(&[&newest, &older]),
        inside::trials(&newest),
        restored::trials(&newest),
        command::trials(&newest),
    ];
    let trials: Vec<Trial> = trials.into_iter().flatten().collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}
