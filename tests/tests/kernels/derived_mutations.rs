//! Every single derived relocation counts.
//!
//! A relocation of a stock image is one address that one instruction accesses. For each, the image is linked with that one
//! made wrong: the constants put back to what they were, or moved to a neighbour. Then it is run, in and out of a time
//! namespace and with the clock source that has the place read, and must be caught: a call differs from the system call, or
//! the process crashes or hangs. What no call can tell is listed, with the reason.

use std::collections::{BTreeMap, BTreeSet};

use elf_tools::Avma;
use elf_tools::relocation::{
    Constraint, OperandField, Relocation, Relocations, RightHandSide, Term, Width,
};
use kernel_source::{Cache, VERSIONS};
use libtest_mimic::{Arguments, Trial};
use relocator::link::{New, Old, link};
use relocator::placement::Placement;
use relocator::plan::{Policy, Strategy};
use relocator_tests::running::{EMULATION, RUNNING, TIME_NAMESPACE, in_words};
use relocator_tests::stock::{self, Kernel, Shared};
use relocator_tests::trials::{ensure, trial};
use relocator_verify::{
    ClockMode, Emulation, FunctionOutcome, OldImage, Target, VerifyOptions, VerifyOutcome, verify,
};

use crate::mutations::PROCESSOR_TIME;

/// How far a place is moved: by fields of 8, 4 and 1 bytes, and by an element of two fields. One must be caught.
const CHANGES: [i64; 6] = [8, 16, 4, -8, -4, 1];

/// References of which no call may tell that a place is wrong, at how many places of one kernel at most, and why. The first
/// that is part of the reference counts.
const SURVIVORS: [(&str, usize, &str); 6] = [
    (
        ".max_cycles",
        1,
        "the product that cannot overflow is right for any delta, and a delta that the other one is wrong for takes a \
         machine that did not update its clock for minutes",
    ),
    (
        ".mult",
        1,
        "used where the product could overflow: the last update was long ago",
    ),
    (
        ".clock_mode",
        3,
        "any clock mode that is not understood has the kernel asked, which is right, and only slow; and where it only \
         chooses the page that the time zone is read from, the zone is 0 on both",
    ),
    (
        "rng.is_ready",
        1,
        "what is not ready has the kernel asked, which is right, and only slow",
    ),
    (
        "pvclock.version",
        3,
        "any even number will do as long as it does not change",
    ),
    (
        "pvclock.flags",
        3,
        "a counter that is not stable has the kernel asked, which is right, and only slow",
    ),
];

/// One relocation: an entry, or the constraints of one instruction that say the same of the same constants.
#[derive(Debug, Clone)]
struct Place {
    /// The instruction.
    site: String,
    /// What it refers to; several names where fields share their place.
    references: Vec<String>,
    entry: Option<usize>,
    constraints: Vec<usize>,
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
            constraints: Vec::new(),
        });
    let mut grouped: BTreeMap<(u64, Vec<Term>), Place> = BTreeMap::new();
    for (index, constraint) in table.constraints.iter().enumerate() {
        if constraint.right_hand_side == RightHandSide::Address {
            let key = (constraint.site.0, constraint.terms.clone());
            let place = grouped.entry(key).or_insert_with(|| Place {
                site: constraint.site.to_string(),
                references: Vec::new(),
                entry: None,
                constraints: Vec::new(),
            });
            place.references.push(name(constraint.need));
            place.constraints.push(index);
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
        for &index in &self.constraints {
            table.constraints[index].addend += change;
        }
        table
    }

    /// The constants as they were, as far as nothing else depends on them.
    fn put_back(&self, old: &Old, table: &Relocations) -> Result<Relocations, String> {
        let mut table = table.clone();
        let gone: BTreeSet<usize> = self.constraints.iter().copied().collect();
        let mut index = 0;
        table.constraints.retain(|_| {
            index += 1;
            !gone.contains(&(index - 1))
        });
        if let Some(index) = self.entry {
            let entry = table.entries.remove(index);
            self.keep_operand(old, &mut table, &entry)?;
        }
        Ok(table)
    }

    /// An operand that leaves the image cannot do without a relocation. One that states its old value is given to it: a size
    /// that is known, and the rest.
    fn keep_operand(
        &self,
        old: &Old,
        table: &mut Relocations,
        entry: &Relocation,
    ) -> Result<(), String> {
        let name = &table.needs[entry.need as usize].reference.target().name;
        let running = RUNNING.as_ref().map_err(Clone::clone)?;
        let symbol = running.symtab.as_ref().and_then(|symtab| symtab.get(name));
        let size = symbol.ok_or_else(|| format!("no `{name}`"))?.size as i64;
        let bytes = &old.image.bytes()[entry.place.index()..][..4];
        let value = i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let operand_field = OperandField {
            place: entry.place,
            width: Width::I32,
        };
        let at = table
            .operand_fields
            .partition_point(|other| *other < operand_field);
        table.operand_fields.insert(at, operand_field);
        for term in table
            .constraints
            .iter_mut()
            .flat_map(|constraint| &mut constraint.terms)
        {
            term.operand_field += u32::from(term.operand_field as usize >= at);
        }
        let site = old.code.covering(entry.place).ok_or("no instruction")?;
        let constraint = Constraint {
            site: site.address,
            right_hand_side: RightHandSide::Size,
            need: entry.need,
            addend: i64::from(value) - size,
            terms: vec![Term {
                operand_field: at as u32,
                coefficient: 1,
            }],
        };
        let at = table
            .constraints
            .partition_point(|other| other.site <= constraint.site);
        table.constraints.insert(at, constraint);
        Ok(())
    }

    fn spelled(&self) -> String {
        format!("{} at {}", self.references.join(" and "), self.site)
    }
}

/// A kernel whose image is changed, and the one that it is linked to: the running one, as it is or emulated.
struct Subject<'a> {
    old: &'a Old,
}

impl<'a> Subject<'a> {
    fn open(kernel: &'a Kernel) -> Result<Self, String> {
        let old = kernel.old()?;
        Ok(Self { old })
    }

    /// What comes of that table.
    fn run(
        &self,
        table: &Relocations,
        clock_mode: ClockMode,
        time_namespace: bool,
    ) -> Result<Finding, String> {
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
        let processor_time = match clock_mode {
            ClockMode::Tsc => PROCESSOR_TIME,
            // Calls during updates, and a refresh before each of the others, take some more.
            _ => 2 * PROCESSOR_TIME,
        };
        let options = VerifyOptions {
            time_namespace,
            rounds: 1,
            processor_time: Some(processor_time),
            ..VerifyOptions::default()
        };
        let old = OldImage {
            relocations: Some(table),
            ..OldImage::from(&self.old.image)
        };
        match verify(old, target, &options) {
            Ok(outcome) => Ok(finding(&outcome)),
            Err(relocator_verify::Error::Child { .. }) => Ok(Finding::Wrong),
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
                processor: None,
            };
            let words = |error: relocator::Error| in_words(&error);
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

    /// Whether no mutant that can be linked does what the image does: one is caught, or there is none.
    fn is_caught(&self, table: &Relocations, place: &Place) -> Result<bool, String> {
        let put_back = place.put_back(self.old, table)?;
        let mut mutants: Vec<Relocations> = Vec::with_capacity(CHANGES.len() + 1);
        // Where a kernel has a field at the same distance, nothing would be put back.
        if self.differs(&put_back)? {
            mutants.push(put_back);
        }
        mutants.extend(CHANGES.map(|change| place.moved(table, change)));
        let mut survived = false;
        for mutant in mutants {
            for &(mode, time_namespace) in circumstances(&place.references) {
                if time_namespace && TIME_NAMESPACE.is_err() {
                    continue;
                }
                match self.run(&mutant, mode, time_namespace)? {
                    Finding::Wrong => return Ok(true),
                    Finding::Right => survived = true,
                    // Other constants cannot follow, and the linker says so.
                    Finding::Replaced => break,
                }
            }
        }
        Ok(!survived)
    }
}

/// What running a linked image shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finding {
    /// Nothing is wrong.
    Right,
    /// A call differs, or the process crashed or hung.
    Wrong,
    /// A function could not be relocated.
    Replaced,
}

fn finding(outcome: &VerifyOutcome) -> Finding {
    let replaced = |function: &FunctionOutcome| {
        function.strategy == Some(Strategy::Proxy) || function.strategy == Some(Strategy::Syscall)
    };
    let functions = || {
        outcome
            .functions
            .iter()
            .filter(|function| function.calls > 0)
    };
    if functions().any(|function| function.mismatches > 0) {
        Finding::Wrong
    } else if functions().any(replaced) {
        Finding::Replaced
    } else {
        Finding::Right
    }
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
    let mut known = SURVIVORS
        .iter()
        .filter(|(part, ..)| references.iter().any(|name| name.contains(part)));
    let most = known.next().map_or(0, |&(_, most, _)| most);
    let mut survivors = Vec::new();
    for place in places(subject.old, table) {
        if place.references == references && !subject.is_caught(table, &place)? {
            survivors.push(place.spelled());
        }
    }
    ensure(survivors.len() <= most, || {
        format!(
            "{} are not caught, and {most} are known: {}",
            survivors.len(),
            survivors.join("; ")
        )
    })
}

/// What is caught must be caught because of the mutation.
fn is_right_without_mutation(kernel: &Kernel) -> Result<(), String> {
    let subject = Subject::open(kernel)?;
    let table = subject.old.relocations.as_ref().ok_or("no table")?;
    for mode in ClockMode::ALL {
        for time_namespace in [false, TIME_NAMESPACE.is_ok()] {
            let finding = subject.run(table, mode, time_namespace)?;
            ensure(finding == Finding::Right, || {
                format!("{mode}, {time_namespace}: {finding:?}")
            })?;
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
    let opened = possible.clone().and_then(|()| kernel());
    let subject = opened.as_deref().map_err(Clone::clone);
    let Ok(subject) = subject.and_then(Subject::open) else {
        return trials;
    };
    let table = subject.old.relocations.as_ref();
    let references: BTreeSet<Vec<String>> = table
        .into_iter()
        .flat_map(|table| places(subject.old, table))
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

/// All of them.
pub(crate) fn trials(arguments: &Arguments) -> Vec<Trial> {
    let cache = Cache::locate();
    let mut trials = Vec::new();
    for version in VERSIONS {
        let (kernel, path) = stock::fetched(&cache, version, arguments.list);
        let possible = path.map(drop).and_then(|()| EMULATION.clone());
        trials.extend(trials_of(version, &kernel, &possible));
    }
    trials
}
