//! Threads that are inside an old vDSO when the kernel is swapped under them: the *sweep*.
//!
//! The sweep emulates an old kernel and steps a thread through its functions. At every boundary it
//! swaps the kernel under the thread: zero-filled pages replace the old vvar, as a restore leaves
//! them, and the output of an [`Approach`] replaces the old text. The new kernel is the running
//! one. The thread runs to the end, and the sweep compares its answer with the system call and with
//! the old code on its own kernel. Then the sweep puts memory and registers back, and tries the
//! next approach from the same state. When all have been tried, the thread makes one more step.
//!
//! The old kernel is another boot ([`crate::emulated::Epoch`]). None of its values equals one of
//! the new kernel, so an answer that mixes the two is visible.
//!
//! | module | does |
//! |---|---|
//! | `stage` | the memory of an experiment, shared by the thread and its tracer |
//! | `spawn`, `traced_thread` | the thread: calls, steps, what it holds at a boundary |
//! | `old_environment` | the text that threads run in: the old image at home, or linked to another kernel before |
//! | `home_features` | what the old kernel does not have, and the sweep leaves out |
//! | `old_kernel`, `pages` | the old kernel, states of its pages, and what happens to them meanwhile |
//! | `scenario`, `call`, `answer` | what functions are asked, and how answers compare |
//! | `random` | states of `getrandom` |
//! | `swap` | what takes the place of the old text, and carries threads across |
//! | `experiment` | one experiment: a thread stopped in the function, in a signal handler, or in a function that the handler calls |
//! | `trace`, `function_sweep` | the path through one function, and all experiments on it |
//! | `judge` | what an experiment came to |
//! | `tally`, `outcome`, `unreached` | what came out |
//!
//! **Limits.** A process has one thread here; the sweep does not try what other threads change
//! meanwhile. It cannot tell old random numbers from new ones, and counts them as new if the call
//! did what it promises.

mod answer;
mod call;
mod experiment;
mod function_sweep;
mod home_features;
mod judge;
mod old_environment;
mod old_kernel;
mod outcome;
mod pages;
mod random;
mod scenario;
mod spawn;
mod stage;
mod swap;
mod tally;
mod trace;
mod traced_thread;
mod unreached;

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use elf_tools::reachability::Function;
use elf_tools::reentry::{self, ReentryTable};
use elf_tools::symtab::Symtab;
use elf_tools::symtab::mapping_name;
use elf_tools::{Avma, Svma};
use nix::sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

use super::address_space::AddressSpace;
use super::child::{self, Conditions, Progress};
use super::entry::Entry;
use super::linked;
use super::target::{OldImage, Running};
use super::time_namespace::{self, Offsets};
use crate::{Error, Result};
use function_sweep::{FunctionSweeper, Trial};
use home_features::HomeFeatures;
use old_environment::OldEnvironment;
use old_kernel::OldKernel;
use relocator::link::{New, Old};
use relocator_process::cpu_features;
use stage::{Layout, Stage};
use swap::{Before, Kernels, Swap};
use tally::Tally;
use traced_thread::TracedThread;

use crate::Approach;
pub use old_environment::Earlier;
pub use outcome::{
    Counts, Ending, FailedExperiment, FunctionSweep, InFlight, LeftOut, Namespaces, Part, Skipped,
    Unreached, Variant, VariantCounts,
};

/// What is swept.
#[derive(Debug, Clone)]
pub struct SweepOptions {
    /// What is done when the kernel is swapped: each of them at every stop.
    pub approaches: Vec<Approach>,
    /// Combinations of time namespaces.
    pub namespaces: Vec<Namespaces>,
    /// Names of the functions, with or without `__vdso_`; all if there are none.
    pub functions: Vec<String>,
    /// The kernel that the old image was linked to before. If there is none, it is at home.
    pub earlier: Option<Earlier>,
    /// How long the sweep of one function in one combination of namespaces may take. Be generous: a
    /// machine may be busy.
    pub deadline: Duration,
}

impl Default for SweepOptions {
    fn default() -> Self {
        Self {
            approaches: vec![Approach::default()],
            namespaces: Namespaces::ALL.to_vec(),
            functions: Vec::new(),
            earlier: None,
            deadline: Duration::from_secs(600),
        }
    }
}

impl SweepOptions {
    fn wants(&self, names: &[String]) -> bool {
        let plain = |name: &str| name.strip_prefix("__vdso_").unwrap_or(name).to_owned();
        let wanted = |name: &String| {
            self.functions
                .iter()
                .any(|other| plain(other) == plain(name))
        };
        self.functions.is_empty() || names.iter().any(wanted)
    }
}

/// Stops a thread at every boundary of the functions of `old` that can be called, and swaps the
/// kernel under it for the running one, once for each approach. Returns what each approach came to,
/// in the order of the options; or why the image cannot be linked for it.
///
/// The symbols of both kernels must be known. Where the system refuses time namespaces, only what
/// needs none is done, and the outcome says so. Errors: the kernel cannot be emulated; the child
/// process crashed, hung or failed ([`Error::Child`]).
pub fn sweep<'a>(
    old: OldImage<'a>,
    running: &'a Running,
    options: &'a SweepOptions,
) -> Result<Vec<Result<InFlight>>> {
    sweep_with(old, running, options, |_| {})
}

/// The same with a re-entry table that `change` has changed. Only tests need this, to see that the
/// sweep notices a wrong table.
pub fn sweep_with<'a>(
    old: OldImage<'a>,
    running: &'a Running,
    options: &'a SweepOptions,
    change: impl FnOnce(&mut ReentryTable),
) -> Result<Vec<Result<InFlight>>> {
    let mut sweep = Sweep::new(old, running, options)?;
    change(&mut sweep.reentry);
    let refusal = match options.namespaces.iter().any(|namespaces| namespaces.any()) {
        true => super::probe_time_namespace().err(),
        false => None,
    };
    let mut namespaces = options.namespaces.clone();
    if let Some(error) = &refusal {
        if !super::is_time_namespace_refusal(error) {
            return Err(refusal.unwrap_or_else(|| unknown("the running")));
        }
        namespaces.retain(|namespaces| !namespaces.any());
    }
    namespaces.retain(|namespaces| sweep.home.has_time_namespaces || !namespaces.old);
    let refused: Vec<Option<Error>> = sweep.leave_out_what_cannot_be_linked();
    // By approach, and by function.
    let mut tallies = vec![vec![Tally::default(); sweep.functions.len()]; sweep.approaches.len()];
    for (function, found) in sweep.run_all(&namespaces, options.deadline)? {
        for (tallies, found) in tallies.iter_mut().zip(found) {
            tallies[function].merge(found);
        }
    }
    let no_time_namespace = refusal.map(|error| relocator::in_words(&error));
    let mut found = sweep
        .approaches
        .iter()
        .zip(&tallies)
        .map(|(&approach, tallies)| {
            let functions = sweep.functions.iter().zip(tallies);
            InFlight {
                approach,
                namespaces: namespaces.clone(),
                no_time_namespace: no_time_namespace.clone(),
                functions: functions
                    .map(|(names, tally)| sweep.report(names, tally))
                    .collect(),
                skipped: sweep.skipped.clone(),
                left_out: sweep.home.left_out.clone(),
            }
        });
    let swept = refused.into_iter().filter_map(|refused| match refused {
        Some(error) => Some(Err(error)),
        None => found.next().map(Ok),
    });
    Ok(swept.collect())
}

/// Everything that is known before a process is made.
struct Sweep<'a> {
    old: Old,
    reentry: ReentryTable,
    environment: OldEnvironment<'a>,
    running: &'a Running,
    symtab: &'a Symtab,
    approaches: Vec<Approach>,
    /// Names of each function that is swept.
    functions: Vec<Vec<String>>,
    skipped: Vec<Skipped>,
    /// What the old kernel has.
    home: HomeFeatures,
}

fn unknown(which: &str) -> Error {
    Error::Unlinkable {
        what: "threads in flight".to_owned(),
        reason: format!("the symbols of the {which} kernel are not known"),
    }
}

impl<'a> Sweep<'a> {
    fn new(image: OldImage<'a>, running: &'a Running, options: &'a SweepOptions) -> Result<Self> {
        linked::check_running(running)?;
        let environment = OldEnvironment::new(image, options.earlier.as_ref())?;
        let symtab = running.symtab.as_ref().ok_or_else(|| unknown("running"))?;
        let old = linked::read(image)?;
        let reentry = reentry::derive(&old.image, &old.code)
            .map_err(Error::input("the old image's threads in flight"))?;
        let all = linked::functions(&old.image);
        let (functions, others): (Vec<_>, Vec<_>) = all
            .into_iter()
            .filter(|names| options.wants(names))
            .partition(|names| names.iter().any(|name| Entry::is_known(name)));
        let skip = |names: Vec<String>| Skipped {
            name: names.into_iter().next().unwrap_or_default(),
            reason: "no system call does the same".to_owned(),
        };
        let home = HomeFeatures::of(&environment, &old);
        Ok(Self {
            home,
            old,
            reentry,
            environment,
            running,
            symtab,
            approaches: options.approaches.clone(),
            functions,
            skipped: others.into_iter().map(skip).collect(),
        })
    }

    /// Leaves out approaches for which the image cannot be linked, and returns why, by approach.
    fn leave_out_what_cannot_be_linked(&mut self) -> Vec<Option<Error>> {
        let kernels = self.kernels();
        let refused = self.approaches.iter();
        let refused: Vec<_> = refused
            .map(|&approach| kernels.room(approach).err())
            .collect();
        let mut possible = refused.iter().map(Option::is_none);
        self.approaches.retain(|_| possible.next() == Some(true));
        refused
    }

    fn kernels(&self) -> Kernels<'_> {
        Kernels {
            old: &self.old,
            reentry: &self.reentry,
            new: New {
                symtab: Some(self.symtab),
                image: Some(&self.running.image),
                processor: Some(cpu_features::running()),
            },
            vdso: self.environment.other_vdso(),
        }
    }

    /// Every function in every combination of namespaces: a process for each pair, as many of them
    /// at a time as there are processors. Returns what was counted with the function's index, in
    /// the order of combinations.
    fn run_all(&self, all: &[Namespaces], deadline: Duration) -> Result<Vec<(usize, Vec<Tally>)>> {
        if self.approaches.is_empty() {
            return Ok(Vec::new());
        }
        let pairs = all.iter().enumerate().flat_map(|(order, &namespaces)| {
            let functions = 0..self.functions.len();
            functions.map(move |function| (order, namespaces, function))
        });
        let mut pairs: Vec<_> = pairs.collect();
        // What takes longest begins first: a large function.
        pairs.sort_by_key(|&(_, _, function)| Reverse(self.size(function)));
        let pairs = Mutex::new(pairs.into_iter());
        let work = |processor: usize| -> Result<Vec<_>> {
            let mut found = Vec::new();
            loop {
                let next = pairs.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some((order, namespaces, function)) = next else {
                    return Ok(found);
                };
                let tallies = self.run(namespaces, function, processor, deadline)?;
                found.push((order, function, tallies));
            }
        };
        let processors = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let found = thread::scope(|scope| {
            let workers: Vec<_> = (0..processors)
                .map(|processor| scope.spawn(move || work(processor)))
                .collect();
            let join = |worker: thread::ScopedJoinHandle<'_, Result<Vec<_>>>| {
                worker.join().unwrap_or_else(|_| Err(panicked()))
            };
            workers.into_iter().map(join).collect::<Result<Vec<_>>>()
        })?;
        let mut found: Vec<_> = found.into_iter().flatten().collect();
        found.sort_by_key(|&(order, function, _)| (order, function));
        let found = found.into_iter();
        Ok(found
            .map(|(_, function, tallies)| (function, tallies))
            .collect())
    }

    /// How many boundaries a function has.
    fn size(&self, function: usize) -> usize {
        let names = self.functions.get(function);
        let known = names.and_then(|names| self.known(names).ok());
        let function = known.and_then(|(_, entry)| self.old.code.function(entry));
        function.map_or(0, |function| function.reached.len())
    }

    /// One function in one combination of namespaces.
    fn run(
        &self,
        namespaces: Namespaces,
        function: usize,
        processor: usize,
        deadline: Duration,
    ) -> Result<Vec<Tally>> {
        let conditions = Conditions {
            time_namespace: false,
            deadline,
            processor_time: None,
        };
        child::run(conditions, |progress| {
            progress.at("setting the stage");
            stay_on_one_processor(processor)?;
            self.work(namespaces, &self.functions[function], progress)
        })
    }

    fn work(
        &self,
        namespaces: Namespaces,
        names: &[String],
        progress: &mut Progress,
    ) -> Result<Vec<Tally>> {
        let kernels = self.kernels();
        let (old, environment) = (&self.old, &self.environment);
        let unit = environment.unit(old)?;
        let mut room = environment.room(old)?;
        for &approach in &self.approaches {
            room = room.max(kernels.room(approach)?);
        }
        let layout = Layout::new(&unit, environment.other_vdso().len(), room)?;
        let stage = Stage::map(layout)?;
        let mappings = unit.mappings_at(stage.kernel());
        let text = environment.text(old, stage.image(), mappings)?;
        let tracee = spawn::spawn(&stage, namespaces.new)?;
        if namespaces.old {
            time_namespace::enter(Offsets::USUAL)
                .map_err(|refused| Error::io(super::TIME_NAMESPACE)(refused.source))?;
        }
        let before = Before::new(&kernels, &text, &stage);
        let swaps = self.approaches.iter();
        let swaps = swaps.map(|&approach| Swap::new(&kernels, approach, &text, &stage));
        let swaps: Vec<Swap<'_>> = swaps.collect::<Result<_>>()?;
        let mut thread = TracedThread::new(tracee, stage)?;
        let (name, entry) = self.known(names)?;
        let sweeper = FunctionSweeper {
            name,
            entry,
            native: self.native(names)?,
            code: &self.old.code,
            text: &text,
            before: &before,
            thread: &mut thread,
            old: OldKernel {
                code: environment.vdso(old),
                symtab: environment.symtab(),
                running: self.symtab,
            },
            trials: swaps.iter().map(Trial::new).collect(),
            namespaces,
            modes: &self.home.modes,
            pristine: Vec::new(),
        };
        sweeper.sweep(progress)
    }

    /// The name that says what a function does, and where it begins.
    fn known<'n>(&self, names: &'n [String]) -> Result<(&'n str, Svma)> {
        let known = names.iter().find(|name| Entry::is_known(name));
        let found =
            known.and_then(|name| Some((name.as_str(), self.old.image.export(name)?.address)));
        found.ok_or_else(|| Error::Child {
            what: "lost a function".to_owned(),
        })
    }

    /// Where the new kernel's function of one of these names is.
    fn native(&self, names: &[String]) -> Result<Option<Avma>> {
        let mappings = AddressSpace::read()?.mappings();
        let vdso = mappings.iter().find(|(name, _)| name == mapping_name::VDSO);
        let export = names
            .iter()
            .find_map(|name| self.running.image.export(name));
        Ok(vdso
            .zip(export)
            .map(|((_, base), export)| export.address.at(*base)))
    }

    fn report(&self, names: &[String], tally: &Tally) -> FunctionSweep {
        let worst = tally.worst();
        let reached: BTreeSet<u64> = worst.keys().copied().collect();
        let function = self.known(names).ok();
        let function = function.and_then(|(_, entry)| self.old.code.function(entry));
        let boundaries = |function: &Function| function.reached.len() as u64;
        let unreached = |function| unreached::unreached(&self.old.code, function, &reached);
        FunctionSweep {
            name: names.first().cloned().unwrap_or_default(),
            aliases: names.iter().skip(1).cloned().collect(),
            boundaries: function.map_or(0, boundaries),
            reached: reached.len() as u64,
            out_of_line: tally.out_of_line(),
            experiments: tally.experiments(),
            worst: tally::counts(worst.values().copied()),
            variants: tally.variants(),
            parts: tally.parts(),
            unreached: function.map(unreached).unwrap_or_default(),
            failures: tally.failures().to_vec(),
        }
    }
}

fn panicked() -> Error {
    Error::Child {
        what: "could not be watched".to_owned(),
    }
}

/// The thread and its tracer run in turns, so there is nothing to be gained from a second
/// processor; and `getcpu` answers the same all the time. `index` counts from the processor that
/// this process is on, among those that it may run on.
fn stay_on_one_processor(index: usize) -> Result<()> {
    let failed =
        |errno: nix::errno::Errno| Error::io("the processors of this process")(errno.into());
    let own = Pid::from_raw(0);
    let allowed = sched_getaffinity(own).map_err(failed)?;
    let mut allowed: Vec<usize> = (0..CpuSet::count())
        .filter(|&processor| allowed.is_set(processor).unwrap_or(false))
        .collect();
    let current = sched_getcpu().map_err(failed)?;
    let first = allowed.iter().position(|&processor| processor == current);
    allowed.rotate_left(first.unwrap_or(0));
    let mut only = CpuSet::new();
    let chosen = allowed.get(index % allowed.len().max(1));
    only.set(*chosen.unwrap_or(&current)).map_err(failed)?;
    sched_setaffinity(own, &only).map_err(failed)
}
