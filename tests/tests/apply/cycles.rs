//! Threads call every function while signals arrive, and the process is linked and unlinked under
//! them, many times.

use std::thread;
use std::time::Duration;

use kernel_fixtures::fixture;
use kernel_source::VERSIONS;
use libtest_mimic::Trial;
use relocator_cli::source::Spec;
use relocator_process::apply::outcome::ApplyState;
use relocator_tests::bed::control::{COVERED, EVERYTHING};
use relocator_tests::stock;
use relocator_tests::trials::{ensure, trial};

use crate::linker::{Linker, check, hammer_on};

/// Threads that call.
const THREADS: usize = 64;

/// Threads that sleep in system calls.
const IDLE: usize = 12;

/// The image of threads whose stacks are parts of one mapping, and the size of that.
const ON_SHARED_STACKS: &str = "got";
const STACKS: usize = 1 << 30;

/// How often a process is linked, unless [`CYCLES`] says otherwise.
const USUAL: usize = 30;

/// The environment variable that says how often.
const CYCLES: &str = "RELOCATOR_CYCLES";

fn cycles() -> usize {
    let said = std::env::var(CYCLES).ok();
    said.and_then(|text| text.parse().ok()).unwrap_or(USUAL)
}

pub(crate) fn trials(listing: bool) -> Vec<Trial> {
    let kernels = VERSIONS.iter().map(|version| {
        let spec = Spec::Kernel((*version).to_owned());
        let possible = stock::can_be_had(version, listing);
        trial(format!("cycles::{version}"), &possible, move || {
            hammered(&spec, None)
        })
    });
    let fixtures = fixture::all().iter().map(|fixture| {
        let spec = Spec::Fixture(fixture.name.to_owned());
        trial(format!("cycles::{}", fixture.name), &Ok(()), move || {
            hammered(&spec, None)
        })
    });
    let spec = Spec::Fixture(ON_SHARED_STACKS.to_owned());
    let shared = trial("cycles::on_shared_stacks", &Ok(()), move || {
        hammered(&spec, Some(STACKS))
    });
    kernels.chain(fixtures).chain([shared]).collect()
}

fn hammered(spec: &Spec, stacks: Option<usize>) -> Result<(), String> {
    let linker = Linker::new(spec)?;
    let mut hammer = hammer_on(spec, THREADS, IDLE, stacks)?;
    let pid = hammer.restored.pid();
    let mut inside = 0;
    for cycle in 0..cycles() {
        let at = |error: String| format!("cycle {cycle}: {error}");
        let linked = linker.apply(pid).map_err(at)?;
        ensure(linked.state == ApplyState::Linked, || {
            format!("cycle {cycle}: {:?}", linked.state)
        })?;
        inside += linked.crossed.moved + linked.crossed.frames;
        hammer.control.set_right(EVERYTHING);
        // Each time another moment.
        thread::sleep(Duration::from_micros(500 + 37 * (cycle as u64 % 50)));
        hammer.control.set_right(COVERED);
        check(&mut hammer).map_err(at)?;
        let undone = linker.roll_back(pid).map_err(at)?;
        ensure(undone.state == ApplyState::RolledBack, || {
            format!("cycle {cycle}: {:?}", undone.state)
        })?;
        inside += undone.crossed.moved + undone.crossed.frames;
        check(&mut hammer).map_err(at)?;
    }
    let counts = hammer.finish()?;
    ensure(inside > 0, || "no thread was ever inside".to_owned())?;
    ensure(counts.judged.iter().any(|&calls| calls > 0), || {
        format!("nothing was judged: {counts:?}")
    })?;
    eprintln!("{spec}: {inside} contexts were inside; {counts:?}");
    Ok(())
}
