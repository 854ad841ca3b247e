//! Unwinders in a linked process find callers at every instruction that it executes in its vDSO.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use elf_tools::Svma;
use elf_tools::image::Image;
use libtest_mimic::Trial;
use relocator::plan::Policy;
use relocator_cli::source::Spec;
use relocator_process::apply::outcome::ApplyState;
use relocator_tests::bed::{Bed, Restored, old_vdso};
use relocator_tests::running::{RUNNING, in_words};
use relocator_tests::stock;
use relocator_tests::trials::{ensure, trial};
use relocator_tests::unwinding::Frames;
use tempfile::TempDir;

use crate::killed;
use crate::linker::Linker;

/// Unwinders that every machine has.
const LIBGCC: &str = "libgcc";

/// Mappings that functions execute: the old text, the new vDSO, and stubs of a prepared process.
const TEXT: &str = "text";
const NEW: &str = "new";
const STUBS: &str = "stubs";

/// What the program says where an unwinder ends early.
const NEVER: &str = "it never comes to the call";

/// The same where it misses the caller.
const ASTRAY: &str = "it goes astray";

/// Every how many moments the tool is killed at.
const MOMENTS: usize = 29;

/// What is done to a process before it asks.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Work {
    /// It is linked so.
    Link(Policy),
    /// It is linked so, and rolled back.
    RollBack(Policy),
    /// It is linked, and prepared for a dump.
    Prepare,
}

/// Each with its name, and whether the process has random states.
const WORKS: [(&str, Work, bool); 7] = [
    ("auto", Work::Link(Policy::Auto), true),
    ("auto_without_states", Work::Link(Policy::Auto), false),
    ("proxy", Work::Link(Policy::Proxy), true),
    ("syscall", Work::Link(Policy::Syscall), true),
    ("rolled_back", Work::RollBack(Policy::Auto), true),
    ("stubs_rolled_back", Work::RollBack(Policy::Syscall), false),
    ("prepared", Work::Prepare, true),
];

/// How long a program may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn trials(listing: bool) -> Vec<Trial> {
    let both = match listing {
        true => Ok(()),
        false => unwinders().and_then(|found| second(&found)),
    };
    // Without it, all others ask libgcc alone.
    let mut trials = vec![trial("unwinding::libunwind".to_owned(), &both, || {
        second(&unwinders()?)
    })];
    for version in kernel_source::VERSIONS {
        let fetched = stock::can_be_had(version, listing);
        let possible = fetched.and_then(|()| program().map(drop));
        let spec = Spec::Kernel(version.to_owned());
        for (name, work, has_states) in WORKS {
            let spec = spec.clone();
            trials.push(trial(
                format!("unwinding::{version}::{name}"),
                &possible,
                move || callers_are_found(&spec, work, has_states),
            ));
        }
        for (name, work) in [
            ("halfway", killed::Work::Apply),
            ("halfway_back", killed::Work::RollBack),
        ] {
            let spec = spec.clone();
            trials.push(trial(
                format!("unwinding::{version}::{name}"),
                &possible,
                move || callers_are_found_halfway(&spec, work),
            ));
        }
    }
    trials
}

/// The program that asks, or why there is none.
pub(crate) fn program() -> Result<&'static [u8], String> {
    const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/unwinder"));
    let failure = option_env!("RELOCATOR_TESTS_NO_UNWINDER");
    failure.map_or(Ok(PROGRAM), |failure| Err(failure.to_owned()))
}

/// What the program can ask here.
fn unwinders() -> Result<String, String> {
    let directory = TempDir::new().map_err(failed)?;
    let path = directory.path().join("unwinder");
    write_program(&path, program()?)?;
    let said = Command::new(path).arg("unwinders").output();
    let said = said.map_err(failed)?.stdout;
    String::from_utf8(said).map_err(|error| error.to_string())
}

fn second(found: &str) -> Result<(), String> {
    let is_there = found.lines().eq(["libgcc", "libunwind"]);
    ensure(is_there, || {
        format!("no libunwind.so.8 is installed: only {found:?} can be asked")
    })
}

fn write_program(path: &Path, program: &[u8]) -> Result<(), String> {
    fs::write(path, program).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(failed)
}

/// The program on a bed.
pub(crate) struct Unwinder {
    pub(crate) restored: Restored,
    output: BufReader<ChildStdout>,
    _directory: TempDir,
}

pub(crate) fn failed(error: std::io::Error) -> String {
    error.to_string()
}

impl Unwinder {
    pub(crate) fn start(bed: &Bed, arguments: &[&str]) -> Result<Self, String> {
        Self::of(program()?, bed, arguments)
    }

    /// Another program that talks like it.
    pub(crate) fn of(program: &[u8], bed: &Bed, arguments: &[&str]) -> Result<Self, String> {
        let directory = TempDir::new().map_err(failed)?;
        let path = directory.path().join("unwinder");
        write_program(&path, program)?;
        let launch = || {
            let mut command = Command::new(&path);
            command.args(arguments);
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            bed.launch(command)
        };
        // For a while, a fork of this process may have the file open that was written.
        let begun = Instant::now();
        let mut restored = loop {
            match launch() {
                Ok(restored) => break restored,
                Err(error) => {
                    let words = in_words(&error);
                    let is_busy = words.contains("Text file busy");
                    ensure(is_busy && begun.elapsed() < PATIENCE, || words)?;
                }
            }
            thread::sleep(Duration::from_millis(5));
        };
        let output = restored.child.stdout.take().ok_or("no standard output")?;
        let mut unwinder = Self {
            restored,
            output: BufReader::new(output),
            _directory: directory,
        };
        let ready = unwinder.line()?;
        ensure(ready == "ready", || format!("it says {ready:?}"))?;
        Ok(unwinder)
    }

    fn line(&mut self) -> Result<String, String> {
        let mut line = String::new();
        self.output.read_line(&mut line).map_err(failed)?;
        Ok(line.trim().to_owned())
    }

    /// Lets it do what it is to do, and returns what it says.
    pub(crate) fn run(mut self) -> Result<Vec<String>, String> {
        let input = self.restored.child.stdin.as_mut();
        writeln!(input.ok_or("no standard input")?).map_err(failed)?;
        let mut said = Vec::new();
        loop {
            let line = self.line()?;
            match line.as_str() {
                "done" => return Ok(said),
                "" => {
                    let ended = self.restored.child.wait().map_err(failed)?;
                    return Err(format!("it ended: {ended}: {said:#?}"));
                }
                _ => said.push(line),
            }
        }
    }
}

pub(crate) fn work_on(spec: &Spec, pid: i32, work: Work) -> Result<(), String> {
    let policy = match work {
        Work::Link(policy) | Work::RollBack(policy) => policy,
        Work::Prepare => Policy::Auto,
    };
    let linker = Linker::by(spec, policy)?;
    let linked = linker.apply(pid)?.state;
    ensure(linked == ApplyState::Linked, || format!("{linked:?}"))?;
    let (then, expected) = match work {
        Work::Link(_) => return Ok(()),
        Work::RollBack(_) => (linker.roll_back(pid)?.state, ApplyState::RolledBack),
        Work::Prepare => (linker.prepare(pid)?.state, ApplyState::Prepared),
    };
    ensure(then == expected, || format!("{then:?}"))
}

/// No unwinder fails at an instruction where the old image says where frames are.
fn callers_are_found(spec: &Spec, work: Work, has_states: bool) -> Result<(), String> {
    let old = old_vdso(spec)?;
    let image = old.image.clone();
    let arguments: &[&str] = match has_states {
        true => &["walk", "with-state"],
        false => &["walk"],
    };
    // Under CRIU's jumps there are the rules of the old functions.
    let patched = !matches!(work, Work::RollBack(_));
    let bed = Bed {
        patched,
        ..Bed::new(old)
    };
    let unwinder = Unwinder::start(&bed, arguments)?;
    work_on(spec, unwinder.restored.pid(), work)?;
    let said = unwinder.run()?;
    let found = Findings::of(&said)?;
    let faults = found.faults(&image)?;
    for ((who, region), places) in &found.asked {
        let bad = found
            .bad
            .iter()
            .filter(|bad| (&bad.0, &bad.1) == (who, region));
        eprintln!(
            "{spec}, {work:?}: {who} at {places} places of {region}, {} bad",
            bad.count()
        );
    }
    let asked = |region: &str| {
        let asked = found.asked.get(&(LIBGCC.to_owned(), region.to_owned()));
        asked.copied().unwrap_or(0)
    };
    let leads = match work {
        Work::Link(Policy::Proxy) => NEW,
        Work::Prepare => STUBS,
        _ => TEXT,
    };
    ensure(asked(TEXT) >= 5 && asked(leads) >= 5, || {
        format!("too few places: {said:?}")
    })?;
    ensure(faults.is_empty(), || {
        format!("{} faults: {faults:#?}", faults.len())
    })
}

/// What the program says about unwinders.
#[derive(Default)]
struct Findings {
    /// Which one failed, in which mapping, at which offset, and how.
    bad: BTreeSet<(String, String, u64, String)>,
    /// At how many places each was asked in which mapping.
    asked: BTreeMap<(String, String), usize>,
}

impl Findings {
    fn of(said: &[String]) -> Result<Self, String> {
        let mut found = Self::default();
        for line in said {
            let words: Vec<&str> = line.splitn(5, ' ').collect();
            let failed = |error: std::num::ParseIntError| format!("{line}: {error}");
            match words[..] {
                ["bad", who, region, at, fault] => {
                    let at = u64::from_str_radix(at.trim_start_matches("0x"), 16);
                    let at = at.map_err(failed)?;
                    found
                        .bad
                        .insert((who.to_owned(), region.to_owned(), at, fault.to_owned()));
                }
                ["asked", who, region, places] => {
                    let places = places.parse().map_err(failed)?;
                    found
                        .asked
                        .insert((who.to_owned(), region.to_owned()), places);
                }
                _ => return Err(format!("it says {line:?}")),
            }
        }
        Ok(found)
    }

    /// Failures where an unwinder could know better.
    fn faults(&self, image: &Image) -> Result<Vec<String>, String> {
        let home = Frames::of(image.bytes())?;
        let running = RUNNING.as_ref().map_err(Clone::clone)?;
        let kernels = Frames::of(running.image.bytes())?;
        let mut faults = Vec::new();
        for (who, region, at, fault) in &self.bad {
            let is_known = match region.as_str() {
                TEXT => home.rules(Svma(*at))?.is_some() || *at >= image.loaded_size(),
                NEW => kernels.rules(Svma(*at))?.is_some(),
                _ => true,
            };
            // The C library tells it nothing of what is outside of the old image.
            let ends = region != TEXT && who == LIBGCC && fault == NEVER;
            // A stub is nowhere in the old image. Then one of them goes on by the frame pointer.
            let is_stub = region == STUBS && [NEVER, ASTRAY].contains(&fault.as_str());
            if is_known && !ends && !is_stub {
                faults.push(format!("{who} in {region} at {at:#x}: {fault}"));
            }
        }
        Ok(faults)
    }
}

/// The same in a process whose tool was killed: wherever it has left entries, no unwinder crashes, and
/// none fails in the image. Behind the image there is code that stands in for functions.
fn callers_are_found_halfway(spec: &Spec, work: killed::Work) -> Result<(), String> {
    let old = old_vdso(spec)?;
    let image = old.image.clone();
    let bed = Bed {
        patched: false,
        ..Bed::new(old)
    };
    let linker = Linker::by(spec, Policy::Auto)?;
    let step = killed::stride(MOMENTS);
    let (mut number, mut behind) = (killed::first(), 0);
    loop {
        let unwinder = Unwinder::start(&bed, &["walk", "with-state"])?;
        let pid = unwinder.restored.pid();
        if work != killed::Work::Apply {
            linker.apply(pid)?;
        }
        let (what, ended) = killed::kill_at(killed::start(&linker, work, pid)?, number)?;
        let at = |error: String| format!("{work:?}, moment {number}: {error}; after {what}");
        let found = Findings::of(&unwinder.run().map_err(at)?)?;
        let stands_in = |one: &str| -> bool {
            let place = one.split_once(" in text at 0x").and_then(|(_, rest)| {
                let (place, fault) = rest.split_once(": ")?;
                let is_end = [NEVER, ASTRAY].contains(&fault);
                u64::from_str_radix(place, 16).ok().filter(|_| is_end)
            });
            place.is_some_and(|place| place >= image.loaded_size())
        };
        let (ends, faults): (Vec<String>, Vec<String>) = found
            .faults(&image)?
            .into_iter()
            .partition(|one| stands_in(one));
        behind += usize::from(!ends.is_empty());
        ensure(faults.is_empty(), || at(format!("{faults:#?}")))?;
        if ended.is_some() {
            break;
        }
        number += step;
    }
    eprintln!("{spec}, {work:?}: of {number} moments, {behind} with ends behind the image");
    Ok(())
}
