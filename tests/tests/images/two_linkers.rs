//! Two linkers, one result.
//!
//! All fixtures are compiled from one source. So an image made of operands, linked by us to the layout that another such
//! image was linked to by GNU ld, must come out with the very code of that other image. And every such image, linked to
//! the layout that it was built for, must come out as it was.

use kernel_fixtures::fixture::{self, Style};
use relocator::plan::Strategy;
use relocator_tests::pretend::Pretend;

/// Images of one source text, compiled with the same features: what differs is the layout alone.
const SAME_CODE: [[&str; 2]; 2] = [["operands", "shuffled"], ["shuffled", "operands"]];

fn assert_same_code(from: &Pretend, to: &Pretend) {
    let pair = format!("{} onto {}", from.fixture.name, to.fixture.name);
    let linked = from.onto(to);
    for function in &linked.functions {
        assert!(
            matches!(function.strategy, Strategy::Relocate | Strategy::Keep),
            "{pair}: {function:?}"
        );
    }
    let ours = from.text(&linked.bytes);
    let theirs = to.text(to.fixture.image);
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(ours, theirs, "{pair}");
    }
    assert_eq!(ours.len(), theirs.len(), "{pair}");
}

#[test]
fn operands_linked_by_us_are_operands_linked_by_ld() {
    for [from, to] in SAME_CODE {
        assert_same_code(&Pretend::open(from), &Pretend::open(to));
    }
}

#[test]
fn operands_linked_home_are_what_they_were() {
    let mut count = 0;
    for fixture in fixture::all() {
        let generation = fixture.generation;
        if generation.style == Style::Operands && generation.is_relocation_capable() {
            let home = Pretend::of(fixture);
            assert_same_code(&home, &home);
            assert_eq!(home.onto(&home).bytes, fixture.image, "{}", fixture.name);
            count += 1;
        }
    }
    assert_eq!(count, 5);
}

/// The code of slots depends on no layout, and linking does not touch it.
#[test]
fn code_of_slots_stays_as_it_was_compiled() {
    let mut relocated = 0;
    for old in fixture::all() {
        if old.generation.style != Style::Got {
            continue;
        }
        let old = Pretend::of(old);
        for new in fixture::all().iter().filter(|new| new.symtab.is_some()) {
            let linked = old.onto(&Pretend::of(new));
            if linked.functions.iter().any(|plan| plan.patch.is_some()) {
                continue;
            }
            let text = old.text(old.fixture.image);
            assert_eq!(old.text(&linked.bytes), text, "{}", old.fixture.name);
            relocated += 1;
        }
    }
    assert!(relocated > 20, "{relocated} pairs");
}
