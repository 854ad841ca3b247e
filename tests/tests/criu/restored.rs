//! A task as the crate takes it to be after a restore is what a real restore leaves.

use std::path::Path;

use elf_tools::symtab::mapping_name::VDSO;
use libtest_mimic::Trial;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use relocator_cli::source::Spec;
use relocator_criu::mapping::Role;
use relocator_criu::restored::{NewUnit, Restored};
use relocator_process::maps;
use relocator_process::targets::{Mapping, StoppedTarget, Target};
use relocator_tests::criu::{Criu, Restore, await_end};
use relocator_tests::opened::opened;
use relocator_tests::running::in_words;
use relocator_tests::trials::{ensure, trial};

use crate::Version;
use crate::dumped::{Before, Victim, await_stopped, tasks};
use crate::victim::CALLING;

pub(crate) fn trials(version: &Version) -> Vec<Trial> {
    let criu = version.criu.clone();
    let run = move || as_on_another_kernel(&criu?);
    vec![trial("restored::as_on_another_kernel", &version.criu, run)]
}

/// CRIU restores a process as on another kernel, with jumps. It has the mappings that the crate says,
/// and threads with the registers that it says.
fn as_on_another_kernel(criu: &Criu) -> Result<(), String> {
    let victim = Victim::start(CALLING)?;
    victim.stop()?;
    let pid = victim.pid;
    let images = victim.dump(criu, &[])?;
    criu.restore(&images, Restore::AwayStopped)?;
    let compared = compare(pid, images.path());
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    await_end(pid, None)?;
    compared
}

fn compare(pid: i32, images: &Path) -> Result<(), String> {
    await_stopped(pid)?;
    let tasks = tasks(images)?;
    let task = tasks.first().ok_or("no task")?;
    let own = opened(&Spec::Own)?;
    let image = own.require_image().map_err(|error| in_words(&error))?;
    let mut live = own.live.clone();
    live.sort_by_key(|mapping| mapping.start);
    let unit = NewUnit {
        mappings: &live,
        vdso: image.bytes(),
    };
    let restored = Restored::new(task, &unit);
    let expected = restored.mappings().map_err(|error| in_words(&error))?;
    let found = maps::of(pid).map_err(|error| in_words(&error))?;
    let shown = |mapping: &Mapping| {
        let (start, end) = (mapping.range.start, mapping.range.end);
        format!("{start}-{end} {} {}", mapping.protection, mapping.name)
    };
    let (expected, found) = (joined(expected), joined(found));
    compare_units(&expected, &found)?;
    let but_unit = |all: &[Mapping]| {
        let others = all
            .iter()
            .filter(|mapping| maps::kernel_name(mapping).is_none());
        others.map(shown).collect::<Vec<String>>()
    };
    let (expected, found) = (but_unit(&expected), but_unit(&found));
    for line in &found {
        ensure(expected.contains(line), || {
            format!(
                "there is {line}, and the crate says\n{}",
                expected.join("\n")
            )
        })?;
    }
    ensure(expected.len() == found.len(), || {
        format!("{} mappings, and {} are there", expected.len(), found.len())
    })?;
    let vdso = task.ranges_of(Role::Vdso).next().ok_or("no vDSO")?;
    let name = found
        .iter()
        .find(|line| line.starts_with(&vdso.start.to_string()));
    ensure(name.is_some_and(|line| !line.contains(VDSO)), || {
        format!("{name:?}")
    })?;
    let threads = restored.threads().map_err(|error| in_words(&error))?;
    let before = Before::of(pid)?;
    for thread in &before.threads {
        ensure(threads.contains(thread), || {
            format!("{thread:x?}, and the crate says {threads:x?}")
        })?;
    }
    Ok(())
}

/// The kernel's mappings are low, together, and in one order. CRIU's restorer was below them, so
/// where exactly they are is its matter.
fn compare_units(expected: &[Mapping], found: &[Mapping]) -> Result<(), String> {
    let unit = |all: &[Mapping]| {
        let own = all
            .iter()
            .filter(|mapping| maps::kernel_name(mapping).is_some());
        own.cloned().collect::<Vec<Mapping>>()
    };
    let (expected, found) = (unit(expected), unit(found));
    let kinds = |unit: &[Mapping]| {
        let kinds = unit
            .iter()
            .map(|one| (one.name.clone(), one.size(), one.protection));
        kinds.collect::<Vec<_>>()
    };
    ensure(kinds(&expected) == kinds(&found), || {
        format!("{found:?}, and not {expected:?}")
    })?;
    let mut pairs = found.windows(2);
    let is_together = pairs.all(|pair| pair[0].range.end == pair[1].range.start);
    let (first, found_first) = (&expected[0].range.start, &found[0].range.start);
    let is_near = first <= found_first && found_first.0 - first.0 < 16 << 20;
    ensure(is_together && is_near, || {
        format!("{found:?}, and not {expected:?}")
    })
}

/// Mappings, of which neighbours of one kind are one: whether the kernel joins them depends on what
/// it knows of their past.
fn joined(all: Vec<Mapping>) -> Vec<Mapping> {
    let mut joined: Vec<Mapping> = Vec::new();
    for mapping in all {
        match joined.last_mut() {
            Some(last)
                if last.range.end == mapping.range.start
                    && last.protection == mapping.protection
                    && last.name == mapping.name
                    && !mapping.name.starts_with('/') =>
            {
                last.range.end = mapping.range.end;
            }
            _ => joined.push(mapping),
        }
    }
    joined
}
