//! One function in one combination of namespaces: its scenarios, boundary by boundary.

use crate::emulated::{ClockMode, Emulated};
use elf_tools::reachability::Code;
use elf_tools::{Avma, Svma};

use super::answer::Answer;
use super::call::{Call, Random};
use super::experiment::{self, Experiment, ExperimentOutcome, Stopped};
use super::old_environment::Text;
use super::old_kernel::OldKernel;
use super::outcome::{Ending, FailedExperiment, Namespaces, Variant};
use super::random;
use super::scenario::{Prepared, Scenario, scenarios};
use super::stage::OperandField;
use super::swap::{Before, Swap};
use super::tally::Tally;
use super::traced_thread::{Activation, Snapshot, TracedThread};
use crate::Approach;
use crate::child::Progress;
use crate::{Error, Result};

/// How often it is stopped at one boundary in all of them.
fn most_experiments(scenario: &Scenario, variant: Variant) -> u64 {
    match (variant, scenario.call) {
        (Variant::Direct, Call::Getrandom(_)) => 5,
        (Variant::Direct, _) => u64::MAX,
        _ => 2,
    }
}

/// How often the sweep makes an experiment whose clock somebody may have set meanwhile.
const ATTEMPTS: u32 = 3;

/// A function that is swept.
pub(super) struct FunctionSweeper<'a, 'b> {
    pub(super) name: &'a str,
    pub(super) entry: Svma,
    /// The new kernel's function of that name.
    pub(super) native: Option<Avma>,
    pub(super) code: &'a Code,
    /// What threads run in.
    pub(super) text: &'a Text,
    /// The same where it belongs on the stage.
    pub(super) before: &'a Before<'b>,
    pub(super) thread: &'a mut TracedThread,
    pub(super) old: OldKernel<'a>,
    /// What is tried at each stop.
    pub(super) trials: Vec<Trial<'a, 'b>>,
    pub(super) namespaces: Namespaces,
    /// What the old kernel's clocks may count with.
    pub(super) modes: &'a [ClockMode],
    /// The old kernel's pages when they were made.
    pub(super) pristine: Vec<u8>,
}

/// An approach that is tried, and what has come of it.
pub(super) struct Trial<'a, 'b> {
    pub(super) swap: &'a Swap<'b>,
    pub(super) tally: Tally,
}

impl<'a, 'b> Trial<'a, 'b> {
    pub(super) fn new(swap: &'a Swap<'b>) -> Self {
        Self {
            swap,
            tally: Tally::default(),
        }
    }
}

/// What an experiment came to, in words if it has failed.
pub(super) type Found = (Ending, String);

/// A thread that is at a boundary, and how it is stopped there.
#[derive(Clone, Copy)]
struct At<'s> {
    snapshot: &'s Snapshot,
    variant: Variant,
    /// How many instructions a function executes that a handler calls, before it is stopped.
    depth: usize,
}

/// A scenario that is ready to be traced.
pub(super) struct Ready<'p> {
    pub(super) scenario: Scenario,
    pub(super) pages: &'p Emulated,
    pub(super) activation: Activation,
    /// The thread at the entry.
    pub(super) start: Snapshot,
    /// What the old code has answered on its own kernel.
    pub(super) home: Answer,
    /// What the system call has answered before anything that the thread may say now; `None` where
    /// no system call does the same.
    pub(super) witness: Option<Answer>,
    /// What the system call has answered last.
    pub(super) latest: Option<Answer>,
    /// Whether the function has made a system call. Its answer may be as old as the call.
    pub(super) has_called: bool,
    /// Boundaries in the order they were met, undisturbed.
    pub(super) path: Vec<Svma>,
}

impl Ready<'_> {
    /// The latest answer of the system call becomes the earliest that the thread may give from now
    /// on.
    fn advance_witness(&mut self) {
        if let Some(latest) = self.latest.take().filter(|_| !self.has_called) {
            self.witness = Some(latest);
        }
    }
}

impl FunctionSweeper<'_, '_> {
    /// Sweeps it, and returns what was counted, by approach.
    pub(super) fn sweep(mut self, progress: &mut Progress) -> Result<Vec<Tally>> {
        let mut state = None;
        for &mode in self.modes {
            let pages = self.old.pages(&mut self.thread.stage, mode)?;
            let stage = &self.thread.stage;
            self.pristine = stage.bytes(stage.layout().pages.clone());
            if self.name.ends_with("getrandom") && mode == ClockMode::COUNTER {
                self.set_up(Scenario::usual(random::QUERY), &pages)?;
                let answer = self.at_home(random::QUERY)?;
                state =
                    random::state_size(&answer, &self.thread.stage.slot_bytes(OperandField::Outer));
            }
            let scenarios = scenarios(self.name, mode, state, self.thread.pid());
            for scenario in scenarios {
                progress.at(format!("{}: {scenario}; {}", self.name, self.namespaces));
                if let Some(mut ready) = self.prepare(scenario, &pages)? {
                    // The sweep needs the length of the path first: it stops inner functions at
                    // each step in turn.
                    ready.path = self.trace(&ready)?;
                    self.stop_on_path(&mut ready)?;
                    self.disturb(&mut ready)?;
                }
            }
        }
        Ok(self.trials.into_iter().map(|trial| trial.tally).collect())
    }

    fn home(&self) -> Avma {
        self.entry.at(self.thread.stage.image())
    }

    /// Calls the old code where it is.
    pub(super) fn at_home(&mut self, call: Call) -> Result<Answer> {
        let answer = self.thread.call(self.home(), call, OperandField::Outer)?;
        answer.map_err(|what| self.does_not_work(&format!("{call}: {what}")))
    }

    /// That the old code does not even do at home what it should, so that there is nothing to
    /// sweep.
    pub(super) fn does_not_work(&self, what: &str) -> Error {
        Error::Unlinkable {
            what: "threads in flight".to_owned(),
            reason: format!("{} does not work on its own kernel, {what}", self.name),
        }
    }

    /// Brings memory to where a scenario begins; `false` if this kernel cannot be in that state.
    fn set_up(&mut self, scenario: Scenario, pages: &Emulated) -> Result<bool> {
        self.before.put(&mut self.thread.stage);
        self.thread.reset()?;
        // The emulator does not refresh the clock pages of hypervisors, so the last scenario's
        // values are still there.
        let start = self.thread.stage.layout().pages.start;
        self.thread.stage.put(start, &self.pristine);
        if !scenario.state.apply(pages, scenario.mode)? {
            return Ok(false);
        }
        let in_use = random::mark(&self.thread.stage);
        match (scenario.prepared, scenario.call) {
            (Prepared::Used, Call::Getrandom(random)) => {
                self.at_home(Call::Getrandom(Random {
                    length: 32,
                    ..random
                }))?;
            }
            (Prepared::Taken, _) => drop(self.thread.stage.write(in_use, &[1])),
            _ => {}
        }
        Ok(true)
    }

    fn prepare<'p>(
        &mut self,
        scenario: Scenario,
        pages: &'p Emulated,
    ) -> Result<Option<Ready<'p>>> {
        if !self.set_up(scenario, pages)? {
            return Ok(None);
        }
        let call = scenario.call;
        let activation = self.thread.enter(self.home(), call, OperandField::Outer)?;
        let start = self.thread.snapshot(self.thread.registers()?)?;
        let home = self.at_home(call)?;
        let witness = match call.has_system_call() {
            true => Some(self.thread.system_call(call)?),
            false => None,
        };
        self.thread.restore(&start)?;
        Ok(Some(Ready {
            scenario,
            pages,
            activation,
            start,
            home,
            witness,
            latest: None,
            has_called: false,
            path: Vec::new(),
        }))
    }

    /// Makes every experiment at a boundary that there is reason to make, and leaves the thread
    /// there.
    pub(super) fn experiments(
        &mut self,
        ready: &mut Ready<'_>,
        snapshot: &Snapshot,
        boundary: Svma,
        step: usize,
    ) -> Result<()> {
        // An inner function is stopped everywhere in turns.
        let depth = (step * 7 + 3) % ready.path.len().clamp(1, 1000);
        for variant in Variant::ALL {
            let wanted = 0..self.trials.len();
            let wanted: Vec<usize> = wanted
                .filter(|&trial| !self.is_enough(&ready.scenario, trial, variant, boundary))
                .collect();
            if wanted.is_empty() {
                continue;
            }
            let at = At {
                snapshot,
                variant,
                depth,
            };
            for (trial, found) in self.try_each(ready, at, &wanted)? {
                self.count(ready, trial, (variant, boundary), found);
            }
        }
        Ok(())
    }

    /// Stops the thread once, and tries each of these approaches from there. The thread is at the
    /// boundary again afterwards.
    fn try_each(
        &mut self,
        ready: &mut Ready<'_>,
        at: At<'_>,
        wanted: &[usize],
    ) -> Result<Vec<(usize, Found)>> {
        let mut found = Vec::with_capacity(wanted.len());
        let stopped = self.stop(ready, at)?;
        // The thread may have made a system call before it was stopped, so all approaches share the
        // earliest answer.
        let witness = ready.witness.clone();
        for &trial in wanted {
            let swap = self.trials[trial].swap;
            ready.witness.clone_from(&witness);
            let mut came_to = self.experiment(ready, swap, &stopped)?;
            for _ in 1..ATTEMPTS {
                // Somebody may have set the clock meanwhile.
                if came_to.0 == Ending::Wrong && ready.scenario.call.is_settable() {
                    ready.advance_witness();
                    self.undo(at.snapshot)?;
                    let again = self.stop(ready, at)?;
                    came_to = self.experiment(ready, swap, &again)?;
                }
            }
            found.push((trial, came_to));
        }
        ready.advance_witness();
        self.undo(at.snapshot)?;
        Ok(found)
    }

    /// Stops a thread that is at a boundary; or says how it has ended instead.
    fn stop(&mut self, ready: &Ready<'_>, at: At<'_>) -> Result<Result<Stopped, Found>> {
        let from = (at.snapshot, ready.activation);
        let inner = (self.home(), at.depth);
        let stopped = experiment::stop(self.thread, from, at.variant, inner)?;
        Ok(stopped.map_err(|outcome| match outcome {
            ExperimentOutcome::Ended(ending, what) => (ending, what),
            ExperimentOutcome::Landed(_) => (Ending::Wrong, "it has returned".to_owned()),
        }))
    }

    /// Whether there is reason to stop a thread at a boundary.
    pub(super) fn is_wanted(&mut self, scenario: &Scenario, at: Svma) -> bool {
        Variant::ALL.into_iter().any(|variant| {
            let mut trials = 0..self.trials.len();
            trials.any(|trial| !self.is_enough(scenario, trial, variant, at))
        })
    }

    /// Whether an approach was tried often enough at a boundary.
    fn is_enough(&mut self, scenario: &Scenario, trial: usize, variant: Variant, at: Svma) -> bool {
        match self.trials[trial].tally.at(self.namespaces, variant, at) {
            // Waiting for what never ends takes long, and one is as bad as many.
            Some((_, Ending::Hung)) => true,
            Some((count, _)) => count >= most_experiments(scenario, variant),
            None => false,
        }
    }

    fn count(
        &mut self,
        ready: &Ready<'_>,
        trial: usize,
        (variant, at): (Variant, Svma),
        (ending, what): Found,
    ) {
        let tally = &mut self.trials[trial].tally;
        tally.add(self.namespaces, variant, at, ending);
        let linked = self.text.linked.as_ref();
        if let Some(boundary) = linked.and_then(|linked| linked.moved_from(at)) {
            tally.is_moved(at, boundary);
        }
        if ending.is_failure() {
            let length = self.code.covering(at).map_or(1, |found| found.length);
            let bytes = self.text.bytes.get(at.index()..).unwrap_or_default();
            let bytes = bytes.get(..usize::from(length)).unwrap_or_default();
            tally.explain(FailedExperiment {
                address: at.0,
                instruction: bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
                namespaces: self.namespaces,
                variant,
                scenario: ready.scenario.to_string(),
                ending,
                what,
            });
        }
    }

    /// Makes an experiment and judges it.
    fn experiment(
        &mut self,
        ready: &mut Ready<'_>,
        swap: &Swap<'_>,
        stopped: &Result<Stopped, Found>,
    ) -> Result<Found> {
        let stopped = match stopped {
            Ok(stopped) => stopped,
            Err(ended) => return Ok(ended.clone()),
        };
        let landed = self.make(ready, swap, stopped)?;
        let next = match &landed {
            ExperimentOutcome::Landed(_) => self.next_random(ready)?,
            ExperimentOutcome::Ended(..) => None,
        };
        let found = self.judge(ready, swap.approach(), landed)?;
        let Some(next) = next.filter(|_| !found.0.is_failure()) else {
            return Ok(found);
        };
        self.make(ready, swap, stopped)?;
        let again = self.next_random(ready)?;
        let again = again.unwrap_or_else(|| Err("nothing".to_owned()));
        Ok(random::compare(found, next, again))
    }

    fn make(
        &mut self,
        ready: &Ready<'_>,
        swap: &Swap<'_>,
        stopped: &Stopped,
    ) -> Result<ExperimentOutcome> {
        self.undo(&stopped.snapshot)?;
        let pending = ready.scenario.disturbance.filter(|(it, _)| it.takes_time());
        if swap.approach() == Approach::StepOut && pending.is_some() {
            // The old kernel goes on with what it does while the thread is being stepped out.
            let pages = ready.start.pages();
            let start = self.thread.stage.layout().pages.start;
            self.thread.stage.put(start, pages);
        }
        let mut experiment = Experiment {
            thread: self.thread,
            swap,
            stopped,
        };
        experiment.make()
    }

    fn next_random(&mut self, ready: &Ready<'_>) -> Result<Option<random::Next>> {
        let entry = self.home();
        random::next(self.thread, entry, ready.scenario.call)
    }

    /// Puts the old kernel back, and the thread.
    pub(super) fn undo(&mut self, snapshot: &Snapshot) -> Result<()> {
        self.before.put(&mut self.thread.stage);
        self.thread.restore(snapshot)
    }
}
