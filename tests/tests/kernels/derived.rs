//! Stock kernels with derived tables: everything in their vDSOs is attributed, links to every other kernel, and runs.

use std::path::PathBuf;

use elf_tools::Avma;
use elf_tools::derive::derive;
use elf_tools::image::{Image, alternatives};
use elf_tools::reachability::Code;
use elf_tools::reentry::{self, Context};
use elf_tools::relocation::object;
use kernel_source::{Cache, VERSIONS};
use libtest_mimic::{Arguments, Trial};
use relocator::link::{LinkedImage, New, link};
use relocator::placement::Placement;
use relocator::plan::{FunctionPlan, Policy, Strategy};
use relocator::proxy::AT_ONCE;
use relocator_tests::running::{EMULATION, RUNNING, TIME_NAMESPACE, in_words};
use relocator_tests::stock::{self, Kernel, Shared};
use relocator_tests::trials::{ensure, trial};
use relocator_verify::{ClockMode, Emulation, OldImage, VerifyOptions, VerifyOutcome, verify};

/// Kernels that nothing here was written for: other configurations, and packages that other compilers made. An archive
/// does not have all of them all the time, so the first ones that it has are taken.
const OTHERS: [&str; 6] = [
    "6.12-deb12",
    "6.12-amd64",
    "6.1-rt",
    "6.12-rt",
    "6.1-amd64",
    "7.2-rt",
];

/// How many of them.
const ENOUGH_OTHERS: usize = 3;

/// Most instructions that move out of line in any pair: three of `clock_gettime` have no room for a displacement.
const MOST_DETOURS: usize = 3;

/// Functions that read the vvar, in every stock kernel that has them.
const READERS: [&str; 5] = [
    "__vdso_clock_gettime",
    "__vdso_gettimeofday",
    "__vdso_time",
    "__vdso_clock_getres",
    "__vdso_getrandom",
];

/// An address where kernels put their vDSOs.
const BASE: Avma = Avma(0x7fff_f7f0_0000);

/// Functions that only run in the kernel's own vDSO.
fn is_tied(function: &FunctionPlan) -> bool {
    function.name() == "__vdso_sgx_enter_enclave"
        || function.name().starts_with("__vdso_futex_robust_list")
}

/// Nothing is left that is not understood, whether alternatives are applied or not, and the table survives in a file.
fn everything_is_attributed(kernel: &Kernel) -> Result<(), String> {
    let symtab = kernel.symtab()?;
    let derive = |image: &Image| {
        let code = Code::of(image)?;
        derive(image, &code, symtab)
    };
    let words = |error: elf_tools::Error| in_words(&error);
    let derivation = derive(&kernel.image).map_err(words)?;
    let table = &derivation.relocations;
    ensure(table.opaque.is_empty(), || format!("{:?}", table.opaque))?;
    let unreached = &derivation.unreached;
    ensure(unreached.is_empty(), || format!("{unreached:?}"))?;
    ensure(table.constraints.len() + table.entries.len() >= 100, || {
        format!("only {} constraints", table.constraints.len())
    })?;

    let entries = alternatives::read(&kernel.image).map_err(words)?;
    let patched = alternatives::apply(&kernel.image, &entries, |_| true);
    let patched = Image::parse(&patched).map_err(words)?;
    let same = derive(&patched).map_err(words)? == derivation;
    ensure(same, || "alternatives make a difference".to_owned())?;

    let build_id = patched.build_id().ok_or("no build-id")?;
    let file = object::write(table, Some(build_id), patched.linux_version()).map_err(words)?;
    let code = Code::of(&patched).map_err(words)?;
    let read = object::read(&file, &patched, &code).map_err(words)?;
    ensure(read == *table, || "the table changes in a file".to_owned())
}

/// A thread that may still read the vvar can be put back to the entry of its function wherever it was stopped, with
/// alternatives applied and without.
fn every_reader_can_begin_anew(kernel: &Kernel) -> Result<(), String> {
    let words = |error: elf_tools::Error| in_words(&error);
    let entries = alternatives::read(&kernel.image).map_err(words)?;
    let patched = alternatives::apply(&kernel.image, &entries, |_| true);
    let patched = Image::parse(&patched).map_err(words)?;
    for image in [&kernel.image, &patched] {
        let code = Code::of(image).map_err(words)?;
        let table = reentry::derive(image, &code).map_err(words)?;
        for name in READERS {
            let Some(export) = image.export(name) else {
                continue;
            };
            let function = code.function(export.address).ok_or("no function")?;
            for instruction in code.reached(function) {
                let of_function = |context: &&Context| context.function == export.address;
                let mut contexts = table.at(instruction.address).iter().filter(of_function);
                let known = contexts.clone().count() > 0;
                ensure(known, || {
                    format!("{name}: nothing at {}", instruction.address)
                })?;
                let lost = contexts.find(|c| c.reads && table.recipe(c).is_err());
                ensure(lost.is_none(), || format!("{name}: {lost:?}"))?;
            }
        }
    }
    Ok(())
}

/// On a kernel that has the same functions, wherever its mappings are.
fn recognised_functions_change_at_once(kernel: &Kernel) -> Result<(), String> {
    const FAR: i64 = -(1 << 40);
    let words = |error: relocator::Error| in_words(&error);
    let symtab = kernel.symtab()?;
    let offer = New {
        symtab: Some(symtab),
        image: Some(&kernel.image),
        processor: None,
    };
    let old = kernel.old()?;
    let near = Placement::below(BASE, offer.symtab, offer.image).map_err(words)?;
    let mut far = near.clone();
    for mapping in &mut far.mappings {
        mapping.1 = mapping.1.offset(FAR);
    }
    for (placement, is_far) in [(near, false), (far, true)] {
        let linked = link(old, &offer, &placement, Policy::Auto).map_err(words)?;
        for function in linked.functions.iter().filter(|function| is_tied(function)) {
            changes_at_once(function)?;
            let is_proxy = function.strategy == Strategy::Proxy && function.patch.is_some();
            ensure(is_proxy, || format!("{function:#?}"))?;
            // A thread in a jump behind the image can go back to the entry.
            let mut back = linked.jumps_back.iter();
            let has_back = back.any(|back| back.from == function.entry);
            ensure(has_back == is_far, || format!("{function:#?}: {is_far}"))?;
        }
    }
    Ok(())
}

fn linked(old: &Kernel, new: &Kernel) -> Result<LinkedImage, String> {
    let symtab = new.symtab()?;
    let offer = New {
        symtab: Some(symtab),
        image: Some(&new.image),
        processor: None,
    };
    let words = |error: relocator::Error| in_words(&error);
    let placement = Placement::below(BASE, offer.symtab, offer.image).map_err(words)?;
    link(old.old()?, &offer, &placement, Policy::Auto).map_err(words)
}

/// Nothing stands in for a function that the kernel recognises while a text is replaced, so its entry changes by one
/// write: the landing pad and a jump are longer.
fn changes_at_once(function: &FunctionPlan) -> Result<(), String> {
    let patch = function.patch.as_ref().map_or(0, Vec::len);
    ensure(patch <= AT_ONCE, || format!("{function:#?}"))
}

/// Every function that reads the vvar is relocated, with few detours.
fn links(old: &Kernel, new: &Kernel) -> Result<(), String> {
    let linked = linked(old, new)?;
    for function in &linked.functions {
        let expected = match function.name() {
            name if READERS.contains(&name) => Strategy::Relocate,
            _ if is_tied(function) => {
                changes_at_once(function)?;
                continue;
            }
            _ => Strategy::Keep,
        };
        let right = function.strategy == expected && !function.reason.to_string().is_empty();
        ensure(right, || format!("not {expected}: {function:#?}"))?;
    }
    let detours: usize = linked
        .functions
        .iter()
        .map(|function| function.detours)
        .sum();
    ensure(detours <= MOST_DETOURS, || format!("{detours} detours"))?;
    // What has moved can be found again.
    ensure((detours == 0) == linked.moved.is_empty(), || {
        format!("{detours} detours, and {:?}", linked.moved)
    })
}

/// Relocated functions answer as the system call does.
fn agrees(outcome: &VerifyOutcome) -> Result<(), String> {
    let mut relocated = 0;
    for function in &outcome.functions {
        ensure(function.mismatches == 0, || format!("{function:#?}"))?;
        if READERS.contains(&function.name.as_str()) {
            let right = function.strategy == Some(Strategy::Relocate) && function.calls > 0;
            ensure(right, || format!("{function:#?}"))?;
            relocated += 1;
        }
    }
    ensure(relocated >= 4, || format!("only {relocated} are relocated"))
}

fn runs(kernel: &Kernel, time_namespace: bool) -> Result<(), String> {
    let options = VerifyOptions {
        time_namespace,
        ..VerifyOptions::default()
    };
    let running = RUNNING.as_ref().map_err(Clone::clone)?;
    let outcome = verify(kernel.old()?, running, &options).map_err(|e| in_words(&e))?;
    agrees(&outcome)
}

fn runs_emulated(
    old: &Kernel,
    new: &Kernel,
    clock_mode: ClockMode,
    time_namespace: bool,
) -> Result<(), String> {
    let options = VerifyOptions {
        time_namespace,
        rounds: 4,
        ..VerifyOptions::default()
    };
    let symtab = new.symtab()?;
    let emulation = Emulation {
        running: RUNNING.as_ref().map_err(Clone::clone)?,
        image: &new.image,
        symtab,
        clock_mode,
    };
    let old = OldImage::from(old.old()?).with_home(Some(old.symtab()?));
    let outcome = verify(old, emulation, &options).map_err(|e| in_words(&e))?;
    agrees(&outcome)
}

/// A kernel with its name and whether it can be had.
struct Named {
    name: String,
    kernel: Shared,
    possible: Result<(), String>,
}

fn own_trials(named: &Named) -> Vec<Trial> {
    let name = |what: &str| format!("{}::{what}", named.name);
    let with = |check: fn(&Kernel) -> Result<(), String>| {
        let kernel = named.kernel.clone();
        move || check(&*kernel()?)
    };
    let here = named
        .possible
        .clone()
        .and_then(|()| RUNNING.as_ref().map(drop).map_err(Clone::clone));
    let shifted = here.clone().and_then(|()| TIME_NAMESPACE.clone());
    vec![
        trial(
            name("everything_is_attributed"),
            &named.possible,
            with(everything_is_attributed),
        ),
        trial(
            name("every_reader_can_begin_anew"),
            &named.possible,
            with(every_reader_can_begin_anew),
        ),
        trial(
            name("recognised_functions_change_at_once"),
            &named.possible,
            with(recognised_functions_change_at_once),
        ),
        trial(
            name("runs_relocated"),
            &here,
            with(|kernel| runs(kernel, false)),
        ),
        trial(
            name("runs_relocated_in_a_time_namespace"),
            &shifted,
            with(|kernel| runs(kernel, true)),
        ),
    ]
}

fn pair_trials(old: &Named, new: &Named) -> Vec<Trial> {
    let possible = old.possible.clone().and(new.possible.clone());
    let here = possible.clone().and_then(|()| EMULATION.clone());
    let shifted = here.clone().and_then(|()| TIME_NAMESPACE.clone());
    let name = |what: &str| format!("{}::onto::{}::{what}", old.name, new.name);
    let both = || (old.kernel.clone(), new.kernel.clone());
    let (first, second) = both();
    let mut trials = vec![trial(name("links"), &possible, move || {
        links(&*first()?, &*second()?)
    })];
    for mode in ClockMode::ALL {
        for (place, time_namespace, possible) in
            [("", false, &here), ("_in_a_time_namespace", true, &shifted)]
        {
            let (old, new) = both();
            trials.push(trial(
                name(&format!("runs_on_{mode}{place}")),
                possible,
                move || runs_emulated(&*old()?, &*new()?, mode, time_namespace),
            ));
        }
    }
    trials
}

fn named(cache: &Cache, version: &str, listing: bool) -> Named {
    let (kernel, path): (Shared, Result<PathBuf, String>) = stock::fetched(cache, version, listing);
    Named {
        name: version.to_owned(),
        kernel,
        possible: path.map(drop),
    }
}

/// The first of the others that can be had; if they are too few, the reason shows with those that cannot.
fn others(cache: &Cache, listing: bool) -> Vec<Named> {
    let mut others = Vec::new();
    let mut refused = Vec::new();
    for version in OTHERS {
        if others.len() == ENOUGH_OTHERS {
            break;
        }
        let named = named(cache, version, listing);
        match named.possible {
            Ok(()) => others.push(named),
            Err(_) => refused.push(named),
        }
    }
    let missing = ENOUGH_OTHERS - others.len();
    others
        .into_iter()
        .chain(refused.into_iter().take(missing))
        .collect()
}

/// All of them.
pub(crate) fn trials(arguments: &Arguments) -> Vec<Trial> {
    let cache = Cache::locate();
    let mut kernels: Vec<Named> = VERSIONS
        .iter()
        .map(|version| named(&cache, version, arguments.list))
        .collect();
    kernels.push(Named {
        name: "running".to_owned(),
        kernel: stock::shared(Kernel::running),
        possible: RUNNING.as_ref().map(drop).map_err(Clone::clone),
    });
    let others = others(&cache, arguments.list);
    let mut trials: Vec<Trial> = kernels.iter().chain(&others).flat_map(own_trials).collect();
    for old in &kernels {
        for new in kernels.iter().filter(|new| new.name != old.name) {
            trials.extend(pair_trials(old, new));
        }
    }
    trials
}
