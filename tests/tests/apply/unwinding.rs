//! Unwinders in a linked process find callers at every instruction that it executes in its vDSO, and
//! threads that are cancelled there run their cleanups.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::{ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use elf_tools::image::Image;
use elf_tools::{Avma, Svma};
use kernel_source::Cache;
use libtest_mimic::Trial;
use object::read::elf::ElfFile64;
use object::{Object, ObjectSymbol};
use relocator::plan::Policy;
use relocator_cli::source::Spec;
use relocator_process::apply::outcome::ApplyState;
use relocator_process::maps;
use relocator_tests::bed::{Bed, Restored, old_vdso};
use relocator_tests::running::{RUNNING, in_words};
use relocator_tests::trials::{ensure, trial};
use relocator_tests::unwinding::Frames;
use tempfile::TempDir;

use crate::killed;
use crate::linker::Linker;

/// Threads that are cancelled, unless [`CANCELLATIONS`] says otherwise.
const USUAL: usize = 1000;

/// The environment variable that says how many.
const CANCELLATIONS: &str = "RELOCATOR_CANCELLATIONS";

/// Kernels of which a coarse clock meets a detour when they are linked to later ones.
const HAVE_DETOURS: [&str; 2] = ["5.10", "6.1"];

/// Instructions that a debugger steps over from where it has stopped the program.
const STEPS: usize = 2;

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
enum Work {
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

/// What is done before a debugger looks.
const DEBUGGED: [(&str, Work); 5] = [
    ("auto", Work::Link(Policy::Auto)),
    ("syscall", Work::Link(Policy::Syscall)),
    ("proxy", Work::Link(Policy::Proxy)),
    ("rolled_back", Work::RollBack(Policy::Auto)),
    ("prepared", Work::Prepare),
];

pub(crate) fn trials(listing: bool) -> Vec<Trial> {
    let cache = Cache::locate();
    let both = match listing {
        true => Ok(()),
        false => unwinders().and_then(|found| second(&found)),
    };
    // Without it, all others ask libgcc alone.
    let mut trials = vec![trial("unwinding::libunwind".to_owned(), &both, || {
        second(&unwinders()?)
    })];
    for version in kernel_source::VERSIONS {
        let fetched = match listing {
            true => Ok(()),
            false => cache.fetch(version).map(drop),
        };
        let fetched = fetched.map_err(|error| in_words(&error));
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
        for (name, work) in DEBUGGED {
            let spec = spec.clone();
            let possible = possible.clone().and_then(|()| debugger());
            let has_detours = HAVE_DETOURS.contains(&version);
            if has_detours || !matches!(work, Work::Link(Policy::Auto)) {
                trials.push(trial(
                    format!("unwinding::{version}::gdb::{name}"),
                    &possible,
                    move || a_debugger_names_callers(&spec, work),
                ));
            }
        }
        trials.push(trial(
            format!("unwinding::{version}::cancelled"),
            &possible,
            move || cleanups_run(&spec),
        ));
    }
    trials
}

/// The program that asks, or why there is none.
fn program() -> Result<&'static [u8], String> {
    const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/unwinder"));
    let failure = option_env!("RELOCATOR_TESTS_NO_UNWINDER");
    failure.map_or(Ok(PROGRAM), |failure| Err(failure.to_owned()))
}

/// What the program can ask here.
fn unwinders() -> Result<String, String> {
    let directory = TempDir::new().map_err(failed)?;
    let path = directory.path().join("unwinder");
    write_program(&path)?;
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

fn write_program(path: &Path) -> Result<(), String> {
    fs::write(path, program()?).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(failed)
}

/// The program on a bed.
struct Unwinder {
    restored: Restored,
    output: BufReader<ChildStdout>,
    _directory: TempDir,
}

fn failed(error: std::io::Error) -> String {
    error.to_string()
}

impl Unwinder {
    fn start(bed: &Bed, arguments: &[&str]) -> Result<Self, String> {
        let directory = TempDir::new().map_err(failed)?;
        let path = directory.path().join("unwinder");
        write_program(&path)?;
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
                Err(error) if is_busy(&error) && begun.elapsed() < PATIENCE => {}
                Err(error) => return Err(error.to_string()),
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
    fn run(mut self) -> Result<Vec<String>, String> {
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

fn is_busy(error: &impl ToString) -> bool {
    error.to_string().contains("Text file busy")
}

fn work_on(spec: &Spec, pid: i32, work: Work) -> Result<(), String> {
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

/// No thread that is cancelled at any moment misses its cleanup.
fn cleanups_run(spec: &Spec) -> Result<(), String> {
    let asked = std::env::var(CANCELLATIONS).ok();
    let count = asked.and_then(|text| text.parse().ok()).unwrap_or(USUAL);
    let unwinder = Unwinder::start(&Bed::new(old_vdso(spec)?), &["cancel", &count.to_string()])?;
    work_on(spec, unwinder.restored.pid(), Work::Link(Policy::Auto))?;
    let said = unwinder.run()?;
    ensure(said == [format!("missed 0 of {count}")], || {
        format!("{said:?}")
    })
}

/// Whether there is a debugger.
fn debugger() -> Result<(), String> {
    let asked = Command::new("gdb").arg("--version").output();
    asked.map(drop).map_err(|error| format!("gdb: {error}"))
}

/// What a debugger calls the code at which it stops a program.
fn wanted(work: Work) -> &'static str {
    match work {
        Work::Link(Policy::Auto) => ".detour",
        Work::Link(Policy::Proxy) => "__vdso_clock_gettime.new",
        _ => "__vdso_clock_gettime",
    }
}

/// Where it stops the program: by symbols of the text, as the process has it.
fn places(unwinder: &Unwinder, work: Work) -> Result<Vec<Avma>, String> {
    let base = unwinder.restored.text.start;
    let mapped = maps::of(unwinder.restored.pid()).map_err(|error| in_words(&error))?;
    let mut mapped = mapped.iter();
    let text = mapped.find(|mapping| mapping.range.contains(&base));
    let text = text.ok_or("no text")?.range.clone();
    let mut bytes = vec![0; (text.end.0 - base.0) as usize];
    let memory = fs::File::open(format!("/proc/{}/mem", unwinder.restored.pid()));
    let memory = memory.map_err(failed)?;
    memory.read_exact_at(&mut bytes, base.0).map_err(failed)?;
    let file = ElfFile64::<object::LittleEndian>::parse(&*bytes).map_err(|e| e.to_string())?;
    let is_wanted = |name: &str| match wanted(work) {
        ".detour" => name.ends_with(".detour"),
        whole => name == whole,
    };
    let symbols = file.symbols().chain(file.dynamic_symbols());
    let wanted = symbols.filter(|symbol| symbol.name().is_ok_and(is_wanted));
    Ok(wanted
        .map(|symbol| base.offset(symbol.address().cast_signed()))
        .collect())
}

/// A debugger that stops a program there, and steps on, shows who has called, and the code.
fn a_debugger_names_callers(spec: &Spec, work: Work) -> Result<(), String> {
    let bed = Bed {
        // Under CRIU's jumps there are the rules of the old functions.
        patched: !matches!(work, Work::RollBack(_)),
        ..Bed::new(old_vdso(spec)?)
    };
    let mut unwinder = Unwinder::start(&bed, &["spin"])?;
    let pid = unwinder.restored.pid();
    work_on(spec, pid, work)?;
    let places = places(&unwinder, work)?;
    ensure(!places.is_empty(), || "no symbols".to_owned())?;
    let input = unwinder.restored.child.stdin.as_mut();
    writeln!(input.ok_or("no standard input")?).map_err(failed)?;
    let mut command = Command::new("gdb");
    command.args(["-nx", "-batch", "-p", &pid.to_string()]);
    for place in &places {
        command.args(["-ex", &format!("tbreak *{:#x}", place.0)]);
    }
    command.args(["-ex", "continue", "-ex", "backtrace"]);
    command.args(["-ex", "info symbol $pc", "-ex", "disassemble"]);
    // From an entry of a prepared process a step leads to a stub.
    let steps = match work {
        Work::Prepare => 0,
        _ => STEPS,
    };
    for _ in 0..steps {
        command.args(["-ex", "stepi", "-ex", "backtrace"]);
    }
    let said = command.stdin(Stdio::null()).output().map_err(failed)?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let frames = |number: &str, name: &str| {
        let lines = said.lines();
        let frames = lines.filter(|line| line.starts_with(number) && line.contains(name));
        frames.count()
    };
    // Of two names of a function, a debugger takes the shorter one.
    let name = wanted(work).trim_start_matches("__vdso_");
    let inside = frames("#0", &format!("{name} ()"));
    let callers = frames("#1", " spinning (");
    ensure((inside, callers) == (steps + 1, steps + 1), || {
        format!("{inside} frames inside, {callers} callers: {said}")
    })?;
    let shown = said.lines().filter(|line| line.starts_with("=> "));
    let is_named = said.contains(&format!("{name} in section "));
    ensure(is_named && shown.count() == 1, || {
        format!("no symbol, or no code: {said}")
    })
}
