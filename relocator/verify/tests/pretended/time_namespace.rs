//! The running kernel's functions with shifted clocks.

use libtest_mimic::Trial;
use relocator_verify::{Running, VerifyOptions, verify};

/// With this variable set, what this machine does not allow is a failure.
const REQUIRE_ALL: &str = "RELOCATOR_REQUIRE_ALL";

/// The test, ignored where the system refuses a time namespace.
pub(crate) fn trial() -> Trial {
    let refused = relocator_verify::probe_time_namespace().err();
    let refused = refused.map(|error| relocator::in_words(&error));
    let name = "time_namespace::every_function_agrees_with_shifted_clocks";
    let Some(reason) = refused else {
        return Trial::test(name, || {
            every_function_agrees_with_shifted_clocks();
            Ok(())
        });
    };
    let required = std::env::var_os(REQUIRE_ALL);
    let required = required.is_some_and(|value| !value.is_empty() && value != "0");
    let kind = format!("cannot be run: {reason}");
    Trial::test(name, move || Err(format!("cannot be run: {reason}").into()))
        .with_kind(kind)
        .with_ignored_flag(!required)
}

fn every_function_agrees_with_shifted_clocks() {
    let source = relocator_process::running::own().unwrap();
    let running = Running {
        image: source.image.unwrap(),
        symtab: None,
    };
    let options = VerifyOptions {
        rounds: 20,
        time_namespace: true,
        ..VerifyOptions::default()
    };
    let outcome = verify(&running.image, &running, &options).unwrap();
    assert_eq!(outcome.mismatches(), 0, "{outcome:#?}");
}
