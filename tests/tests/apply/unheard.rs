//! Work whose report cannot be written is done, and the command says so.

use kernel_source::Cache;
use libtest_mimic::Trial;
use relocator_tests::command::run_without_room;
use relocator_tests::running::in_words;
use relocator_tests::trials::{ensure, trial};

use crate::odd::PLAIN;
use crate::refused::{Odd, Snapshot};

pub(crate) fn trials(listing: bool) -> Vec<Trial> {
    let fetched = match listing {
        true => Ok(()),
        false => Cache::locate().fetch("6.1").map(drop),
    };
    let possible = &fetched.map_err(|error| in_words(&error));
    vec![trial("unheard::reports".to_owned(), possible, reports)]
}

fn reports() -> Result<(), String> {
    let odd = Odd::start(PLAIN)?;
    let pid = odd.pid().to_string();
    let before = odd.snapshot()?;
    for (command, done) in [
        ("apply", "is linked"),
        ("rollback", "is rolled back"),
        ("step-out", "is stopped"),
    ] {
        let old = ["--old", "kernel:6.1"];
        let old = if command == "step-out" { &[] } else { &old[..] };
        let ran = run_without_room([&[command, "--pid", &pid], old].concat());
        let expected = format!("relocator: process {pid} {done}");
        let says = ran.stderr.starts_with(&expected)
            && ran.stderr.contains("the report could not be written");
        ensure(ran.status == Some(3) && says, || {
            format!("{command}: {ran:?}")
        })?;
        if command == "apply" {
            ensure(before != Snapshot::of(odd.pid())?, || {
                "nothing was linked".to_owned()
            })?;
        }
    }
    Ok(())
}
