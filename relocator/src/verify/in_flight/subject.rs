//! One function in one combination of namespaces: its scenarios, boundary by boundary.

use std::collections::{BTreeMap, BTreeSet};

use elf_tools::code::Code;
use elf_tools::{Avma, Svma};
use kernel_fixtures::emulated::{ClockMode, Emulated};

use super::answer::Answer;
use super::call::{Call, Random};
use super::experiment::{Experiment, Outcome};
use super::old_kernel::OldKernel;
use super::outcome::{Ending, Failure, Namespaces, Variant};
use super::scenario::{Prepared, Scenario, disturbable, scenarios};
use super::stage::Slot;
use super::swap::Swap;
use super::tally::Tally;
use super::thread::{Activation, Snapshot, Thread};
use super::treatment::Treatment;
use crate::hexadecimal;
use crate::verify::child::Progress;
use crate::{Error, Result};

/// How often a thread is stopped at one boundary in one trace. `getrandom` goes around often, and every time is the same.
fn most_visits(scenario: &Scenario) -> u32 {
    match scenario.call {
        Call::Getrandom(_) => 1,
        _ => 2,
    }
}

/// How often it is interrupted by signals at one boundary.
const INTERRUPTIONS: u64 = 2;

/// How often an experiment is made whose clock somebody may have set meanwhile.
const ATTEMPTS: u32 = 3;

/// How many steps an update takes that is slow. Who waits for it goes around several times.
const SLOW: usize = 24;

/// More steps than any function takes for what it is asked here.
const MOST_STEPS: usize = 50_000;

/// Where the mark is that a state of `getrandom` is in use: `struct vgetrandom_state` of `include/vdso/getrandom.h`, which
/// has a key and a batch of 128 bytes, a generation of 8, a position, and this.
const IN_USE: i64 = 137;

/// The instruction.
const SYSCALL: [u8; 2] = [0x0f, 0x05];

/// A function that is swept.
pub(super) struct Subject<'a, 'b> {
    pub(super) name: &'a str,
    pub(super) entry: Svma,
    pub(super) code: &'a Code,
    pub(super) image: &'a [u8],
    pub(super) thread: &'a mut Thread,
    pub(super) old: OldKernel<'a>,
    pub(super) swap: &'a Swap<'b>,
    pub(super) treatment: Treatment,
    pub(super) namespaces: Namespaces,
    pub(super) tally: Tally,
    /// The old kernel's pages when they were made.
    pub(super) pristine: Vec<u8>,
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
    /// Sweeps it, and returns what was counted.
    pub(super) fn sweep(mut self, progress: &mut Progress) -> Result<Tally> {
        let mut state = None;
        for mode in ClockMode::ALL {
            let pages = self.old.pages(&mut self.thread.stage, mode)?;
            let stage = &self.thread.stage;
            self.pristine = stage.bytes(stage.layout().pages.clone());
            if self.name.ends_with("getrandom") && mode == ClockMode::Tsc {
                state = self.state_size(&pages)?;
            }
            let scenarios = scenarios(self.name, mode, state, self.thread.pid());
            for scenario in scenarios {
                progress.at(format!("{}: {scenario}; {}", self.name, self.namespaces));
                if let Some(mut ready) = self.prepare(scenario, &pages)? {
                    self.trace(&mut ready, true)?;
                    self.disturb(&mut ready)?;
                }
            }
        }
        Ok(self.tally)
    }

    fn home(&self) -> Avma {
        self.entry.at(self.thread.stage.image())
    }

    /// The size of the state that `getrandom` asks for; `None` if it cannot have one.
    fn state_size(&mut self, pages: &Emulated) -> Result<Option<usize>> {
        let query = Call::Getrandom(Random {
            length: 0,
            flags: 0,
            state: None,
            query: true,
        });
        let scenario = Scenario::usual(query);
        self.set_up(scenario, pages)?;
        let answer = self.at_home(query)?;
        let slot = self.thread.stage.slot_bytes(Slot::Outer);
        let size = Call::state_size(&slot);
        let usable = answer.code == 0 && size > IN_USE as usize && size <= 4096;
        Ok(usable.then_some(size))
    }

    /// Calls the old code where it is.
    fn at_home(&mut self, call: Call) -> Result<Answer> {
        let answer = self.thread.call(self.home(), call, Slot::Outer)?;
        answer.map_err(|what| Error::Child {
            what: format!("called {} on its own kernel, {call}: {what}", self.name),
        })
    }

    /// Brings memory to where a scenario begins; `false` if this kernel cannot be in that state.
    fn set_up(&mut self, scenario: Scenario, pages: &Emulated) -> Result<bool> {
        self.swap.undo(&mut self.thread.stage);
        self.thread.reset()?;
        // What nobody keeps current is as the last scenario has left it: the clock pages of hypervisors.
        let start = self.thread.stage.layout().pages.start;
        self.thread.stage.put(start, &self.pristine);
        if !scenario.state.apply(pages, scenario.mode)? {
            return Ok(false);
        }
        let in_use = self.thread.stage.state().offset(IN_USE);
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
        let activation = self.thread.enter(self.home(), call, Slot::Outer)?;
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

    /// The boundary of the old image that a program counter is at.
    fn boundary(&self, pc: Avma) -> Option<Svma> {
        let place = pc.0.checked_sub(self.thread.stage.image().0)?;
        (place < self.image.len() as u64).then_some(Svma(place))
    }

    fn is_system_call(&self, boundary: Svma) -> bool {
        let code = self.image.get(boundary.index()..).unwrap_or_default();
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
            for step in steps(&usual, ready.path.len()).into_iter().chain([middle]) {
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

    /// Makes every experiment at a boundary that there is reason to make, and leaves the thread there.
    fn experiments(
        &mut self,
        ready: &mut Ready<'_>,
        snapshot: &Snapshot,
        boundary: Svma,
        step: usize,
    ) -> Result<()> {
        for variant in Variant::ALL {
            let before = self.tally.at(self.namespaces, variant, boundary);
            let enough = match before {
                // Waiting for what never ends takes long, and one is as bad as many.
                Some((_, Ending::Hung)) => true,
                Some((count, _)) => variant != Variant::Direct && count >= INTERRUPTIONS,
                None => false,
            };
            if !enough {
                // An inner function is stopped everywhere in turns.
                let depth = (step * 7 + 3) % ready.path.len().clamp(1, 1000);
                let found = self.experiment(ready, snapshot, variant, depth)?;
                self.count(ready, variant, boundary, found);
            }
        }
        Ok(())
    }

    fn count(&mut self, ready: &Ready<'_>, variant: Variant, at: Svma, found: (Ending, String)) {
        let (ending, what) = found;
        self.tally.add(self.namespaces, variant, at, ending);
        if ending.is_failure() {
            let length = self.code.covering(at).map_or(1, |found| found.length);
            let bytes = self.image.get(at.index()..).unwrap_or_default();
            let bytes = bytes.get(..usize::from(length)).unwrap_or_default();
            self.tally.explain(Failure {
                address: at.0,
                instruction: hexadecimal::digits(bytes),
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
        snapshot: &Snapshot,
        variant: Variant,
        depth: usize,
    ) -> Result<(Ending, String)> {
        let mut attempt = 1;
        loop {
            let landed = self.make(ready, snapshot, variant, depth)?;
            let next = match &landed {
                Outcome::Landed(_) => self.next_random(ready)?,
                Outcome::Ended(..) => None,
            };
            let mut found = self.judge(ready, landed)?;
            self.undo(snapshot)?;
            if let Some(next) = next.filter(|_| !found.0.is_failure()) {
                self.make(ready, snapshot, variant, depth)?;
                let again = self.next_random(ready)?;
                self.undo(snapshot)?;
                found = compare(
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

    fn make(
        &mut self,
        ready: &Ready<'_>,
        snapshot: &Snapshot,
        variant: Variant,
        depth: usize,
    ) -> Result<Outcome> {
        let pending = ready.scenario.disturbance.filter(|(it, _)| it.takes_time());
        if self.treatment == Treatment::StepOut && pending.is_some() {
            // The old kernel goes on with what it does while the thread is being stepped out.
            let pages = ready.start.pages();
            let start = self.thread.stage.layout().pages.start;
            self.thread.stage.put(start, pages);
        }
        let mut experiment = Experiment {
            entry: self.home(),
            thread: self.thread,
            swap: self.swap,
            treatment: self.treatment,
            activation: ready.activation,
            snapshot,
            depth,
        };
        experiment.make(variant)
    }

    fn undo(&mut self, snapshot: &Snapshot) -> Result<()> {
        self.swap.undo(&mut self.thread.stage);
        self.thread.restore(snapshot)
    }

    /// What came out, held against the system call and against the old code.
    fn judge(&mut self, ready: &mut Ready<'_>, outcome: Outcome) -> Result<(Ending, String)> {
        let landings = match outcome {
            Outcome::Landed(landings) => landings,
            Outcome::Ended(ending, what) => return Ok((ending, what)),
        };
        let answers: Result<Vec<Answer>, String> = landings.into_iter().collect();
        let answers = match answers {
            Ok(answers) => answers,
            Err(what) => return Ok((Ending::Wrong, what)),
        };
        if self.is_marked(ready) {
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
        let found: Vec<String> = answers.iter().map(|found| found.beside(&home)).collect();
        let witness = ready.witness.as_ref().map(ToString::to_string);
        let what = format!(
            "it says {}; the old kernel {home}, the new one {}",
            found.join(" and "),
            witness.unwrap_or_else(|| "nothing".to_owned()),
        );
        Ok((Ending::Wrong, what))
    }

    /// Whether the state of `getrandom` is marked as being in use, and was not when the function began.
    fn is_marked(&self, ready: &Ready<'_>) -> bool {
        use crate::threads::Memory;
        let mut mark = [0];
        let at = self.thread.stage.state().offset(IN_USE);
        let is_read = self.thread.stage.read(at, &mut mark);
        ready.scenario.prepared != Prepared::Taken && is_read && mark != [0]
    }

    /// What the next call of `getrandom` gives on the state that the thread has come out with; `None` for other functions.
    fn next_random(&mut self, ready: &Ready<'_>) -> Result<Option<Next>> {
        let Call::Getrandom(random) = ready.scenario.call else {
            return Ok(None);
        };
        if random.state.is_none() {
            return Ok(None);
        }
        let call = Call::Getrandom(Random {
            length: 32,
            flags: 0,
            ..random
        });
        let answer = self.thread.call(self.home(), call, Slot::Inner)?;
        let slot = self.thread.stage.slot_bytes(Slot::Inner);
        let bytes = call.random_bytes().map(|range| slot[range].to_vec());
        Ok(Some(match answer {
            Ok(answer) if answer.code == 32 => Ok(bytes.unwrap_or_default()),
            Ok(answer) => Err(format!("the next call returns {}", answer.code)),
            Err(what) => Err(format!("the next call: {what}")),
        }))
    }
}

/// The steps before which it is tried what a disturbance changes. `getrandom` takes thousands, and reads in the first few.
fn steps(scenario: &Scenario, length: usize) -> Vec<usize> {
    match scenario.call {
        Call::Getrandom(_) => (0..length.min(64)).step_by(4).collect(),
        _ => (0..length).collect(),
    }
}

/// What the next call of `getrandom` gives, or how it fails.
type Next = Result<Vec<u8>, String>;

/// Two restores of one snapshot must not go on with the same random numbers.
fn compare(found: (Ending, String), first: Next, second: Next) -> (Ending, String) {
    match (first, second) {
        (Ok(first), Ok(second)) if first != second => found,
        (Ok(_), Ok(_)) => {
            let what = "two restores go on with the same random numbers".to_owned();
            (Ending::Wrong, what)
        }
        (Err(what), _) | (_, Err(what)) => (Ending::Wrong, what),
    }
}
