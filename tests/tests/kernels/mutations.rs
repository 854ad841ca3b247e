//! Every single relocation counts.
//!
//! For each one of two images, one with slots and one with operands, the image is linked to the running kernel with that
//! one relocation made wrong: it leads to the next field, or to the next element. Then it is run, and must be caught: a
//! call differs from the system call, or the process crashes or hangs. What no call can tell is listed, with the reason.

use std::fs;
use std::time::Duration;

use elf_tools::image::Image;
use elf_tools::relocation::{Quantity, Relocation, Relocations, write};
use libtest_mimic::{Arguments, Trial};
use relocator_tests::pretend::Pretend;
use relocator_tests::running::{RUNNING, TIME_NAMESPACE, in_words};
use relocator_tests::trials::{ensure, trial};
use relocator_verify::{VerifyOptions, verify};

/// How far a relocation is moved: by a field of 8 and of 4 bytes, and by an element of two fields. A size is also made 0,
/// which leads from any element to the first. One must be caught.
const CHANGES: [i64; 3] = [8, 16, 4];

/// After how much processor time a process is taken to wait for a sequence counter that is not one.
/// Others need a tenth of it, which `is_right_without_mutation` shows, on a busy machine as well.
pub(crate) const PROCESSOR_TIME: Duration = Duration::from_millis(500);

/// A reference of which some places can be wrong without a call that tells.
struct Survivor {
    fixture: &'static str,
    /// Type and reference.
    relocation: &'static str,
    function: &'static str,
    /// How many places in the function.
    most: usize,
    #[allow(dead_code, reason = "for the reader")]
    why: &'static str,
}

const ANY_LIMIT: &str = "the product that cannot overflow is right for any delta, and a delta that the other one is wrong \
                         for takes a machine that did not update its clock for minutes";
const LIMIT_STRIDE: &str =
    "the stride from one clock's max_cycles to the other's, of which any value will do";
const LONG_AGO: &str =
    "read where the delta is beyond max_cycles: the counter is behind, or the last update long ago";
const ASKS: &str = "the comparison with the one clock mode that is understood: any other value has the kernel asked, which \
                    is right, and only slow";
const INDEX_0: &str = "gettimeofday reads one clock, which is element 0";
const NO_ZONE: &str = "it chooses the page that the time zone is read from, and that is 0 on both where nobody has set it";

/// Where a kind of place is in more than one function, or there is more than one of it, compilers have made copies: one
/// for the page at the time page's place and one for where that redirects to, each for raw and for other clocks.
const SURVIVORS: [Survivor; 15] = [
    survivor(
        "got",
        "R_X86_64_PC64 time.clock[].max_cycles",
        BOTH,
        1,
        ANY_LIMIT,
    ),
    survivor(
        "got",
        "R_X86_64_PC64 timens.clock[].max_cycles",
        BOTH,
        1,
        ANY_LIMIT,
    ),
    survivor("got", MASK_SLOT, BOTH, 1, LONG_AGO),
    survivor(
        "operands",
        "R_X86_64_PC32 time.clock[].max_cycles",
        GETTIME,
        2,
        ANY_LIMIT,
    ),
    survivor(
        "operands",
        "R_X86_64_PC32 time.clock[].max_cycles",
        TIMEOFDAY,
        2,
        ANY_LIMIT,
    ),
    survivor(
        "operands",
        "R_X86_64_PC32 timens.clock[].max_cycles",
        GETTIME,
        2,
        ANY_LIMIT,
    ),
    survivor(
        "operands",
        "R_X86_64_PC32 timens.clock[].max_cycles",
        TIMEOFDAY,
        2,
        ANY_LIMIT,
    ),
    survivor("operands", MASK, GETTIME, 4, LONG_AGO),
    survivor("operands", MASK, TIMEOFDAY, 2, LONG_AGO),
    survivor("operands", MODE, GETTIME, 4, ASKS),
    survivor("operands", MODE, TIMEOFDAY, 2, ASKS),
    survivor(
        "operands",
        "R_X86_64_SIZE32 time.clock[].basetime[]",
        TIMEOFDAY,
        2,
        INDEX_0,
    ),
    survivor(
        "operands",
        "R_X86_64_SIZE32 time.clock[].offset[]",
        TIMEOFDAY,
        1,
        INDEX_0,
    ),
    survivor(
        "operands",
        "R_X86_64_PC32 time.clock[].clock_mode",
        TIMEOFDAY,
        1,
        NO_ZONE,
    ),
    survivor(
        "operands",
        "R_X86_64_SIZE32 time.clock[]",
        GETTIME,
        2,
        LIMIT_STRIDE,
    ),
];

const MASK_SLOT: &str = "R_X86_64_64 offsetof(time.clock[],time.clock[].mask)";
const MASK: &str = "R_X86_64_32S offsetof(time.clock[],time.clock[].mask)";
const MODE: &str = "R_X86_64_8 offsetof(time.clock[],time.clock[].clock_mode)";
const GETTIME: &str = "__vdso_clock_gettime";
const TIMEOFDAY: &str = "__vdso_gettimeofday";
const BOTH: &str = "__vdso_clock_gettime, __vdso_gettimeofday";

const fn survivor(
    fixture: &'static str,
    relocation: &'static str,
    function: &'static str,
    most: usize,
    why: &'static str,
) -> Survivor {
    Survivor {
        fixture,
        relocation,
        function,
        most,
        why,
    }
}

/// Runs an image with that table. The first thing that is wrong; `None` if nothing is.
fn run(image: &Image, table: &Relocations, time_namespace: bool) -> Result<Option<String>, String> {
    let bytes = write::attach(image, table).map_err(|error| error.to_string())?;
    let image = Image::parse(&bytes).map_err(|error| error.to_string())?;
    let options = VerifyOptions {
        time_namespace,
        rounds: 2,
        processor_time: Some(PROCESSOR_TIME),
        ..VerifyOptions::default()
    };
    match verify(&image, RUNNING.as_ref().map_err(Clone::clone)?, &options) {
        Ok(outcome) => {
            let mut functions = outcome.functions.into_iter();
            Ok(functions.find_map(|function| function.first_mismatch))
        }
        Err(relocator_verify::Error::Child { what }) => Ok(Some(what)),
        Err(error) => Err(in_words(&error)),
    }
}

/// In which circumstances to run.
fn circumstances() -> &'static [bool] {
    match TIME_NAMESPACE.is_ok() {
        true => &[false, true],
        false => &[false],
    }
}

fn is_caught(pretend: &Pretend, index: usize) -> Result<bool, String> {
    let table = pretend.old.relocations.as_ref().ok_or("no table")?;
    let entry = table.entries[index];
    let mut changes = CHANGES.to_vec();
    if entry.kind.quantity() == Quantity::Size {
        let name = &table.needs[entry.need as usize].reference.target().name;
        let running = RUNNING.as_ref().map_err(Clone::clone)?;
        let symbol = running.symtab.as_ref().and_then(|symtab| symtab.get(name));
        changes.insert(0, -(symbol.ok_or("no such symbol")?.size as i64));
    }
    for change in changes {
        for &time_namespace in circumstances() {
            let mut table = table.clone();
            table.entries[index].addend += change;
            if run(&pretend.old.image, &table, time_namespace)?.is_some() {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// The functions that use a relocation.
fn users(pretend: &Pretend, table: &Relocations, index: usize) -> String {
    let (code, image) = (&pretend.old.code, &pretend.old.image);
    let uses = table.uses(code).by_function;
    let functions = code.functions().iter().zip(uses);
    let using = functions.filter(|(_, used)| used.entries.contains(&(index as u32)));
    let names = using.flat_map(|(function, _)| image.exports_at(function.entry));
    let names = names.map(|export| export.name.as_str());
    let mut names: Vec<&str> = names.filter(|name| name.starts_with("__vdso_")).collect();
    names.sort_unstable();
    names.join(", ")
}

/// A relocation without its place.
fn spelled(table: &Relocations, entry: &Relocation) -> String {
    let need = &table.needs[entry.need as usize];
    format!("{} {}", entry.kind, need.reference)
}

/// Makes every place of one reference wrong in turn. Survivors must be on the list, and not more of them than it says.
fn every_place_counts(pretend: &Pretend, relocation: &str) -> Result<(), String> {
    let table = pretend.old.relocations.as_ref().ok_or("no table")?;
    let mut survivors: Vec<(String, Vec<String>)> = Vec::new();
    for (index, entry) in table.entries.iter().enumerate() {
        if spelled(table, entry) != relocation || is_caught(pretend, index)? {
            continue;
        }
        let (user, place) = (users(pretend, table, index), entry.place.to_string());
        match survivors.iter_mut().find(|(name, _)| *name == user) {
            Some((_, places)) => places.push(place),
            None => survivors.push((user, vec![place])),
        }
    }
    for (function, places) in survivors {
        let listed = SURVIVORS.iter().find(|survivor| {
            (survivor.fixture, survivor.relocation, survivor.function)
                == (pretend.fixture.name, relocation, function.as_str())
        });
        let most = listed.map_or(0, |survivor| survivor.most);
        ensure(places.len() <= most, || {
            format!(
                "{} places in {function} can be wrong, {most} are known: {}",
                places.len(),
                places.join(", ")
            )
        })?;
    }
    Ok(())
}

/// What is caught must be caught because of the mutation.
fn is_right_without_mutation(pretend: &Pretend) -> Result<(), String> {
    let table = pretend.old.relocations.as_ref().ok_or("no table")?;
    for &time_namespace in circumstances() {
        let wrong = run(&pretend.old.image, table, time_namespace)?;
        ensure(wrong.is_none(), || format!("{wrong:?}"))?;
    }
    Ok(())
}

/// Code that only a process in a time namespace runs: after the redirection, and the decision for it.
fn is_for_time_namespaces(relocation: &str) -> bool {
    ["timens.", ".offset", ".clock_mode"]
        .iter()
        .any(|word| relocation.contains(word))
}

/// With another clock source than the processor's counter, vDSOs ask the kernel, and most places are never used.
fn counter_is_the_clock_source() -> Result<(), String> {
    const FILE: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    RUNNING.as_ref().map_err(Clone::clone)?;
    let source = fs::read_to_string(FILE).map_err(|error| format!("{FILE}: {error}"))?;
    ensure(source.trim() == "tsc", || {
        format!("the clock source is {}, not tsc", source.trim())
    })
}

/// All of them.
pub(crate) fn trials(_: &Arguments) -> Vec<Trial> {
    let counting = counter_is_the_clock_source();
    let shifted = counting.clone().and_then(|()| TIME_NAMESPACE.clone());
    let mut trials: Vec<Trial> = Vec::new();
    for fixture in ["got", "operands"] {
        let pretend = Pretend::open(fixture);
        let table = pretend.old.relocations.clone().unwrap_or_default();
        let own = pretend.clone();
        trials.push(trial(
            format!("{fixture}::is_right_without_mutation"),
            &counting,
            move || is_right_without_mutation(&own),
        ));
        let mut distinct: Vec<String> = Vec::new();
        for entry in &table.entries {
            let relocation = spelled(&table, entry);
            if !distinct.contains(&relocation) {
                distinct.push(relocation);
            }
        }
        for relocation in distinct {
            let possible = match is_for_time_namespaces(&relocation) {
                true => &shifted,
                false => &counting,
            };
            let own = pretend.clone();
            let name = format!("{fixture}::{relocation}");
            trials.push(trial(name, possible, move || {
                every_place_counts(&own, &relocation)
            }));
        }
    }
    trials
}
