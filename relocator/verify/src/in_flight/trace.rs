//! The path through a function, instruction by instruction: experiments on it, and updates of the
//! old kernel's pages that lead the function elsewhere.

use std::collections::{BTreeMap, BTreeSet};

use elf_tools::disassembly::Access;
use elf_tools::{Avma, Svma};
use relocator_process::tracing::{Stop, UserRegisters};

use super::call::Call;
use super::function_sweep::{FunctionSweeper, Ready};
use super::pages::Disturbance;
use super::scenario::{Scenario, disturbable};
use super::traced_thread::{Run, Snapshot};
use crate::Result;
use crate::arch::{self, TRAP, TRAPPED};

/// How many steps an update takes that is slow. A function that waits for it goes around several
/// times.
const SLOW: usize = 24;

/// How many steps of a function may be disturbed. `getrandom` takes thousands, and reads in the
/// first few.
const MOST_DISTURBED: usize = 200;

/// More steps than any function takes for what it is asked here.
const MOST_STEPS: usize = 50_000;

/// How often a thread is stopped at one boundary in one trace. `getrandom` goes around often, and
/// every time is the same.
fn most_visits(scenario: &Scenario) -> u32 {
    match scenario.call {
        Call::Getrandom(_) => 1,
        _ => 2,
    }
}

/// A thread on its way through a function.
pub(super) struct Point {
    snapshot: Snapshot,
    /// How many steps it has made.
    step: usize,
    /// Whether the function has made a system call.
    has_called: bool,
}

impl FunctionSweeper<'_, '_> {
    /// Follows the function from its entry, undisturbed, and returns the boundaries that were met.
    pub(super) fn trace(&mut self, ready: &Ready<'_>) -> Result<Vec<Svma>> {
        self.thread.restore(&ready.start)?;
        let mut registers = ready.start.registers;
        let mut path = Vec::new();
        while let Some(boundary) = self.boundary(registers.pc()) {
            path.push(boundary);
            registers = self.step(ready, path.len())?;
        }
        Ok(path)
    }

    /// Follows the function from its entry, with an experiment at each step that there is reason to
    /// make.
    pub(super) fn stop_on_path(&mut self, ready: &mut Ready<'_>) -> Result<()> {
        let met: BTreeSet<Svma> = ready.path.iter().copied().collect();
        if met
            .into_iter()
            .all(|boundary| !self.is_wanted(&ready.scenario, boundary))
        {
            return Ok(());
        }
        let start = Point {
            snapshot: ready.start.clone(),
            step: 0,
            has_called: false,
        };
        self.stop_behind(ready, &start).map(drop)
    }

    /// The same from a point on, where the disturbance of the scenario begins. Returns the
    /// boundaries that were met.
    fn stop_behind(&mut self, ready: &mut Ready<'_>, from: &Point) -> Result<BTreeSet<Svma>> {
        self.thread.restore(&from.snapshot)?;
        ready.has_called = from.has_called;
        let mut registers = from.snapshot.registers;
        let mut visits: BTreeMap<Svma, u32> = BTreeMap::new();
        let mut step = from.step;
        while let Some(boundary) = self.boundary(registers.pc()) {
            disturb_at(ready, step);
            let visits = visits.entry(boundary).or_default();
            if *visits < most_visits(&ready.scenario) && self.is_wanted(&ready.scenario, boundary) {
                let snapshot = self.thread.snapshot(registers)?;
                self.experiments(ready, &snapshot, boundary, step)?;
            }
            *visits += 1;
            ready.has_called |= self.is_system_call(boundary);
            step += 1;
            registers = self.step(ready, step)?;
        }
        Ok(visits.into_keys().collect())
    }

    /// Makes a step at home; `made` is the number of steps with it.
    fn step(&mut self, ready: &Ready<'_>, made: usize) -> Result<UserRegisters> {
        if made > MOST_STEPS {
            return Err(
                self.does_not_work(&format!("{}: it does not come to an end", ready.scenario))
            );
        }
        let stepped = self.thread.step()?;
        stepped.ok_or_else(|| self.does_not_work(&format!("{}: it meets a trap", ready.scenario)))
    }

    /// The place in the text that a program counter is at.
    fn boundary(&self, pc: Avma) -> Option<Svma> {
        let place = pc.0.checked_sub(self.thread.stage.image().0)?;
        (place < self.text.bytes.len() as u64).then_some(Svma(place))
    }

    fn is_system_call(&self, boundary: Svma) -> bool {
        let code = self.text.bytes.get(boundary.index()..);
        arch::is_system_call(code.unwrap_or_default())
    }

    /// Follows the function with each disturbance before each step where that leads to boundaries
    /// that were never met; and once in the middle.
    pub(super) fn disturb(&mut self, ready: &mut Ready<'_>) -> Result<()> {
        let usual = ready.scenario;
        for disturbance in disturbable(&usual) {
            self.disturb_with(ready, usual, disturbance)?;
        }
        ready.scenario = usual;
        Ok(())
    }

    /// Walks along the undisturbed path, and leaves it where the disturbance may change it.
    fn disturb_with(
        &mut self,
        ready: &mut Ready<'_>,
        usual: Scenario,
        disturbance: Disturbance,
    ) -> Result<()> {
        let mut met: BTreeSet<Svma> = ready.path.iter().copied().collect();
        let middle = ready.path.len() / 2;
        let mut steps = self.steps(&ready.path);
        steps.insert(middle);
        let last = steps.last().copied().unwrap_or(0);
        self.thread.restore(&ready.start)?;
        let mut registers = ready.start.registers;
        let mut has_called = false;
        for step in 0..=last {
            let Some(boundary) = self.boundary(registers.pc()) else {
                return Ok(());
            };
            if steps.contains(&step) {
                let point = Point {
                    snapshot: self.thread.snapshot(registers)?,
                    step,
                    has_called,
                };
                ready.scenario = usual.disturbed(disturbance, step);
                if self.leaves_path(ready, &point, disturbance, &met)? || step == middle {
                    met.extend(self.stop_behind(ready, &point)?);
                }
                self.thread.restore(&point.snapshot)?;
            }
            if step < last {
                has_called |= self.is_system_call(boundary);
                registers = self.step(ready, step + 1)?;
            }
        }
        Ok(())
    }

    /// The steps before which a disturbance can matter: the first one, and those behind a read of
    /// memory. A function does not notice what happens in between.
    fn steps(&self, path: &[Svma]) -> BTreeSet<usize> {
        let reads = |(step, boundary): (usize, &Svma)| {
            let access = self.code.covering(*boundary)?.access;
            matches!(access, Access::Memory(_)).then_some(step + 1)
        };
        let path = path.iter().take(MOST_DISTURBED).enumerate();
        let mut steps: BTreeSet<usize> = path.filter_map(reads).collect();
        steps.insert(0);
        steps
    }

    /// Whether a disturbance at a point leads to a boundary that was never met. The thread is
    /// somewhere else then.
    fn leaves_path(
        &mut self,
        ready: &Ready<'_>,
        point: &Point,
        disturbance: Disturbance,
        met: &BTreeSet<Svma>,
    ) -> Result<bool> {
        disturbance.begin(ready.pages);
        let mut registers = point.snapshot.registers;
        // Where the instructions are that an earlier link has added, only steps tell.
        let steps = match (self.text.linked.is_some(), disturbance.takes_time()) {
            (true, _) => MOST_STEPS,
            (false, true) => SLOW,
            (false, false) => 0,
        };
        for made in 0..=steps {
            match self.boundary(registers.pc()) {
                None => return Ok(false),
                Some(boundary) if !met.contains(&boundary) => return Ok(true),
                Some(_) => {}
            }
            if made == SLOW {
                disturbance.end(ready.pages);
            }
            if made < steps {
                registers = self.step(ready, made + 1)?;
            }
        }
        self.meets_other_instruction(ready, met)
    }

    /// Lets the thread run to the end with traps at all instructions that were never met, and finds
    /// whether it meets one.
    fn meets_other_instruction(&mut self, ready: &Ready<'_>, met: &BTreeSet<Svma>) -> Result<bool> {
        let mut text = self.text.bytes.clone();
        let others = self.code.instructions().iter();
        for other in others.filter(|other| !met.contains(&other.address)) {
            if let Some(byte) = text.get_mut(other.address.index()) {
                *byte = TRAP;
            }
        }
        let start = self.thread.stage.layout().text.start;
        self.thread.stage.put(start, &text);
        let run = self.thread.run()?;
        self.thread.stage.put(start, &self.text.bytes);
        match run {
            Run::Trapped(_) => Ok(false),
            Run::Crashed(Stop::TRAP, registers)
                if self.boundary(registers.pc().offset(-TRAPPED)).is_some() =>
            {
                Ok(true)
            }
            _ => {
                Err(self.does_not_work(&format!("{}: it does not come to an end", ready.scenario)))
            }
        }
    }
}

/// Begins or ends the disturbance of a scenario, if it begins or ends before this step.
fn disturb_at(ready: &Ready<'_>, step: usize) {
    if let Some((disturbance, begin)) = ready.scenario.disturbance {
        if step == begin {
            disturbance.begin(ready.pages);
        } else if step == begin + SLOW {
            disturbance.end(ready.pages);
        }
    }
}
