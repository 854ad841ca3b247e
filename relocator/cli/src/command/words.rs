//! Words that arguments accept, for types that know nothing of a command line.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use relocator::plan::Policy;
use relocator_verify::Approach;

/// A parser that accepts the names of `values`, and shows what each of them means.
fn parser<T: Copy + Send + Sync + 'static>(
    values: &'static [T],
    name: fn(T) -> &'static str,
    meaning: fn(T) -> &'static str,
) -> impl TypedValueParser<Value = T> {
    let shown = values
        .iter()
        .map(|&value| PossibleValue::new(name(value)).help(meaning(value)));
    PossibleValuesParser::new(shown).try_map(move |word| {
        let found = values.iter().find(|&&value| name(value) == word);
        found.copied().ok_or("no such value")
    })
}

/// Which strategies may be used.
pub(crate) fn policy() -> impl TypedValueParser<Value = Policy> {
    parser(&Policy::ALL, Policy::name, |policy| match policy {
        Policy::Auto => "The best one for each function",
        Policy::Relocate => {
            "Relocation only: refuse an image of which any function would need another strategy"
        }
        Policy::Proxy => {
            "A proxy for each function that the new vDSO has, a system call for others"
        }
        Policy::Syscall => "A system call for each function that has one, a proxy for others",
    })
}

/// What is done with a process that comes from the old kernel.
pub(crate) fn approach() -> impl TypedValueParser<Value = Approach> {
    parser(
        &Approach::OF_OLD_PROCESSES,
        Approach::name,
        |approach| match approach {
            Approach::Relocate => "Old code is linked to the new vvar; threads are carried across",
            Approach::Proxy => "Old entries jump to the new vDSO; threads are carried across",
            Approach::StepOut => {
                "Threads leave the old code on the old kernel; then old code is linked"
            }
            Approach::Syscall => "Old entries make the system call; threads are carried across",
            Approach::Criu => "CRIU's jumps at the entries that it knows; threads stay as they are",
            Approach::Nothing => "Old code and threads stay as they are",
            Approach::Native => "A program that starts on the new kernel",
        },
    )
}
