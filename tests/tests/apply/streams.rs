//! Random numbers of processes that a real CRIU has restored twice from the same images. CRIU up to
//! 4.1 does not know droppable memory, and restores states of `getrandom` as ordinary memory.

#![allow(unsafe_code, reason = "a program that calls a function of its vDSO")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use elf_tools::Avma;
use libtest_mimic::Trial;
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use relocator::plan::{Forced, Reason, Strategy};
use relocator_cli::source::Spec;
use relocator_process::apply::outcome::ApplyState;
use relocator_process::maps::{self, SpecialMemory};
use relocator_tests::criu::{CRIU_4_1, Criu, Images, Restore, await_end, dumpable};
use relocator_tests::running::in_words;
use relocator_tests::trials::{ensure, trial};
use tempfile::TempDir;

use crate::linker::Linker;
use crate::odd::{ARGUMENT, DRAWING, DROPPABLE};
use crate::places::is;
use crate::states::has_droppable_memory;

/// Bytes that are drawn.
const SIZE: usize = 32;

/// The kernel makes states stale by itself, once a minute. So this often it is tried to see two
/// processes with one state.
const TRIES: usize = 3;

/// How long a program may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Files in a directory by which one tells the program what to do, and it says that it is done.
const READY: &str = "ready";
const MAP: &str = "map";
const DRAW: &str = "draw";
const DONE: &str = "done";

pub(crate) fn trials(listing: bool) -> Vec<Trial> {
    let possible = match listing {
        true => Err("only listed".to_owned()),
        false => has_droppable_memory().and_then(|()| Criu::of(&CRIU_4_1)),
    };
    type Run = fn(&Criu) -> Result<(), String>;
    let all: [(&str, Run); 2] = [
        ("repeat_at_home", repeat_at_home),
        ("do_not_repeat_once_linked", do_not_repeat),
    ];
    let trials = all.into_iter().map(|(name, run)| {
        let criu = possible.clone();
        match listing {
            true => Trial::test(format!("streams::{name}"), || Ok(())),
            false => trial(format!("streams::{name}"), &possible, move || run(&criu?)),
        }
    });
    trials.collect()
}

/// Without the tool, two processes with one state draw the same: that is what the other trial would
/// see.
fn repeat_at_home(criu: &Criu) -> Result<(), String> {
    for _ in 0..TRIES {
        let drawing = Drawing::start(criu)?;
        let drawn =
            drawing.restored_twice(criu, Restore::Home, |pid| drawing.has_lost_mark(pid))?;
        if drawn[0] == drawn[1] {
            return Ok(());
        }
    }
    Err("states are stale already, whatever the tool does".to_owned())
}

/// With the states that have lost their mark, and one new droppable mapping, the tool makes
/// `getrandom` the system call.
fn do_not_repeat(criu: &Criu) -> Result<(), String> {
    let linker = Linker::new(&Spec::Own)?;
    let drawing = Drawing::start(criu)?;
    let drawn = drawing.restored_twice(criu, Restore::Away, |pid| {
        drawing.tell(MAP)?;
        let special = drawing.has_lost_mark(pid)?;
        ensure(special.droppable.len() == 1, || format!("{special:?}"))?;
        let outcome = linker.apply(pid)?;
        is(ApplyState::Linked, outcome.state)?;
        let functions = outcome.texts.iter().flat_map(|text| &text.functions);
        let mut functions = functions.filter(|one| one.name() == "__vdso_getrandom");
        let found = functions.next().ok_or("the function is missing")?;
        let reason = Reason::Forced(Forced::RandomStatesUnmarked { at: drawing.state });
        let is_forced = (found.strategy, &found.reason) == (Strategy::Syscall, &reason);
        ensure(is_forced, || format!("{found:?}"))?;
        Ok(special)
    })?;
    ensure(drawn[0] != drawn[1], || {
        format!("two processes have drawn {:x?}", drawn[0])
    })
}

/// A program that draws, and its images.
struct Drawing {
    directory: TempDir,
    images: Images,
    pid: i32,
    /// Where its state is.
    state: Avma,
}

impl Drawing {
    /// Starts it, lets it draw once, and dumps it.
    fn start(criu: &Criu) -> Result<Self, String> {
        let failed = |error: std::io::Error| in_words(&error);
        let directory = TempDir::new().map_err(failed)?;
        let own = std::env::current_exe().map_err(failed)?;
        let mut command = dumpable(own.as_ref());
        command.args([ARGUMENT, DRAWING]).arg(directory.path());
        let mut child = command.spawn().map_err(failed)?;
        let mut drawing = Self {
            directory,
            images: Images::new()?,
            pid: child.id().cast_signed(),
            state: Avma(0),
        };
        let dumped = drawing.dump(criu);
        let _ = child.kill();
        await_end(drawing.pid, Some(&mut child))?;
        dumped.map(|()| drawing)
    }

    fn dump(&mut self, criu: &Criu) -> Result<(), String> {
        let state = self.answer(READY)?;
        let state: [u8; 8] = state.try_into().map_err(|_| "no address")?;
        self.state = Avma(u64::from_le_bytes(state));
        let special = maps::special(self.pid).map_err(|error| in_words(&error))?;
        let mut droppable = special.droppable.iter();
        ensure(droppable.any(|range| range.contains(&self.state)), || {
            format!("the state at {} is not droppable: {special:?}", self.state)
        })?;
        criu.dump(self.pid, &self.images)
    }

    /// Restores it twice, one after the other, and says what the two draw once each was worked on.
    fn restored_twice(
        &self,
        criu: &Criu,
        how: Restore,
        work: impl Fn(i32) -> Result<SpecialMemory, String>,
    ) -> Result<[Vec<u8>; 2], String> {
        let once = || {
            criu.restore(&self.images, how)?;
            let process = Killed(self.pid);
            work(self.pid)?;
            let drawn = self.tell(DRAW)?;
            drop(process);
            await_end(self.pid, None::<&mut Child>)?;
            ensure(drawn.len() == SIZE, || format!("it has drawn {drawn:x?}"))?;
            Ok::<_, String>(drawn)
        };
        Ok([once()?, once()?])
    }

    /// The state is in memory that is not droppable any more: the restore did not know the mark.
    fn has_lost_mark(&self, pid: i32) -> Result<SpecialMemory, String> {
        let special = maps::special(pid).map_err(|error| in_words(&error))?;
        let holds = |ranges: &[std::ops::Range<Avma>]| {
            let mut ranges = ranges.iter();
            ranges.any(|range| range.contains(&self.state))
        };
        let is_lost = holds(&special.undumped) && !holds(&special.droppable);
        ensure(is_lost, || {
            format!("the mark at {} is not lost: {special:?}", self.state)
        })?;
        Ok(special)
    }

    /// Lets the program do something.
    fn tell(&self, what: &str) -> Result<Vec<u8>, String> {
        fs::write(self.directory.path().join(what), []).map_err(|error| in_words(&error))?;
        self.answer(DONE)
    }

    /// Waits for what it says.
    fn answer(&self, name: &str) -> Result<Vec<u8>, String> {
        let path = self.directory.path().join(name);
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if let Ok(said) = fs::read(&path) {
                fs::remove_file(&path).map_err(|error| in_words(&error))?;
                return Ok(said);
            }
            thread::sleep(Duration::from_millis(2));
        }
        Err(format!("it does not say {name:?}"))
    }
}

/// A process that ends with this.
struct Killed(i32);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.0), Signal::SIGKILL);
        let _ = await_end(self.0, None);
    }
}

/// `struct vgetrandom_opaque_params` of the kernel's `include/uapi/linux/random.h`.
#[repr(C)]
#[derive(Default)]
struct Parameters {
    size: u32,
    protection: u32,
    flags: u32,
    reserved: [u32; 13],
}

type GetRandom = extern "C" fn(*mut u8, usize, u32, *mut libc::c_void, usize) -> isize;

/// The program.
pub(crate) fn draw(directory: &str) {
    let directory = Path::new(directory);
    let getrandom = getrandom();
    let mut parameters = Parameters::default();
    let question = (&raw mut parameters).cast();
    assert_eq!(
        getrandom(std::ptr::null_mut(), 0, 0, question, usize::MAX),
        0
    );
    let state = map(parameters.protection, parameters.flags);
    let draw = || {
        let mut bytes = vec![0; SIZE];
        let size = getrandom(bytes.as_mut_ptr(), SIZE, 0, state, parameters.size as usize);
        assert_eq!(size, SIZE.cast_signed());
        bytes
    };
    draw();
    say(directory, READY, &(state as u64).to_le_bytes());
    loop {
        if is_told(&directory.join(MAP)) {
            let flags = DROPPABLE | libc::MAP_ANONYMOUS;
            map(parameters.protection, flags.cast_unsigned());
            say(directory, DONE, &[]);
        }
        if is_told(&directory.join(DRAW)) {
            say(directory, DONE, &draw());
        }
        thread::sleep(Duration::from_millis(1));
    }
}

fn getrandom() -> GetRandom {
    let flags = libc::RTLD_NOW | libc::RTLD_NOLOAD;
    // SAFETY: the name ends with a zero.
    let vdso = unsafe { libc::dlopen(c"linux-vdso.so.1".as_ptr(), flags) };
    // SAFETY: as above.
    let function = unsafe { libc::dlsym(vdso, c"__vdso_getrandom".as_ptr()) };
    assert!(!function.is_null(), "there is no such function");
    // SAFETY: this is its type.
    unsafe { std::mem::transmute::<*mut libc::c_void, GetRandom>(function) }
}

/// A page that holds something.
fn map(protection: u32, flags: u32) -> *mut libc::c_void {
    let (protection, flags) = (protection.cast_signed(), flags.cast_signed());
    // SAFETY: it is new memory.
    let memory = unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) };
    assert_ne!(memory, libc::MAP_FAILED);
    // SAFETY: nothing refers to it.
    unsafe { memory.cast::<u8>().write_bytes(0, 4096) };
    memory
}

fn is_told(path: &PathBuf) -> bool {
    fs::remove_file(path).is_ok()
}

/// Says it whole.
fn say(directory: &Path, name: &str, what: &[u8]) {
    let draft = directory.join("draft");
    let said = fs::write(&draft, what).and_then(|()| fs::rename(draft, directory.join(name)));
    said.expect("somebody listens");
}
