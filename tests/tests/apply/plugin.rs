//! The plugin, in a real CRIU: it is all that a user installs, and a process is linked when its restore
//! ends.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use elf_tools::image::Image;
use elf_tools::symtab::mapping_name::VDSO;
use libtest_mimic::Trial;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use relocator::plan::Policy;
use relocator_process::apply::outcome::ApplyState;
use relocator_tests::command;
use relocator_tests::criu::{Criu, Images, Restore};
use relocator_tests::running::in_words;
use relocator_tests::trials::{ensure, trial};
use tempfile::TempDir;

use crate::checkpoint::Traveller;
use crate::places::is;
use crate::snapshot::{mappings, named};

/// The file in the plugin directory: CRIU loads what ends in `.so`.
const FILE: &str = "relocator_plugin.so";

/// How often a process goes away and is linked there.
const GENERATIONS: usize = 3;

pub(crate) fn trials(listing: bool) -> Vec<Trial> {
    let possible = match listing {
        true => Err("only listed".to_owned()),
        false => Criu::new(),
    };
    let checks: [(&str, Check); 5] = [
        ("links_generations", links_generations),
        ("links_what_is_left_stopped", links_stopped),
        ("leaves_a_process_at_home_alone", at_home),
        ("is_switched_off", is_switched_off),
        ("a_broken_capture_is_no_reason_to_fail", broken_capture),
    ];
    let trials = checks.into_iter().map(|(name, check)| {
        let name = format!("plugin::{name}");
        let criu = possible.clone();
        match listing {
            true => Trial::test(name, || Ok(())),
            false => trial(name, &possible, move || check(criu?)),
        }
    });
    trials.collect()
}

/// What is checked with CRIU.
type Check = fn(Criu) -> Result<(), String>;

/// CRIU with the plugin, which keeps its tables nowhere but beside images.
struct Installed {
    criu: Criu,
    _directory: TempDir,
}

fn install(criu: Criu) -> Result<Installed, String> {
    let directory = TempDir::new().map_err(|error| in_words(&error))?;
    let copied = fs::copy(command::plugin(), directory.path().join(FILE));
    copied.map_err(|error| in_words(&error))?;
    let criu = criu.with_plugins(directory.path());
    Ok(Installed {
        criu: criu.with_variable("RELOCATOR_TABLES", "/nowhere"),
        _directory: directory,
    })
}

/// What the plugin has said in a log.
fn said(images: &Images, log: &str) -> String {
    let log = images.log(log);
    let lines = log
        .lines()
        .filter_map(|line| line.split_once("relocator_plugin: "));
    lines.map(|(_, line)| line).collect::<Vec<_>>().join("\n")
}

/// No hand is needed, and nothing but the images: all is right from the first instruction on.
fn links_generations(criu: Criu) -> Result<(), String> {
    let installed = install(criu.clone())?;
    let mut traveller = Traveller::start(installed.criu.clone(), Policy::Auto)?;
    traveller.judged("before")?;
    for generation in 0..GENERATIONS {
        let images = traveller.travel_with(Restore::Away, |_| Ok(()))?;
        let dumped = said(&images, "dump.log");
        ensure(dumped.starts_with("captured vDSO"), || dumped)?;
        let restored = said(&images, "restore.log");
        ensure(restored.contains("linked; vDSO"), || {
            format!("generation {generation}: {restored}")
        })?;
        traveller.judged(&format!("generation {generation}"))?;
        is(
            ApplyState::AlreadyLinked,
            traveller.linker.apply(traveller.pid)?.state,
        )?;
        no_jump_is_left(&traveller)?;
    }
    traveller.end()
}

/// None of CRIU's jumps is left: at no entry of the old text.
fn no_jump_is_left(traveller: &Traveller) -> Result<(), String> {
    /// `movabs $ADDRESS, %rax` and `jmp *%rax`, without the address.
    const JUMP: ([u8; 2], [u8; 2]) = ([0x48, 0xb8], [0xff, 0xe0]);
    let path = format!("/proc/{}/mem", traveller.pid);
    let memory = fs::File::open(path).map_err(|error| in_words(&error))?;
    let mut text = vec![0; 0x2000];
    let read = memory.read_exact_at(&mut text, traveller.text);
    read.map_err(|error| in_words(&error))?;
    let image = Image::parse(&text).map_err(|error| in_words(&error))?;
    let mut entries = 0;
    for export in image.exports() {
        let at = export.address.0 as usize;
        let begins = |at: usize, bytes: [u8; 2]| text[at..].starts_with(&bytes);
        ensure(!(begins(at, JUMP.0) && begins(at + 10, JUMP.1)), || {
            format!("a jump is left at the entry of {}", export.name)
        })?;
        entries += 1;
    }
    ensure(entries > 4, || format!("only {entries} entries"))
}

/// A stop that CRIU has sent stays one.
fn links_stopped(criu: Criu) -> Result<(), String> {
    let installed = install(criu)?;
    let mut traveller = Traveller::start(installed.criu.clone(), Policy::Auto)?;
    let images = traveller.travel_with(Restore::AwayStopped, |_| Ok(()))?;
    let restored = said(&images, "restore.log");
    ensure(restored.contains("linked; vDSO"), || restored)?;
    let stat = fs::read_to_string(format!("/proc/{}/stat", traveller.pid));
    let stat = stat.map_err(|error| in_words(&error))?;
    ensure(stat.contains(") T "), || stat)?;
    let pid = Pid::from_raw(traveller.pid);
    kill(pid, Signal::SIGCONT).map_err(|errno| in_words(&errno))?;
    traveller.judged("linked")?;
    traveller.end()
}

/// A process that comes back to its own vDSO has nothing to be linked.
fn at_home(criu: Criu) -> Result<(), String> {
    let installed = install(criu)?;
    let mut traveller = Traveller::start(installed.criu.clone(), Policy::Auto)?;
    let images = traveller.travel_with(Restore::Home, |_| Ok(()))?;
    let restored = said(&images, "restore.log");
    ensure(restored.contains("has no old vDSO"), || restored)?;
    let vdso = named(&mappings(traveller.pid)?, VDSO)?.start.0;
    ensure(vdso == traveller.text, || {
        format!("the vDSO is at {vdso:#x}")
    })?;
    // CRIU puts it into another time namespace, so threads in flight are not judged here.
    Ok(())
}

fn is_switched_off(criu: Criu) -> Result<(), String> {
    let installed = install(criu)?;
    let criu = installed
        .criu
        .clone()
        .with_variable("RELOCATOR_PLUGIN", "off");
    let mut traveller = Traveller::start(criu, Policy::Auto)?;
    let images = traveller.travel_with(Restore::AwayStopped, |_| Ok(()))?;
    let restored = said(&images, "restore.log");
    ensure(restored.contains("switched off"), || restored)?;
    traveller.link()?;
    traveller.end()
}

/// Whatever lies beside the images: CRIU's restore succeeds, and what is linked is right.
fn broken_capture(criu: Criu) -> Result<(), String> {
    let installed = install(criu)?;
    for spoil in [remove as fn(&Path) -> _, truncate, flip] {
        let mut traveller = Traveller::start(installed.criu.clone(), Policy::Auto)?;
        let images = traveller.travel_with(Restore::AwayStopped, |images| {
            let captured = images.path().join("relocator");
            spoil(&captured).map_err(|error: std::io::Error| in_words(&error))
        })?;
        let restored = said(&images, "restore.log");
        ensure(!restored.is_empty(), || "nothing was said".to_owned())?;
        let now = traveller.linker.apply(traveller.pid)?.state;
        ensure(
            matches!(now, ApplyState::Linked | ApplyState::AlreadyLinked),
            || format!("{now:?}"),
        )?;
        let pid = Pid::from_raw(traveller.pid);
        kill(pid, Signal::SIGCONT).map_err(|errno| in_words(&errno))?;
        traveller.judged("linked")?;
        traveller.end()?;
    }
    Ok(())
}

fn remove(captured: &Path) -> std::io::Result<()> {
    fs::remove_dir_all(captured)
}

fn truncate(captured: &Path) -> std::io::Result<()> {
    spoil(captured, |bytes| bytes.truncate(bytes.len() / 2))
}

fn flip(captured: &Path) -> std::io::Result<()> {
    spoil(captured, |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    })
}

fn spoil(captured: &Path, change: impl Fn(&mut Vec<u8>)) -> std::io::Result<()> {
    for file in fs::read_dir(captured)? {
        let path = file?.path();
        let mut bytes = fs::read(&path)?;
        change(&mut bytes);
        fs::write(&path, bytes)?;
    }
    Ok(())
}
