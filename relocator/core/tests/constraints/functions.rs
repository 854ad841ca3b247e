//! Functions that cannot have what they need, and what becomes of the others.

use elf_tools::relocation::Width::{I8, I32};
use elf_tools::relocation::{Need, Opaque, RightHandSide};
use elf_tools::symtab::name::Reference;
use relocator::plan::{ConstraintFault, Reason, Strategy, Unresolved};

use crate::body::{Body, FUNCTION, bare};

/// Reads a field with a short displacement: `mov eax, [rax+8]; ret`, which must come to `field`.
fn reader(field: i64) -> Body {
    reader_at(FUNCTION, field)
}

fn reader_at(function: &str, field: i64) -> Body {
    let mut body = Body::at(function);
    let base = body.point();
    body.field(base, &[0x8b, 0x40, 8], 2, I8, field);
    body.put(&[0xc3]);
    body
}

#[test]
fn constants_change_in_place_where_they_fit() {
    let linked = reader(0x7c).link();
    let plan = linked.plan();
    assert_eq!((plan.strategy, plan.detours), (Strategy::Relocate, 0));
    assert_eq!(plan.reason.to_string(), "all 2 relocations resolved");
    assert_eq!(linked.image.bytes[linked.entry.index() + 9], 0x7c);
    // No code is added.
    let linked = reader(0x7c).link_in_place();
    assert_eq!(linked.plan().detours, 0);
    assert_eq!(linked.image.bytes.len(), linked.old.image.bytes().len());
}

#[test]
fn a_missing_symbol_costs_only_functions_that_use_it() {
    let mut body = reader(0x7c);
    body.table.needs.push(Need {
        reference: Reference::parse("time.hrtimer_res").unwrap(),
        size: 4,
        default: None,
    });
    let site = body.table.constraints[1].site;
    body.right_hand_side(RightHandSide::Presence, site, &[], 0);
    body.table.constraints[2].need = 1;
    let plan = body.link().plan().clone();
    assert_eq!(plan.strategy, Strategy::Proxy);
    let missing = Unresolved::Missing("time.hrtimer_res".to_owned());
    assert_eq!(plan.reason, Reason::Unresolved(missing));
    // The same condition elsewhere.
    body.table.constraints[2].site = bare().exports().iter().map(|e| e.address).max().unwrap();
    let linked = body.link();
    if linked.entry != body.table.constraints[2].site {
        assert_eq!(linked.plan().strategy, Strategy::Relocate);
    }
}

#[test]
fn constraints_of_functions_that_cannot_run_do_not_count() {
    // Unreachable code that contradicts the function: no thread runs it.
    let mut body = reader(0x7c);
    let base = 0;
    let dead = body.put(&[0x90, 0xc3]);
    body.constraint(dead, &[(base, 1)], 0x1000);
    assert_eq!(body.link().plan().strategy, Strategy::Relocate);
    // Reached, it is a contradiction.
    let site = body.table.constraints[1].site;
    body.table.constraints[2].site = site;
    let plan = body.link().plan().clone();
    assert_eq!(plan.strategy, Strategy::Proxy);
    let Reason::Unsolvable { reference, .. } = &plan.reason else {
        panic!("{}", plan.reason);
    };
    assert_eq!(reference, "time.page");
}

#[test]
fn functions_that_fail_anyway_do_not_choose() {
    // All others read vvar without a table, so none of them can run; each also wants the pointer
    // elsewhere.
    let mut body = reader_at("__vdso_clock_getres", 0x7c);
    let own = bare().export("__vdso_clock_getres").unwrap().address;
    let exports = bare().exports().to_vec();
    for other in exports.iter().filter(|e| e.address != own) {
        body.constraint(other.address, &[(0, 1)], 0x4000);
    }
    body.table
        .constraints
        .sort_by_key(|constraint| constraint.site);
    let linked = body.link();
    assert_eq!(linked.plan().strategy, Strategy::Relocate);
    let plans = &linked.image.functions;
    let earlier = plans.iter().filter(|plan| plan.entry < linked.entry);
    let replaced = earlier.filter(|plan| plan.patch.is_some()).count();
    assert!(replaced > 0, "{plans:?}");
}

#[test]
fn what_the_table_cannot_state_is_not_run() {
    let mut body = reader(0x7c);
    let site = body.table.constraints[1].site;
    let reason = "a product of two addresses".to_owned();
    body.table.opaque.push(Opaque {
        site,
        reason: reason.clone().into(),
    });
    let plan = body.link().plan().clone();
    assert_eq!(plan.strategy, Strategy::Proxy);
    assert_eq!(
        plan.reason,
        Reason::Opaque {
            site,
            reason: reason.into()
        }
    );
}

#[test]
fn a_place_without_a_constraint_is_a_stray_reference() {
    let mut body = Body::new();
    body.operand_field(&[0x8b, 0x05, 0, 0, 0, 0x40], 2, I32);
    body.put(&[0xc3]);
    let plan = body.link().plan().clone();
    let is_stray = matches!(plan.reason, Reason::StrayReference { .. });
    assert!(is_stray, "{plan:?}");
}

#[test]
fn operand_fields_that_are_no_constants_are_refused() {
    let mut body = reader(0x7c);
    body.table.operand_fields[1].place = body.table.operand_fields[1].place.offset(-1);
    let plan = body.link().plan().clone();
    assert_eq!(plan.strategy, Strategy::Proxy);
    let Reason::Constraint { fault, .. } = plan.reason else {
        panic!("{plan:?}");
    };
    assert_eq!(fault, ConstraintFault::NoConstant(1));
    assert_eq!(plan.names[0], FUNCTION);
}
