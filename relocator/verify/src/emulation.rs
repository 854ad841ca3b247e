//! A kernel that is emulated in the child, its own image there, and old images linked to it.

use std::sync::Arc;

use crate::emulated::{self, Emulated, EmulatedKernel, Live, Unit};
use elf_tools::Avma;
use elf_tools::symtab::Symtab;

use super::address_space::AddressSpace;
use super::call_shims::{self, Side};
use super::candidate::Candidate;
use super::child::{self, Progress};
use super::concurrency;
use super::linked::{self, Native, Prepared};
use super::target::{Emulation, OldImage};
use super::{FunctionOutcome, VerifyOptions, VerifyOutcome};
use crate::{Error, Result};
use relocator::link::{New, Old, link};
use relocator::placement::Placement;
use relocator::plan::{FunctionPlan, Policy};

/// Why functions are called that were not linked.
const AT_HOME: &str = "not linked: it is on its own kernel";

/// Verifies an image that is linked to an emulated kernel.
///
/// The image is put directly behind the kernel, where a restore that has the choice puts it. What
/// functions are compared with, besides the system call, is the emulated kernel's own.
pub(super) fn linked(
    old: OldImage<'_>,
    emulation: &Emulation<'_>,
    options: &VerifyOptions,
) -> Result<VerifyOutcome> {
    let home = Home::read(emulation)?;
    let own_kernel = old.home.map(|symtab| Emulation {
        image: old.image,
        symtab,
        ..*emulation
    });
    let own_kernel = own_kernel.as_ref().map(Home::read).transpose()?;
    let prepared = Prepared::emulated(old, emulation)?.on_processor(options.processor);
    let anywhere = home.placement(AddressSpace::read()?.hole(home.unit.size())?);
    let size = prepared.size(&anywhere, options.policy)?;
    child::run(options.conditions(), |progress| {
        let start = AddressSpace::read()?.hole(home.unit.size() + size as u64)?;
        let emulated = home.emulate(start, progress)?;
        progress.at("mapping the linked image");
        let mapped = prepared.map_at(home.placement(start), options.policy, size)?;
        let native = Native::among(&emulated.mappings(), emulation.image)?;
        let at_home = own_kernel.as_ref().map(|home| home.unrefreshed(progress));
        let at_home = at_home.transpose()?;
        let check = |plan: &FunctionPlan| {
            let native = native.entry(&plan.names);
            let native = native.map(|native| call_shims::through(Side::Native, native));
            let candidate = Candidate {
                home: at_home.as_ref().and_then(|home| home.entry(&plan.names)),
                ..Candidate::linked(plan, mapped.entry(plan), native)
            };
            check(&emulated, &candidate, options.rounds, progress)
        };
        let functions: Result<_> = mapped.functions.iter().map(check).collect();
        Ok(VerifyOutcome {
            functions: functions?,
        })
    })
}

/// Verifies the emulated kernel's own image.
///
/// What functions are compared with, besides the system call, is the running kernel's: their own
/// would always agree.
pub(super) fn at_home(emulation: &Emulation<'_>, options: &VerifyOptions) -> Result<VerifyOutcome> {
    let home = Home::read(emulation)?;
    child::run(options.conditions(), |progress| {
        let start = AddressSpace::read()?.hole(home.unit.size())?;
        let emulated = home.emulate(start, progress)?;
        AddressSpace::read()?.check_protection()?;
        let own = Native::among(&emulated.mappings(), emulation.image)?;
        let running = Native::running(&emulation.running.image)?;
        let check = |names: &Vec<String>| {
            let candidate = Candidate {
                names,
                strategy: None,
                reason: AT_HOME.to_owned(),
                entry: own.entry(names),
                native: running.entry(names),
                home: None,
            };
            check(&emulated, &candidate, options.rounds, progress)
        };
        let functions = linked::functions(emulation.image);
        let functions: Result<_> = functions.iter().map(check).collect();
        Ok(VerifyOutcome {
            functions: functions?,
        })
    })
}

/// Checks a function on data that is as new as the system calls' around it, and then while the data
/// is updated.
fn check(
    emulated: &Arc<Emulated>,
    candidate: &Candidate<'_>,
    rounds: u32,
    progress: &mut Progress,
) -> Result<FunctionOutcome> {
    let refreshed = |entry| call_shims::through(Side::Checked, entry);
    let refreshed = Candidate {
        entry: candidate.entry.map(refreshed),
        ..candidate.clone()
    };
    let mut outcome = refreshed.check(rounds, progress)?;
    outcome.add(concurrency::check(emulated, candidate, rounds, progress)?);
    Ok(outcome)
}

/// The emulated kernel before it is mapped.
struct Home<'a> {
    emulation: &'a Emulation<'a>,
    /// The symbols of the running kernel.
    running: &'a Symtab,
    old: Old,
    unit: Unit,
}

impl<'a> Home<'a> {
    fn read(emulation: &'a Emulation<'a>) -> Result<Self> {
        linked::check_running(emulation.running)?;
        let running = emulation.running.symtab.as_ref();
        let running = running.ok_or_else(|| Error::Unlinkable {
            what: "to a kernel that is emulated".to_owned(),
            reason: "the symbols of the running kernel, which it is filled from, are not known"
                .to_owned(),
        })?;
        let old = linked::read(emulation.image.into())?;
        let unit = Unit::of(emulation.symtab, old.image.bytes().len()).map_err(refused)?;
        Ok(Self {
            emulation,
            running,
            old,
            unit,
        })
    }

    /// Where the kernel's mappings are if they begin at `start`, and an image directly behind them.
    fn placement(&self, start: Avma) -> Placement {
        Placement {
            image: Avma(start.0 + self.unit.size()),
            mappings: self.unit.mappings_at(start),
        }
    }

    /// The bytes of its own vDSO. A stock kernel's are as they are. Slots, which only kernels of
    /// our own have, hold what their kernel would have put there.
    fn code(&self, start: Avma) -> Result<Vec<u8>> {
        let image = &self.old.image;
        let relocations = self.old.relocations.as_ref();
        let is_slot = |place| !image.is_text(place);
        let has_slots =
            relocations.is_some_and(|table| table.entries.iter().any(|entry| is_slot(entry.place)));
        if !has_slots {
            return Ok(image.bytes().to_vec());
        }
        let mappings = self.unit.mappings_at(start);
        let vdso = Native::among(&mappings, image)?.base();
        let new = New {
            symtab: Some(self.emulation.symtab),
            image: None,
            processor: None,
        };
        let placement = Placement {
            image: vdso,
            mappings,
        };
        Ok(link(&self.old, &new, &placement, Policy::Relocate)?.bytes)
    }

    /// Maps it at `start` in this process, which is to end with it. Every call refreshes it.
    fn emulate(&self, start: Avma, progress: &mut Progress) -> Result<Arc<Emulated>> {
        let emulated = self.map(start, progress)?;
        call_shims::install(&emulated);
        Ok(emulated)
    }

    /// Maps it as one kernel more, and returns its own functions. What they read is not kept
    /// current: this is for what does not change.
    fn unrefreshed(&self, progress: &mut Progress) -> Result<Native<'a>> {
        let start = AddressSpace::read()?.hole(self.unit.size())?;
        let emulated = self.map(start, progress)?;
        let native = Native::among(&emulated.mappings(), self.emulation.image)?;
        // Its functions are called until the process ends.
        std::mem::forget(emulated);
        Ok(native)
    }

    fn map(&self, start: Avma, progress: &mut Progress) -> Result<Arc<Emulated>> {
        progress.at("mapping the emulated kernel");
        let mappings = AddressSpace::read()?.mappings();
        // SAFETY: `check_running` has found that this kernel runs, whose symbols the caller has
        // stated; these are its own mappings, and nothing unmaps them.
        let live = unsafe { Live::new(self.running, mappings) };
        let kernel = EmulatedKernel {
            code: &self.code(start)?,
            symtab: self.emulation.symtab,
        };
        let mode = self.emulation.clock_mode;
        let emulated = Emulated::map(&kernel, &live, Some(start), mode).map_err(refused)?;
        Ok(Arc::new(emulated))
    }
}

fn refused(error: emulated::Error) -> Error {
    Error::Unlinkable {
        what: "to a kernel that is emulated".to_owned(),
        reason: error.to_string(),
    }
}
