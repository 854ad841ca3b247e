//! Frames that the running kernel builds: whatever a handler is told of what it interrupted is found by searching.
//!
//! A thread executes a function whose addresses are known, and is interrupted there by signals of another thread.

use std::arch::global_asm;
use std::cell::RefCell;
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::thread::JoinHandleExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use elf_tools::Avma;
use elf_tools::reentry::Register;
use nix::libc::{self, c_int, siginfo_t, ucontext_t};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use procfs::process::{MMPermissions, Process};
use relocator::threads::frames::{Interrupted, interrupted, of_thread};
use relocator::threads::{Memory, Registers};
use relocator_verify::memory::Region;

global_asm!(
    ".globl frames_text, frames_spin, frames_exit, frames_call, frames_syscall, frames_called",
    ".globl frames_text_end",
    ".balign 16",
    "frames_text:",
    // Says that it is here, and waits to be released: 0.
    "frames_spin:",
    "mov dword ptr [rdi + 4], 1",
    "2: pause",
    "cmp dword ptr [rdi], 0",
    "je 2b",
    "xor eax, eax",
    "ret",
    // Where nothing leads but a handler: what is in rbx and rsi.
    "frames_exit:",
    "lea rax, [rbx + rsi]",
    "mov rbx, r8",
    "ret",
    // The system call `rdi`, with three arguments.
    "frames_call:",
    "mov rax, rdi",
    "mov rdi, rsi",
    "mov rsi, rdx",
    "mov rdx, rcx",
    "frames_syscall:",
    "syscall",
    "frames_called:",
    "ret",
    "frames_text_end:",
);

unsafe extern "C" {
    fn frames_text();
    fn frames_spin(stage: *const Stage) -> u64;
    fn frames_exit();
    fn frames_call(number: i64, first: i64, second: *mut u8, third: usize) -> i64;
    fn frames_syscall();
    fn frames_called();
    fn frames_text_end();
}

/// The functions above.
fn text() -> Range<Avma> {
    address(frames_text)..address(frames_text_end)
}

fn address(label: unsafe extern "C" fn()) -> Avma {
    Avma(label as *const () as u64)
}

/// What a thread spins on.
#[derive(Default)]
#[repr(C)]
struct Stage {
    released: AtomicU32,
    entered: AtomicU32,
}

impl Stage {
    fn spin(&self) -> u64 {
        // SAFETY: the function reads one member and writes the other, both of which are atomic.
        unsafe { frames_spin(self) }
    }

    fn release(&self) {
        self.released.store(1, SeqCst);
    }

    fn wait_until_entered(&self) {
        wait_until(|| self.entered.load(SeqCst) != 0);
    }
}

#[track_caller]
fn wait_until(condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "it never happens"
        );
        thread::sleep(Duration::from_millis(1));
    }
}

/// What handlers do, and what they have seen.
#[derive(Default)]
struct Script {
    /// What the first handler waits in, to be interrupted as well.
    inner: Option<Arc<Stage>>,
    /// Changes what the innermost one that was interrupted goes on with.
    redirect: Option<fn(Registers) -> Registers>,
    /// Counts handlers that have looked.
    looked: Arc<AtomicU32>,
    /// The `ucontext` of each handler that has begun, outermost first.
    given: Vec<Interrupted>,
    /// What the innermost handler has found on its stack and on all stacks.
    on_stack: Vec<Interrupted>,
    of_thread: Vec<Interrupted>,
}

thread_local! {
    static SCRIPT: RefCell<Script> = RefCell::default();
}

/// What it interrupts are the functions above, so that it may do anything.
extern "C" fn handler(_: c_int, _: *mut siginfo_t, context: *mut libc::c_void) {
    let context: *const ucontext_t = context.cast();
    // SAFETY: the kernel points to one, which nobody changes before the handler returns.
    let registers = registers(unsafe { &(*context).uc_mcontext.gregs });
    let at = Avma(context as u64);
    let inner = SCRIPT.with_borrow_mut(|script| {
        script.given.push(Interrupted { at, registers });
        script.inner.take()
    });
    match inner {
        Some(stage) => assert_eq!(stage.spin(), 0),
        None => SCRIPT.with_borrow_mut(look),
    }
}

/// Registers by DWARF number.
fn registers(saved: &[i64; 23]) -> Registers {
    use libc::*;
    let order = [
        REG_RAX, REG_RDX, REG_RCX, REG_RBX, REG_RSI, REG_RDI, REG_RBP, REG_RSP, REG_R8, REG_R9,
        REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15,
    ];
    Registers {
        general: order.map(|register| saved[register as usize] as u64),
        pc: Avma(saved[REG_RIP as usize] as u64),
        system_call: -1,
    }
}

/// Searches from here on, and redirects what was interrupted if that is wanted.
#[inline(never)]
fn look(script: &mut Script) {
    let here = 0u64;
    let pointer = &raw const here as u64 & !15;
    let memory = Own::open();
    let writable = writable();
    let stack = writable
        .iter()
        .find(|range| range.contains(&Avma(pointer)))
        .unwrap();
    script.on_stack = interrupted(Avma(pointer)..stack.end, &text(), &memory);
    let mut registers = script.given[0].registers;
    registers.general[Register::RSP.index()] = pointer;
    script.of_thread = of_thread(&registers, &writable, &text(), &memory);
    if let Some(redirect) = script.redirect {
        let found = script.of_thread[0];
        let write = found.write(&redirect(found.registers));
        memory.0.write_all_at(&write.bytes, write.at.0).unwrap();
    }
    script.looked.fetch_add(1, SeqCst);
}

/// The memory of this process.
struct Own(File);

impl Own {
    fn open() -> Self {
        let mut options = File::options();
        Self(
            options
                .read(true)
                .write(true)
                .open("/proc/self/mem")
                .unwrap(),
        )
    }
}

impl Memory for Own {
    fn read(&self, at: Avma, bytes: &mut [u8]) -> bool {
        self.0.read_exact_at(bytes, at.0).is_ok()
    }
}

/// What can be written of it.
fn writable() -> Vec<Range<Avma>> {
    let maps = Process::myself().unwrap().maps().unwrap();
    let maps = maps.into_iter();
    maps.filter(|map| map.perms.contains(MMPermissions::WRITE))
        .map(|map| Avma(map.address.0)..Avma(map.address.1))
        .collect()
}

const FIRST: Signal = Signal::SIGUSR1;
const SECOND: Signal = Signal::SIGUSR2;
const FIRST_ON_ALTERNATE: Signal = Signal::SIGURG;
const SECOND_ON_ALTERNATE: Signal = Signal::SIGWINCH;
const RESTARTING: Signal = Signal::SIGIO;

/// Handlers are the same for all tests; each is a thread of its own.
fn install() {
    for (signal, flags) in [
        (FIRST, SaFlags::empty()),
        (SECOND, SaFlags::empty()),
        (FIRST_ON_ALTERNATE, SaFlags::SA_ONSTACK),
        (SECOND_ON_ALTERNATE, SaFlags::SA_ONSTACK),
        (RESTARTING, SaFlags::SA_RESTART),
    ] {
        let action = SigHandler::SigAction(handler);
        let action = SigAction::new(action, flags | SaFlags::SA_SIGINFO, SigSet::empty());
        // SAFETY: the handler only interrupts functions that hold nothing it could need.
        unsafe { sigaction(signal, &action) }.unwrap();
    }
}

/// A thread that is to be interrupted.
struct Victim<T> {
    thread: JoinHandle<(T, Script)>,
    looked: Arc<AtomicU32>,
}

impl<T: Send + 'static> Victim<T> {
    /// Runs `work` with an alternate stack.
    fn start(script: Script, work: impl FnOnce() -> T + Send + 'static) -> Self {
        install();
        let looked = Arc::clone(&script.looked);
        let thread = thread::spawn(move || {
            let alternate = Region::reserve(None, 0x1_0000).unwrap();
            set_alternate(&alternate, 0);
            SCRIPT.set(script);
            let result = work();
            set_alternate(&alternate, libc::SS_DISABLE);
            (result, SCRIPT.take())
        });
        Self { thread, looked }
    }

    fn send(&self, signal: Signal) {
        // SAFETY: the thread was not joined yet.
        let sent = unsafe { libc::pthread_kill(self.thread.as_pthread_t(), signal as c_int) };
        assert_eq!(sent, 0);
    }

    /// Sends a signal and waits until its handler has looked.
    fn interrupt(&self, signal: Signal) {
        self.send(signal);
        wait_until(|| self.looked.load(SeqCst) != 0);
    }

    /// What `work` has returned, and what handlers have seen.
    fn finish(self) -> (T, Script) {
        wait_until(|| self.thread.is_finished());
        self.thread.join().unwrap()
    }
}

/// Waits until the thread waits in the kernel that has left its id where others leave that they are released.
fn wait_until_blocked(stage: &Stage) {
    stage.wait_until_entered();
    let thread = stage.released.load(SeqCst);
    let file = format!("/proc/self/task/{thread}/syscall");
    // Running threads have no number there.
    wait_until(|| std::fs::read_to_string(&file).unwrap().starts_with("0 "));
}

fn set_alternate(region: &Region, flags: c_int) {
    let stack = libc::stack_t {
        ss_sp: region.start().0 as *mut _,
        ss_flags: flags,
        ss_size: region.size(),
    };
    // SAFETY: the region outlives its use as a stack, which ends before the thread does.
    let set = unsafe { libc::sigaltstack(&raw const stack, std::ptr::null_mut()) };
    assert_eq!(set, 0);
}

#[test]
fn a_frame_has_what_the_handler_was_given() {
    for signal in [FIRST, FIRST_ON_ALTERNATE] {
        let stage = Arc::new(Stage::default());
        let spinning = Arc::clone(&stage);
        let victim = Victim::start(Script::default(), move || spinning.spin());
        stage.wait_until_entered();
        victim.interrupt(signal);
        stage.release();
        let (result, script) = victim.finish();
        assert_eq!(result, 0);
        assert_eq!(script.given.len(), 1);
        assert!(text().contains(&script.given[0].registers.pc));
        assert_eq!(script.on_stack, script.given, "{signal}");
        assert_eq!(script.of_thread, script.given, "{signal}");
    }
}

#[test]
fn nested_frames_are_found_on_both_stacks() {
    for (first, second, on_one_stack) in [
        (FIRST, SECOND, true),
        (FIRST, SECOND_ON_ALTERNATE, false),
        (FIRST_ON_ALTERNATE, SECOND, true),
        (FIRST_ON_ALTERNATE, SECOND_ON_ALTERNATE, true),
    ] {
        let (outer, inner) = (Arc::new(Stage::default()), Arc::new(Stage::default()));
        let spinning = Arc::clone(&outer);
        let script = Script {
            inner: Some(Arc::clone(&inner)),
            ..Script::default()
        };
        let victim = Victim::start(script, move || spinning.spin());
        outer.wait_until_entered();
        victim.send(first);
        inner.wait_until_entered();
        victim.interrupt(second);
        inner.release();
        outer.release();
        let (_, mut script) = victim.finish();
        script.given.reverse();
        assert_eq!(script.given.len(), 2);
        let in_text = |given: &Interrupted| text().contains(&given.registers.pc);
        assert!(script.given.iter().all(in_text));
        assert_eq!(script.of_thread, script.given, "{first}, {second}");
        let count = if on_one_stack { 2 } else { 1 };
        assert_eq!(script.on_stack, script.given[..count], "{first}, {second}");
    }
}

#[test]
fn registers_that_were_written_take_effect() {
    for signal in [FIRST, FIRST_ON_ALTERNATE] {
        let stage = Arc::new(Stage::default());
        let spinning = Arc::clone(&stage);
        let script = Script {
            redirect: Some(|mut registers| {
                registers.pc = address(frames_exit);
                let [rbx, rsi, r8] =
                    [Register::RBX, Register::RSI, Register(8)].map(Register::index);
                registers.general[r8] = registers.general[rbx];
                registers.general[rbx] = 0x1200;
                registers.general[rsi] = 0x34;
                registers
            }),
            ..Script::default()
        };
        let victim = Victim::start(script, move || spinning.spin());
        stage.wait_until_entered();
        victim.send(signal);
        // Nobody releases it.
        let (result, _) = victim.finish();
        assert_eq!(result, 0x1234, "{signal}");
    }
}

/// What the kernel has made of a system call when it builds a frame, as `threads::frames` says.
#[test]
fn a_system_call_is_settled_before_the_frame_is_built() {
    for (signal, restarts) in [(FIRST, false), (RESTARTING, true)] {
        let (pipe, mut other) = std::io::pipe().unwrap();
        let stage = Arc::new(Stage::default());
        let entered = Arc::clone(&stage);
        let victim = Victim::start(Script::default(), move || {
            let mut byte = 0;
            entered
                .released
                .store(nix::unistd::gettid().as_raw() as u32, SeqCst);
            entered.entered.store(1, SeqCst);
            // SAFETY: the kernel writes one byte to `byte`.
            unsafe { frames_call(libc::SYS_read, pipe.as_raw_fd().into(), &raw mut byte, 1) }
        });
        wait_until_blocked(&stage);
        victim.interrupt(signal);
        // If the call has failed nobody reads.
        let _ = other.write_all(b"x");
        let (result, script) = victim.finish();
        assert_eq!(script.of_thread, script.given);
        let Registers { general, pc, .. } = script.of_thread[0].registers;
        let [rax, rcx] = [Register::RAX, Register::RCX].map(|register| general[register.index()]);
        let expected = match restarts {
            true => (1, address(frames_syscall), libc::SYS_read as u64),
            false => {
                let interrupted = -i64::from(libc::EINTR);
                (interrupted, address(frames_called), interrupted as u64)
            }
        };
        assert_eq!((result, pc, rax), expected);
        assert_eq!(rcx, address(frames_called).0, "it was overwritten");
    }
}
