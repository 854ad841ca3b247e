//! Processes that cannot be linked. Each says a number when it is what it was told to be: another
//! thread or process.

use std::thread;
use std::time::Duration;

use nix::libc::{self, c_int, c_long, c_void};
use nix::unistd::{Pid, getpid, gettid};
use relocator_process::tracing::TraceableProcess;
use relocator_tests::odd::{control, filter};

use crate::victim::wait_for_end;

/// System calls of one thread that is not the first are filtered.
pub(crate) const FILTERED: &str = "filtered";
/// One that has said that it wants no tracer, and is not root's.
pub(crate) const UNDUMPABLE: &str = "undumpable";
/// A parent that waits for its child, which has the same memory.
pub(crate) const VFORKED: &str = "vforked";
/// Two processes with one memory that do not wait for each other.
pub(crate) const SHARING: &str = "sharing";
/// Two processes as `fork` makes them.
pub(crate) const FORKED: &str = "forked";
/// The first thread has ended.
pub(crate) const HEADLESS: &str = "headless";
/// The first thread has ended, and another one executes code all the time.
pub(crate) const HEADLESS_BUSY: &str = "headless-busy";
/// One that looks whether another process could be linked, and says what it is told.
pub(crate) const LOOKING: &str = "looking";

pub(crate) const KINDS: [&str; 8] = [
    FILTERED,
    UNDUMPABLE,
    VFORKED,
    SHARING,
    FORKED,
    HEADLESS,
    HEADLESS_BUSY,
    LOOKING,
];

/// The user whom nothing belongs to.
const NOBODY: c_long = 65534;

pub(crate) fn live(what: &str) {
    match what {
        FILTERED => in_thread(filter),
        UNDUMPABLE => be_undumpable(),
        VFORKED => share(libc::CLONE_VM | libc::CLONE_VFORK),
        SHARING => share(libc::CLONE_VM),
        FORKED => share(0),
        HEADLESS => end_alone(false),
        HEADLESS_BUSY => end_alone(true),
        LOOKING => look(),
        other => unreachable!("{other}"),
    }
}

fn in_thread(run: fn()) {
    let (sender, receiver) = std::sync::mpsc::channel();
    thread::spawn(move || {
        run();
        sender.send(gettid()).unwrap();
        thread::sleep(Duration::from_secs(60));
    });
    println!("{}", receiver.recv().unwrap());
    wait_for_end();
}

fn be_undumpable() {
    // SAFETY: it is the only thread.
    assert_eq!(unsafe { libc::syscall(libc::SYS_setuid, NOBODY) }, 0);
    control(libc::PR_SET_DUMPABLE, 0, 0);
    println!("{}", getpid());
    wait_for_end();
}

/// What a child does that may have its parent's memory: it says its number, and sleeps.
extern "C" fn sleep(_: *mut c_void) -> c_int {
    let line = format!("{}\n", getpid());
    // SAFETY: the bytes are there.
    unsafe { libc::write(1, line.as_ptr().cast(), line.len()) };
    // SAFETY: it waits, and is ended by its parent's end.
    unsafe { libc::sleep(60) }.cast_signed()
}

fn share(how: c_int) {
    let mut stack = vec![0_u128; 1 << 12];
    let top = stack.as_mut_ptr_range().end.cast();
    // SAFETY: the stack is the child's alone, and stays.
    let child = unsafe { libc::clone(sleep, top, how | libc::SIGCHLD, std::ptr::null_mut()) };
    assert!(child > 0);
    wait_for_end();
    // SAFETY: it is a child of this process.
    unsafe { libc::kill(child, libc::SIGKILL) };
}

/// The main thread ends, and another one waits or is busy.
fn end_alone(is_busy: bool) {
    let first = getpid();
    if is_busy {
        // No thread waits: that would show at once that the process goes on.
        thread::spawn(move || {
            wait_for_first_to_end(first);
            println!("{}", gettid());
            loop {
                std::hint::spin_loop();
            }
        });
        end_thread();
    }
    thread::spawn(move || {
        wait_for_first_to_end(first);
        println!("{}", gettid());
        wait_for_end();
        std::process::exit(0);
    });
    end_thread();
}

fn wait_for_first_to_end(first: Pid) {
    crate::process::wait_until(|| {
        let stat = std::fs::read_to_string(format!("/proc/{first}/stat"));
        stat.unwrap().contains(") Z ")
    });
}

/// Ends this thread alone.
fn end_thread() {
    // SAFETY: nothing of this thread is needed any more; its stack stays.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
}

fn look() {
    let pid = std::env::var("SUBJECT").unwrap().parse().unwrap();
    match TraceableProcess::open(pid).and_then(|subject| subject.check_linkable()) {
        Ok(()) => println!("it can be linked"),
        Err(error) => println!("{error}"),
    }
}
