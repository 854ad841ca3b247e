//! Processes are linked and unlinked again under load. They are started as a restore by CRIU leaves
//! them: with an old vDSO that libc calls, on zeros, and the new kernel's mappings far away.

mod alone;
mod bounded;
mod chains;
mod checkpoint;
mod cycles;
mod debugged;
mod dry_run;
mod elsewhere;
mod home;
mod hostile;
mod killed;
mod leaving;
mod linker;
mod look;
mod odd;
mod odd_processes;
mod places;
mod plugin;
mod programs;
mod protection;
mod reasons;
mod refused;
mod seen;
mod served;
mod snapshot;
mod states;
mod streams;
mod texts;
mod tool;
mod unheard;
mod unwinding;

use std::process::ExitCode;

use libtest_mimic::Arguments;

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    if words.next().as_deref() == Some(odd::ARGUMENT) {
        odd::live(&words.next().expect("what to be"));
        return ExitCode::SUCCESS;
    }
    let arguments = Arguments::from_args();
    let trials = [
        alone::trials(arguments.list),
        bounded::trials(arguments.list),
        cycles::trials(arguments.list),
        chains::trials(arguments.list),
        checkpoint::trials(arguments.list),
        debugged::trials(arguments.list),
        dry_run::trials(arguments.list),
        elsewhere::trials(arguments.list),
        home::trials(arguments.list),
        killed::trials(arguments.list),
        leaving::trials(arguments.list),
        odd_processes::trials(arguments.list),
        places::trials(arguments.list),
        plugin::trials(arguments.list),
        programs::trials(arguments.list),
        protection::trials(arguments.list),
        reasons::trials(arguments.list),
        refused::trials(arguments.list),
        seen::trials(arguments.list),
        unheard::trials(arguments.list),
        states::trials(arguments.list),
        streams::trials(arguments.list),
        texts::trials(arguments.list),
        unwinding::trials(arguments.list),
    ];
    let trials = trials.into_iter().flatten().collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}
