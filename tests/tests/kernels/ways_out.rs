//! Every boundary has a way out: of the images of stock kernels, of each of them linked to each
//! other one, and of what restores by CRIU make of both. Nothing is run; the sweeps of `in_flight`
//! do that.

use std::collections::{BTreeMap, BTreeSet};

use elf_tools::image::{Image, alternatives};
use elf_tools::processor::ProcessorFeatures;
use elf_tools::reentry::{self, Call, Context, Location, Recovery};
use elf_tools::{Avma, Svma};
use kernel_source::{Cache, VERSIONS};
use libtest_mimic::{Arguments, Trial};
use relocator::criu;
use relocator::link::{LinkedImage, New, Old, link};
use relocator::placement::Placement;
use relocator::plan::Policy;
use relocator::threads::{CodeNow, Crossing, Memory, Registers, StuckReason, Verdict};
use relocator_tests::running::{RUNNING, in_words};
use relocator_tests::stock::{self, Kernel, Shared};
use relocator_tests::trials::{ensure, trial};

/// Where old images are.
pub(crate) const BASE: Avma = Avma(0x7fff_f7f0_0000);

/// What the tool overwrites at entries meanwhile.
const INTERIM: usize = 8;

/// Functions over which CRIU puts its jumps.
const COVERED: [&str; 4] = [
    "__vdso_clock_gettime",
    "__vdso_gettimeofday",
    "__vdso_time",
    "__vdso_getcpu",
];

/// Functions out of whose middle there is no way, because what they have exchanged with the program
/// cannot be taken back, or because only the processor knows where they are. A thread in one goes on
/// where it is: their code is not relocated, and reads nothing.
fn has_no_way(name: &str) -> bool {
    name == "__vdso_sgx_enter_enclave" || name.starts_with("__vdso_futex_robust_list")
}

/// Words on stacks, as far as it matters what they are.
pub(crate) struct Words(BTreeMap<u64, u64>);

impl Memory for Words {
    fn read(&self, at: Avma, bytes: &mut [u8]) -> bool {
        bytes.fill(0);
        if let Some(word) = self.0.get(&at.0) {
            bytes.copy_from_slice(&word.to_le_bytes()[..bytes.len()]);
        }
        true
    }
}

/// A thread at a place, with the calls of a context.
pub(crate) fn thread(place: Svma, calls: &[Call]) -> (Registers, Words) {
    let register = |index: usize| 0x1000_0000_0000 * (index as u64 + 1);
    let registers = Registers {
        general: std::array::from_fn(register),
        pc: place.at(BASE),
        system_call: -1,
    };
    let word = |call: &Call| {
        let Location::Memory { base, offset } = call.at else {
            panic!("a return address is in memory");
        };
        let at = register(base.index()).wrapping_add_signed(offset);
        (at, call.returns_to.at(BASE).0)
    };
    (registers, Words(calls.iter().map(word).collect()))
}

/// The ways to each place: the calls that have not returned. A table does not say them of a context
/// that it has no recipe for, which may still be known by the table of the old image.
pub(crate) fn ways(crossing: &Crossing<'_>) -> BTreeSet<(Svma, Vec<Call>)> {
    let way = |context: &Context| (context.boundary, context.calls.clone());
    let Some(before) = crossing.before.filter(|now| now.reentry.is_some()) else {
        return crossing.reentry.contexts.iter().map(way).collect();
    };
    let now = before.reentry.iter().flat_map(|table| &table.contexts);
    let known = now
        .clone()
        .filter(|context| matches!(context.recovery, Recovery::Recipe(_)));
    let lost: BTreeSet<Svma> = now
        .filter(|context| matches!(context.recovery, Recovery::None(_)))
        .map(|context| context.boundary)
        .collect();
    let of_old = lost.into_iter().flat_map(|place| {
        let contexts = crossing
            .reentry
            .at(before.moved_from(place).unwrap_or(place));
        contexts
            .iter()
            .map(move |context| (place, context.calls.clone()))
    });
    known.map(way).chain(of_old).collect()
}

/// Where threads cannot be carried across, and why. Numbers in registers are made up, so that they
/// may be no multiples of anything.
pub(crate) fn stuck(crossing: &Crossing<'_>) -> Vec<String> {
    let mut stuck = Vec::new();
    for (place, calls) in ways(crossing) {
        let (registers, words) = thread(place, &calls);
        let reason = match crossing.thread(&registers, &words) {
            Verdict::Stuck { reason, .. } => reason,
            Verdict::Outside => panic!("{place} is inside"),
            Verdict::Untouched | Verdict::FixUp(_) => continue,
        };
        let is_made_up = matches!(reason, StuckReason::Register { .. });
        if !is_made_up && !is_excused(crossing, place) {
            stuck.push(format!("{place}: {reason}"));
        }
    }
    stuck
}

fn is_excused(crossing: &Crossing<'_>, place: Svma) -> bool {
    let Old { image, code, .. } = crossing.old;
    let mut exports = image
        .exports()
        .iter()
        .filter(|export| has_no_way(&export.name));
    exports.any(|export| {
        let function = code.function(export.address);
        function.is_some_and(|function| {
            code.reached(function)
                .any(|instruction| instruction.address == place)
        })
    })
}

/// The image with all of its alternatives, or with none.
pub(crate) fn derived(kernel: &Kernel, with_alternatives: bool) -> Result<Old, String> {
    let words = |error: elf_tools::Error| in_words(&error);
    let symtab = kernel.symtab()?;
    let entries = alternatives::read(&kernel.image).map_err(words)?;
    let patched = alternatives::apply(&kernel.image, &entries, |_| with_alternatives);
    let patched = Image::parse(&patched).map_err(words)?;
    Old::derive(patched, symtab).map_err(words)
}

/// The image linked to a kernel, for a processor that has this, or for any.
pub(crate) fn linked(
    old: &Old,
    new: &Kernel,
    processor: Option<ProcessorFeatures>,
) -> Result<LinkedImage, String> {
    let words = |error: relocator::Error| in_words(&error);
    let symtab = new.symtab()?;
    let offer = New {
        symtab: Some(symtab),
        image: Some(&new.image),
        processor,
    };
    let placement = Placement::below(BASE, offer.symtab, offer.image).map_err(words)?;
    link(old, &offer, &placement, Policy::Auto).map_err(words)
}

/// The code after CRIU has put its jumps over it.
fn with_jumps(mut code: CodeNow, old: &Old) -> CodeNow {
    for export in old.image.exports() {
        if COVERED.contains(&export.name.as_str()) {
            let jump = criu::jump(Avma(0x7fff_0000_0000));
            code.patch(export.address, jump.to_vec());
        }
    }
    code
}

/// What threads find in the end, with what entries are overwritten with on the way.
fn by_way_of_interim_entries(mut after: CodeNow, old: &Old) -> CodeNow {
    for function in old.code.functions() {
        let mut exports = old.image.exports_at(function.entry);
        if !exports.any(|export| has_no_way(&export.name)) {
            after.overwrite(function.entry, INTERIM);
        }
    }
    after
}

/// From each state that an image can be in when it is linked to `new`: as its kernel has it, linked
/// to `between`, and either with CRIU's jumps.
fn everywhere(
    kernel: &Kernel,
    with_alternatives: bool,
    between: &[Shared],
    new: &Kernel,
) -> Result<(), String> {
    let old = derived(kernel, with_alternatives)?;
    let table = reentry::derive(&old.image, &old.code).map_err(|error| in_words(&error))?;
    let last = linked(&old, new, None)?;
    let unchanged = CodeNow::unchanged(old.image.bytes().len());
    let mut states = vec![
        ("stock".to_owned(), unchanged.clone()),
        ("restored".to_owned(), with_jumps(unchanged, &old)),
    ];
    for between in between {
        let between = between()?;
        let linked = linked(&old, &between, None)?;
        let version = between.image.linux_version();
        let version = version.map_or_else(String::new, |version| version.to_string());
        let mut now = linked.code_now();
        now.analyse(&old, &linked.bytes);
        ensure(now.reentry.is_some(), || {
            format!("linked to {version}: no table")
        })?;
        states.push((format!("linked to {version}"), now));
        let mut now = with_jumps(linked.code_now(), &old);
        now.analyse(&old, &with_words(&linked, &now));
        states.push((format!("linked to {version} and restored"), now));
    }
    let undone = with_jumps(CodeNow::unchanged(old.image.bytes().len()), &old);
    let ends = [("link", last.code_now()), ("rollback", undone)];
    let ends = ends.map(|(what, end)| (what, by_way_of_interim_entries(end, &old)));
    let mut all = Vec::new();
    let pairs = states
        .iter()
        .flat_map(|state| ends.iter().map(move |end| (state, end)));
    for ((name, before), (what, after)) in pairs {
        let crossing = Crossing {
            old: &old,
            reentry: &table,
            before: Some(before),
            after,
            processor: None,
            image: BASE,
        };
        let found = stuck(&crossing);
        all.extend(
            found
                .into_iter()
                .map(|found| format!("{what} of {name}: {found}")),
        );
    }
    ensure(all.is_empty(), || format!("{}: {all:#?}", all.len()))
}

/// The bytes of a linked image of which entries were overwritten: a link record has the first eight
/// bytes of each function.
fn with_words(linked: &LinkedImage, now: &CodeNow) -> Vec<u8> {
    let mut bytes = linked.bytes.clone();
    for patch in &now.patches {
        let start = patch.entry.index() + INTERIM;
        let end = patch.entry.index() + patch.code.len();
        if let Some(lost) = bytes.get_mut(start..end.max(start)) {
            lost.fill(0);
        }
    }
    bytes
}

/// All of them.
pub(crate) fn trials(arguments: &Arguments) -> Vec<Trial> {
    let cache = Cache::locate();
    let mut kernels: Vec<(String, Shared, Result<(), String>)> = VERSIONS
        .iter()
        .map(|version| {
            let (kernel, path) = stock::fetched(&cache, version, arguments.list);
            ((*version).to_owned(), kernel, path.map(drop))
        })
        .collect();
    let possible = RUNNING.as_ref().map(drop).map_err(Clone::clone);
    kernels.push((
        "running".to_owned(),
        stock::shared(Kernel::running),
        possible,
    ));
    let all: Vec<Shared> = kernels.iter().map(|kernel| kernel.1.clone()).collect();
    let everything = kernels.iter().map(|kernel| kernel.2.clone());
    let everything: Result<(), String> = everything.collect();
    let mut trials = Vec::new();
    for (name, kernel, _) in &kernels {
        for (other, new, _) in kernels.iter().filter(|other| other.0 != *name) {
            let (kernel, new, all) = (kernel.clone(), new.clone(), all.clone());
            trials.push(trial(
                format!("{name}::to::{other}"),
                &everything,
                move || {
                    let (kernel, new) = (kernel()?, new()?);
                    everywhere(&kernel, true, &all, &new)?;
                    everywhere(&kernel, false, &all, &new)
                },
            ));
        }
    }
    trials
}
