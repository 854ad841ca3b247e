//! What the old kernel has: the clock sources that its vDSO may count with, and time namespaces.
//!
//! Kernels are configured with and without hypervisors and time namespaces. What one of them does
//! not have, none of its threads can have been inside with, so the sweep leaves it out and says so.

use elf_tools::relocation::Relocations;
use elf_tools::symtab::Symtab;
use elf_tools::symtab::name::Reference;
use relocator::link::Old;

use super::old_environment::OldEnvironment;
use super::outcome::LeftOut;
use crate::emulated::ClockMode;

/// What the old kernel has, and what not.
#[derive(Debug)]
pub(super) struct HomeFeatures {
    /// What its clocks may count with.
    pub(super) modes: Vec<ClockMode>,
    /// Whether a process of it can have been in a time namespace.
    pub(super) has_time_namespaces: bool,
    /// What it does not have.
    pub(super) left_out: Vec<LeftOut>,
}

impl HomeFeatures {
    pub(super) fn of(environment: &OldEnvironment<'_>, old: &Old) -> Self {
        let symtab = environment.symtab();
        let mut modes = Vec::new();
        let mut left_out = Vec::new();
        for mode in ClockMode::ALL {
            match missing(mode, symtab) {
                None => modes.push(mode),
                Some(symbol) => left_out.push(LeftOut {
                    what: format!("clocks that count with {mode}"),
                    reason: format!("the old kernel has no `{symbol}`"),
                }),
            }
        }
        let reason = no_time_namespaces(environment, old);
        let has_time_namespaces = reason.is_none();
        left_out.extend(reason.map(|reason| LeftOut {
            what: "time namespaces of the old kernel".to_owned(),
            reason: reason.to_owned(),
        }));
        Self {
            modes,
            has_time_namespaces,
            left_out,
        }
    }
}

/// The first field of a clock source's page that a kernel does not have.
fn missing(mode: ClockMode, symtab: &Symtab) -> Option<&'static str> {
    let fields = mode.page(0).into_iter().map(|(symbol, _)| symbol);
    fields
        .into_iter()
        .find(|symbol| symtab.get(symbol).is_none())
}

/// How one can tell that an old kernel has no time namespaces, if it has none. In one of them, code
/// finds a page that refers it to another one, so code that never looks there does not support them.
fn no_time_namespaces(environment: &OldEnvironment<'_>, old: &Old) -> Option<&'static str> {
    if environment.symtab().get("timens.page").is_none() {
        return Some("it has no page for them");
    }
    let looks_there = |table: &Relocations| {
        let mut needs = table.needs.iter();
        needs.any(|need| match &need.reference {
            Reference::Place(name) => name.name.starts_with("timens."),
            _ => true,
        })
    };
    let is_home = matches!(environment, OldEnvironment::Home(_));
    let table = old.relocations.as_ref().filter(|_| is_home);
    let looks_there = table.is_none_or(looks_there);
    (!looks_there).then_some("its code never looks at their page")
}

#[cfg(test)]
mod tests {
    use elf_tools::image::Image;
    use elf_tools::symtab::{Mapping, Provenance, Symbol};
    use kernel_fixtures::fixture;

    use super::*;
    use crate::linked;
    use crate::target::OldImage;

    /// A kernel that has some of the fields that clocks may be read from.
    fn symtab(has: impl Fn(&str) -> bool) -> Symtab {
        let mapping = Mapping {
            name: "[vvar]".to_owned(),
            address: 0x10000,
            size: 0x1000,
        };
        let mut symtab = Symtab::new(Provenance::File, vec![mapping]).unwrap();
        let fields = ClockMode::ALL.into_iter().flat_map(|mode| mode.page(0));
        let fields = fields.map(|(name, _)| name).chain(["timens.page"]);
        for (name, number) in fields.zip(0..).filter(|(name, _)| has(name)) {
            let symbol = Symbol {
                name: name.to_owned(),
                version: 1,
                mapping: 0,
                offset: number * 8,
                size: 8,
            };
            symtab.insert(symbol).unwrap();
        }
        symtab
    }

    #[test]
    fn what_a_kernel_does_not_have_is_left_out() {
        let image = Image::parse(fixture::find("bare").unwrap().image).unwrap();
        let left_out = |has: &dyn Fn(&str) -> bool| {
            let symtab = symtab(has);
            let old = OldImage::from(&image).with_home(Some(&symtab));
            let environment = OldEnvironment::new(old, None).unwrap();
            let old = linked::read(old).unwrap();
            let features = HomeFeatures::of(&environment, &old);
            let reasons = features.left_out.into_iter().map(|it| it.reason);
            let reasons: Vec<String> = reasons.collect();
            (features.modes, features.has_time_namespaces, reasons)
        };
        let all = ClockMode::ALL.to_vec();
        assert_eq!(left_out(&|_| true), (all, true, Vec::new()));
        let (modes, _, reasons) = left_out(&|name| name != "hvclock.tsc_sequence");
        assert_eq!(modes.len(), ClockMode::ALL.len() - 1);
        assert_eq!(reasons, ["the old kernel has no `hvclock.tsc_sequence`"]);
        let (modes, _, reasons) = left_out(&|name| !name.contains("clock."));
        assert_eq!(modes, [ClockMode::COUNTER]);
        assert_eq!(reasons.len(), ClockMode::ALL.len() - 1);
        let (_, has_namespaces, reasons) = left_out(&|name| name != "timens.page");
        assert_eq!((has_namespaces, reasons.len()), (false, 1));
    }
}
