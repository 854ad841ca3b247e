//! What the reader says of images is what `/proc` and `ptrace` said of the process.

use std::ffi::OsStr;
use std::ops::Range;
use std::path::Path;

use elf_tools::Avma;
use elf_tools::symtab::mapping_name::{VDSO, VVAR, VVAR_VCLOCK};
use libtest_mimic::Trial;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use relocator::threads::{Memory, Registers};
use relocator_criu::mapping::Role;
use relocator_criu::restored::{NewUnit, Restored};
use relocator_criu::task::Task;
use relocator_tests::criu::Criu;
use relocator_tests::running::in_words;
use relocator_tests::trials::{ensure, trial};

use crate::Version;
use crate::dumped::{Before, Victim, await_stopped, tasks, tree};
use crate::victim::{CALLING, MEMORY, PAGES, THREADS, TREE};

pub(crate) fn trials(versions: &[&Version]) -> Vec<Trial> {
    let mut trials = Vec::new();
    for version in versions {
        let cases: [(&str, Case); 2] = [("threads", threads), ("tree", both_of_a_tree)];
        for (name, run) in cases {
            let name = format!("reader::{name}::{}", version.name);
            let criu = version.criu.clone();
            trials.push(trial(name, &version.criu, move || run(&criu?)));
        }
        let why = "this kernel does not track which pages change";
        trials.push(if_it_has(
            "incremental",
            version,
            ("mem_dirty_track", why),
            incremental,
        ));
    }
    let why = "this CRIU was built without LZ4";
    trials.push(if_it_has(
        "compressed",
        versions[0],
        ("compress", why),
        compressed,
    ));
    trials
}

type Case = fn(&Criu) -> Result<(), String>;

/// A trial of a feature that packages of CRIU, or kernels, may be built without. It is ignored then
/// also where everything is required, since nothing on this machine would change that: memory of
/// both kinds is made by hand in the crate's own tests, and `kernel-lab suite criu` brings a kernel
/// that has the one.
fn if_it_has(name: &str, version: &Version, feature: (&str, &str), run: Case) -> Trial {
    let name = format!("reader::{name}::{}", version.name);
    let criu = version.criu.clone();
    let has_it = criu.as_ref().is_ok_and(|criu| criu.has(feature.0));
    let run = move || run(&criu?);
    match has_it || version.criu.is_err() {
        true => trial(name, &version.criu, run),
        false => Trial::test(name, move || run().map_err(libtest_mimic::Failed::from))
            .with_kind(format!("cannot be run: {}", feature.1))
            .with_ignored_flag(true),
    }
}

fn compressed(criu: &Criu) -> Result<(), String> {
    compare_one(criu, &[OsStr::new("--compress")])
}

fn threads(criu: &Criu) -> Result<(), String> {
    compare_one(criu, &[])
}

fn compare_one(criu: &Criu, arguments: &[&OsStr]) -> Result<(), String> {
    let victim = Victim::start(CALLING)?;
    victim.stop()?;
    let before = Before::of(victim.pid)?;
    let images = victim.dump(criu, arguments)?;
    let tasks = tasks(images.path())?;
    ensure(tasks.len() == 1, || format!("{} tasks", tasks.len()))?;
    ensure(tasks[0].threads.len() == THREADS + 1, || {
        format!("{} threads", tasks[0].threads.len())
    })?;
    compare(&tasks[0], &before)
}

/// A process and its child, each with its own memory.
fn both_of_a_tree(criu: &Criu) -> Result<(), String> {
    let victim = Victim::start(TREE)?;
    let pids = tree(victim.pid);
    ensure(pids.len() == 2, || format!("{pids:?}"))?;
    for &pid in &pids {
        kill(Pid::from_raw(pid), Signal::SIGSTOP).map_err(|errno| in_words(&errno))?;
    }
    let before = pids.iter().map(|&pid| {
        await_stopped(pid)?;
        Before::of(pid)
    });
    let before: Vec<Before> = before.collect::<Result<_, _>>()?;
    let images = victim.dump(criu, &[])?;
    let tasks = tasks(images.path())?;
    ensure(tasks.len() == 2, || format!("{} tasks", tasks.len()))?;
    for before in &before {
        let task = tasks.iter().find(|task| task.pid == before.pid);
        let task = task.ok_or_else(|| format!("there is no task {}", before.pid))?;
        compare(task, before)?;
    }
    ensure(tasks[1].parent == tasks[0].pid, || {
        format!("the parent is {}", tasks[1].parent)
    })
}

/// Two dumps before the last one, each with memory that changes afterwards.
fn incremental(criu: &Criu) -> Result<(), String> {
    let victim = Victim::start(CALLING)?;
    let track = OsStr::new("--track-mem");
    let first = victim.pre_dump(criu, &[track])?;
    change(victim.pid, 1)?;
    let option = OsStr::new("--prev-images-dir");
    let second = victim.pre_dump(criu, &[track, option, first.path().as_os_str()])?;
    change(victim.pid, 2)?;
    victim.stop()?;
    let before = Before::of(victim.pid)?;
    let last = victim.dump(criu, &[track, option, second.path().as_os_str()])?;
    let tasks = tasks(last.path())?;
    compare(&tasks[0], &before)?;
    let parents = tasks[0].pages().map_or(0, |pages| pages.parents());
    ensure(parents == 2, || {
        format!("pages of {parents} parents are used")
    })?;
    without_parent(last.path())
}

/// Without the images of the dump before, those of the last one say so.
fn without_parent(path: &Path) -> Result<(), String> {
    std::fs::remove_file(path.join("parent")).map_err(|error| in_words(&error))?;
    match tasks(path) {
        Ok(_) => Err("images without their parents were read".to_owned()),
        Err(error) => ensure(
            error.contains("pagemap-") && error.contains("parent"),
            || error,
        ),
    }
}

/// Changes a few pages of a process.
fn change(pid: i32, turn: u8) -> Result<(), String> {
    use std::os::unix::fs::FileExt;
    let path = format!("/proc/{pid}/mem");
    let file = std::fs::File::options().write(true).open(&path);
    let file = file.map_err(|error| format!("{path}: {error}"))?;
    for page in (usize::from(turn)..PAGES).step_by(7) {
        let at = MEMORY + page * 0x1000 + 0x100;
        let written = file.write_all_at(&[turn; 32], at as u64);
        written.map_err(|error| in_words(&error))?;
    }
    Ok(())
}

/// A task in images is what the process was.
fn compare(task: &Task, before: &Before) -> Result<(), String> {
    compare_threads(task, before)?;
    compare_mappings(task, before)?;
    compare_memory(task, before)
}

fn compare_threads(task: &Task, before: &Before) -> Result<(), String> {
    ensure(task.threads.len() == before.threads.len(), || {
        format!("{} threads", task.threads.len())
    })?;
    for thread in &before.threads {
        let found = task.threads.iter().find(|one| one.thread.id == thread.id);
        let found = found.ok_or_else(|| format!("there is no thread {}", thread.id))?;
        let (now, was) = (&found.thread.registers, &thread.registers);
        let is_same = match was.system_call {
            -1 => now == was,
            _ => is_same_in_call(now, was),
        };
        ensure(is_same, || {
            format!("thread {}: {now:x?}, and it was {was:x?}", thread.id)
        })?;
    }
    Ok(())
}

/// Whether a thread that was in a system call makes it again, or goes on behind it. CRIU decides
/// that, and changes the registers as the kernel would.
fn is_same_in_call(now: &Registers, was: &Registers) -> bool {
    let mut again = *was;
    again.pc = was.pc.offset(-2);
    let place = now.pc == was.pc || now.pc == again.pc;
    let but_result = |registers: &Registers| {
        let mut general = registers.general;
        general[0] = 0;
        general
    };
    place && but_result(now) == but_result(was)
}

fn compare_mappings(task: &Task, before: &Before) -> Result<(), String> {
    let data: Vec<&Range<Avma>> = task.ranges_of(Role::Vvar).collect();
    let mut expected = before.mappings.iter().filter(|one| {
        let name = one.name.as_str();
        name != VVAR && name != VVAR_VCLOCK
    });
    let mut found = task.mappings.iter().filter(|one| one.role != Role::Vvar);
    loop {
        let (was, now) = match (expected.next(), found.next()) {
            (None, None) => break,
            (Some(was), Some(now)) => (was, now),
            (was, now) => return Err(format!("{was:?} and {now:?}")),
        };
        let is_role = (was.name == VDSO) == (now.role == Role::Vdso);
        let has_file = was.name.starts_with('/');
        let is_same = was.range == now.range
            && was.protection == now.protection
            && is_role
            && (!has_file || now.name == was.name)
            && has_file == now.has_file;
        ensure(is_same, || format!("{was:?}, and now {now:?}"))?;
    }
    let kernels = before.mappings.iter().filter(|one| {
        let name = one.name.as_str();
        name == VVAR || name == VVAR_VCLOCK
    });
    let kernels: Vec<&Range<Avma>> = kernels.map(|one| &one.range).collect();
    let (Some(first), Some(last)) = (kernels.first(), kernels.last()) else {
        return Err("there was no [vvar]".to_owned());
    };
    let whole = first.start..last.end;
    ensure(data == [&whole], || {
        format!("the data was at {whole:?}, and now {data:?}")
    })
}

fn compare_memory(task: &Task, before: &Before) -> Result<(), String> {
    const PAGE: usize = 0x1000;
    let unit = NewUnit {
        mappings: &[],
        vdso: &[],
    };
    let restored = Restored::new(task, &unit);
    let mut compared = 0;
    for (start, was) in &before.memory {
        let mapping = task.mapping_of(*start).ok_or("no mapping")?;
        for (index, was) in was.chunks(PAGE).enumerate() {
            let at = start.offset((index * PAGE) as i64);
            let mut now = vec![0; was.len()];
            let is_read = restored.read(at, &mut now);
            // What a program has not changed of a file is in the file.
            match is_read {
                true => {
                    compared += 1;
                    ensure(now == was, || {
                        format!("the page at {at} of {mapping:?} is another")
                    })?;
                }
                false => ensure(mapping.has_file || mapping.role == Role::Vsyscall, || {
                    format!("the page at {at} of {mapping:?} is not there")
                })?,
            }
        }
    }
    ensure(compared > PAGES, || {
        format!("only {compared} pages were compared")
    })
}
