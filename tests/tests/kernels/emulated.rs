//! Kernels that do not run here, emulated: their own code at home, with every clock source, and the code of other kernels
//! linked to them; and that an emulator that is wrong would be noticed.

use std::time::Duration;

use elf_tools::image::Image;
use elf_tools::relocation::{Relocations, write};
use elf_tools::symtab::{Symbol, Symtab};
use kernel_fixtures::fixture;
use kernel_source::{Cache, VERSIONS};
use libtest_mimic::{Arguments, Trial};
use relocator::plan::Strategy;
use relocator_tests::pretend::Pretend;
use relocator_tests::running::{EMULATION, RUNNING, TIME_NAMESPACE, in_words};
use relocator_tests::stock::{self, Kernel, Shared};
use relocator_tests::trials::{ensure, trial};
use relocator_verify::{
    ClockMode, Emulation, Error, OldImage, VerifyOptions, VerifyOutcome, verify, verify_at_home,
};

/// When a process is taken to hang. Runs take a second at most; this is for a machine that is very busy.
const DEADLINE: Duration = Duration::from_secs(60);

/// After how much processor time a process is taken to spin that has one of its fields in a wrong
/// place. Where all are in their places it needs a fraction of it, which [`is_right`] shows.
const PROCESSOR_TIME: Duration = Duration::from_secs(1);

/// Functions of a stock vDSO that there is a system call for: all kernels have these, some have `getrandom`.
const CALLED: usize = 5;

fn options(rounds: u32, time_namespace: bool) -> VerifyOptions {
    VerifyOptions {
        rounds,
        time_namespace,
        deadline: DEADLINE,
        ..VerifyOptions::default()
    }
}

/// A kernel as it can be emulated.
struct Emulable {
    image: Image,
    symtab: Symtab,
}

impl Emulable {
    fn stock(kernel: &Kernel) -> Result<Self, String> {
        let (image, symtab) = (kernel.image.clone(), kernel.symtab()?.clone());
        Ok(Self { image, symtab })
    }

    fn pretend(name: &str) -> Result<Self, String> {
        let pretend = Pretend::open(name);
        let (image, symtab) = (pretend.old.image, pretend.symtab);
        let symtab = symtab.ok_or("it has no symbol table")?;
        Ok(Self { image, symtab })
    }

    fn with(&self, clock_mode: ClockMode) -> Result<Emulation<'_>, String> {
        Ok(Emulation {
            running: RUNNING.as_ref().map_err(Clone::clone)?,
            image: &self.image,
            symtab: &self.symtab,
            clock_mode,
        })
    }
}

/// No call differs, and those that are to be called are.
fn agrees(outcome: &VerifyOutcome) -> Result<(), String> {
    for function in &outcome.functions {
        ensure(function.mismatches == 0, || format!("{function:#?}"))?;
    }
    let called = outcome.functions.iter().filter(|f| f.calls > 0).count();
    ensure(called >= CALLED, || format!("only {called} are called"))
}

fn at_home(kernel: &Emulable, mode: ClockMode, time_namespace: bool) -> Result<(), String> {
    let options = options(20, time_namespace);
    let outcome = verify_at_home(&kernel.with(mode)?, &options).map_err(|e| in_words(&e))?;
    let native = outcome.functions.iter().all(|f| f.strategy.is_none());
    ensure(native, || format!("{outcome:#?}"))?;
    agrees(&outcome)
}

/// Links an image to an emulated kernel. What cannot be relocated is proxied to that kernel's own code.
fn onto<'a>(
    old: impl Into<OldImage<'a>>,
    new: &'a Emulable,
    mode: ClockMode,
    time_namespace: bool,
) -> Result<VerifyOutcome, String> {
    let options = options(5, time_namespace);
    let outcome = verify(old, new.with(mode)?, &options).map_err(|error| in_words(&error))?;
    agrees(&outcome).map(|()| outcome)
}

/// Every pretend kernel's image onto one kernel, with these clock sources.
fn fixtures_onto(new: &Emulable, modes: &[ClockMode], time_namespace: bool) -> Result<(), String> {
    for fixture in fixture::all() {
        let old = Pretend::of(fixture).old;
        for &mode in modes {
            let outcome = onto(&old, new, mode, time_namespace);
            let outcome = outcome.map_err(|what| format!("{}, {mode}: {what}", fixture.name))?;
            let relocated = |name| {
                let mut functions = outcome.functions.iter();
                functions.any(|f| f.name == name && f.strategy == Some(Strategy::Relocate))
            };
            // What reads one word is relocated everywhere, unless there is no table.
            let right = relocated("__vdso_time") == fixture.generation.tables;
            ensure(right, || format!("{}: {outcome:#?}", fixture.name))?;
        }
    }
    Ok(())
}

/// Fields that code at home reads, each with the clock source that has it read.
///
/// Not in the list are the fields of which a wrong value has code make the system call, or take a longer way that is
/// right as well (`clock_mode`, `max_cycles`, `rng.is_ready`, `pvclock.flags`, `hvclock.tsc_sequence`), the time zone,
/// which is 0 almost everywhere, and what only matters while it changes (`pvclock.version`, `rng.generation`).
const READ: [(&str, ClockMode); 13] = [
    ("time.clock[].seq", ClockMode::Tsc),
    ("time.clock[].cycle_last", ClockMode::Tsc),
    ("time.clock[].mult", ClockMode::Tsc),
    ("time.clock[].shift", ClockMode::Tsc),
    ("time.clock[].basetime[].sec", ClockMode::Tsc),
    ("time.clock[].basetime[].nsec", ClockMode::Tsc),
    ("time.hrtimer_res", ClockMode::Tsc),
    ("pvclock.tsc_timestamp", ClockMode::Pvclock),
    ("pvclock.system_time", ClockMode::Pvclock),
    ("pvclock.tsc_to_system_mul", ClockMode::Pvclock),
    ("pvclock.tsc_shift", ClockMode::Pvclock),
    ("hvclock.tsc_scale", ClockMode::Hvclock),
    ("hvclock.tsc_offset", ClockMode::Hvclock),
];

/// The same in a time namespace, on the page after redirection; and what the page in front has then.
const READ_IN_NAMESPACE: [(&str, ClockMode); 11] = [
    ("time.clock[].offset[].sec", ClockMode::Tsc),
    ("time.clock[].offset[].nsec", ClockMode::Tsc),
    ("timens.clock[].seq", ClockMode::Tsc),
    ("timens.clock[].cycle_last", ClockMode::Tsc),
    ("timens.clock[].mult", ClockMode::Tsc),
    ("timens.clock[].shift", ClockMode::Tsc),
    ("timens.clock[].basetime[].sec", ClockMode::Tsc),
    ("timens.clock[].basetime[].nsec", ClockMode::Tsc),
    ("timens.hrtimer_res", ClockMode::Tsc),
    ("pvclock.system_time", ClockMode::Pvclock),
    ("hvclock.tsc_offset", ClockMode::Hvclock),
];

/// A part of a page that no kernel uses, with room for every element of the arrays of clocks.
const UNUSED: u64 = 0xd80;

/// A table that is wrong about some symbols.
fn changed(table: &Symtab, change: impl Fn(&mut Symbol)) -> Result<Symtab, String> {
    let mappings = table.mappings().to_vec();
    let other = Symtab::new(table.provenance(), mappings);
    let mut other = other.map_err(|error| error.to_string())?;
    for symbol in table.symbols() {
        let mut symbol = symbol.clone();
        change(&mut symbol);
        other.insert(symbol).map_err(|error| error.to_string())?;
    }
    Ok(other)
}

/// What code at home finds with a table, if it does not spin or crash.
fn found(
    kernel: &Emulable,
    (mode, time_namespace): (ClockMode, bool),
) -> Result<Option<VerifyOutcome>, String> {
    let mut options = options(1, time_namespace);
    // A wrong shift makes seconds of so many nanoseconds that a call takes long.
    options.processor_time = Some(PROCESSOR_TIME);
    match verify_at_home(&kernel.with(mode)?, &options) {
        Ok(outcome) => Ok(Some(outcome)),
        Err(Error::Child { .. }) => Ok(None),
        Err(error) => Err(in_words(&error)),
    }
}

/// What is noticed must be noticed because of the change.
fn is_right(kernel: &Emulable, circumstances: (ClockMode, bool)) -> Result<(), String> {
    let found = found(kernel, circumstances)?.ok_or("it does not end, and nothing was changed")?;
    ensure(found.mismatches() == 0, || format!("{found:#?}"))
}

/// Code at home finds something wrong if the emulator's table is.
fn is_noticed(
    kernel: &Emulable,
    what: &str,
    circumstances: (ClockMode, bool),
    change: impl Fn(&mut Symbol),
) -> Result<(), String> {
    let wrong = Emulable {
        image: kernel.image.clone(),
        symtab: changed(&kernel.symtab, change)?,
    };
    let found = found(&wrong, circumstances)?;
    ensure(found.is_none_or(|found| found.mismatches() > 0), || {
        format!("{what} is in a wrong place, and nothing differs")
    })
}

/// Each field that is read with one of these clock sources is written to a wrong place, in turn.
fn wrong_fields_are_noticed(
    kernel: &Emulable,
    modes: &[ClockMode],
    time_namespace: bool,
) -> Result<(), String> {
    let fields: &[(&str, ClockMode)] = match time_namespace {
        true => &READ_IN_NAMESPACE,
        false => &READ,
    };
    for &mode in modes {
        is_right(kernel, (mode, time_namespace))?;
    }
    for (name, mode) in fields.iter().filter(|(_, mode)| modes.contains(mode)) {
        let page = name.split('.').next().unwrap_or_default();
        let page = kernel.symtab.get(&format!("{page}.page"));
        let to = page.ok_or("a field without its page")?.offset + UNUSED;
        is_noticed(kernel, name, (*mode, time_namespace), |symbol| {
            if symbol.name == *name {
                symbol.offset = to;
            }
        })?;
    }
    Ok(())
}

/// What belongs to one time page is written to the other, and the other way round.
fn swapped_pages_are_noticed(kernel: &Emulable, time_namespace: bool) -> Result<(), String> {
    let offset = |name: &str| kernel.symtab.get(name).map(|symbol| symbol.offset);
    let pages = (offset("time.page"), offset("timens.page"));
    let (Some(time), Some(timens)) = pages else {
        return Err("no time pages".to_owned());
    };
    let circumstances = (ClockMode::Tsc, time_namespace);
    is_right(kernel, circumstances)?;
    is_noticed(kernel, "every time page", circumstances, |symbol| {
        if symbol.name.starts_with("time.") {
            symbol.offset = symbol.offset - time + timens;
        } else if symbol.name.starts_with("timens.") {
            symbol.offset = symbol.offset - timens + time;
        }
    })
}

/// A function that makes the system call is right, but it reads no pages, and at home it would have: the update that
/// stands still tells them apart.
fn code_that_does_not_wait_is_noticed() -> Result<(), String> {
    // mov $228, %eax; syscall; ret
    const SYSTEM_CALL: [u8; 8] = [0xb8, 228, 0, 0, 0, 0x0f, 0x05, 0xc3];
    let Emulable { image, symtab } = Emulable::stock(&Kernel::running()?)?;
    let mut bytes = image.bytes().to_vec();
    let function = image.export("__vdso_clock_gettime").ok_or("no function")?;
    bytes[function.address.index()..][..SYSTEM_CALL.len()].copy_from_slice(&SYSTEM_CALL);
    let image = Image::parse(&bytes).map_err(|error| error.to_string())?;
    let kernel = Emulable { image, symtab };
    let outcome = verify_at_home(&kernel.with(ClockMode::Tsc)?, &options(2, false));
    let outcome = outcome.map_err(|error| in_words(&error))?;
    let mismatch = outcome.functions.into_iter().find_map(|f| f.first_mismatch);
    let mismatch = mismatch.ok_or("nothing differs")?;
    let right = mismatch.ends_with("did not wait for the end of the update");
    ensure(right, || mismatch)
}

/// A table that is given is used in place of the one that the image carries, if it carries one.
fn a_given_table_is_used() -> Result<(), String> {
    let new = Emulable::pretend("shuffled")?;
    let Pretend { old, .. } = Pretend::open("operands");
    let (own, none) = (old.relocations.as_ref(), Relocations::default());
    let without = write::attach(&old.image, &none).map_err(|error| error.to_string())?;
    let without = Image::parse(&without).map_err(|error| error.to_string())?;
    for (image, relocations, expected) in [
        (&old.image, None, Strategy::Relocate),
        (&old.image, Some(&none), Strategy::Proxy),
        (&without, None, Strategy::Proxy),
        (&without, own, Strategy::Relocate),
    ] {
        let old = OldImage {
            relocations,
            ..image.into()
        };
        let outcome = verify(old, new.with(ClockMode::Tsc)?, &options(2, false));
        let outcome = outcome.map_err(|error| in_words(&error))?;
        agrees(&outcome)?;
        let mut functions = outcome.functions.iter();
        let right = functions.any(|f| f.name == "__vdso_time" && f.strategy == Some(expected));
        ensure(right, || format!("not {expected}: {outcome:#?}"))?;
    }
    Ok(())
}

/// Where a test is run, by name: as it is, and in a time namespace.
fn circumstances(possible: &Result<(), String>) -> [(bool, &'static str, Result<(), String>); 2] {
    let possible = possible.clone().and(EMULATION.clone());
    let shifted = possible.clone().and(TIME_NAMESPACE.clone());
    [
        (false, "", possible),
        (true, "_in_a_time_namespace", shifted),
    ]
}

/// What is asked of any stock kernel.
fn stock_trials(version: &str, possible: &Result<(), String>, kernel: &Shared) -> Vec<Trial> {
    type Check = fn(&Emulable, bool) -> Result<(), String>;
    const CHECKS: [(&str, Check); 6] = [
        ("is_at_home", |kernel, shifted| {
            at_home(kernel, ClockMode::Tsc, shifted)
        }),
        ("is_at_home_with_pvclock", |kernel, shifted| {
            at_home(kernel, ClockMode::Pvclock, shifted)
        }),
        ("is_at_home_with_hvclock", |kernel, shifted| {
            at_home(kernel, ClockMode::Hvclock, shifted)
        }),
        ("runs_fixtures", |kernel, shifted| {
            fixtures_onto(kernel, &ClockMode::ALL, shifted)
        }),
        ("wrong_fields_are_noticed", |kernel, shifted| {
            wrong_fields_are_noticed(kernel, &[ClockMode::Tsc], shifted)
        }),
        ("swapped_pages_are_noticed", swapped_pages_are_noticed),
    ];
    let mut trials = Vec::new();
    for (shifted, place, possible) in circumstances(possible) {
        for (what, check) in CHECKS {
            let kernel = kernel.clone();
            let run = move || check(&Emulable::stock(&*kernel()?)?, shifted);
            trials.push(trial(format!("{version}::{what}{place}"), &possible, run));
        }
    }
    trials
}

/// Distribution kernels read the clock pages of hypervisors; the running one may have been built without.
fn hypervisor_trials(version: &str, possible: &Result<(), String>, kernel: &Shared) -> Vec<Trial> {
    const MODES: [ClockMode; 2] = [ClockMode::Pvclock, ClockMode::Hvclock];
    let trial = |(shifted, place, possible): (bool, &str, Result<(), String>)| {
        let kernel = kernel.clone();
        let name = format!("{version}::wrong_clock_pages_are_noticed{place}");
        trial(name, &possible, move || {
            wrong_fields_are_noticed(&Emulable::stock(&*kernel()?)?, &MODES, shifted)
        })
    };
    circumstances(possible).map(trial).into()
}

/// A stock kernel's vDSO onto every other one.
fn pair_trials(kernels: &[(&'static str, Shared, Result<(), String>)]) -> Vec<Trial> {
    let mut trials = Vec::new();
    for (old_name, old, old_possible) in kernels {
        for (new_name, new, new_possible) in kernels {
            let possible = old_possible.clone().and(new_possible.clone());
            for (shifted, place, possible) in circumstances(&possible) {
                let (old, new) = (old.clone(), new.clone());
                let run = move || {
                    let new = Emulable::stock(&*new()?)?;
                    let old = &old()?.image;
                    let mut modes = ClockMode::ALL.into_iter();
                    modes.try_for_each(|mode| onto(old, &new, mode, shifted).map(drop))
                };
                let name = format!("{old_name}::runs_on_{new_name}{place}");
                trials.push(trial(name, &possible, run));
            }
        }
    }
    trials
}

/// What is asked of pretend kernels.
fn pretend_trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for fixture in fixture::all().iter().filter(|f| f.symtab.is_some()) {
        for (shifted, place, possible) in circumstances(&Ok(())) {
            let name = |what: &str| format!("{}::{what}{place}", fixture.name);
            trials.push(trial(name("is_at_home"), &possible, move || {
                at_home(&Emulable::pretend(fixture.name)?, ClockMode::Tsc, shifted)
            }));
            // Their code reads no clock page of a hypervisor: with another clock source it makes system calls.
            trials.push(trial(name("runs_fixtures"), &possible, move || {
                let new = Emulable::pretend(fixture.name)?;
                fixtures_onto(&new, &[ClockMode::Tsc], shifted)
            }));
        }
    }
    let [(_, _, here), _] = circumstances(&Ok(()));
    let name = "a_given_table_is_used";
    trials.push(trial(name, &here, a_given_table_is_used));
    let name = "code_that_does_not_wait_is_noticed";
    trials.push(trial(name, &here, code_that_does_not_wait_is_noticed));
    trials
}

/// All of them.
pub(crate) fn trials(arguments: &Arguments) -> Vec<Trial> {
    let cache = Cache::locate();
    let mut kernels = Vec::new();
    for version in VERSIONS {
        let (kernel, path) = stock::fetched(&cache, version, arguments.list);
        kernels.push((version, kernel, path.map(drop)));
    }
    let mut trials = pretend_trials();
    for (version, kernel, possible) in &kernels {
        trials.extend(stock_trials(version, possible, kernel));
        trials.extend(hypervisor_trials(version, possible, kernel));
    }
    trials.extend(pair_trials(&kernels));
    let running = stock::shared(Kernel::running);
    trials.extend(stock_trials("running", &Ok(()), &running));
    trials
}
