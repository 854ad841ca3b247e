//! One function in one combination of namespaces: its scenarios, boundary by boundary.

use std::collections::{BTreeMap, BTreeSet};
use std::iter;

use crate::emulated::{ClockMode, Emulated};
use elf_tools::disassembly::Access;
use elf_tools::reachability::Code;
use elf_tools::{Avma, Svma};
use nix::libc;

use super::answer::Answer;
use super::call::{Call, Random};
use super::experiment::{Experiment, Outcome};
use super::ground::Text;
use super::old_kernel::OldKernel;
use super::outcome::{Ending, Failure, Namespaces, Variant};
use super::performer::{Activation, Snapshot, Thread};
use super::random;
use super::scenario::{Prepared, Scenario, disturbable, scenarios};
use super::stage::OperandField;
use super::swap::{Before, Swap};
use super::tally::Tally;
use crate::Approach;
use crate::child::Progress;
use crate::{Error, Result};

/// How often a thread is stopped at one boundary in one trace. `getrandom` goes around often, and every time is the same.
fn most_visits(scenario: &Scenario) -> u32 {
    match scenario.call {
        Call::Getrandom(_) => 1,
        _ => 2,
    }
}

/// How often it is stopped at one boundary in all of them.
fn most_experiments(scenario: &Scenario, variant: Variant) -> u64 {
    match (variant, scenario.call) {
        (Variant::Direct, Call::Getrandom(_)) => 5,
        (Variant::Direct, _) => u64::MAX,
        _ => 2,
    }
}

/// How often an experiment is made whose clock somebody may have set meanwhile.
const ATTEMPTS: u32 = 3;

/// How many steps an update takes that is slow. Who waits for it goes around several times.
const SLOW: usize = 24;

/// How many steps of a function may be disturbed. `getrandom` takes thousands, and reads in the first few.
const MOST_DISTURBED: usize = 200;

/// More steps than any function takes for what it is asked here.
const MOST_STEPS: usize = 50_000;

/// The instruction.
const SYSCALL: [u8; 2] = [0x0f, 0x05];

/// A function that is swept.
pub(super) struct Subject<'a, 'b> {
    pub(super) name: &'a str,
    pub(super) entry: Svma,
    /// The new kernel's function of that name.
    pub(super) native: Option<Avma>,
    pub(super) code: &'a Code,
    /// What threads run in.
    pub(super) text: &'a Text,
    /// The same where it belongs on the stage.
    pub(super) before: &'a Before<'b>,
    pub(super) thread: &'a mut Thread,
    pub(super) old: OldKernel<'a>,
    /// What is tried at each stop.
    pub(super) trials: Vec<Trial<'a, 'b>>,
    pub(super) namespaces: Namespaces,
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

/// A thread that stands at a boundary, and how it is stopped there.
#[derive(Clone, Copy)]
struct Stop<'s> {
    snapshot: &'s Snapshot,
    variant: Variant,
    /// How many instructions a function executes that a handler calls, before it is stopped.
    depth: usize,
}

/// A scenario that is ready to be traced.
struct Ready<'p> {
    scenario: Scenario,
    pages: &'p Emulated,
    activation: Activation,
    /// The thread at the entry.
    start: Snapshot,
    /// What the old code has answered on its own kernel.
    home: Answer,
    /// What the system call has answered before anything that the thread may say now; `None` where no system call does the
    /// same.
    witness: Option<Answer>,
    /// Whether the function has made a system call: what that has answered may be as old as it is.
    has_called: bool,
    /// Boundaries in the order they were met, undisturbed.
    path: Vec<Svma>,
}

impl Subject<'_, '_> {
    /// Sweeps it, and returns what was counted, by approach.
    pub(super) fn sweep(mut self, progress: &mut Progress) -> Result<Vec<Tally>> {
        let mut state = None;
        for mode in ClockMode::ALL {
            let pages = self.old.pages(&mut self.thread.stage, mode)?;
            let stage = &self.thread.stage;
            self.pristine = stage.bytes(stage.layout().pages.clone());
            if self.name.ends_with("getrandom") && mode == ClockMode::Tsc {
                self.set_up(Scenario::usual(random::QUERY), &pages)?;
                let answer = self.at_home(random::QUERY)?;
                state =
                    random::state_size(&answer, &self.thread.stage.slot_bytes(OperandField::Outer));
            }
            let scenarios = scenarios(self.name, mode, state, self.thread.pid());
            for scenario in scenarios {
                progress.at(format!("{}: {scenario}; {}", self.name, self.namespaces));
                if let Some(mut ready) = self.prepare(scenario, &pages)? {
                    // How long the way is has to be known before threads are stopped on it: inner ones are in turns.
                    self.trace(&mut ready, false)?;
                    self.trace(&mut ready, true)?;
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
    fn at_home(&mut self, call: Call) -> Result<Answer> {
        let answer = self.thread.call(self.home(), call, OperandField::Outer)?;
        answer.map_err(|what| Error::Child {
            what: format!("called {} on its own kernel, {call}: {what}", self.name),
        })
    }

    /// Brings memory to where a scenario begins; `false` if this kernel cannot be in that state.
    fn set_up(&mut self, scenario: Scenario, pages: &Emulated) -> Result<bool> {
        self.before.put(&mut self.thread.stage);
        self.thread.reset()?;
        // What nobody keeps current is as the last scenario has left it: the clock pages of hypervisors.
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
            has_called: false,
            path: Vec::new(),
        }))
    }

    /// Follows the function instruction by instruction, with an experiment at each if they are wanted, and returns the
    /// boundaries that were met.
    fn trace(&mut self, ready: &mut Ready<'_>, experiments: bool) -> Result<Vec<Svma>> {
        self.thread.restore(&ready.start)?;
        ready.has_called = false;
        let mut registers = ready.start.registers;
        let mut visits: BTreeMap<Svma, u32> = BTreeMap::new();
        let mut path = Vec::new();
        let first = ready.scenario.disturbance.map_or(0, |(_, step)| step);
        while let Some(boundary) = self.boundary(registers.pc()) {
            self.disturb_at(ready, path.len());
            path.push(boundary);
            let visits = visits.entry(boundary).or_default();
            if experiments && path.len() > first && *visits < most_visits(&ready.scenario) {
                *visits += 1;
                let snapshot = self.thread.snapshot(registers)?;
                self.experiments(ready, &snapshot, boundary, path.len() - 1)?;
            }
            ready.has_called |= self.is_system_call(boundary);
            if path.len() > MOST_STEPS {
                return Err(self.lost("does not come to an end", &ready.scenario));
            }
            registers = match self.thread.step()? {
                Some(registers) => registers,
                None => return Err(self.lost("meets a trap", &ready.scenario)),
            };
        }
        if ready.path.is_empty() {
            ready.path = path.clone();
        }
        Ok(path)
    }

    fn lost(&self, what: &str, scenario: &Scenario) -> Error {
        Error::Child {
            what: format!("found that {} {what} at home, {scenario}", self.name),
        }
    }

    /// The place in the text that a program counter is at.
    fn boundary(&self, pc: Avma) -> Option<Svma> {
        let place = pc.0.checked_sub(self.thread.stage.image().0)?;
        (place < self.text.bytes.len() as u64).then_some(Svma(place))
    }

    fn is_system_call(&self, boundary: Svma) -> bool {
        let code = self.text.bytes.get(boundary.index()..).unwrap_or_default();
        code.starts_with(&SYSCALL)
    }

    fn disturb_at(&self, ready: &Ready<'_>, step: usize) {
        if let Some((disturbance, begin)) = ready.scenario.disturbance {
            if step == begin {
                disturbance.begin(ready.pages);
            } else if step == begin + SLOW {
                disturbance.end(ready.pages);
            }
        }
    }

    /// Repeats a trace with disturbances, where they lead to boundaries that were never met; and once in the middle.
    fn disturb(&mut self, ready: &mut Ready<'_>) -> Result<()> {
        let usual = ready.scenario;
        for &disturbance in disturbable(&usual) {
            let mut met: BTreeSet<Svma> = ready.path.iter().copied().collect();
            let middle = ready.path.len() / 2;
            for step in self.steps(&ready.path).into_iter().chain([middle]) {
                ready.scenario = usual.disturbed(disturbance, step);
                let path = self.trace(ready, false)?;
                let before = met.len();
                met.extend(path);
                if met.len() > before || step == middle {
                    self.trace(ready, true)?;
                }
            }
        }
        ready.scenario = usual;
        Ok(())
    }

    /// The steps before which it is tried what a disturbance changes: the first one, and those behind which something was
    /// read. To what happens in between, a function is blind.
    fn steps(&self, path: &[Svma]) -> Vec<usize> {
        let reads = |(step, boundary): (usize, &Svma)| {
            let access = self.code.covering(*boundary)?.access;
            matches!(access, Access::Memory(_)).then_some(step + 1)
        };
        let read = path
            .iter()
            .take(MOST_DISTURBED)
            .enumerate()
            .filter_map(reads);
        iter::once(0).chain(read).collect()
    }

    /// Makes every experiment at a boundary that there is reason to make, and leaves the thread there.
    fn experiments(
        &mut self,
        ready: &mut Ready<'_>,
        snapshot: &Snapshot,
        boundary: Svma,
        step: usize,
    ) -> Result<()> {
        // An inner function is stopped everywhere in turns.
        let depth = (step * 7 + 3) % ready.path.len().clamp(1, 1000);
        for variant in Variant::ALL {
            for trial in 0..self.trials.len() {
                if self.is_enough(&ready.scenario, trial, variant, boundary) {
                    continue;
                }
                let stop = Stop {
                    snapshot,
                    variant,
                    depth,
                };
                let found = self.experiment(ready, self.trials[trial].swap, stop)?;
                self.count(ready, trial, (variant, boundary), found);
            }
        }
        Ok(())
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
        (ending, what): (Ending, String),
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
            tally.explain(Failure {
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

    /// Makes an experiment and judges it. The thread is at the boundary again afterwards.
    fn experiment(
        &mut self,
        ready: &mut Ready<'_>,
        swap: &Swap<'_>,
        stop: Stop<'_>,
    ) -> Result<(Ending, String)> {
        let snapshot = stop.snapshot;
        let mut attempt = 1;
        loop {
            let landed = self.make(ready, swap, stop)?;
            let next = match &landed {
                Outcome::Landed(_) => self.next_random(ready)?,
                Outcome::Ended(..) => None,
            };
            let mut found = self.judge(ready, swap.approach(), landed)?;
            self.undo(snapshot)?;
            if let Some(next) = next.filter(|_| !found.0.is_failure()) {
                self.make(ready, swap, stop)?;
                let again = self.next_random(ready)?;
                self.undo(snapshot)?;
                found = random::compare(
                    found,
                    next,
                    again.unwrap_or_else(|| Err("nothing".to_owned())),
                );
            }
            let doubtful = found.0 == Ending::Wrong && ready.scenario.call.is_settable();
            if !doubtful || attempt == ATTEMPTS {
                return Ok(found);
            }
            attempt += 1;
        }
    }

    fn make(&mut self, ready: &Ready<'_>, swap: &Swap<'_>, stop: Stop<'_>) -> Result<Outcome> {
        let pending = ready.scenario.disturbance.filter(|(it, _)| it.takes_time());
        if swap.approach() == Approach::StepOut && pending.is_some() {
            // The old kernel goes on with what it does while the thread is being stepped out.
            let pages = ready.start.pages();
            let start = self.thread.stage.layout().pages.start;
            self.thread.stage.put(start, pages);
        }
        let mut experiment = Experiment {
            entry: self.home(),
            thread: self.thread,
            swap,
            activation: ready.activation,
            snapshot: stop.snapshot,
            depth: stop.depth,
        };
        experiment.make(stop.variant)
    }

    fn next_random(&mut self, ready: &Ready<'_>) -> Result<Option<random::Next>> {
        let entry = self.home();
        random::next(self.thread, entry, ready.scenario.call)
    }

    fn undo(&mut self, snapshot: &Snapshot) -> Result<()> {
        self.before.put(&mut self.thread.stage);
        self.thread.restore(snapshot)
    }

    /// What came out, held against the system call and against the old code.
    fn judge(
        &mut self,
        ready: &mut Ready<'_>,
        approach: Approach,
        outcome: Outcome,
    ) -> Result<(Ending, String)> {
        let landings = match outcome {
            Outcome::Landed(landings) => landings,
            Outcome::Ended(ending, what) => return Ok((ending, what)),
        };
        let answers: Result<Vec<Answer>, String> = landings.into_iter().collect();
        let answers = match answers {
            Ok(answers) => answers,
            Err(what) => return Ok((Ending::Wrong, what)),
        };
        if ready.scenario.prepared != Prepared::Taken && random::is_marked(&self.thread.stage) {
            let what = "the state of getrandom is marked as being in use".to_owned();
            return Ok((Ending::Wrong, what));
        }
        let call = ready.scenario.call;
        // Of nested calls, one may have read everything before and the other nothing.
        let mut left = answers.clone();
        if let Some(before) = ready.witness.take() {
            let after = self.thread.system_call(call)?;
            left.retain(|answer| !answer.is_between(&before, &after));
            ready.witness = Some(if ready.has_called { before } else { after });
            if left.is_empty() {
                return Ok((Ending::New, String::new()));
            }
        }
        self.undo(&ready.start)?;
        let home = self.at_home(call)?;
        left.retain(|answer| !answer.is_between(&ready.home, &home));
        if left.is_empty() {
            return Ok((Ending::Old, String::new()));
        }
        if left.iter().all(|answer| answer.moment.is_none()) && self.is_native(call, &left)? {
            return Ok((Ending::New, String::new()));
        }
        if !call.has_system_call() && says_nothing(approach, &left) {
            return Ok((Ending::New, String::new()));
        }
        let found: Vec<String> = answers.iter().map(|found| found.beside(&home)).collect();
        let witness = ready.witness.as_ref().map(ToString::to_string);
        let what = format!(
            "it says {}; the old kernel {home}, the new one {}",
            found.join(" and "),
            witness.unwrap_or_else(|| "nothing".to_owned()),
        );
        Ok((Ending::Wrong, what))
    }

    /// Whether answers that do not move are those of the new kernel's own vDSO, which does not always do what its system
    /// calls do: from 6.18 on it states a resolution for auxiliary clocks that the system call rejects.
    fn is_native(&mut self, call: Call, answers: &[Answer]) -> Result<bool> {
        let Some(native) = self.native else {
            return Ok(false);
        };
        let native = self.thread.call(native, call, OperandField::Outer)?;
        Ok(native.is_ok_and(|native| answers.iter().all(|answer| *answer == native)))
    }
}

/// Whether these are what a function says that was replaced by a system call and is asked what no system call tells.
/// Programs on kernels without the function get the same answer: see [`relocator::proxy::system_call_stub`].
fn says_nothing(approach: Approach, answers: &[Answer]) -> bool {
    let refused = -i64::from(libc::ENOSYS);
    approach == Approach::Syscall && answers.iter().all(|answer| answer.code == refused)
}
