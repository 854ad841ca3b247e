//! What the demonstration does, and what came of it.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use relocator::plan::{FunctionPlan, Strategy};
use relocator::source::Source;
use relocator_process::apply::{self, ApplyOptions, RunningKernel};
use relocator_verify::bed::OldVdso;

use super::clocks::CALLS;
use super::victim::Victim;
use crate::command::tables::kept;
use crate::json::demo::{CallStory, Count, Demo, Fate, Look};
use crate::json::{DEMO, Kernel};
use crate::source::Spec;

/// How often the process is linked and rolled back: each time its threads are somewhere else.
const CYCLES: usize = 8;

/// For how long calls are counted each time.
const COUNTING: Duration = Duration::from_millis(150);

/// For how long a thread may make no call. A busy machine lets some wait for longer than calls are
/// counted.
const PATIENCE: Duration = Duration::from_secs(3);

impl Demo {
    /// Whether everything that the demonstration claims has happened.
    pub(super) fn is_proved(&self) -> bool {
        let looks = self.calls.iter();
        looks.clone().all(|call| call.linked.is_right)
            && looks.clone().any(|call| !call.jumps.is_right)
            && self.linked.compared > 0
            && self.linked.wrong == 0
            && self.linked.silent == 0
            && self.restored == self.cycles
    }

    /// How many functions came out so.
    pub(super) fn number_of(&self, strategy: Strategy) -> usize {
        let fates = self.strategies.iter();
        fates
            .filter(|fate| fate.strategy == strategy.name())
            .count()
    }
}

/// Does it all.
pub(super) fn play(old: &Spec, threads: u8) -> Result<Demo> {
    let tables = kept();
    let kernel = RunningKernel::read(&tables)?;
    let source = old.open()?;
    let (_, old_tables) = source.old(&tables)?;
    let vdso = OldVdso::of(&source)?;
    let alone = Victim::start(&vdso, false, threads)?.look()?;
    let mut victim = Victim::start(&vdso, true, threads)?;
    let jumps = victim.look()?;
    thread::sleep(COUNTING);
    let before = victim.count()?;
    let options = ApplyOptions {
        tables,
        ..ApplyOptions::default()
    };
    let cycles = Cycles::run(&mut victim, &kernel, &source, &options)?;
    let looks = alone.into_iter().zip(jumps).zip(cycles.looks);
    let calls = CALLS.iter().zip(looks);
    let calls = calls.map(|(call, ((alone, jumps), linked))| CallStory {
        call: call.name(),
        alone,
        jumps,
        linked,
    });
    Ok(Demo {
        schema: DEMO,
        old: Kernel::old(&source, &old_tables),
        new: Kernel::new(kernel.source()),
        pid: victim.pid(),
        threads: usize::from(threads) + 1,
        calls: calls.collect(),
        strategies: cycles.fates,
        before,
        linked: cycles.linked,
        cycles: CYCLES,
        restored: cycles.restored,
        inside: cycles.inside,
        stop_us: cycles.stops[CYCLES / 2],
    })
}

/// What came of linking and rolling back.
#[derive(Default)]
struct Cycles {
    /// What each call said when the process was linked last.
    looks: Vec<Look>,
    fates: Vec<Fate>,
    linked: Count,
    restored: usize,
    inside: usize,
    stops: Vec<f64>,
}

impl Cycles {
    fn run(
        victim: &mut Victim,
        kernel: &RunningKernel,
        source: &Source,
        options: &ApplyOptions,
    ) -> Result<Self> {
        let mut cycles = Self::default();
        for _ in 0..CYCLES {
            cycles.turn(victim, kernel, std::slice::from_ref(source), options)?;
        }
        cycles.stops.sort_by(f64::total_cmp);
        Ok(cycles)
    }

    /// Links the process, looks at it, and rolls it back.
    fn turn(
        &mut self,
        victim: &mut Victim,
        kernel: &RunningKernel,
        old: &[Source],
        options: &ApplyOptions,
    ) -> Result<()> {
        let before = victim.snapshot()?;
        let linked = apply::apply(victim.pid(), kernel, old, options)?;
        self.inside += linked.crossed.moved + linked.crossed.frames;
        self.stops.push(linked.times.total.as_secs_f64() * 1e6);
        let functions = linked.texts.iter().flat_map(|text| &text.functions);
        self.fates = functions.map(Fate::from).collect();
        // Calls that began before the link may have been wrong.
        victim.count()?;
        self.looks = victim.look()?.into();
        self.linked.add(count(victim)?);
        apply::rollback(victim.pid(), kernel, old, options)?;
        self.restored += usize::from(victim.snapshot()? == before);
        Ok(())
    }
}

/// What threads count, until each has made a call.
fn count(victim: &mut Victim) -> Result<Count> {
    let started = Instant::now();
    let mut total = Count::default();
    loop {
        thread::sleep(COUNTING);
        let count = victim.count()?;
        total.add(Count { silent: 0, ..count });
        if count.silent == 0 || started.elapsed() > PATIENCE {
            total.silent = count.silent;
            return Ok(total);
        }
    }
}

impl From<&FunctionPlan> for Fate {
    fn from(plan: &FunctionPlan) -> Self {
        Self {
            function: plan.name().to_owned(),
            strategy: plan.strategy.name(),
        }
    }
}
