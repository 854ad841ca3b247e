//! Threads that were dumped inside the vDSO, at boundaries that the test chooses, and contexts in
//! signal frames: the check says where each is and what becomes of it.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use elf_tools::symtab::mapping_name::VDSO;
use elf_tools::{Avma, Svma};
use libtest_mimic::Trial;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use relocator::criu::JUMP;
use relocator::source::Source;
use relocator::tables;
use relocator_cli::source::Spec;
use relocator_criu::check::{Answer, CheckedTask, Context, Fate, Onto, check, kernel};
use relocator_criu::plain::{Breakage, PlainRestore};
use relocator_process::apply::{ApplyOptions, RunningKernel};
use relocator_process::maps;
use relocator_process::tracing::Tracee;
use relocator_tests::criu::{Criu, Images};
use relocator_tests::opened::opened;
use relocator_tests::running::in_words;
use relocator_tests::trials::{ensure, trial};

use crate::Version;
use crate::dumped::{Victim, await_stopped, tasks};
use crate::victim::{ALONE, FRAME, INTERRUPTED, PLACE};

/// The kernel that images are checked for: another one than any that runs tests, with other places
/// of its data.
const ONTO: &str = "fixture:reordered";

/// The function that threads are stopped in.
const FUNCTION: &str = "__vdso_clock_gettime";

/// How long an instruction may take.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn trials(version: &Version) -> Vec<Trial> {
    let cases: [(&str, Case); 5] = [
        ("at_the_entry", |criu| at(criu, Where::Entry)),
        ("within_a_jump", |criu| at(criu, Where::Jump)),
        ("behind_a_jump", |criu| at(criu, Where::Behind)),
        ("at_the_end", |criu| at(criu, Where::End)),
        ("in_a_signal_frame", in_a_signal_frame),
    ];
    let trials = cases.into_iter().map(|(name, run)| {
        let criu = version.criu.clone();
        trial(format!("inside::{name}"), &version.criu, move || {
            run(&criu?)
        })
    });
    trials.collect()
}

type Case = fn(&Criu) -> Result<(), String>;

/// Where a thread is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Where {
    Entry,
    /// Within the bytes that CRIU overwrites.
    Jump,
    Behind,
    /// At its last instruction.
    End,
}

impl Where {
    /// One of the boundaries that a call comes to, which begin with the entry.
    fn choose(self, executed: &[Avma]) -> Option<Avma> {
        let entry = *executed.first()?;
        let jump = entry..entry.offset(JUMP as i64);
        let mut all = executed.iter().copied();
        match self {
            Self::Entry => Some(entry),
            Self::Jump => all.find(|at| *at > entry && jump.contains(at)),
            // Where it has read, and will read again.
            Self::Behind => all.filter(|at| !jump.contains(at)).nth(executed.len() / 3),
            Self::End => all.next_back(),
        }
    }
}

/// Leads a thread of a victim to a boundary, and stops the victim there.
fn lead(victim: &Victim, place: Where) -> Result<(i32, Avma), String> {
    let mappings = maps::of(victim.pid).map_err(|error| in_words(&error))?;
    let vdso = mappings.iter().find(|one| one.name == VDSO);
    let vdso = vdso.ok_or("it has no vDSO")?.range.clone();
    let own = opened(&Spec::Own)?;
    let entry = own.require_image().map_err(|error| in_words(&error))?;
    let entry = entry
        .export(FUNCTION)
        .ok_or("no such function")?
        .address
        .at(vdso.start);
    let callers = victim
        .threads()?
        .into_iter()
        .filter(|thread| *thread != victim.pid);
    let caller = callers.min().ok_or("it has no threads")?;
    let failed = |error: relocator_process::Error| in_words(&error);
    let mut tracee = Tracee::seize(Pid::from_raw(caller)).map_err(failed)?;
    tracee.interrupt().map_err(failed)?;
    tracee.wait(PATIENCE).map_err(failed)?;
    let step = |tracee: &mut Tracee| {
        tracee.step(0).map_err(failed)?;
        tracee.wait(PATIENCE).map_err(failed)?;
        let registers = tracee.registers().map_err(failed)?;
        Ok::<_, String>(registers.pc())
    };
    let to_entry = |tracee: &mut Tracee| {
        for _ in 0..1_000_000 {
            if step(tracee)? == entry {
                return Ok(());
            }
        }
        Err("it does not call the function".to_owned())
    };
    to_entry(&mut tracee)?;
    let mut executed = vec![entry];
    loop {
        tracee.step(0).map_err(failed)?;
        tracee.wait(PATIENCE).map_err(failed)?;
        let pc = tracee.registers().map_err(failed)?.pc();
        if !vdso.contains(&pc) {
            break;
        }
        executed.push(pc);
    }
    let chosen = place
        .choose(&executed)
        .ok_or("a call comes to no such boundary")?;
    // Another call may go another way, and the next one the same.
    for _ in 0..100_000 {
        if tracee.registers().map_err(failed)?.pc() == chosen {
            // The signal is there before the thread can go on.
            kill(Pid::from_raw(victim.pid), Signal::SIGSTOP).map_err(|errno| in_words(&errno))?;
            drop(tracee);
            await_stopped(victim.pid)?;
            return Ok((caller, chosen));
        }
        tracee.step(0).map_err(failed)?;
        tracee.wait(PATIENCE).map_err(failed)?;
    }
    Err(format!("no other call comes to {chosen}"))
}

/// A kernel to check for, with what is known of the running one.
struct Checker {
    kernel: RunningKernel,
    old: Vec<Source>,
}

impl Checker {
    fn new(onto: &str) -> Result<Self, String> {
        let spec: Spec = onto.parse().map_err(|error| in_words(&error))?;
        let own = opened(&Spec::Own)?;
        let tables = tables::Options::default();
        let kernel = match &spec {
            Spec::Own => RunningKernel::read(&tables),
            other => kernel(opened(other)?, &tables),
        };
        Ok(Self {
            kernel: kernel.map_err(|error| in_words(&error))?,
            old: vec![own],
        })
    }

    /// The only task of images.
    fn check(&self, images: &Path) -> Result<CheckedTask, String> {
        let tasks = tasks(images)?;
        ensure(tasks.len() == 1, || format!("{} tasks", tasks.len()))?;
        let onto = Onto {
            kernel: &self.kernel,
            old: &self.old,
            options: &ApplyOptions::default(),
            makes_time_namespace: true,
        };
        check(&tasks[0], &onto).map_err(|error| in_words(&error))
    }
}

/// A thread at a boundary, elsewhere and at home.
fn at(criu: &Criu, place: Where) -> Result<(), String> {
    let victim = Victim::start(ALONE)?;
    let (thread, pc) = lead(&victim, place)?;
    let images = victim.dump(criu, &[])?;
    elsewhere(&images, place, thread, pc)?;
    at_home(&images, place, thread, pc)
}

/// The context of a thread, at a program counter.
fn context(checked: &CheckedTask, thread: i32) -> Result<&Context, String> {
    let found = checked.threads.iter().find(|one| one.id == thread);
    let found = found.ok_or_else(|| format!("there is no thread {thread}"))?;
    let first = found.contexts.first();
    first.ok_or_else(|| format!("thread {thread} is not inside"))
}

/// What breaks of a thread.
fn breaks(checked: &CheckedTask, thread: i32) -> Option<&'static str> {
    let all = checked.broken.iter();
    let mut own = all.filter(|one| one.inside().is_some_and(|inside| inside.thread == thread));
    own.next().map(Breakage::code)
}

fn elsewhere(images: &Images, place: Where, thread: i32, pc: Avma) -> Result<(), String> {
    let checked = Checker::new(ONTO)?.check(images.path())?;
    let Answer::Linked(outcome) = &checked.answer else {
        return Err(format!("{:?}", checked.answer));
    };
    ensure(outcome.texts.len() == 1, || format!("{:?}", outcome.texts))?;
    let context = context(&checked, thread)?;
    let entry = entry_of(&checked)?;
    let expected = Some((FUNCTION.to_owned(), pc.0 - entry.0));
    ensure(context.pc == pc && context.function == expected, || {
        format!("{context:?}")
    })?;
    let (fate, code) = match place {
        Where::Entry | Where::End => (Fate::GoesOn, None),
        Where::Jump => (Fate::GoesTo(entry), Some("in-jump")),
        Where::Behind => (Fate::GoesTo(entry), Some("reads-zeros")),
    };
    ensure(context.fate == fate, || {
        format!("{context:?}, and not {fate:?}")
    })?;
    let found = breaks(&checked, thread);
    ensure(found == code, || {
        format!("it breaks by {found:?}, and not {code:?}")
    })?;
    let jumps = checked
        .plain
        .as_ref()
        .map_or(0, |plain| plain.jumps().len());
    ensure(jumps == relocator::criu::SYMBOLS.len(), || {
        format!("{:?}", checked.plain)
    })
}

fn entry_of(checked: &CheckedTask) -> Result<Avma, String> {
    let image = checked.image.as_ref().ok_or("no image")?;
    let base = checked.vdso.ok_or("no vDSO")?;
    let export = image.export(FUNCTION).ok_or("no such function")?;
    Ok(export.address.at(base))
}

/// On the kernel of the dump nothing has to be done, but a restore makes a new time namespace.
fn at_home(images: &Images, place: Where, thread: i32, pc: Avma) -> Result<(), String> {
    let checked = Checker::new("self")?.check(images.path())?;
    ensure(matches!(checked.answer, Answer::Same), || {
        format!("{:?}", checked.answer)
    })?;
    ensure(checked.plain == Some(PlainRestore::InPlace), || {
        format!("{:?}", checked.plain)
    })?;
    ensure(context(&checked, thread)?.pc == pc, || {
        "it is elsewhere".to_owned()
    })?;
    let code = match place {
        Where::Entry | Where::End => None,
        Where::Jump | Where::Behind => Some("other-time-namespace"),
    };
    let found = breaks(&checked, thread);
    ensure(found == code, || {
        format!("it breaks by {found:?}, and not {code:?}")
    })
}

/// A context that a signal has interrupted, in the frame that the handler was given.
fn in_a_signal_frame(criu: &Criu) -> Result<(), String> {
    let victim = Victim::start(INTERRUPTED)?;
    let frame = Avma(victim.word(FRAME)?);
    let pc = Avma(victim.word(PLACE)?);
    let images = victim.dump(criu, &[])?;
    let checked = Checker::new(ONTO)?.check(images.path())?;
    ensure(checked.answer.is_yes(), || format!("{:?}", checked.answer))?;
    let contexts = checked.threads.iter().flat_map(|thread| &thread.contexts);
    let contexts: Vec<&Context> = contexts.collect();
    let [context] = contexts.as_slice() else {
        return Err(format!("{contexts:?}"));
    };
    ensure((context.frame, context.pc) == (Some(frame), pc), || {
        format!("{context:?}, and it is at {pc} in the frame at {frame}")
    })?;
    // Whether it still reads is another question than where it is: the plan and CRIU's jumps agree
    // on that.
    let image = checked.image.as_ref().ok_or("no image")?;
    let place = Svma(pc.0 - checked.vdso.ok_or("no vDSO")?.0);
    let is_entry = image.exports_at(place).next().is_some();
    let breaks: BTreeSet<&str> = checked
        .broken
        .iter()
        .filter_map(|one| one.inside().map(|_| one.code()))
        .collect();
    let is_consistent = match (is_entry, context.fate) {
        (true, fate) => fate == Fate::GoesOn && breaks.is_empty(),
        (false, Fate::GoesBack) => !breaks.is_empty(),
        (false, _) => !breaks.contains("reads-zeros"),
    };
    ensure(is_consistent, || {
        format!("{context:?} breaks by {breaks:?}")
    })
}
