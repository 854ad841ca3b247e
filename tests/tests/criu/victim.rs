//! The processes that are dumped.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use nix::libc::{self, c_int, siginfo_t, ucontext_t};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{ForkResult, fork};
use procfs::process::{MMapPath, Process};

/// The first argument of a process that is a victim.
pub(crate) const ARGUMENT: &str = "victim";

/// Threads that call functions of the vDSO all the time, and one that waits.
pub(crate) const CALLING: &str = "calling";
/// The same, and a child that waits.
pub(crate) const TREE: &str = "tree";
/// A thread whose handler does not return, once it has interrupted the vDSO.
pub(crate) const INTERRUPTED: &str = "interrupted";

/// Threads that call.
pub(crate) const THREADS: usize = 2;

/// Where memory of a known content is, and how many pages.
pub(crate) const MEMORY: usize = 0x1_0000_0000;
pub(crate) const PAGES: usize = 64;
const PAGE: usize = 0x1000;

/// A word of that memory that says, when it is not 0, that all is ready.
const READY: usize = MEMORY;
/// Where the signal frame of a victim that was interrupted is, and what it interrupted.
pub(crate) const FRAME: usize = MEMORY + 8;
pub(crate) const PLACE: usize = MEMORY + 16;

fn word(at: usize) -> &'static AtomicU64 {
    // SAFETY: the memory is mapped for ever, and only used by way of such words.
    unsafe { &*(at as *const AtomicU64) }
}

pub(crate) fn live(what: &str) {
    fill();
    match what {
        INTERRUPTED => interrupt(),
        what => {
            let callers = (0..THREADS).map(|_| thread::spawn(call_for_ever));
            let _callers: Vec<_> = callers.collect();
            if what == TREE {
                // SAFETY: the child only waits.
                if let Ok(ForkResult::Child) = unsafe { fork() } {
                    wait_for_ever();
                }
            }
        }
    }
    word(READY).store(1, SeqCst);
    wait_for_ever();
}

fn wait_for_ever() -> ! {
    loop {
        thread::sleep(Duration::from_secs(1000));
    }
}

fn call_for_ever() {
    loop {
        let _ = clock_gettime(ClockId::CLOCK_MONOTONIC);
    }
}

/// Memory with pages of zeros, of one byte, of noise, and pages that were never touched.
fn fill() {
    let size = (PAGES * PAGE).try_into().expect("not 0");
    let at = MEMORY.try_into().ok();
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: nothing is there.
    let mapped = unsafe { mmap_anonymous(at, size, protection, MapFlags::MAP_PRIVATE) };
    let mapped = mapped.expect("memory");
    assert_eq!(mapped.addr().get(), MEMORY);
    let mut noise = 1u64;
    for page in 1..PAGES {
        for index in 0..PAGE / 8 {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            let value = match page % 4 {
                0 => 0,
                1 => page as u64,
                2 => noise,
                _ => continue,
            };
            word(MEMORY + page * PAGE + index * 8).store(value, SeqCst);
        }
    }
}

thread_local! {
    static IS_CALLER: Cell<bool> = const { Cell::new(false) };
}

static VDSO: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
static IS_INSIDE: AtomicBool = AtomicBool::new(false);

/// Does not return once it has interrupted the vDSO, behind the first instructions of a function.
extern "C" fn stay(_: c_int, _: *mut siginfo_t, context: *mut libc::c_void) {
    let context: *const ucontext_t = context.cast();
    // SAFETY: the kernel points to one.
    let pc = unsafe { (*context).uc_mcontext.gregs[libc::REG_RIP as usize] }.cast_unsigned();
    let [start, end] = [&VDSO[0], &VDSO[1]].map(|bound| bound.load(SeqCst));
    if IS_CALLER.get() && (start..end).contains(&pc) {
        word(FRAME).store(context.addr() as u64, SeqCst);
        word(PLACE).store(pc, SeqCst);
        IS_INSIDE.store(true, SeqCst);
        wait_for_ever();
    }
}

/// Sends a thread signals until one has interrupted the vDSO.
fn interrupt() {
    let maps = Process::myself().expect("/proc").maps().expect("maps");
    let vdso = maps.into_iter().find(|map| map.pathname == MMapPath::Vdso);
    let (start, end) = vdso.expect("a vDSO").address;
    VDSO[0].store(start, SeqCst);
    VDSO[1].store(end, SeqCst);
    let mut action = libc::sigaction {
        sa_sigaction: stay as *const () as usize,
        // SAFETY: it is a set of bits, which may all be 0.
        sa_mask: unsafe { std::mem::zeroed() },
        sa_flags: libc::SA_SIGINFO | libc::SA_RESTART,
        sa_restorer: None,
    };
    // SAFETY: the handler only touches what is atomic, and waits.
    let set = unsafe { libc::sigaction(libc::SIGUSR1, &raw mut action, std::ptr::null_mut()) };
    assert_eq!(set, 0);
    let caller = thread::spawn(|| {
        IS_CALLER.set(true);
        call_for_ever();
    });
    while !IS_INSIDE.load(SeqCst) {
        use std::os::unix::thread::JoinHandleExt;
        // SAFETY: the thread does not end.
        let sent = unsafe { libc::pthread_kill(caller.as_pthread_t(), libc::SIGUSR1) };
        assert_eq!(sent, 0);
        thread::sleep(Duration::from_micros(50));
    }
}
