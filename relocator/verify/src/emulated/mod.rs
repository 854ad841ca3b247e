//! Another kernel's vvar in this process, kept current from the running kernel's.
//!
//! The mappings of the emulated kernel, in its layout, and behind them its vDSO, at the distances
//! that the kernel gives them: old code runs there as it did at home, and linked code finds another
//! kernel than the running one. What the pages hold is copied by canonical name from the running
//! kernel's vvar. Code that reads the clock pages of hypervisors can be run as well, on machines
//! that have none: [`ClockMode`].
//!
//! | module | does |
//! |---|---|
//! | `unit` | what goes where |
//! | `place` | symbols as fields, one for each element of their arrays |
//! | `live` | the vvar that is copied from |
//! | `plan` | which field is filled from where |
//! | `copy` | what a field is filled with |
//! | `clock` | clocks, under their sequence counters |
//! | `epoch` | making another boot of it, of which every value differs |
//! | `update` | keeping everything current in the background, and stopping in the middle of it |
//! | `word` | access to one field |
//!
//! **Limits.** Time pages are copied, so they are as old as the last [`Emulated::refresh`]. The
//! process must not change its time namespace while something is emulated in it. The running
//! kernel's clock source must be the processor's counter. What is named neither `time.*`,
//! `timens.*` nor `rng.*` reads zero, but for the clock page that is asked for.

mod clock;
mod copy;
mod epoch;
mod error;
mod live;
mod place;
mod plan;
mod unit;
mod update;
mod word;

use std::sync::{Mutex, MutexGuard, PoisonError};

use elf_tools::Avma;
use elf_tools::symtab::{Symtab, mapping_name};

use crate::memory::Region;
use clock::State;
use place::Field;
use plan::{Plan, Planner};
use word::OwnWord;

pub use crate::arch::ClockMode;
pub use epoch::Epoch;
pub use error::Error;
pub use live::Live;
pub use unit::Unit;
pub use update::{Halted, Updater};

/// A kernel that can be emulated.
#[derive(Debug, Clone, Copy)]
pub struct EmulatedKernel<'a> {
    /// The bytes of its vDSO as they are to run: alternatives applied, slots filled in.
    pub code: &'a [u8],
    /// The symbols of its vvar.
    pub symtab: &'a Symtab,
}

/// A kernel's mappings in this process. They go with this value.
#[derive(Debug)]
pub struct Emulated {
    symtab: Symtab,
    unit: Unit,
    region: Region,
    plan: Plan,
    /// What was copied last, by clock. A writer of the pages holds the lock.
    states: Mutex<Vec<State>>,
}

impl Emulated {
    /// Maps `kernel` at `at`, which must be free, or anywhere; fills it from `live` for the first
    /// time.
    pub fn map(
        kernel: &EmulatedKernel<'_>,
        live: &Live<'_>,
        at: Option<Avma>,
        clock_mode: ClockMode,
    ) -> Result<Self, Error> {
        let unit = Unit::of(kernel.symtab, kernel.code.len())?;
        let mut region = Region::reserve(at, unit.size() as usize)
            .map_err(Error::memory("memory for a kernel"))?;
        if let Some(image) = unit.offset(mapping_name::VDSO) {
            let filled = region.fill(image as usize, kernel.code);
            filled.map_err(Error::memory("the code of a kernel"))?;
        }
        Self::on(kernel, live, region, clock_mode)
    }

    /// The pages of `kernel` in memory that is there already, can be written, and reads zero; its
    /// code is somebody else's business. The region may show what has another place where it is
    /// used.
    pub fn on(
        kernel: &EmulatedKernel<'_>,
        live: &Live<'_>,
        region: Region,
        clock_mode: ClockMode,
    ) -> Result<Self, Error> {
        let unit = Unit::of(kernel.symtab, kernel.code.len())?;
        let planner = Planner {
            symtab: kernel.symtab,
            live,
            unit: &unit,
            region: &region,
            clock_mode,
        };
        let plan = planner.plan()?;
        // The counter has passed the last update, so half of that is a reading in the past on every
        // processor.
        let earlier = (planner.last_update()? / 2) | 1;
        for (name, value) in clock_mode.page(earlier) {
            planner.own(&Field::new(name, &[]))?.1.store(value);
        }
        plan.fixed.iter().for_each(copy::Copied::copy);
        let states = plan.clocks.iter().map(|_| State::default()).collect();
        let emulated = Self {
            symtab: kernel.symtab.clone(),
            unit,
            region,
            plan,
            states: Mutex::new(states),
        };
        emulated.refresh();
        Ok(emulated)
    }

    /// Where each mapping is, `[vdso]` among them.
    pub fn mappings(&self) -> Vec<(String, Avma)> {
        self.unit.mappings_at(self.region.start())
    }

    /// Where the mapping of that name is.
    pub fn mapping(&self, name: &str) -> Option<Avma> {
        let offset = self.unit.offset(name)?;
        Some(Avma(self.region.start().0 + offset))
    }

    /// Copies what the running kernel has updated since the last time.
    pub fn refresh(&self) {
        let mut states = self.lock();
        for (clock, state) in self.plan.clocks.iter().zip(&mut *states) {
            clock.refresh(state);
        }
        self.plan.plain.iter().for_each(copy::Copied::copy);
    }

    /// Copies everything, as the kernel does with every tick. Readers start again meanwhile.
    pub fn rewrite(&self) {
        let mut states = self.lock();
        for (clock, state) in self.plan.clocks.iter().zip(&mut *states) {
            clock.rewrite(state);
        }
        self.plan.plain.iter().for_each(copy::Copied::copy);
    }

    /// Reads a field by its canonical name, in the given element of each array in it; `None` if
    /// there is no such field.
    pub fn get(&self, name: &str, indices: &[u64]) -> Option<u64> {
        self.field(name, indices).map(OwnWord::load)
    }

    /// Overwrites a field, until it is next updated; `false` if there is no such field.
    ///
    /// Only tests need this, to see what a wrong value does.
    pub fn set(&self, name: &str, indices: &[u64], value: u64) -> bool {
        let _writing = self.lock();
        let field = self.field(name, indices);
        field.is_some_and(|field| {
            field.store(value);
            true
        })
    }

    fn field(&self, name: &str, indices: &[u64]) -> Option<OwnWord> {
        let field = Field::new(name, indices);
        let place = field.place(&self.symtab)?;
        let offset = self.unit.offset(place.mapping)? + place.offset;
        word::within(&self.region, offset, place.size)
    }

    /// The next writer rewrites everything that a writer which panicked has left behind.
    fn lock(&self) -> MutexGuard<'_, Vec<State>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
