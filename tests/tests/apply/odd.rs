//! Processes that cannot be linked, or that never rest. They are this program, executed anew on a
//! bed.

#![allow(unsafe_code, reason = "processes with all their corners")]

use std::ffi::{c_int, c_ulong, c_void};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::libc;
use relocator_tests::odd::{control, filter};

/// The first argument of a process that is one of these.
pub(crate) const ARGUMENT: &str = "odd";

/// Nothing about it is odd: it sleeps.
pub(crate) const PLAIN: &str = "plain";
/// It waits in code without a file, and blocks all signals, as CRIU's restorer does.
pub(crate) const RESTORING: &str = "restoring";
/// It waits in code without a file, as that of a compiler may be.
pub(crate) const COMPILED: &str = "compiled";
/// It sleeps in short system calls, each of which must last as long as it was asked to.
pub(crate) const SLEEPING: &str = "sleeping";
/// System calls of one thread that is not the first are filtered.
pub(crate) const FILTERED: &str = "filtered";
/// One thread may make four system calls, and no others.
pub(crate) const STRICT: &str = "strict";
/// It keeps others out of its memory, and is root's.
pub(crate) const UNDUMPABLE: &str = "undumpable";
/// The same, and it is not root's.
pub(crate) const NOBODYS: &str = "nobodys";
/// It waits for a child with its memory.
pub(crate) const VFORKED: &str = "vforked";
/// It begins and ends threads all the time.
pub(crate) const SPAWNING: &str = "spawning";
/// It forks all the time.
pub(crate) const FORKING: &str = "forking";
/// It begins programs all the time, as `posix_spawn` does.
pub(crate) const STARTING: &str = "starting";
/// It executes itself all the time.
pub(crate) const EXECUTING: &str = "executing";

/// It has memory for random states.
pub(crate) const WITH_STATES: &str = "with-states";
/// The same, and some that a restore has made without knowing what it is for.
pub(crate) const UNMARKED: &str = "unmarked";
/// It maps other memory where that was, again and again, which must keep what it holds.
pub(crate) const REMAPPING: &str = "remapping";
/// It draws random numbers when it is told to, by files in the directory that the next argument
/// names.
pub(crate) const DRAWING: &str = "drawing";

/// It asks for the time, all the time.
pub(crate) const CALLING: &str = "calling";
/// It asks for random numbers all the time, by the function of its old vDSO.
pub(crate) const ASKING: &str = "asking";

/// The user whom nothing belongs to.
const NOBODY: libc::c_long = 65534;

/// How long one lives that is forgotten.
const LONG: Duration = Duration::from_secs(600);

/// Lives as it is told to be. Those that rest say so first: a line with a number, of a child if
/// there is one.
pub(crate) fn live(what: &str) {
    match what {
        PLAIN => rest(0),
        RESTORING => {
            block_all_signals();
            wait_in_code_without_file();
        }
        COMPILED => wait_in_code_without_file(),
        SLEEPING => again_and_again(sleep_well),
        FILTERED => in_thread(be_filtered),
        STRICT => in_thread(be_strict),
        UNDUMPABLE => {
            control(libc::PR_SET_DUMPABLE, 0, 0);
            rest(0);
        }
        NOBODYS => {
            // SAFETY: it is the only thread.
            assert_eq!(unsafe { libc::syscall(libc::SYS_setuid, NOBODY) }, 0);
            control(libc::PR_SET_DUMPABLE, 0, 0);
            rest(0);
        }
        VFORKED => vfork(),
        SPAWNING => again_and_again(|| {
            let threads = [(); 3].map(|()| thread::spawn(|| {}));
            for thread in threads {
                let _ = thread.join();
            }
        }),
        FORKING => again_and_again(fork),
        STARTING => again_and_again(|| drop(Command::new("true").status())),
        EXECUTING => {
            let error = Command::new("/proc/self/exe")
                .args([ARGUMENT, EXECUTING])
                .exec();
            panic!("{error}");
        }
        WITH_STATES => {
            let memory = map(None, DROPPABLE);
            // SAFETY: nothing refers to it.
            unsafe { memory.cast::<u8>().write_bytes(BYTE, STATES) };
            rest(0);
        }
        UNMARKED => {
            map(None, DROPPABLE);
            let memory = map(None, libc::MAP_PRIVATE);
            for advice in [libc::MADV_WIPEONFORK, libc::MADV_DONTDUMP] {
                // SAFETY: the memory stays what it is.
                assert_eq!(unsafe { libc::madvise(memory, STATES, advice) }, 0);
            }
            rest(0);
        }
        REMAPPING => {
            let place = map(None, DROPPABLE);
            again_and_again(|| remap(place));
        }
        CALLING => again_and_again(|| {
            let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
            assert!(time.is_ok_and(|time| time.tv_sec() > 0));
        }),
        ASKING => ask(),
        DRAWING => {
            let directory = std::env::args().nth(3);
            crate::streams::draw(&directory.expect("a directory"));
        }
        other => crate::hostile::live(other),
    }
}

/// `MAP_DROPPABLE`, since Linux 6.11.
pub(crate) const DROPPABLE: c_int = 8;

/// What it holds.
pub(crate) const BYTE: u8 = 0x5a;

/// Bytes of memory for states.
const STATES: usize = 16 << 12;

/// Memory of a kind, at a place.
fn map(place: Option<*mut c_void>, kind: c_int) -> *mut c_void {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let fixed = if place.is_some() { libc::MAP_FIXED } else { 0 };
    let flags = kind | libc::MAP_ANONYMOUS | fixed;
    let place = place.unwrap_or(std::ptr::null_mut());
    // SAFETY: what is at the place is this function's.
    let memory = unsafe { libc::mmap(place, STATES, protection, flags, -1, 0) };
    assert_ne!(memory, libc::MAP_FAILED);
    memory
}

/// Ends the process if ordinary memory loses what it holds.
fn remap(place: *mut c_void) {
    const WHILE: Duration = Duration::from_millis(1);
    for kind in [DROPPABLE, libc::MAP_PRIVATE] {
        map(Some(place), kind);
        // SAFETY: nothing else refers to it.
        let bytes = unsafe { std::slice::from_raw_parts_mut(place.cast::<u8>(), STATES) };
        bytes.fill(BYTE);
        let since = Instant::now();
        while since.elapsed() < WHILE {
            let mut bytes = std::hint::black_box(&*bytes).iter();
            let lost = bytes.any(|&byte| byte != BYTE);
            assert!(!lost || kind == DROPPABLE, "memory has lost what it held");
        }
    }
}

/// The function that libc calls, and its state, as `getrandom(2)` of a vDSO describes them.
fn ask() {
    type GetRandom = extern "C" fn(*mut c_void, usize, u32, *mut c_void, usize) -> isize;
    // SAFETY: it asks for a number.
    let at = unsafe { libc::getauxval(libc::AT_SYSINFO_EHDR) } as usize;
    let start = std::ptr::with_exposed_provenance::<u8>(at);
    // SAFETY: vDSOs have two pages at least, which can be read.
    let bytes = unsafe { std::slice::from_raw_parts(start, 2 << 12) };
    let image = elf_tools::image::Image::parse(bytes).expect("an image");
    let export = image
        .export("__vdso_getrandom")
        .expect("it has the function");
    let entry = start.wrapping_byte_add(export.address.index());
    // SAFETY: the function is there as long as the process lives, and has these arguments.
    let get = unsafe { std::mem::transmute::<*const u8, GetRandom>(entry) };
    // `struct vgetrandom_opaque_params`: the size of a state, and how its memory is mapped.
    let mut question = [0u32; 16];
    let nothing = std::ptr::null_mut;
    let answer = get(nothing(), 0, 0, question.as_mut_ptr().cast(), usize::MAX);
    assert_eq!(answer, 0);
    let state = map(None, question[2].cast_signed() & !libc::MAP_ANONYMOUS);
    again_and_again(|| {
        let mut numbers = [0u8; 256];
        let place = numbers.as_mut_ptr().cast();
        let got = get(place, numbers.len(), 0, state, question[0] as usize);
        assert_eq!(got, numbers.len().cast_signed());
    });
}

pub(crate) fn say(number: i32) {
    let mut output = std::io::stdout();
    let said = writeln!(output, "{number}").and_then(|()| output.flush());
    said.expect("somebody listens");
}

/// Sleeps in a single system call.
pub(crate) fn rest(number: i32) {
    say(number);
    loop {
        nix::unistd::pause();
    }
}

/// The same in a thread that is begun by libc's interface.
pub(crate) extern "C" fn say_and_rest(_: *mut c_void) -> *mut c_void {
    rest(0);
    std::ptr::null_mut()
}

fn again_and_again(once: impl Fn()) {
    say(0);
    loop {
        once();
    }
}

/// libc would leave out those that it uses itself.
fn block_all_signals() {
    let all = u64::MAX;
    let nothing = std::ptr::null_mut::<u64>();
    let how = libc::SIG_SETMASK;
    // SAFETY: the mask is read.
    let done = unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            how,
            &raw const all,
            nothing,
            size_of::<u64>(),
        )
    };
    assert_eq!(done, 0);
}

/// Waits for what never comes.
fn wait_in_code_without_file() {
    // xor %r10d, %r10d; mov $202, %eax; syscall; jmp back to the start
    const CODE: [u8; 12] = [0x45, 0x31, 0xd2, 0xb8, 202, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf4];
    const SIZE: usize = 0x3000;
    static WORD: u32 = 0;
    let write = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: new memory.
    let memory = unsafe { libc::mmap(std::ptr::null_mut(), SIZE, write, flags, -1, 0) };
    assert_ne!(memory, libc::MAP_FAILED);
    let code = memory.cast::<u8>().wrapping_add(SIZE / 2);
    // SAFETY: the code has room there.
    unsafe { code.copy_from_nonoverlapping(CODE.as_ptr(), CODE.len()) };
    let execute = libc::PROT_READ | libc::PROT_EXEC;
    // SAFETY: nothing is written to it any more.
    assert_eq!(unsafe { libc::mprotect(memory, SIZE, execute) }, 0);
    type Wait = extern "C" fn(*const u32, c_int, u32) -> !;
    // SAFETY: the code takes these arguments, and never returns.
    let wait = unsafe { std::mem::transmute::<*mut u8, Wait>(code) };
    say(0);
    wait(&raw const WORD, libc::FUTEX_WAIT, 0);
}

/// Ends the process if a call is cut short.
fn sleep_well() {
    const NAP: Duration = Duration::from_millis(40);
    let time = libc::timespec {
        tv_sec: 0,
        tv_nsec: NAP.as_nanos() as i64,
    };
    let time = &raw const time;
    let check = |what: &str, expected: Option<i32>, call: &dyn Fn() -> libc::c_long| {
        let started = Instant::now();
        let result = call();
        let error = (result == -1).then(nix::errno::Errno::last_raw);
        let slept = started.elapsed();
        assert!(
            error == expected && slept >= NAP,
            "{what}: {result}, {error:?} after {slept:?}"
        );
    };
    check("nanosleep", None, &|| {
        let nothing = std::ptr::null_mut::<libc::timespec>();
        // SAFETY: the time is read.
        unsafe { libc::syscall(libc::SYS_nanosleep, time, nothing) }
    });
    check("futex", Some(libc::ETIMEDOUT), &|| {
        let word = 0u32;
        // SAFETY: the word and the time are read.
        unsafe { libc::syscall(libc::SYS_futex, &raw const word, libc::FUTEX_WAIT, 0, time) }
    });
}

fn in_thread(then: fn()) {
    let (sender, receiver) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let number = nix::unistd::gettid().as_raw();
        sender.send(number).expect("the main thread waits");
        then();
    });
    let number = receiver.recv().expect("the thread has begun");
    let path = format!("/proc/self/task/{number}/status");
    let is_filtered = || {
        let status = std::fs::read_to_string(&path).unwrap_or_default();
        status.lines().any(|line| {
            line.strip_prefix("Seccomp:")
                .is_some_and(|mode| mode.trim() != "0")
        })
    };
    while !is_filtered() {
        thread::sleep(Duration::from_millis(1));
    }
    rest(number);
}

/// Everything is allowed, but by a filter.
fn be_filtered() {
    filter();
    thread::sleep(LONG);
}

/// Reads what nobody writes.
fn be_strict() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    control(
        libc::PR_SET_SECCOMP,
        c_ulong::from(libc::SECCOMP_MODE_STRICT),
        0,
    );
    let mut byte = 0u8;
    let descriptor = std::os::fd::AsRawFd::as_raw_fd(&reader);
    // SAFETY: one byte is written at most.
    unsafe { libc::read(descriptor, (&raw mut byte).cast(), 1) };
    drop(writer);
}

/// What a child does that has its parent's memory.
extern "C" fn sleep(_: *mut c_void) -> c_int {
    // Its parent is killed sooner or later.
    // SAFETY: only a flag of this process.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    say(nix::unistd::getpid().as_raw());
    // SAFETY: it waits.
    unsafe { libc::sleep(LONG.as_secs() as u32) };
    0
}

/// Waits for a child with this memory, which dies with it.
fn vfork() {
    let mut stack = vec![0_u128; 1 << 14];
    let top = stack.as_mut_ptr_range().end.cast();
    let how = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: the stack is the child's alone, and stays.
    let child = unsafe { libc::clone(sleep, top, how, std::ptr::null_mut()) };
    assert!(child > 0);
}

fn fork() {
    // SAFETY: the child ends at once.
    match unsafe { libc::fork() } {
        // SAFETY: nothing of this process is to be run in it.
        0 => unsafe { libc::_exit(0) },
        child if child > 0 => {
            // SAFETY: its status is not asked for.
            unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
        }
        _ => {}
    }
}
