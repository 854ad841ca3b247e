//! Every single derived relocation counts.
//!
//! A relocation of a stock image is one address that one instruction accesses. For each, the image is linked with that one
//! made wrong: left out, so that the constants stay what they were, or moved to a neighbour. Then it is run, in and out of
//! a time namespace and with the clock source that has the place read, and must be caught: a call differs from the system
//! call, the process crashes or hangs, or the linker finds no solution. What no call can tell is listed, with the reason.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use elf_tools::Avma;
use elf_tools::relocation::{Demand, Relocations, Term};
use kernel_fixtures::distribution::{Cache, VERSIONS};
use libtest_mimic::{Arguments, Trial};
use relocator::Error;
use relocator::link::{New, Old, link};
use relocator::placement::Placement;
use relocator::plan::{Policy, Strategy};
use relocator::verify::{ClockMode, Emulation, OldImage, Options, Outcome, Target, verify};
use relocator_tests::running::{EMULATION, RUNNING, TIME_NAMESPACE, in_words};
use relocator_tests::stock::{self, Kernel, Shared};
use relocator_tests::trials::{ensure, trial};

/// How far a place is moved: by fields of 8, 4 and 1 bytes, and by an element of two fields. One must be caught.
const CHANGES: [i64; 6] = [8, 16, 4, -8, -4, 1];

/// When a process is taken to wait for a sequence counter that is not one. See `mutations`.
const DEADLINE: Duration = Duration::from_secs(2);

/// References of which no call may tell that a place is wrong, and why.
const SURVIVORS: [(&str, &str); 9] = [
    (
        ".max_cycles",
        "the product that cannot overflow is right for any delta, and a delta that the other one is wrong for takes a \
         machine that did not update its clock for minutes",
    ),
    (
        ".mask",
        "read where the counter is behind, or the last update long ago",
    ),
    (
        ".clock_mode",
        "any clock mode that is not understood has the kernel asked, which is right, and only slow; and where it only \
         chooses the page that the time zone is read from, the zone is 0 on both",
    ),
    (
        ".tz_",
        "the time zone is 0 almost everywhere, and so is what is around it",
    ),
    (
        "rng.is_ready",
        "what is not ready has the kernel asked, which is right, and only slow",
    ),
    (
        "rng.generation",
        "any number will do as long as it does not change",
    ),
    (
        "pvclock.version",
        "any even number will do as long as it does not change",
    ),
    (
        "pvclock.flags",
        "a counter that is not stable has the kernel asked, which is right, and only slow",
    ),
    (
        "hvclock.tsc_sequence",
        "any number will do as long as it does not change, and 0 has the kernel asked",
    ),
];

/// One relocation: an entry, or the sums of one instruction that say the same of the same constants.
#[derive(Debug, Clone)]
struct Place {
    /// The instruction.
    site: String,
    /// What it refers to; several names where fields share their place.
    references: Vec<String>,
    entry: Option<usize>,
    sums: Vec<usize>,
}

fn places(old: &Old, table: &Relocations) -> Vec<Place> {
    let name = |need: u32| table.needs[need as usize].reference.to_string();
    let entries = table
        .entries
        .iter()
        .enumerate()
        .map(|(index, entry)| Place {
            site: old
                .code
                .covering(entry.place)
                .map_or_else(String::new, |instruction| instruction.address.to_string()),
            references: vec![name(entry.need)],
            entry: Some(index),
            sums: Vec::new(),
        });
    let mut grouped: BTreeMap<(u64, Vec<Term>), Place> = BTreeMap::new();
    for (index, sum) in table.sums.iter().enumerate() {
        if sum.demand == Demand::Address {
            let key = (sum.site.0, sum.terms.clone());
            let place = grouped.entry(key).or_insert_with(|| Place {
                site: sum.site.to_string(),
                references: Vec::new(),
                entry: None,
                sums: Vec::new(),
            });
            place.references.push(name(sum.need));
            place.sums.push(index);
        }
    }
    entries.chain(grouped.into_values()).collect()
}

impl Place {
    fn moved(&self, table: &Relocations, change: i64) -> Relocations {
        let mut table = table.clone();
        if let Some(index) = self.entry {
            table.entries[index].addend += change;
        }
        for &index in &self.sums {
            table.sums[index].addend += change;
        }
        table
    }

    /// Without the relocation, which leaves the constants that nothing else depends on as they were.
    fn left_out(&self, table: &Relocations) -> Relocations {
        let mut table = table.clone();
        let gone: BTreeSet<usize> = self.sums.iter().copied().collect();
        let mut index = 0;
        table.sums.retain(|_| {
            index += 1;
            !gone.contains(&(index - 1))
        });
        if let Some(index) = self.entry {
            table.entries.remove(index);
        }
        table
    }

    fn spelled(&self) -> String {
        format!("{} at {}", self.references.join(" and "), self.site)
    }
}

/// A kernel whose image is changed, and the one that it is linked to: the running one, as it is or emulated.
struct Subject {
    old: Old,
}

impl Subject {
    fn open(kernel: &Kernel) -> Result<Self, String> {
        let old = Old::derive(kernel.image.clone(), &kernel.symtab()?);
        let old = old.map_err(|error| in_words(&error))?;
        Ok(Self { old })
    }

    /// Whether something is wrong with that table.
    fn is_wrong(
        &self,
        table: &Relocations,
        clock_mode: ClockMode,
        time_namespace: bool,
    ) -> Result<bool, String> {
        let running = RUNNING.as_ref().map_err(Clone::clone)?;
        let symtab = running.symtab.as_ref().ok_or("no symbols")?;
        let emulation = Emulation {
            running,
            image: &running.image,
            symtab,
            clock_mode,
        };
        let target = match clock_mode {
            ClockMode::Tsc => Target::Running(running),
            _ => Target::Emulated(emulation),
        };
        let options = Options {
            time_namespace,
            rounds: 1,
            deadline: DEADLINE,
            ..Options::default()
        };
        let old = OldImage {
            relocations: Some(table),
            ..OldImage::from(&self.old.image)
        };
        match verify(old, target, &options) {
            Ok(outcome) => Ok(is_wrong(&outcome)),
            Err(Error::Child { .. }) => Ok(true),
            Err(error) => Err(in_words(&error)),
        }
    }

    /// Whether an image that is linked with that table is another one.
    fn differs(&self, table: &Relocations) -> Result<bool, String> {
        let bytes = |table: &Relocations| {
            let running = RUNNING.as_ref().map_err(Clone::clone)?;
            let offer = New {
                symtab: running.symtab.as_ref(),
                image: Some(&running.image),
            };
            let words = |error: Error| in_words(&error);
            let base = Avma(0x7fff_f7f0_0000);
            let placement = Placement::below(base, offer.symtab, offer.image).map_err(words)?;
            let old = Old::with_table(self.old.image.clone(), Some(table.clone()));
            let old = old.map_err(|error| in_words(&error))?;
            let linked = link(&old, &offer, &placement, Policy::Auto).map_err(words)?;
            Ok::<_, String>(linked.bytes)
        };
        let own = self.old.relocations.as_ref().ok_or("no table")?;
        Ok(bytes(table)? != bytes(own)?)
    }

    fn is_caught(&self, table: &Relocations, place: &Place) -> Result<bool, String> {
        let left_out = place.left_out(table);
        let mut mutants: Vec<Relocations> = Vec::with_capacity(CHANGES.len() + 1);
        // Where a kernel has a field at the same distance, nothing would be put back.
        if self.differs(&left_out)? {
            mutants.push(left_out);
        }
        mutants.extend(CHANGES.map(|change| place.moved(table, change)));
        for mutant in mutants {
            for &(mode, time_namespace) in circumstances(&place.references) {
                let possible = !time_namespace || TIME_NAMESPACE.is_ok();
                if possible && self.is_wrong(&mutant, mode, time_namespace)? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

/// A call differs, or a function that was relocated is no longer.
fn is_wrong(outcome: &Outcome) -> bool {
    outcome.functions.iter().any(|function| {
        let replaced =
            function.strategy == Strategy::Proxy || function.strategy == Strategy::Syscall;
        function.mismatches > 0 || (function.calls > 0 && replaced)
    })
}

/// Where places that refer to this are read.
fn circumstances(references: &[String]) -> &'static [(ClockMode, bool)] {
    let is = |start: &str| references.iter().any(|name| name.starts_with(start));
    if is("pvclock.") {
        &[(ClockMode::Pvclock, false), (ClockMode::Pvclock, true)]
    } else if is("hvclock.") {
        &[(ClockMode::Hvclock, false), (ClockMode::Hvclock, true)]
    } else if is("timens.") {
        &[(ClockMode::Tsc, true), (ClockMode::Tsc, false)]
    } else {
        &[(ClockMode::Tsc, false), (ClockMode::Tsc, true)]
    }
}

/// Makes the places of one reference wrong in turn.
fn every_place_counts(kernel: &Kernel, references: &[String]) -> Result<(), String> {
    let subject = Subject::open(kernel)?;
    let table = subject.old.relocations.as_ref().ok_or("no table")?;
    let listed = SURVIVORS
        .iter()
        .any(|(part, _)| references.iter().any(|name| name.contains(part)));
    let mut survivors = Vec::new();
    for place in places(&subject.old, table) {
        if place.references == references && !subject.is_caught(table, &place)? {
            survivors.push(place.spelled());
        }
    }
    ensure(listed || survivors.is_empty(), || {
        format!("not caught: {}", survivors.join("; "))
    })
}

/// What is caught must be caught because of the mutation.
fn is_right_without_mutation(kernel: &Kernel) -> Result<(), String> {
    let subject = Subject::open(kernel)?;
    let table = subject.old.relocations.as_ref().ok_or("no table")?;
    for mode in ClockMode::ALL {
        for time_namespace in [false, TIME_NAMESPACE.is_ok()] {
            let wrong = subject.is_wrong(table, mode, time_namespace)?;
            ensure(!wrong, || format!("{mode}, {time_namespace}"))?;
        }
    }
    Ok(())
}

/// The trials of a kernel: one for each reference. Listing tests is no reason to fetch a kernel, so then there is one.
fn trials_of(version: &str, kernel: &Shared, possible: &Result<(), String>) -> Vec<Trial> {
    let own = kernel.clone();
    let mut trials = vec![trial(
        format!("{version}::is_right_without_mutation"),
        possible,
        move || is_right_without_mutation(&*own()?),
    )];
    let opened = possible
        .clone()
        .and_then(|()| kernel())
        .and_then(|kernel| Subject::open(&kernel));
    let Ok(subject) = opened else {
        return trials;
    };
    let table = subject.old.relocations.as_ref();
    let references: BTreeSet<Vec<String>> = table
        .into_iter()
        .flat_map(|table| places(&subject.old, table))
        .map(|place| place.references)
        .collect();
    for references in references {
        let own = kernel.clone();
        let name = format!("{version}::{}", references.join(" and "));
        trials.push(trial(name, possible, move || {
            every_place_counts(&*own()?, &references)
        }));
    }
    trials
}

fn main() {
    let arguments = Arguments::from_args();
    let cache = Cache::locate();
    let mut trials = Vec::new();
    for version in VERSIONS {
        let (kernel, path) = stock::fetched(&cache, version, arguments.list);
        let possible = path.map(drop).and_then(|()| EMULATION.clone());
        trials.extend(trials_of(version, &kernel, &possible));
    }
    libtest_mimic::run(&arguments, trials).exit();
}
