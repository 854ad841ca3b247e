//! `relocator check` as a user runs it.

use std::fs;
use std::path::Path;

use libtest_mimic::Trial;
use relocator_tests::command::run;
use relocator_tests::criu::Criu;
use relocator_tests::running::in_words;
use relocator_tests::trials::{ensure, trial};
use serde_json::Value;

use crate::Version;
use crate::dumped::Victim;
use crate::victim::TREE;

/// Lines of a terminal.
const SCREEN: usize = 50;

pub(crate) fn trials(version: &Version) -> Vec<Trial> {
    let criu = version.criu.clone();
    let whole = move || answers(&criu?);
    vec![
        trial("command::answers", &version.criu, whole),
        trial("command::a_process", &version.criu, a_process),
        trial("command::what_is_no_image", &Ok(()), what_is_no_image),
    ]
}

/// What the command says with `--json`, and its exit status.
fn json(arguments: &[&str]) -> Result<(Value, Option<i32>), String> {
    let ran = run([&["check"], arguments, &["--json"]].concat());
    let value = serde_json::from_str(&ran.stdout);
    let value = value.map_err(|error| format!("{error}: {ran:?}"))?;
    Ok((value, ran.status))
}

fn text_of(path: &Path) -> Result<&str, String> {
    path.to_str()
        .ok_or_else(|| "a path that is no text".to_owned())
}

fn answers(criu: &Criu) -> Result<(), String> {
    let victim = Victim::start(TREE)?;
    let pid = victim.pid;
    let images = victim.dump(criu, &[])?;
    let path = text_of(images.path())?;
    let (home, status) = json(&[path])?;
    ensure(status == Some(0), || format!("{status:?}"))?;
    ensure(home["schema"] == "relocator.check/1", || {
        home["schema"].to_string()
    })?;
    ensure(home["yes"] == true, || home.to_string())?;
    let tasks = home["tasks"].as_array().ok_or("no tasks")?;
    ensure(tasks.len() == 2 && tasks[0]["pid"] == pid, || {
        home.to_string()
    })?;
    ensure(tasks.iter().all(|task| task["code"] == "same-vdso"), || {
        home.to_string()
    })?;
    let (away, status) = json(&[path, "--onto", "fixture:reordered"])?;
    ensure(status == Some(0) && away["yes"] == true, || {
        away.to_string()
    })?;
    let task = &away["tasks"][0];
    ensure(task["code"] == "linked", || task.to_string())?;
    let functions = task["texts"][0]["functions"]
        .as_array()
        .ok_or("no functions")?;
    ensure(functions.len() >= 5, || task.to_string())?;
    let broken = task["criu_alone"]["breaks"]
        .as_array()
        .ok_or("nothing breaks")?;
    let is_getres =
        |one: &&Value| one["code"] == "not-proxied" && one["function"] == "__vdso_clock_getres";
    ensure(broken.iter().filter(is_getres).count() == 1, || {
        task.to_string()
    })?;
    one_screen(path)?;
    // Strategies that cannot be kept are a no, and no bad input.
    let (no, status) = json(&[path, "--onto", "fixture:bare", "--strategy", "relocate"])?;
    ensure(status == Some(1) && no["yes"] == false, || no.to_string())?;
    ensure(no["tasks"][0]["reason"].is_string(), || no.to_string())?;
    damaged(images.path())
}

fn one_screen(path: &str) -> Result<(), String> {
    let text = run(["check", path, "--onto", "fixture:reordered"]).success();
    ensure(text.starts_with("yes: "), || text.clone())?;
    let lines = text.lines().count();
    ensure(lines <= SCREEN, || format!("{lines} lines:\n{text}"))?;
    ensure(
        text.contains("__vdso_clock_getres is not on CRIU's list"),
        || text.clone(),
    )
}

/// A file that was cut off is bad input, with its name and the place.
fn damaged(path: &Path) -> Result<(), String> {
    let file = path.join("pstree.img");
    let bytes = fs::read(&file).map_err(|error| in_words(&error))?;
    fs::write(&file, &bytes[..bytes.len() - 1]).map_err(|error| in_words(&error))?;
    let ran = run(["check", text_of(path)?]);
    ensure(ran.status == Some(2), || format!("{ran:?}"))?;
    ensure(ran.stderr.contains("pstree.img, offset 0x"), || {
        ran.stderr.clone()
    })
}

/// A process that is not dumped yet goes on undisturbed.
fn a_process() -> Result<(), String> {
    let victim = Victim::start(TREE)?;
    let pid = format!("pid:{}", victim.pid);
    let (home, status) = json(&[&pid])?;
    ensure(status == Some(0), || home.to_string())?;
    ensure(home["tasks"][0]["code"] == "same-vdso", || home.to_string())?;
    let (away, status) = json(&[&pid, "--onto", "fixture:reordered"])?;
    ensure(status == Some(0), || away.to_string())?;
    let task = &away["tasks"][0];
    ensure(task["code"] == "linked", || task.to_string())?;
    let threads = task["threads"].as_array().ok_or("no threads")?;
    ensure(threads.len() == 3, || task.to_string())?;
    ensure(away["notes"][0].is_string(), || away.to_string())
}

fn what_is_no_image() -> Result<(), String> {
    let directory = tempfile::tempdir().map_err(|error| in_words(&error))?;
    let file = directory.path().join("checkpoint.tar");
    fs::write(&file, "").map_err(|error| in_words(&error))?;
    for (path, word) in [
        (directory.path(), "no inventory.img"),
        (&file, "tar"),
        (&directory.path().join("nothing"), "No such file"),
    ] {
        let ran = run(["check", text_of(path)?]);
        ensure(ran.status == Some(2), || format!("{ran:?}"))?;
        ensure(ran.stderr.contains(word), || ran.stderr.clone())?;
    }
    let ran = run(["check", "pid:0"]);
    ensure(ran.status == Some(2), || format!("{ran:?}"))
}
