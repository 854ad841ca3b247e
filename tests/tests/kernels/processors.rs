//! Processors that lack what the old one had: no function of a stock kernel's image executes there
//! what they cannot, and no thread that was stopped in one comes to it.

use elf_tools::Svma;
use elf_tools::disassembly::Flow;
use elf_tools::processor::ProcessorFeatures;
use elf_tools::reentry;
use kernel_source::{Cache, VERSIONS};
use libtest_mimic::{Arguments, Trial};
use relocator::link::{LinkedImage, Old};
use relocator::plan::Strategy;
use relocator::threads::{Crossing, Verdict};
use relocator_tests::running::in_words;
use relocator_tests::stock::{self, Kernel};
use relocator_tests::trials::{ensure, trial};

use crate::ways_out::{BASE, derived, linked, stuck, thread, ways};

/// What alternatives of stock kernels put into images.
/// Whether a thread can come to it without reading the vvar first, after which it goes back to the
/// entry anyway.
const LACKED: [(&str, bool); 2] = [("rdtscp", false), ("rdpid", true)];

/// One for each kernel and each extension.
pub(crate) fn trials(arguments: &Arguments) -> Vec<Trial> {
    let cache = Cache::locate();
    let mut trials = Vec::new();
    for version in VERSIONS {
        let (kernel, path) = stock::fetched(&cache, version, arguments.list);
        let possible = path.map(drop);
        for (name, is_met_alone) in LACKED {
            let kernel = kernel.clone();
            let run = move || {
                let kernel = kernel()?;
                without(&kernel, name, is_met_alone)
            };
            trials.push(trial(format!("{version}::without_{name}"), &possible, run));
        }
    }
    trials
}

/// The image as a processor with everything has it, linked for one that lacks an extension.
fn without(kernel: &Kernel, name: &str, is_met_alone: bool) -> Result<(), String> {
    let old = derived(kernel, true)?;
    let lacked = ProcessorFeatures::named(name).ok_or("no such extension")?;
    let has = ProcessorFeatures::all().without(lacked);
    let unchecked = linked(&old, kernel, None)?;
    let complete = linked(&old, kernel, Some(ProcessorFeatures::all()))?;
    ensure(unchecked == complete, || "nothing is lacking".to_owned())?;
    let lacking = linked(&old, kernel, Some(has))?;
    let mut replaced = 0;
    for (plan, usual) in lacking.functions.iter().zip(&unchecked.functions) {
        let function = old.code.function(plan.entry).ok_or("no such function")?;
        let mut needed = old.code.reached(function).map(|one| one.needs);
        let runs = matches!(usual.strategy, Strategy::Keep | Strategy::Relocate);
        let is_replaced = runs && !needed.all(|needs| needs.without(has).is_empty());
        replaced += usize::from(is_replaced);
        let is_right = match is_replaced {
            true => plan.strategy == Strategy::Proxy && plan.reason.code() == "processor-lacks",
            false => (plan.strategy, &plan.patch) == (usual.strategy, &usual.patch),
        };
        ensure(is_right, || format!("{plan:?}, otherwise {usual:?}"))?;
    }
    ensure(replaced > 0, || "no function needs it".to_owned())?;
    let would_have = no_thread_comes_to_it(&old, &lacking, has)?;
    ensure((would_have > 0) == is_met_alone, || {
        format!("{would_have} threads would have come to it")
    })
}

/// How many threads would come to it if nobody cared.
fn no_thread_comes_to_it(
    old: &Old,
    linked: &LinkedImage,
    has: ProcessorFeatures,
) -> Result<usize, String> {
    let table = reentry::derive(&old.image, &old.code).map_err(|error| in_words(&error))?;
    let after = linked.code_now();
    let crossing = |processor| Crossing {
        old,
        reentry: &table,
        before: None,
        after: &after,
        processor,
        image: BASE,
    };
    let (careful, careless) = (crossing(Some(has)), crossing(None));
    let stuck = stuck(&careful);
    ensure(stuck.is_empty(), || format!("{stuck:#?}"))?;
    let mut would_have = 0;
    for (place, calls) in ways(&careful) {
        let (registers, words) = thread(place, &calls);
        let comes = |crossing: &Crossing<'_>| match crossing.thread(&registers, &words) {
            Verdict::Untouched => comes_to_it(old, linked, place, has),
            _ => false,
        };
        ensure(!comes(&careful), || format!("{place} goes on to it"))?;
        would_have += usize::from(comes(&careless));
    }
    Ok(would_have)
}

/// Whether a thread at a boundary may execute what the processor lacks, unless an entry that was
/// overwritten is in between.
fn comes_to_it(old: &Old, linked: &LinkedImage, start: Svma, has: ProcessorFeatures) -> bool {
    let (mut seen, mut pending) = (Vec::new(), vec![start]);
    while let Some(place) = pending.pop() {
        let patched = |one: &&relocator::plan::FunctionPlan| one.patch.is_some();
        let mut patched = linked.functions.iter().filter(patched);
        let instruction = old.code.covering(place);
        let Some(instruction) = instruction.filter(|_| !seen.contains(&place)) else {
            continue;
        };
        if patched.any(|plan| plan.entry == place) {
            continue;
        }
        seen.push(place);
        if !instruction.needs.without(has).is_empty() {
            return true;
        }
        match instruction.flow {
            Flow::Next => pending.push(instruction.end()),
            Flow::Jump(to) => pending.push(to),
            Flow::Branch(to) | Flow::Call(to) => pending.extend([instruction.end(), to]),
            Flow::Return | Flow::Stop | Flow::Indirect => {}
        }
    }
    false
}
