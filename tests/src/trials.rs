//! Tests that not every machine can run. What cannot be run is shown as ignored, with the reason.

use std::cell::Cell;

use libtest_mimic::{Failed, Trial};

thread_local! {
    /// What the names of trials begin with.
    static MODULE: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// Makes trials whose names begin with that of a module.
pub fn within<T>(module: &'static str, make: impl FnOnce() -> T) -> T {
    MODULE.set(Some(module));
    let made = make();
    MODULE.set(None);
    made
}

/// With this variable set, what cannot be run is a failure.
const REQUIRE_ALL: &str = "RELOCATOR_REQUIRE_ALL";

/// Whether everything has to run.
pub fn all_required() -> bool {
    std::env::var_os(REQUIRE_ALL).is_some_and(|value| !value.is_empty() && value != "0")
}

/// A test that can be run if `possible`, and otherwise is ignored for the reason that `possible` holds.
pub fn trial<T>(
    name: impl Into<String>,
    possible: &Result<T, String>,
    run: impl FnOnce() -> Result<(), String> + Send + 'static,
) -> Trial {
    let name = match MODULE.get() {
        Some(module) => format!("{module}::{}", name.into()),
        None => name.into(),
    };
    match possible {
        Ok(_) => Trial::test(name, || run().map_err(Failed::from)),
        Err(reason) => {
            let why = reason.clone();
            let trial = Trial::test(name, move || Err(format!("cannot be run: {why}").into()));
            trial
                .with_kind(format!("cannot be run: {reason}"))
                .with_ignored_flag(!all_required())
        }
    }
}

/// `Err` with the words unless the condition holds.
pub fn ensure(condition: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    match condition {
        true => Ok(()),
        false => Err(what()),
    }
}
