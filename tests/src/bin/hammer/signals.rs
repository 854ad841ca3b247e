//! Signals that arrive while the vDSO is called, and what handlers do.

#![allow(unsafe_code, reason = "handlers, and signals with values")]

use std::cell::{Cell, OnceCell};
use std::ffi::c_int;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use nix::libc::{self, siginfo_t};
use nix::sys::signal::{SigSet, SigmaskHow};
use relocator_tests::bed::control::Control;

use crate::calls;
use crate::judge::Judge;
use crate::vdso::Functions;

/// Bytes of an alternate stack: the frame of a signal has more than 11 KiB where there is AMX.
const STACK: usize = 128 << 10;

/// Microseconds between alarms.
const ALARM: i64 = 1000;

/// The signal that carries values.
pub(crate) fn queued() -> c_int {
    libc::SIGRTMIN() + 3
}

/// The only signal that ends a `sigsuspend`.
pub(crate) const WAKE: c_int = libc::SIGUSR2;

/// What a thread that handles signals has been sent and has seen: values count up, and none is ever lost.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    pub(crate) thread: AtomicU32,
    sent: AtomicU32,
    seen: AtomicU32,
}

impl Mailbox {
    /// Sends the next value, unless too many wait in the kernel.
    pub(crate) fn send(&self) {
        let value = self.sent.load(SeqCst) + 1;
        // `siginfo_t` for a signal that is queued: number, errno, code, and from byte 16 on pid, uid and the value.
        let mut info = [0u32; 32];
        info[0] = queued().cast_unsigned();
        info[2] = libc::SI_QUEUE.cast_unsigned();
        info[4] = std::process::id();
        info[6] = value;
        self.sent.store(value, SeqCst);
        let (process, thread) = (std::process::id(), self.thread.load(SeqCst));
        let number = libc::SYS_rt_tgsigqueueinfo;
        // SAFETY: the kernel reads as many bytes as a `siginfo_t` has.
        let code = unsafe { libc::syscall(number, process, thread, queued(), info.as_ptr()) };
        if code != 0 {
            self.sent.store(value - 1, SeqCst);
        }
    }

    /// Whether every signal that was sent has arrived.
    pub(crate) fn is_empty(&self) -> bool {
        self.seen.load(SeqCst) == self.sent.load(SeqCst)
    }
}

/// What handlers need of a thread.
#[derive(Clone, Copy)]
struct Here {
    judge: Judge,
    mailbox: &'static Mailbox,
}

static FUNCTIONS: OnceLock<Functions> = OnceLock::new();

thread_local! {
    static HERE: OnceCell<Here> = const { OnceCell::new() };
    static WOKEN: Cell<u32> = const { Cell::new(0) };
}

extern "C" fn on_value(_: c_int, info: *mut siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel points to one.
    let info = unsafe { &*info };
    // SAFETY: the sender has put a value into it.
    let value = unsafe { info.si_value() }.sival_ptr.addr() as u32;
    let code = info.si_code;
    visit(|here| {
        // Others may send values as well, which are only counted.
        // SAFETY: signals that are queued say who sent them.
        let is_own = unsafe { info.si_pid() } == std::process::id().cast_signed();
        if code != libc::SI_QUEUE || !is_own {
            return;
        }
        let expected = here.mailbox.seen.fetch_add(1, SeqCst) + 1;
        if value != expected {
            let thread = here.judge.thread;
            here.judge.control.fail(format_args!(
                "thread {thread}: signal {value} arrived instead of {expected}"
            ));
        }
    });
}

extern "C" fn on_alarm(_: c_int, _: *mut siginfo_t, _: *mut libc::c_void) {
    visit(|_| {});
}

extern "C" fn on_wake(_: c_int, _: *mut siginfo_t, _: *mut libc::c_void) {
    WOKEN.set(WOKEN.get() + 1);
}

/// Calls the vDSO, whatever was interrupted.
fn visit(count: impl FnOnce(&Here)) {
    HERE.with(|here| {
        if let (Some(here), Some(functions)) = (here.get(), FUNCTIONS.get()) {
            here.judge.control.signal();
            count(here);
            calls::check_in_handler(functions, &here.judge);
        }
    });
}

/// How often this thread was woken.
pub(crate) fn woken() -> u32 {
    WOKEN.get()
}

fn on(signal: c_int, handler: extern "C" fn(c_int, *mut siginfo_t, *mut libc::c_void)) {
    let action = libc::sigaction {
        sa_sigaction: handler as *const () as usize,
        // SAFETY: it is a set of bits, which may all be 0: handlers interrupt each other.
        sa_mask: unsafe { std::mem::zeroed() },
        sa_flags: libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK,
        sa_restorer: None,
    };
    // SAFETY: the handlers only touch what is atomic or their thread's own.
    let set = unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) };
    assert_eq!(set, 0);
}

/// Installs the handlers, and blocks all signals for this thread and those that it begins.
pub(crate) fn prepare(functions: Functions) {
    let _ = FUNCTIONS.set(functions);
    on(queued(), on_value);
    on(libc::SIGALRM, on_alarm);
    on(WAKE, on_wake);
    let blocked = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK);
    blocked.expect("signals can be blocked");
}

/// From here on this thread takes signals; on a stack of their own if that is wanted.
pub(crate) fn accept(judge: Judge, mailbox: &'static Mailbox, own_stack: bool) {
    let place = " in a handler";
    let judge = Judge { place, ..judge };
    HERE.with(|here| here.set(Here { judge, mailbox }))
        .unwrap_or_else(|_| panic!("a thread accepts signals once"));
    set_stack(own_stack);
    let thread = nix::unistd::gettid().as_raw().cast_unsigned();
    mailbox.thread.store(thread, SeqCst);
    let mut signals = SigSet::all();
    signals.remove(nix::sys::signal::Signal::SIGUSR2);
    signals.thread_unblock().expect("signals can be unblocked");
    // Its set does not know real-time signals.
    unblock_queued();
}

/// Has handlers run on a stack of their own, or where the thread is. The one that Rust gives to threads is too small.
fn set_stack(own: bool) {
    let stack = match own {
        true => libc::stack_t {
            ss_sp: Vec::leak(vec![0u8; STACK]).as_mut_ptr().cast(),
            ss_flags: 0,
            ss_size: STACK,
        },
        false => libc::stack_t {
            ss_sp: ptr::null_mut(),
            ss_flags: libc::SS_DISABLE,
            ss_size: 0,
        },
    };
    // SAFETY: the memory is never freed.
    let set = unsafe { libc::sigaltstack(&raw const stack, ptr::null_mut()) };
    assert_eq!(set, 0);
}

fn unblock_queued() {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: it fills the set.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: it was filled.
    unsafe { libc::sigaddset(set.as_mut_ptr(), queued()) };
    // SAFETY: the set is read.
    unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, set.as_ptr(), ptr::null_mut()) };
}

/// Has the kernel send alarms.
pub(crate) fn begin_alarms() {
    let interval = libc::timeval {
        tv_sec: 0,
        tv_usec: ALARM,
    };
    let timer = libc::itimerval {
        it_interval: interval,
        it_value: interval,
    };
    // SAFETY: the structure is read.
    let set = unsafe { libc::syscall(libc::SYS_setitimer, libc::ITIMER_REAL, &raw const timer, 0) };
    assert_eq!(set, 0);
}

/// Wakes a thread from its `sigsuspend`.
pub(crate) fn wake(thread: u32) {
    // SAFETY: nothing but a signal is sent.
    unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), thread, WAKE) };
}

/// Says what is wrong with signals at the end.
pub(crate) fn check_empty(mailbox: &Mailbox, control: Control, thread: usize) {
    if !mailbox.is_empty() {
        control.fail(format_args!(
            "thread {thread}: signals were lost: {mailbox:?}"
        ));
    }
}
