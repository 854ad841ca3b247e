//! What comes of a vDSO: its tables, the link to the running kernel, calls, threads in flight.

use anyhow::{Context, Result};
use elf_tools::derive;
use elf_tools::image::Image;
use elf_tools::layout::dwarf::Dwarf;
use elf_tools::reachability::Code;
use elf_tools::reentry;
use elf_tools::symtab::stock_symbols;
use elf_tools::{Avma, Svma};
use relocator::link::{New, Old, link};
use relocator::placement::Placement;
use relocator::plan::{Policy, Strategy};
use relocator_verify::in_flight::{InFlight, SweepOptions, sweep};
use relocator_verify::{OldImage, Running, VerifyOptions, VerifyOutcome, verify};

use crate::arguments::Until;
use crate::build::Built;
use crate::change::Change;

/// Functions that tell the time or make random numbers: what has to be relocated.
const READERS: [&str; 5] = [
    "__vdso_clock_gettime",
    "__vdso_gettimeofday",
    "__vdso_time",
    "__vdso_clock_getres",
    "__vdso_getrandom",
];

/// An address where kernels put their vDSOs.
const BASE: Avma = Avma(0x7fff_f7f0_0000);

/// Calls for each combination of function and arguments.
const ROUNDS: u32 = 10;

/// Most complaints that are kept in words.
const COMPLAINTS: usize = 4;

/// What came of a vDSO.
#[derive(Debug, Default)]
pub(crate) struct Judgement {
    /// Instructions that refer to the vvar and are not attributed.
    pub(crate) opaque: usize,
    /// Relocations and linear constraints.
    pub(crate) relocations: usize,
    /// Contexts of the functions that read: boundaries, for each chain of calls to them.
    pub(crate) boundaries: usize,
    /// Those from which no recipe leads to the entry.
    pub(crate) without_recipe: usize,
    /// Functions that read, and run relocated.
    pub(crate) relocated: usize,
    /// Functions that read, and do not.
    pub(crate) proxied: usize,
    /// Functions that read, and must not: they know no time namespaces, which this kernel has.
    pub(crate) excluded: usize,
    /// Calls that were compared with system calls, in and out of a time namespace.
    pub(crate) calls: u64,
    /// Calls that differed.
    pub(crate) mismatches: u64,
    /// Threads that were stopped.
    pub(crate) threads: u64,
    /// Boundaries at which a thread failed.
    pub(crate) failures: u64,
    /// The first few things that are not as they should be, in words.
    pub(crate) complaints: Vec<String>,
    /// What the kernel does not have, and so was not tried.
    pub(crate) left_out: Vec<String>,
}

impl Judgement {
    /// Whether everything is as it should be.
    pub(crate) fn is_good(&self) -> bool {
        self.complaints.is_empty()
    }

    fn complain(&mut self, about: String) {
        if self.complaints.len() < COMPLAINTS {
            self.complaints.push(about);
        }
    }
}

/// Judges a vDSO on the running kernel.
pub(crate) fn judge(
    built: &Built,
    change: &Change,
    running: &Running,
    until: Until,
) -> Result<Judgement> {
    let mut judgement = Judgement::default();
    let image = Image::parse(&built.image)?;
    let symtab = stock_symbols::from_layout(&Dwarf::parse(&built.debug)?, &image);
    let symtab = symtab.context("symbols")?;
    let code = Code::of(&image)?;
    let readers: Vec<Svma> = READERS
        .iter()
        .filter_map(|name| Some(image.export(name)?.address))
        .collect();
    attribution(&derive::derive(&image, &code, &symtab)?, &mut judgement);
    recipes(&reentry::derive(&image, &code)?, &readers, &mut judgement);
    if until < Until::Calls {
        return Ok(judgement);
    }
    let old = Old::derive(image, &symtab)?;
    plan(&old, running, &mut judgement)?;
    if judgement.excluded > 0 && change.has_time_namespaces() {
        judgement.complain("it is taken for a kernel without time namespaces".to_owned());
    }
    for time_namespace in [false, true] {
        let options = VerifyOptions {
            time_namespace,
            rounds: ROUNDS,
            ..VerifyOptions::default()
        };
        let outcome = verify(&old, running, &options).context("verify")?;
        calls(&outcome, &mut judgement);
    }
    if until >= Until::Threads {
        let mut options = SweepOptions::default();
        if until == Until::Threads {
            options.namespaces.truncate(1);
        }
        let home = OldImage::from(&old).with_home(Some(&symtab));
        let swept = sweep(home, running, &options).context("sweep")?;
        let swept = swept.into_iter().next().context("nothing was swept")??;
        threads(&swept, &mut judgement);
    }
    Ok(judgement)
}

fn attribution(derivation: &derive::Derivation, judgement: &mut Judgement) {
    let table = &derivation.relocations;
    judgement.relocations = table.entries.len() + table.constraints.len();
    judgement.opaque = table.opaque.len() + derivation.unreached.len();
    for opaque in &table.opaque {
        judgement.complain(format!("{}: {}", opaque.site, opaque.reason));
    }
    for unreached in &derivation.unreached {
        judgement.complain(format!("{unreached}: no function reaches it"));
    }
}

fn recipes(table: &reentry::ReentryTable, readers: &[Svma], judgement: &mut Judgement) {
    for context in &table.contexts {
        if !readers.contains(&context.function) {
            continue;
        }
        judgement.boundaries += 1;
        // Behind the last read a thread is left alone.
        if let Err(reason) = table.recipe(context)
            && context.reads
        {
            judgement.without_recipe += 1;
            judgement.complain(format!("{}: {reason}", context.boundary));
        }
    }
}

fn calls(outcome: &VerifyOutcome, judgement: &mut Judgement) {
    judgement.calls += outcome.calls();
    judgement.mismatches += outcome.mismatches();
    for function in &outcome.functions {
        if let Some(mismatch) = &function.first_mismatch
            && function.mismatches > 0
        {
            judgement.complain(format!("{}: {mismatch}", function.name));
        }
    }
}

/// How functions go on.
fn plan(old: &Old, running: &Running, judgement: &mut Judgement) -> Result<()> {
    let new = New {
        symtab: running.symtab.as_ref(),
        image: Some(&running.image),
        processor: None,
    };
    let placement = Placement::below(BASE, new.symtab, new.image)?;
    for function in link(old, &new, &placement, Policy::Auto)?.functions {
        if !READERS.contains(&function.name()) {
            continue;
        }
        match (function.strategy, function.reason.code()) {
            (Strategy::Relocate, _) => judgement.relocated += 1,
            (_, "no-time-namespaces") => judgement.excluded += 1,
            _ => {
                judgement.proxied += 1;
                judgement.complain(format!("{}: {}", function.name(), function.reason));
            }
        }
    }
    Ok(())
}

fn threads(swept: &InFlight, judgement: &mut Judgement) {
    judgement.threads = swept.experiments();
    judgement.failures = swept.failures();
    let left_out = swept.left_out.iter();
    let left_out = left_out.map(|it| format!("{} were left out: {}", it.what, it.reason));
    judgement.left_out.extend(left_out);
    let failures = swept
        .functions
        .iter()
        .flat_map(|function| &function.failures);
    for failure in failures {
        judgement.complain(format!(
            "{:#x}: {}: {}: {}",
            failure.address, failure.scenario, failure.ending, failure.what
        ));
    }
}
