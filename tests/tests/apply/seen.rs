//! What a machine has seen once, nobody has to name again: tables and vDSOs are found by build-id.

use std::fs;
use std::path::Path;

use kernel_source::Cache;
use libtest_mimic::Trial;
use relocator_tests::command::{self, Ran};
use relocator_tests::running::in_words;
use relocator_tests::trials::{ensure, trial};
use tempfile::TempDir;

use crate::odd::PLAIN;
use crate::refused::{Odd, Snapshot};

/// The old kernel of all processes here.
const OLD: &str = "kernel:6.1";

/// What a command says that needs to know what CRIU has overwritten.
const UNKNOWN: &str = "what was there is unknown";

pub(crate) fn trials(listing: bool) -> Vec<Trial> {
    let fetched = match listing {
        true => Ok(()),
        false => Cache::locate().fetch("6.1").map(drop),
    };
    let possible = &fetched.map_err(|error| in_words(&error));
    let test =
        |name: &str, run: fn() -> Result<(), String>| trial(format!("seen::{name}"), possible, run);
    vec![
        test("by_apply", || {
            after(&|cache, pid| apply(cache, pid, Some(OLD)))
        }),
        test("by_derive", || {
            after(&|cache, _| run(cache, &["derive", OLD]))
        }),
        test("by_inspect", by_inspect),
        test("damaged", damaged),
        test("file_of_a_process", file_of_a_process),
    ]
}

fn run(cache: &Path, arguments: &[&str]) -> Ran {
    command::run_with_cache(cache, arguments)
}

fn apply(cache: &Path, pid: i32, old: Option<&str>) -> Ran {
    let pid = pid.to_string();
    let mut arguments = vec!["apply", "--json", "--pid", &pid];
    arguments.extend(old.iter().flat_map(|old| ["--old", old]));
    run(cache, &arguments)
}

fn succeeds(ran: Ran) -> Result<String, String> {
    match ran.status {
        Some(0) => Ok(ran.stdout),
        _ => Err(format!("{ran:?}")),
    }
}

fn fails(ran: &Ran, words: &str) -> Result<(), String> {
    let is_right = ran.status == Some(1) && ran.stderr.contains(words) && ran.stdout.is_empty();
    ensure(is_right, || format!("expected {words:?}: {ran:?}"))
}

fn is_relocated(said: &str) -> Result<(), String> {
    let is_linked = said.contains("\"state\": \"linked\"");
    let is_relocated = said.contains("\"strategy\": \"relocate\"");
    ensure(is_linked && is_relocated, || said.to_owned())
}

/// A command sees an old vDSO; then another process with it can be linked, and all can be rolled
/// back and linked again, and nobody names it.
fn after(sees: &dyn Fn(&Path, i32) -> Ran) -> Result<(), String> {
    let cache = TempDir::new().map_err(|error| in_words(&error))?;
    let cache = cache.path();
    let [first, second] = [Odd::start(PLAIN)?, Odd::start(PLAIN)?];
    let before = first.snapshot()?;
    fails(&apply(cache, first.pid(), None), UNKNOWN)?;
    ensure(before == Snapshot::of(first.pid())?, || {
        "it has changed".to_owned()
    })?;
    succeeds(sees(cache, first.pid()))?;
    for odd in [&first, &second] {
        let pid = odd.pid().to_string();
        let said = succeeds(apply(cache, odd.pid(), None))?;
        ensure(said.contains("linked\""), || said.clone())?;
        succeeds(run(cache, &["rollback", "--pid", &pid]))?;
        is_relocated(&succeeds(apply(cache, odd.pid(), None))?)?;
    }
    Ok(())
}

/// `inspect` derives nothing, so functions are proxied until something does.
fn by_inspect() -> Result<(), String> {
    let cache = TempDir::new().map_err(|error| in_words(&error))?;
    let odd = Odd::start(PLAIN)?;
    succeeds(run(cache.path(), &["inspect", OLD]))?;
    let said = succeeds(apply(cache.path(), odd.pid(), None))?;
    ensure(said.contains("\"strategy\": \"proxy\""), || said.clone())
}

/// A damaged file counts as absent.
fn damaged() -> Result<(), String> {
    let cache = TempDir::new().map_err(|error| in_words(&error))?;
    let cache = cache.path();
    let odd = Odd::start(PLAIN)?;
    succeeds(run(cache, &["derive", OLD]))?;
    let files = fs::read_dir(cache).map_err(|error| in_words(&error))?;
    let mut vdsos = files
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.to_string_lossy().ends_with(".vdso.so"));
    let path = vdsos.next().ok_or("no vDSO was kept")?;
    let mut bytes = fs::read(&path).map_err(|error| in_words(&error))?;
    for byte in bytes.iter_mut().skip(0x600).step_by(0x40) {
        *byte ^= 0xff;
    }
    fs::write(&path, &bytes).map_err(|error| in_words(&error))?;
    fails(&apply(cache, odd.pid(), None), UNKNOWN)
}

/// `dump-vdso` completes what it can, and writes nothing else.
fn file_of_a_process() -> Result<(), String> {
    let directory = TempDir::new().map_err(|error| in_words(&error))?;
    let cache = directory.path().join("cache");
    let file = directory.path().join("vdso.so");
    let name = file.to_str().ok_or("a strange path")?;
    let odd = Odd::start(PLAIN)?;
    let source = format!("pid:{}", odd.pid());
    let dump = || run(&cache, &["dump-vdso", &source, "-o", name]);
    fs::write(&file, "as it was").map_err(|error| in_words(&error))?;
    fails(&dump(), UNKNOWN)?;
    let kept = fs::read(&file).map_err(|error| in_words(&error))?;
    ensure(kept == b"as it was", || {
        "the file was overwritten".to_owned()
    })?;
    succeeds(run(&cache, &["inspect", OLD]))?;
    succeeds(dump())?;
    let own = fs::read(&file).map_err(|error| in_words(&error))?;
    ensure(own.starts_with(b"\x7fELF"), || "no ELF".to_owned())?;
    // Linked or not, it is the same.
    succeeds(apply(&cache, odd.pid(), None))?;
    succeeds(dump())?;
    let linked = fs::read(&file).map_err(|error| in_words(&error))?;
    ensure(own == linked, || {
        "another one of the linked process".to_owned()
    })?;
    // On a machine that has seen nothing, the file says what it takes.
    let other = Odd::start(PLAIN)?;
    let nothing = directory.path().join("nothing");
    fails(&apply(&nothing, other.pid(), None), UNKNOWN)?;
    succeeds(apply(&nothing, other.pid(), Some(name))).map(drop)
}
