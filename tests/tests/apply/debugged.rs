//! Tools that look at a linked process from outside find code and callers in its vDSO: a debugger,
//! and `eu-stack`, which unwinds by the library of profilers.

use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use elf_tools::Avma;
use libtest_mimic::Trial;
use nix::unistd::Pid;
use object::read::elf::ElfFile64;
use object::{Object, ObjectSymbol};
use relocator::plan::Policy;
use relocator::threads::Memory;
use relocator_cli::source::Spec;
use relocator_process::maps;
use relocator_process::tracing::Tracee;
use relocator_tests::bed::{Bed, old_vdso};
use relocator_tests::elfutils::Stacks;
use relocator_tests::running::in_words;
use relocator_tests::stock;
use relocator_tests::trials::{ensure, trial};

use crate::unwinding::{Unwinder, Work, failed, program, work_on};

/// Kernels of which a coarse clock meets a detour when they are linked to later ones.
const HAVE_DETOURS: [&str; 2] = ["5.10", "6.1"];

/// Instructions that a debugger steps over from where it has stopped the program.
const STEPS: usize = 2;

/// An instruction that jumps to itself.
const ENDLESS: [u8; 2] = [0xeb, 0xfe];

/// How long the program may take to come to it, and to stop.
const WHILE: Duration = Duration::from_millis(300);
const PATIENCE: Duration = Duration::from_secs(60);

/// What is done before they look.
const WORKS: [(&str, Work); 5] = [
    ("auto", Work::Link(Policy::Auto)),
    ("syscall", Work::Link(Policy::Syscall)),
    ("proxy", Work::Link(Policy::Proxy)),
    ("rolled_back", Work::RollBack(Policy::Auto)),
    ("prepared", Work::Prepare),
];

pub(crate) fn trials(listing: bool) -> Vec<Trial> {
    let (debugger, stacks) = match listing {
        true => (Ok(()), Err("only listed".to_owned())),
        false => (debugger(), Stacks::new()),
    };
    let mut trials = Vec::new();
    for version in kernel_source::VERSIONS {
        let fetched = stock::can_be_had(version, listing);
        let possible = fetched.and_then(|()| program().map(drop));
        let spec = Spec::Kernel(version.to_owned());
        for (name, work) in WORKS {
            if matches!(work, Work::Link(Policy::Auto)) && !HAVE_DETOURS.contains(&version) {
                continue;
            }
            let own = spec.clone();
            trials.push(trial(
                format!("debugged::{version}::gdb::{name}"),
                &possible.clone().and(debugger.clone()),
                move || a_debugger_names_callers(&own, work),
            ));
            // It only looks for frames where program headers say that an image is loaded. They may
            // not say that of two places: CRIU would not restore the process.
            if matches!(work, Work::Link(Policy::Proxy)) {
                continue;
            }
            let (own, judge) = (spec.clone(), stacks.clone());
            let possible = match listing {
                true => Ok(()),
                false => possible.clone().and_then(|()| stacks.clone().map(drop)),
            };
            trials.push(trial(
                format!("debugged::{version}::eu_stack::{name}"),
                &possible,
                move || a_stack_has_callers(&judge?, &own, work),
            ));
        }
    }
    trials
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

/// A program that calls, as soon as it is told to.
fn started(spec: &Spec, work: Work) -> Result<Unwinder, String> {
    let bed = Bed {
        // Under CRIU's jumps there are the rules of the old functions.
        patched: !matches!(work, Work::RollBack(_)),
        ..Bed::new(old_vdso(spec)?)
    };
    let unwinder = Unwinder::start(&bed, &["spin"])?;
    work_on(spec, unwinder.restored.pid(), work)?;
    Ok(unwinder)
}

/// A debugger that stops a program there, and steps on, shows who has called, and the code.
fn a_debugger_names_callers(spec: &Spec, work: Work) -> Result<(), String> {
    let mut unwinder = started(spec, work)?;
    let pid = unwinder.restored.pid();
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
    for _ in 0..STEPS {
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
    // From an entry of a prepared process a step leads to a stub, which has no name.
    let expected = match work {
        Work::Prepare => 1,
        _ => STEPS + 1,
    };
    ensure((inside, callers) == (expected, STEPS + 1), || {
        format!("{inside} frames inside, {callers} callers: {said}")
    })?;
    let shown = said.lines().filter(|line| line.starts_with("=> "));
    let is_named = said.contains(&format!("{name} in section "));
    ensure(is_named && shown.count() == 1, || {
        format!("no symbol, or no code: {said}")
    })
}

/// Changes code of a process, as its tracer.
fn overwrite(pid: i32, at: Avma, bytes: &[u8]) -> Result<Vec<u8>, String> {
    let words = |error: relocator_process::Error| in_words(&error);
    let mut thread = Tracee::seize(Pid::from_raw(pid)).map_err(words)?;
    thread.interrupt().map_err(words)?;
    let stopped = thread.wait(PATIENCE).map_err(words)?;
    ensure(stopped.is_some(), || "it does not stop".to_owned())?;
    let mut before = vec![0; bytes.len()];
    let is_read = thread.memory().read(at, &mut before);
    ensure(is_read, || format!("{at} cannot be read"))?;
    thread.poke(at, bytes).map_err(words)?;
    thread.release().map_err(words)?;
    Ok(before)
}

/// The program stays at one of the places, and there its caller is found.
fn a_stack_has_callers(stacks: &Stacks, spec: &Spec, work: Work) -> Result<(), String> {
    let mut unwinder = started(spec, work)?;
    let pid = unwinder.restored.pid();
    let mut all = String::new();
    let places = places(&unwinder, work)?;
    let input = unwinder.restored.child.stdin.as_mut();
    writeln!(input.ok_or("no standard input")?).map_err(failed)?;
    for place in places {
        let before = overwrite(pid, place, &ENDLESS)?;
        thread::sleep(WHILE);
        let said = stacks.of(pid)?;
        overwrite(pid, place, &before)?;
        let mut frames = said.lines().filter(|line| line.starts_with('#'));
        let first = frames.next().unwrap_or_default();
        // It comes to one of several detours.
        if first.contains(&format!("{:016x}", place.0)) {
            let is_named = first.ends_with(wanted(work));
            let is_called = frames
                .next()
                .is_some_and(|line| line.ends_with(" spinning"));
            let comes_to_the_start = frames.any(|line| line.ends_with(" _start"));
            return ensure(is_named && is_called && comes_to_the_start, || said);
        }
        all.push_str(&said);
    }
    Err(format!("it never comes to a place: {all}"))
}
