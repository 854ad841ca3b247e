//! Functions that know no time namespaces.
//!
//! In a time namespace the kernel puts another page in the place of the clocks: its sequence counter
//! is odd for ever, and its clock mode refers readers to the page where the clocks are then. Code of
//! a kernel that was configured without time namespaces, or is older than they are, waits there for
//! ever, or takes an offset for the time. So it cannot run on a kernel that has them: a restore may
//! put every process into one.

use elf_tools::relocation::Relocations;
use elf_tools::symtab::Symtab;
use elf_tools::symtab::name::Reference;

use super::eligibility::Eligibility;
use crate::input::Old;
use crate::reason::Reason;

/// The page of a kernel that has time namespaces.
const PAGE: &str = "timens.page";

/// What says in which of the two pages to look. `getrandom` reads it and no clock: what it looks for
/// then has no name of its own in the other page.
const MODE: &str = "time.clock[].clock_mode";

/// Makes functions ineligible that read the clocks and never look at the other page, if the new
/// kernel has one.
pub(crate) fn exclude(
    old: &Old,
    relocations: &Relocations,
    new: Option<&Symtab>,
    eligible: &mut [Eligibility],
) {
    let has_namespaces = new.is_some_and(|symtab| symtab.get(PAGE).is_some());
    let Some(uses) = old.uses.as_ref().filter(|_| has_namespaces) else {
        return;
    };
    for (eligible, uses) in eligible.iter_mut().zip(&uses.by_function) {
        let entries = uses.entries.iter();
        let entries = entries.map(|&index| relocations.entries[index as usize].need);
        let constraints = uses.constraints.iter();
        let constraints = constraints.map(|&index| relocations.constraints[index as usize].need);
        let needs: Vec<u32> = entries.chain(constraints).collect();
        let reads = |object: &str| {
            let mut needs = needs.iter();
            needs.any(|&need| match &relocations.needs[need as usize].reference {
                Reference::Place(name) => name.name.starts_with(object) && name.name != MODE,
                Reference::OffsetOf { .. } => false,
            })
        };
        let can_run = matches!(eligible, Eligibility::Relocated(_));
        if can_run && reads("time.") && !reads("timens.") {
            *eligible = Eligibility::Ineligible(Reason::NoTimeNamespaces);
        }
    }
}
