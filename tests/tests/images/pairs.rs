//! Every pretend kernel onto every other: how each function goes on, and why. Nothing is run.

use std::collections::BTreeMap;

use kernel_fixtures::fixture::{self, Style};
use relocator::plan::{FunctionPlan, Strategy};
use relocator_tests::pretend::Pretend;
use relocator_tests::unwinding::Frames;

/// Kernels with the invented field.
const SMEARED: [&str; 3] = ["defaulted", "defaulted-operands", "required"];

/// What keeps `clock_gettime` and `gettimeofday`, which tell nanoseconds, from being relocated: words of a reason, of
/// which one will be named. Nothing stands in the way if there are none.
fn obstacles(old: &str, new: &str) -> Vec<&'static str> {
    let mut obstacles = Vec::new();
    if new == "bare" {
        return vec!["no symbol table of the new kernel"];
    }
    match (old == "semantics", new == "semantics") {
        (true, false) => obstacles.push("has semantic version 1 in the new kernel, 2 in the image"),
        (false, true) => obstacles.push("has semantic version 2 in the new kernel, 1 in the image"),
        _ => {}
    }
    if old == "required" && !SMEARED.contains(&new) {
        obstacles.push("leap_smear` is missing in the new kernel");
    }
    // What lies behind the fields that were added is out of reach of 8 bits. Slots reach everything.
    if new == "added" && fixture::find(old).unwrap().generation.style == Style::Operands {
        obstacles.push("does not fit R_X86_64_8");
    }
    obstacles
}

/// How a function goes on, and words of the reason, of which one is given.
fn expected(function: &str, old: &str, new: &str) -> (Strategy, Vec<&'static str>) {
    let obstacles = match function {
        _ if old == "bare" => vec!["the image carries no relocation table"],
        "__vdso_getcpu" => return (Strategy::Keep, vec!["it reads no vvar"]),
        // What its two hidden accesses mean is not known, whatever they are linked to.
        "__vdso_clock_getres" if old == "hidden" => vec!["an address is computed with in a way"],
        "__vdso_gettimeofday" if old == "hidden" => vec!["no symbol is at image-0x3f80 plus"],
        // A stride that a compiler made a shift of cannot be changed.
        "__vdso_clock_gettime" if matches!(old, "hidden" | "stock") && new == "shuffled" => {
            vec!["it is off by 0x8"]
        }
        "__vdso_clock_gettime" | "__vdso_gettimeofday" => obstacles(old, new),
        "__vdso_time" | "__vdso_clock_getres" if new == "bare" => obstacles(old, new),
        "__vdso_time" | "__vdso_clock_getres" => Vec::new(),
        other => panic!("no fixture exports {other}"),
    };
    if obstacles.is_empty() {
        (Strategy::Relocate, vec!["relocations resolved"])
    } else {
        (Strategy::Proxy, obstacles)
    }
}

fn by_name(functions: &[FunctionPlan]) -> BTreeMap<&str, &FunctionPlan> {
    functions.iter().map(|plan| (plan.name(), plan)).collect()
}

#[test]
fn every_function_goes_on_as_its_kernels_say() {
    let kernels: Vec<Pretend> = fixture::all().iter().map(Pretend::of).collect();
    let mut counts = BTreeMap::new();
    for old in &kernels {
        for new in &kernels {
            let pair = format!("{} onto {}", old.fixture.name, new.fixture.name);
            let linked = old.onto(new);
            let functions = by_name(&linked.functions);
            assert_eq!(functions.len(), 5, "{pair}");
            for (name, plan) in functions {
                let (strategy, reasons) = expected(name, old.fixture.name, new.fixture.name);
                let words = plan.reason.to_string();
                assert_eq!(plan.strategy, strategy, "{pair}: {name}: {words}");
                assert!(
                    reasons.iter().any(|reason| words.contains(reason)),
                    "{pair}: {name}: none of {reasons:?} in {words}"
                );
                *counts.entry(strategy).or_insert(0) += 1;
            }
        }
    }
    // Were all of them proxied, every expectation could be.
    assert_eq!(counts.values().sum::<i32>(), 5 * 12 * 12);
    assert!(counts[&Strategy::Relocate] > 200, "{counts:?}");
    assert!(counts[&Strategy::Proxy] > 100, "{counts:?}");
}

/// The ELF header, and program headers.
const HEADERS: usize = 64 + 4 * 56;

/// Code that runs on is changed in its operands alone; code that is given up, at its entry.
#[test]
fn nothing_else_changes() {
    let kernels: Vec<Pretend> = fixture::all().iter().map(Pretend::of).collect();
    for old in &kernels {
        for new in &kernels {
            let linked = old.onto(new);
            let mut allowed = vec![false; old.fixture.image.len()];
            for relocation in old.old.relocations.iter().flat_map(|table| &table.entries) {
                allowed[relocation.place.index()..][..relocation.kind.width() as usize].fill(true);
            }
            for operand_field in old
                .old
                .relocations
                .iter()
                .flat_map(|table| &table.operand_fields)
            {
                allowed[operand_field.place.index()..][..operand_field.width.bytes() as usize]
                    .fill(true);
            }
            // Headers say where the image ends, and call frame information describes what runs.
            allowed[..HEADERS].fill(true);
            if let Ok(frames) = Frames::of(old.fixture.image) {
                allowed[frames.place()].fill(true);
            }
            // What has moved out of line leaves a jump, and bytes that nobody executes.
            for moved in &linked.moved {
                let instruction = old.old.code.covering(moved.from).unwrap();
                allowed[moved.from.index()..instruction.end().index()].fill(true);
            }
            for plan in &linked.functions {
                let patch = plan.patch.as_ref().map_or(0, Vec::len);
                assert_eq!(patch > 0, plan.strategy == Strategy::Proxy);
                allowed[plan.entry.index()..][..patch].fill(true);
            }
            for (at, allowed) in allowed.into_iter().enumerate() {
                assert!(
                    allowed || linked.bytes[at] == old.fixture.image[at],
                    "{} onto {}: {at:#x}",
                    old.fixture.name,
                    new.fixture.name
                );
            }
        }
    }
}
