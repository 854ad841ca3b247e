//! No page can be written and executed at any time: at each system call of the tool it is looked.
//!
//! What is mapped in the process only changes by system calls that the tool has it make, and for
//! each of those it makes several itself.

use kernel_source::VERSIONS;
use libtest_mimic::Trial;
use relocator_cli::source::Spec;
use relocator_process::apply::outcome::ApplyState;
use relocator_tests::bed::control::{COVERED, EVERYTHING};
use relocator_tests::stock;
use relocator_tests::trials::{ensure, trial};

use crate::linker::{Linker, check, hammer};
use crate::look::nothing_is_writable_and_executable;
use crate::tool::Tool;

/// A few threads in each way.
const THREADS: usize = 4;
const IDLE: usize = 6;

/// A fixture whose tables are exported.
const FIXTURE: &str = "got";

pub(crate) fn trials(listing: bool) -> Vec<Trial> {
    let kernels = VERSIONS.iter().map(|version| {
        let possible = stock::can_be_had(version, listing);
        (Spec::Kernel((*version).to_owned()), possible)
    });
    let fixture = (Spec::Fixture(FIXTURE.to_owned()), Ok(()));
    let all = kernels.chain([fixture]);
    let trials = all.map(|(spec, possible)| {
        let name = format!("protection::{spec}");
        trial(name, &possible, move || protected(&spec))
    });
    trials.collect()
}

fn protected(spec: &Spec) -> Result<(), String> {
    let linker = Linker::new(spec)?;
    let mut hammer = hammer(spec, THREADS, IDLE)?;
    let pid = hammer.restored.pid();
    nothing_is_writable_and_executable(pid)?;
    let linked = Tool::fork(|| {
        linker
            .apply(pid)
            .map(|outcome| format!("{:?}", outcome.state))
    })?;
    look_at_all(linked, pid, ApplyState::Linked)?;
    hammer.control.set_right(EVERYTHING);
    check(&mut hammer)?;
    hammer.control.set_right(COVERED);
    let undone = Tool::fork(|| {
        let undone = linker.roll_back(pid);
        undone.map(|outcome| format!("{:?}", outcome.state))
    })?;
    look_at_all(undone, pid, ApplyState::RolledBack)?;
    hammer.finish().map(drop)
}

/// Looks at the process at all moments of a tool.
fn look_at_all(mut tool: Tool, pid: i32, expected: ApplyState) -> Result<(), String> {
    let mut looks = 0;
    loop {
        match tool.next()? {
            Ok(moment) => {
                nothing_is_writable_and_executable(pid)
                    .map_err(|error| format!("{moment}: {error}"))?;
                looks += 1;
            }
            Err(ended) => {
                let expected = format!("{expected:?}");
                ensure(ended.said == expected, || format!("{ended:?}"))?;
                return ensure(looks > 100, || format!("only {looks} calls"));
            }
        }
    }
}
