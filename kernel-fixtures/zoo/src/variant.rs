//! Which vDSOs there are.

use std::fmt;

use crate::arguments::Chosen;
use crate::change::{CHANGES, Change};
use crate::compiler::{COMPILERS, Compiler};
use crate::kernel::KERNELS;

/// A vDSO of the zoo.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Variant {
    pub(crate) series: &'static str,
    pub(crate) compiler: Compiler,
    pub(crate) change: &'static Change,
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.series, self.compiler, self.change.name)
    }
}

/// The compilers that everything is compiled with. The others compile what the distribution does.
const FOR_CHANGES: [&str; 3] = ["gcc-12", "gcc-14", "clang-19"];

/// The dozen that every change is tested with: each kernel, each family, each kind of change.
const FEW: [&str; 12] = [
    "6.12/gcc-12/usual",
    "6.12/gcc-12/size",
    "6.12/gcc-12/no-hypervisor",
    "6.12/gcc-12/fields-late",
    "6.1/gcc-12/return-thunks",
    "6.1/gcc-14/no-timens",
    "6.12/clang-19/usual",
    "6.12/clang-19/no-retpoline",
    "7.2/gcc-12/field-early",
    "7.2/gcc-12/link-time",
    "7.2/clang-19/cet-full",
    "7.2/clang-19/fields-swapped",
];

/// All of them.
fn all() -> Vec<Variant> {
    let mut variants = Vec::new();
    for (series, _) in KERNELS {
        for compiler in COMPILERS {
            for change in &CHANGES {
                let variant = Variant {
                    series,
                    compiler,
                    change,
                };
                if variant.exists() {
                    variants.push(variant);
                }
            }
        }
    }
    variants
}

impl Variant {
    fn exists(&self) -> bool {
        let (first, last) = self.change.series;
        let number = |series: &str| -> Vec<u32> {
            series
                .split('.')
                .filter_map(|part| part.parse().ok())
                .collect()
        };
        let is_in_series = (number(first)..=number(last)).contains(&number(self.series));
        let compiler = self.compiler;
        let is_usual = self.change.name == CHANGES[0].name;
        is_in_series
            && (self.change.compilers)(compiler.family, compiler.version)
            && (is_usual || FOR_CHANGES.contains(&compiler.to_string().as_str()))
    }
}

/// Those that were asked for.
pub(crate) fn chosen(chosen: &Chosen) -> Vec<Variant> {
    let wanted = |variant: &Variant| {
        let name = variant.to_string();
        let is_named = chosen.parts.iter().any(|part| name.contains(part));
        (!chosen.few || FEW.contains(&name.as_str())) && (chosen.parts.is_empty() || is_named)
    };
    all().into_iter().filter(wanted).collect()
}

/// The one of that name.
pub(crate) fn named(name: &str) -> Option<Variant> {
    all()
        .into_iter()
        .find(|variant| variant.to_string() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_few_exist() {
        let few = Chosen {
            few: true,
            parts: Vec::new(),
        };
        let found: Vec<String> = chosen(&few).iter().map(ToString::to_string).collect();
        assert!(
            FEW.iter().all(|name| found.contains(&(*name).to_owned())),
            "{found:?}"
        );
        assert_eq!(found.len(), FEW.len());
    }

    #[test]
    fn parts_of_names_choose() {
        let old = Chosen {
            few: false,
            parts: vec!["6.1/clang-14".to_owned()],
        };
        let found: Vec<String> = chosen(&old).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["6.1/clang-14/usual"]);
        assert!(named("6.1/gcc-12/aux-clocks").is_none());
        assert!(named("7.2/gcc-12/aux-clocks").is_some());
    }
}
