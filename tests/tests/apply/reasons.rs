//! Processes that cannot be linked as most are: they are linked in another way, or refused before
//! anything is stopped, with the cause and what to do.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use elf_tools::Avma;
use libtest_mimic::Trial;
use nix::libc;
use relocator_cli::source::Spec;
use relocator_tests::bed::{Bed, old_vdso};
use relocator_tests::running::in_words;
use relocator_tests::trials::{ensure, trial};

use crate::bounded::{self, gives_up, goes_on, links, run, start};
use crate::hostile::{
    self, DEEP, DISPATCHED, DISPATCHING, EXECUTE_ONLY, FULL_DATA, FULL_MAPPINGS, FULL_SPACE,
    HEADLESS, NO_NEW_CODE, SEALED_KERNEL, SEALED_TEXT,
};
use crate::linker::Linker;
use crate::odd::{self, PLAIN};
use crate::places::{OLD, fetched};
use crate::refused::Odd;

pub(crate) fn trials(listing: bool) -> Vec<Trial> {
    let possible = fetched(listing);
    let sealed = possible.clone().and_then(|()| hostile::can_seal());
    let test = |name: &str, possible: &Result<(), String>, run: fn() -> Result<(), String>| {
        trial(format!("reasons::{name}"), possible, run)
    };
    let frozen = |group: &Result<PathBuf, String>| possible.clone().and(group.clone().map(drop));
    vec![
        test("sealed_text", &sealed, || gives_up(SEALED_TEXT, "(mseal)")),
        test("sealed_kernel", &sealed, || links(SEALED_KERNEL)),
        test("no_new_code", &possible, no_new_code),
        test("dispatching", &possible, || links(DISPATCHING)),
        test("dispatched", &possible, || {
            gives_up(DISPATCHED, "PR_SET_SYSCALL_USER_DISPATCH")
        }),
        test("full_space", &possible, || {
            gives_up(FULL_SPACE, "RLIMIT_AS")
        }),
        test("full_data", &possible, || {
            gives_up(FULL_DATA, "RLIMIT_DATA")
        }),
        test("full_mappings", &possible, || {
            gives_up(FULL_MAPPINGS, "vm.max_map_count")
        }),
        test("execute_only", &possible, || {
            gives_up(EXECUTE_ONLY, "can only be executed")
        }),
        test("headless", &possible, headless),
        test("frozen", &frozen(&group(false)), || frozen_by(false)),
        test("frozen_unified", &frozen(&group(true)), || frozen_by(true)),
        test("stack_that_grows", &possible, stack_that_grows),
    ]
}

/// It is linked, rolled back, and prepared, all of which take new code.
fn no_new_code() -> Result<(), String> {
    let linker = Linker::new(&Spec::Kernel(OLD.to_owned()))?;
    let mut odd = start(NO_NEW_CODE)?;
    linker.apply(odd.pid())?;
    linker.roll_back(odd.pid())?;
    linker.prepare(odd.pid())?;
    goes_on(&mut odd)
}

/// Every command says so.
fn headless() -> Result<(), String> {
    const WORDS: &str = "without its first thread";
    let odd = start(HEADLESS)?;
    let ended = bounded::apply(&odd)?;
    ensure(
        ended.status == Some(1) && ended.said.contains(WORDS),
        || format!("{ended:?}"),
    )?;
    let pid = odd.pid().to_string();
    let ended = run(&["step-out", "--pid", &pid, "--resume"])?;
    ensure(
        ended.status == Some(1) && ended.said.contains(WORDS),
        || format!("{ended:?}"),
    )
}

/// Where groups are that can freeze, of either version.
fn group(is_unified: bool) -> Result<PathBuf, String> {
    let places: &[&str] = match is_unified {
        true => &["/sys/fs/cgroup/unified", "/sys/fs/cgroup"],
        false => &["/sys/fs/cgroup/freezer"],
    };
    let is_it = |place: &&&str| match is_unified {
        true => Path::new(place).join("cgroup.controllers").exists(),
        false => Path::new(place).join("cgroup.procs").exists(),
    };
    let place = places
        .iter()
        .find(is_it)
        .ok_or("no such groups are mounted")?;
    let place = Path::new(place).join(format!("relocator-{}", std::process::id()));
    let made = fs::create_dir(&place).and_then(|()| fs::remove_dir(&place));
    made.map_err(|error| format!("{}: {error}", place.display()))?;
    Ok(place)
}

/// A group that is thawed and removed when this is dropped.
struct Group {
    place: PathBuf,
    state: &'static str,
    thawed: &'static str,
}

impl Group {
    fn write(&self, name: &str, text: &str) -> Result<(), String> {
        fs::write(self.place.join(name), text).map_err(|error| format!("{name}: {error}"))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = self.write(self.state, self.thawed);
        while let Err(error) = fs::remove_dir(&self.place)
            && error.raw_os_error() == Some(libc::EBUSY)
        {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

fn frozen_by(is_unified: bool) -> Result<(), String> {
    let place = group(is_unified)?;
    fs::create_dir(&place).map_err(|error| in_words(&error))?;
    let (state, frozen, thawed) = match is_unified {
        true => ("cgroup.freeze", "1", "0"),
        false => ("freezer.state", "FROZEN", "THAWED"),
    };
    let group = Group {
        place,
        state,
        thawed,
    };
    let mut odd = start(PLAIN)?;
    group.write("cgroup.procs", &odd.pid().to_string())?;
    group.write(state, frozen)?;
    thread::sleep(Duration::from_millis(100));
    let pid = odd.pid().to_string();
    let is_clear = |ended: &bounded::Ended| {
        ended.status == Some(1) && ended.said.contains("is frozen by its control group")
    };
    let ended = bounded::apply(&odd)?;
    ensure(is_clear(&ended), || format!("{ended:?}"))?;
    let ended = run(&["step-out", "--pid", &pid, "--resume"])?;
    ensure(is_clear(&ended), || format!("{ended:?}"))?;
    // Nothing else was in the way.
    group.write(state, thawed)?;
    let ended = bounded::apply(&odd)?;
    ensure(ended.status == Some(0), || format!("{ended:?}"))?;
    let done = goes_on(&mut odd);
    drop(odd);
    done
}

/// The main stack grows into nothing that the tool has placed.
fn stack_that_grows() -> Result<(), String> {
    /// Where the main stack ends without randomisation, and what it may have with its guard gap.
    const TOP: u64 = 0x7fff_ffff_f000;
    const MOST: u64 = (8 << 20) + (1 << 20);
    let linker = Linker::new(&Spec::Kernel(OLD.to_owned()))?;
    let mut bed = Bed::new(old_vdso(&Spec::Kernel(OLD.to_owned()))?);
    // The old vDSO is just below that, so that what is nearest to it is in the way of the stack.
    bed.text = Some(Avma(TOP - MOST - 0x1_0000));
    let own = std::env::current_exe().map_err(|error| in_words(&error))?;
    let mut command = Command::new(own);
    command.args([odd::ARGUMENT, DEEP]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    // SAFETY: it makes system calls alone.
    unsafe { command.pre_exec(without_randomisation) };
    let mut restored = bed.launch(command)?;
    let output = restored.child.stdout.take().ok_or("it has no output")?;
    let mut input = restored.child.stdin.take().ok_or("it has no input")?;
    let mut lines = BufReader::new(output).lines();
    let mut line = || match lines.next() {
        Some(Ok(line)) => Ok(line),
        other => Err(format!("it has ended: {other:?}")),
    };
    line()?;
    let outcome = linker.apply(restored.pid())?;
    input.write_all(b"x").map_err(|error| in_words(&error))?;
    let said = line();
    ensure(said.as_deref() == Ok("1"), || {
        format!("{said:?}, {:?}", outcome.kernel)
    })?;
    let odd = Odd::of(restored);
    linker.roll_back(odd.pid()).map(drop)
}

fn without_randomisation() -> std::io::Result<()> {
    let limit = libc::rlimit {
        rlim_cur: 8 << 20,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: it takes a number.
    let person = unsafe { libc::personality(libc::ADDR_NO_RANDOMIZE as libc::c_ulong) };
    // SAFETY: the structure is read.
    let limited = unsafe { libc::setrlimit(libc::RLIMIT_STACK, &raw const limit) };
    let done = person != -1 && limited == 0;
    match done {
        true => Ok(()),
        false => Err(std::io::Error::last_os_error()),
    }
}
