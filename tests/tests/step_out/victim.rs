//! The processes that are worked on.

use std::cell::Cell;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use elf_tools::Avma;
use nix::libc::{self, c_int, siginfo_t, ucontext_t};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::gettid;
use procfs::process::{MMapPath, Process};

/// The first argument of a process that is a victim.
pub(crate) const ARGUMENT: &str = "victim";

/// Threads that call functions of the vDSO all the time, with handlers for signals that are
/// counted.
pub(crate) const HAMMER: &str = "hammer";
/// The same, and one thread blocks all signals.
pub(crate) const BLOCKED: &str = "blocked";
/// The same, and `SIGTRAP` is ignored.
pub(crate) const IGNORING: &str = "ignoring";
/// A thread whose handler does not return if it has interrupted the vDSO.
pub(crate) const FROZEN: &str = "frozen";

/// A thread that a timer sends signals all the time.
pub(crate) const TICKING: &str = "ticking";

/// Threads that hammer.
pub(crate) const THREADS: usize = 3;

/// Most signals that a thread keeps.
const ROOM: usize = 1 << 16;

/// Values that came with signals, by thread.
static VALUES: [[AtomicU32; ROOM]; THREADS] =
    [const { [const { AtomicU32::new(0) }; ROOM] }; THREADS];
static COUNTS: [AtomicUsize; THREADS] = [const { AtomicUsize::new(0) }; THREADS];
static ALARMS: AtomicUsize = AtomicUsize::new(0);
static TRAPS: AtomicUsize = AtomicUsize::new(0);
static WRONG: AtomicUsize = AtomicUsize::new(0);
static DONE: AtomicBool = AtomicBool::new(false);

thread_local! {
    static NUMBER: Cell<usize> = const { Cell::new(0) };
}

/// What a process is told to be. It ends when its standard input does, and says what it has seen.
pub(crate) fn live(what: &str) {
    match what {
        FROZEN => freeze(),
        TICKING => tick(),
        what if crate::odd::KINDS.contains(&what) => crate::odd::live(what),
        _ => hammer(what),
    }
}

fn on(signal: c_int, handler: extern "C" fn(c_int, *mut siginfo_t, *mut libc::c_void)) {
    let mut action = libc::sigaction {
        sa_sigaction: handler as usize,
        // SAFETY: it is a set of bits, which may all be 0.
        sa_mask: unsafe { std::mem::zeroed() },
        sa_flags: libc::SA_SIGINFO | libc::SA_RESTART,
        sa_restorer: None,
    };
    // SAFETY: the handlers only touch what is atomic.
    let set = unsafe { libc::sigaction(signal, &raw mut action, std::ptr::null_mut()) };
    assert_eq!(set, 0);
}

extern "C" fn keep(_: c_int, info: *mut siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel points to one.
    let info = unsafe { &*info };
    // SAFETY: the sender has put a value into it.
    let value = unsafe { info.si_value() };
    let number = NUMBER.get();
    let index = COUNTS[number].fetch_add(1, SeqCst);
    VALUES[number][index].store(value.sival_ptr.addr() as u32, SeqCst);
}

extern "C" fn count_alarm(_: c_int, _: *mut siginfo_t, _: *mut libc::c_void) {
    ALARMS.fetch_add(1, SeqCst);
}

extern "C" fn count_trap(_: c_int, _: *mut siginfo_t, _: *mut libc::c_void) {
    TRAPS.fetch_add(1, SeqCst);
}

/// The signal that carries values.
pub(crate) fn queued() -> c_int {
    libc::SIGRTMIN() + 3
}

fn hammer(what: &str) {
    on(queued(), keep);
    on(libc::SIGALRM, count_alarm);
    on(libc::SIGTRAP, count_trap);
    if what == IGNORING {
        let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
        // SAFETY: no handler runs.
        unsafe { sigaction(Signal::SIGTRAP, &ignore) }.unwrap();
    }
    // The main thread waits for its input, and takes no signal meanwhile.
    let all = SigSet::all();
    all.thread_swap_mask(SigmaskHow::SIG_BLOCK).unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    let threads: Vec<_> = (0..THREADS)
        .map(|number| {
            let sender = sender.clone();
            let takes_signals = number > 0 || what != BLOCKED;
            thread::spawn(move || {
                NUMBER.set(number);
                if takes_signals {
                    SigSet::all().thread_unblock().unwrap();
                }
                sender.send((number, gettid().as_raw())).unwrap();
                while !DONE.load(SeqCst) {
                    call();
                }
            })
        })
        .collect();
    let mut numbers: Vec<_> = receiver.iter().take(THREADS).collect();
    numbers.sort_unstable();
    for (_, thread) in numbers {
        println!("{thread}");
    }
    every_millisecond();
    wait_for_end();
    DONE.store(true, SeqCst);
    for thread in threads {
        thread.join().unwrap();
    }
    say_what_was_seen();
}

pub(crate) fn wait_for_end() {
    std::io::stdout().flush().unwrap();
    let mut rest = Vec::new();
    std::io::stdin().read_to_end(&mut rest).unwrap();
}

/// Has the kernel send an alarm each millisecond.
fn every_millisecond() {
    let millisecond = libc::timeval {
        tv_sec: 0,
        tv_usec: 1000,
    };
    let timer = libc::itimerval {
        it_interval: millisecond,
        it_value: millisecond,
    };
    // SAFETY: the structure is read.
    let set = unsafe { libc::syscall(libc::SYS_setitimer, libc::ITIMER_REAL, &raw const timer, 0) };
    assert_eq!(set, 0);
}

/// Is sent signals by a timer of POSIX, which the kernel sets again whenever it delivers one, and
/// calls functions meanwhile. It is ended by a signal.
fn tick() -> ! {
    on(libc::SIGALRM, count_alarm);
    // SAFETY: numbers may all be 0; such an event is a `SIGALRM`.
    let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
    event.sigev_notify = libc::SIGEV_SIGNAL;
    event.sigev_signo = libc::SIGALRM;
    let mut timer = std::ptr::null_mut();
    // SAFETY: both are there.
    let made = unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) };
    assert_eq!(made, 0);
    let often = libc::timespec {
        tv_sec: 0,
        tv_nsec: 20_000,
    };
    let times = libc::itimerspec {
        it_interval: often,
        it_value: often,
    };
    // SAFETY: the timer was made, and the times are read.
    let set = unsafe { libc::timer_settime(timer, 0, &raw const times, std::ptr::null_mut()) };
    assert_eq!(set, 0);
    println!("{}", gettid());
    std::io::stdout().flush().unwrap();
    loop {
        call();
    }
}

/// Calls functions of the vDSO, whose answers must not go backwards.
fn call() {
    let clocks = [
        ClockId::CLOCK_MONOTONIC,
        ClockId::CLOCK_MONOTONIC_COARSE,
        ClockId::CLOCK_BOOTTIME,
    ];
    for clock in clocks {
        let before = clock_gettime(clock).unwrap();
        let after = clock_gettime(clock).unwrap();
        if after < before || before.tv_sec() == 0 && before.tv_nsec() == 0 {
            WRONG.fetch_add(1, SeqCst);
        }
    }
    let wall = clock_gettime(ClockId::CLOCK_REALTIME).unwrap();
    if wall.tv_sec() < 1_500_000_000 {
        WRONG.fetch_add(1, SeqCst);
    }
}

/// One line for each thread, with the values, and one with counts of alarms, traps and wrong
/// answers.
fn say_what_was_seen() {
    for (values, count) in VALUES.iter().zip(&COUNTS) {
        let values = values.iter().take(count.load(SeqCst));
        let words: Vec<String> = values.map(|value| value.load(SeqCst).to_string()).collect();
        println!("{}", words.join(" "));
    }
    let [alarms, traps, wrong] = [&ALARMS, &TRAPS, &WRONG].map(|count| count.load(SeqCst));
    println!("{alarms} {traps} {wrong}");
}

static VDSO: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];
static FROZEN_AT: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];

/// Does not return before the end if it has interrupted the vDSO.
extern "C" fn freeze_inside(_: c_int, _: *mut siginfo_t, context: *mut libc::c_void) {
    let context: *const ucontext_t = context.cast();
    // SAFETY: the kernel points to one.
    let pc = unsafe { (*context).uc_mcontext.gregs[libc::REG_RIP as usize] } as usize;
    let [start, end] = [&VDSO[0], &VDSO[1]].map(|bound| bound.load(SeqCst));
    if (start..end).contains(&pc) {
        FROZEN_AT[1].store(context.addr(), SeqCst);
        FROZEN_AT[0].store(pc, SeqCst);
        while !DONE.load(SeqCst) {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Sends itself signals until one has interrupted the vDSO, and then says where and in which frame.
fn freeze() {
    let maps = Process::myself().unwrap().maps().unwrap();
    let vdso = maps.into_iter().find(|map| map.pathname == MMapPath::Vdso);
    let (start, end) = vdso.unwrap().address;
    VDSO[0].store(start as usize, SeqCst);
    VDSO[1].store(end as usize, SeqCst);
    on(libc::SIGUSR1, freeze_inside);
    let thread = thread::spawn(|| {
        while !DONE.load(SeqCst) {
            call();
        }
    });
    while FROZEN_AT[0].load(SeqCst) == 0 {
        use std::os::unix::thread::JoinHandleExt;
        // SAFETY: the thread was not joined yet.
        let sent = unsafe { libc::pthread_kill(thread.as_pthread_t(), libc::SIGUSR1) };
        assert_eq!(sent, 0);
        thread::sleep(Duration::from_micros(50));
    }
    let [pc, frame] = [&FROZEN_AT[0], &FROZEN_AT[1]].map(|word| Avma(word.load(SeqCst) as u64));
    println!("{} {}", pc.0, frame.0);
    wait_for_end();
    DONE.store(true, SeqCst);
    thread.join().unwrap();
}
