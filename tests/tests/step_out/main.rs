//! Threads of real processes leave the vDSO, while signals arrive; and which processes could be
//! linked. The processes are this program, executed anew.

mod linkable;
mod odd;
mod process;
mod refusals;
mod signals;
mod stopping;
mod victim;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use relocator_tests::running::RUNNING;
use relocator_tests::trials::trial;

/// A test that cannot be run where the kernel maps no vDSO.
fn check(name: &str, run: fn()) -> Trial {
    trial(name, &*RUNNING, move || {
        run();
        Ok(())
    })
}

/// The same for one that needs more.
fn check_if(name: &str, possible: &Result<(), String>, run: fn()) -> Trial {
    let all = RUNNING.as_ref().map_err(Clone::clone);
    let all = all.and_then(|_| possible.clone());
    trial(name, &all, move || {
        run();
        Ok(())
    })
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some(victim::ARGUMENT) {
        victim::live(&arguments.next().expect("what to be"));
        return ExitCode::SUCCESS;
    }
    let trials = [
        signals::trials(),
        stopping::trials(),
        refusals::trials(),
        linkable::trials(),
    ];
    let trials = trials.into_iter().flatten().collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}
