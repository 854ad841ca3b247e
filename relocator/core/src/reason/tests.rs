//! Reasons in words, and their codes.

use super::*;

#[test]
fn a_reason_on_the_way_to_another_has_the_code_of_the_first() {
    let missing = Unresolved::Missing("time.page".to_owned());
    let reason = Reason::Unresolved(missing);
    let words = "`time.page` is missing in the new kernel";
    assert_eq!(
        (reason.to_string().as_str(), reason.code()),
        (words, "symbol-missing")
    );
    let replaced = Reason::NotInNewVdso(Box::new(reason));
    assert_eq!(replaced.code(), "symbol-missing");
    let expected = format!("{words}; the new vDSO has no such function");
    assert_eq!(replaced.to_string(), expected);
    let refused = Refusal::NoReplacement(Box::new(replaced));
    assert_eq!(refused.code(), "no-replacement");
}

#[test]
fn moved_instructions_are_counted_in_words() {
    let words = |detours, fewest| {
        let reason = Reason::Resolved {
            relocations: 7,
            detours,
            fewest,
        };
        reason.to_string()
    };
    let all = "all 7 relocations resolved";
    assert_eq!(words(0, false), all);
    assert_eq!(
        words(1, true),
        format!("{all}, 1 instruction moved out of line")
    );
    let two = format!("{all}, 2 instructions moved out of line (fewer may do)");
    assert_eq!(words(2, false), two);
}
