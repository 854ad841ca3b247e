//! Real dumps and restores by CRIU, with threads that call all the time: at home, where CRIU puts
//! the kernel's own vDSO in place of the old one, and as on another kernel.

use std::fs::File;
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use elf_tools::symtab::mapping_name::VDSO;
use libtest_mimic::Trial;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use relocator::plan::Policy;
use relocator_cli::source::Spec;
use relocator_process::apply::outcome::ApplyState;
use relocator_tests::bed::control::{self, Control, EVERYTHING};
use relocator_tests::criu::{Criu, Images, Restore, await_end, dumpable};
use relocator_tests::running::in_words;
use relocator_tests::trials::{ensure, trial};
use tempfile::TempDir;

use crate::linker::{HAMMER, Linker};
use crate::places::is;
use crate::snapshot::{mappings, named};

/// Threads that call.
const THREADS: usize = 6;

/// How often each process goes there and back, unless [`TURNS`] says otherwise.
const USUAL: usize = 2;

/// The environment variable that says how often.
const TURNS: &str = "RELOCATOR_CYCLES";

/// How long it is judged between two steps.
const WHILE: Duration = Duration::from_millis(150);

/// How long threads may take to be judged.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn trials(listing: bool) -> Vec<Trial> {
    let possible = match listing {
        true => Err("only listed".to_owned()),
        false => Criu::new(),
    };
    const AWAY: Cycle = |there| linked(there, Restore::AwayStopped);
    const HOME: Cycle = |there| linked(there, Restore::HomeStopped);
    let cycles: [(&str, Policy, Cycle); 7] = [
        ("prepared_at_home", Policy::Auto, prepared_at_home),
        ("prepared_away_by_criu_alone", Policy::Auto, prepared_away),
        ("rolled_back_and_prepared", Policy::Auto, rolled_back),
        ("linked_at_home", Policy::Auto, HOME),
        ("linked_away", Policy::Auto, AWAY),
        ("proxied_at_home", Policy::Proxy, HOME),
        ("proxied_away", Policy::Proxy, AWAY),
    ];
    let trials = cycles.into_iter().map(|(name, policy, cycle)| {
        let criu = possible.clone();
        let run = move || run(criu?, policy, cycle);
        match listing {
            true => Trial::test(format!("checkpoint::{name}"), || Ok(())),
            false => trial(format!("checkpoint::{name}"), &possible, run),
        }
    });
    trials.collect()
}

/// What a linked process goes through, after which it is linked again.
type Cycle = fn(&mut Traveller) -> Result<(), String>;

fn run(criu: Criu, policy: Policy, cycle: Cycle) -> Result<(), String> {
    let said = std::env::var(TURNS).ok();
    let turns = said.and_then(|text| text.parse().ok()).unwrap_or(USUAL);
    let mut traveller = Traveller::start(criu, policy)?;
    traveller.judged("before")?;
    traveller.travel(Restore::AwayStopped)?;
    traveller.link()?;
    for turn in 0..turns {
        let done = cycle(&mut traveller);
        done.map_err(|error| format!("turn {turn}: {error}"))?;
    }
    traveller.end()
}

/// Prepared, it comes home to its own vDSO, as if it had never been away; and from there it can go
/// away again.
fn prepared_at_home(traveller: &mut Traveller) -> Result<(), String> {
    let linker = &traveller.linker;
    is(ApplyState::Prepared, linker.prepare(traveller.pid)?.state)?;
    traveller.judged("prepared")?;
    let said = traveller.travel(Restore::Home)?;
    ensure(said.contains("remap inplace"), || said)?;
    let now = mappings(traveller.pid)?;
    let vdso = named(&now, VDSO)?.start;
    ensure(vdso.0 == traveller.text, || {
        format!("the vDSO is at {vdso}")
    })?;
    traveller.judged("at home")?;
    is(
        ApplyState::Untouched,
        traveller.linker.apply(traveller.pid)?.state,
    )?;
    traveller.travel(Restore::AwayStopped)?;
    traveller.link()
}

/// Prepared, it is right wherever CRIU alone restores it, and can be linked there.
fn prepared_away(traveller: &mut Traveller) -> Result<(), String> {
    let linker = &traveller.linker;
    is(ApplyState::Prepared, linker.prepare(traveller.pid)?.state)?;
    let said = traveller.travel(Restore::Away)?;
    ensure(said.contains("generate proxy"), || said)?;
    traveller.judged("away, by CRIU alone")?;
    is(
        ApplyState::Linked,
        traveller.linker.apply(traveller.pid)?.state,
    )?;
    traveller.judged("linked")
}

/// What a rollback makes of a process is what CRIU has made of it, with threads in the new vDSO;
/// prepared, it comes home as well.
fn rolled_back(traveller: &mut Traveller) -> Result<(), String> {
    let linker = &traveller.linker;
    // What CRIU's jumps do not lead anywhere is wrong in between.
    traveller.control.set_right(control::COVERED);
    is(
        ApplyState::RolledBack,
        linker.roll_back(traveller.pid)?.state,
    )?;
    thread::sleep(WHILE);
    is(ApplyState::Prepared, linker.prepare(traveller.pid)?.state)?;
    traveller.control.set_right(EVERYTHING);
    traveller.travel(Restore::Home)?;
    traveller.judged("at home")?;
    traveller.travel(Restore::AwayStopped)?;
    traveller.link()
}

/// A linked process is dumped as it is. CRIU does not replace its text, also at home, and all
/// threads go on once it is linked again.
fn linked(traveller: &mut Traveller, how: Restore) -> Result<(), String> {
    let said = traveller.travel(how)?;
    ensure(said.contains("generate proxy"), || said)?;
    traveller.link()
}

/// A hammer that is dumped and restored.
pub(crate) struct Traveller {
    criu: Criu,
    pub(crate) linker: Linker,
    control: Control,
    pub(crate) pid: i32,
    /// Where its vDSO is.
    pub(crate) text: u64,
    child: Option<Child>,
    _directory: TempDir,
}

impl Traveller {
    pub(crate) fn start(criu: Criu, policy: Policy) -> Result<Self, String> {
        let failed = |error: std::io::Error| in_words(&error);
        let linker = Linker::by(&Spec::Own, policy)?;
        let directory = TempDir::new().map_err(failed)?;
        // A file by name, so that it is the same after a restore.
        let path = directory.path().join("control");
        let file = File::create_new(&path).map_err(failed)?;
        file.set_len(control::SIZE as u64).map_err(failed)?;
        drop(file);
        let file = File::options()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(failed)?;
        let control = Control::map(&file).map_err(failed)?;
        control.set_right(EVERYTHING);
        let words = File::create(directory.path().join("words")).map_err(failed)?;
        let mut command = dumpable(HAMMER.as_ref());
        command.arg("--control").arg(&path);
        command.args(["--threads", &THREADS.to_string()]);
        command.stderr(words);
        let child = command.spawn().map_err(failed)?;
        let pid = child.id().cast_signed();
        let mut traveller = Self {
            criu,
            linker,
            control,
            pid,
            text: 0,
            child: Some(child),
            _directory: directory,
        };
        traveller.judged("started")?;
        traveller.text = named(&mappings(pid)?, VDSO)?.start.0;
        Ok(traveller)
    }

    /// Dumps it and restores it: what CRIU says about its vDSO.
    fn travel(&mut self, how: Restore) -> Result<String, String> {
        Ok(self.travel_by(how, |_| Ok(()))?.1)
    }

    /// The same, with something done to the images in between. Returns them.
    pub(crate) fn travel_with(
        &mut self,
        how: Restore,
        between: impl FnOnce(&Images) -> Result<(), String>,
    ) -> Result<Images, String> {
        Ok(self.travel_by(how, between)?.0)
    }

    fn travel_by(
        &mut self,
        how: Restore,
        between: impl FnOnce(&Images) -> Result<(), String>,
    ) -> Result<(Images, String), String> {
        let images = Images::new()?;
        let at = |error: String| format!("{how:?}: {error}");
        self.criu.dump(self.pid, &images).map_err(at)?;
        await_end(self.pid, self.child.take().as_mut())?;
        between(&images)?;
        let said = self.criu.restore(&images, how).map_err(at)?;
        Ok((images, said))
    }

    /// Links it after it was restored stopped, and lets it go on.
    pub(crate) fn link(&mut self) -> Result<(), String> {
        is(ApplyState::Linked, self.linker.apply(self.pid)?.state)?;
        let pid = Pid::from_raw(self.pid);
        kill(pid, Signal::SIGCONT).map_err(|errno| in_words(&errno))?;
        self.judged("linked")
    }

    /// Waits until an answer of each function has been judged, and for a while: all were right.
    pub(crate) fn judged(&mut self, when: &str) -> Result<(), String> {
        let before = self.control.counts();
        let begun = Instant::now();
        loop {
            let now = self.control.counts();
            if let Some(first) = now.first {
                return Err(format!("{when}: {} failures, first: {first}", now.failures));
            }
            let mut pairs = before.judged.iter().zip(now.judged);
            let is_over = pairs.all(|(&before, now)| now > before);
            if is_over && begun.elapsed() >= WHILE {
                return Ok(());
            }
            let state = std::fs::read_to_string(format!("/proc/{}/stat", self.pid));
            let lives = state.is_ok_and(|state| !state.contains(") Z"));
            ensure(lives, || format!("{when}: the process has ended"))?;
            ensure(begun.elapsed() < PATIENCE, || {
                format!("{when}: it does not get on: {now:?}")
            })?;
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn end(mut self) -> Result<(), String> {
        self.judged("in the end")?;
        eprintln!("{:?}", self.control.counts());
        Ok(())
    }
}

impl Drop for Traveller {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
        let _ = await_end(self.pid, self.child.take().as_mut());
    }
}
