//! Stacks of threads: each a mapping of its own, or all of them parts of one.
//!
//! From glibc 2.42 on, guard pages are no mappings of their own (`MADV_GUARD_INSTALL`), so that the
//! kernel joins the stacks of all threads. This does the same with every C library.

#![allow(
    unsafe_code,
    reason = "memory for stacks, and threads that are given it"
)]

use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use nix::errno::Errno;
use nix::libc;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};

/// Stack of a thread, of which there may be a thousand.
const STACK: usize = 256 << 10;

const PAGE: usize = 4096;

/// How deep each thread calls before it begins: what is left of that is below its stack pointer
/// from then on.
const DEPTH: usize = 64 << 10;

/// `MADV_GUARD_INSTALL`, since Linux 6.13.
const GUARD_INSTALL: i32 = 102;

/// Where threads get their stacks.
pub(crate) enum Stacks {
    /// Where the standard library does.
    Own,
    /// In one mapping.
    Shared {
        /// The next one begins here.
        next: NonNull<c_void>,
        /// Bytes of each.
        size: usize,
        /// How many are left.
        left: usize,
    },
}

/// A thread that was begun.
pub(crate) enum Begun {
    Own(JoinHandle<()>),
    Shared(Receiver<()>),
}

impl Begun {
    pub(crate) fn join(self) -> Result<(), String> {
        let ended = match self {
            Self::Own(thread) => thread.join().is_ok(),
            Self::Shared(ended) => ended.recv().is_ok(),
        };
        ended
            .then_some(())
            .ok_or_else(|| "a thread has panicked".to_owned())
    }
}

/// What a thread does, and whom it tells that it has.
struct Start {
    run: Box<dyn FnOnce() + Send>,
    ended: Sender<()>,
}

impl Stacks {
    /// For `count` threads; parts of one mapping of `shared` bytes, if that is given.
    pub(crate) fn new(shared: Option<usize>, count: usize) -> Result<Self, String> {
        let Some(bytes) = shared.filter(|_| count > 0) else {
            return Ok(Self::Own);
        };
        let size = bytes / count / PAGE * PAGE;
        if size < DEPTH + STACK / 2 {
            return Err(format!("stacks of {size} bytes are too small"));
        }
        let length = NonZeroUsize::new(size * count).ok_or("no stacks")?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE | MapFlags::MAP_STACK;
        // SAFETY: new memory is mapped where the kernel likes.
        let next = unsafe { mmap_anonymous(None, length, protection, flags) };
        let next = next.map_err(|errno| format!("stacks: {errno}"))?;
        Ok(Self::Shared {
            next,
            size,
            left: count,
        })
    }

    pub(crate) fn begin(&mut self, run: impl FnOnce() + Send + 'static) -> Result<Begun, String> {
        match self {
            Self::Own => {
                let thread = thread::Builder::new().stack_size(STACK).spawn(run);
                thread
                    .map(Begun::Own)
                    .map_err(|error| format!("a thread: {error}"))
            }
            Self::Shared { next, size, left } => {
                *left = left.checked_sub(1).ok_or("there are no more stacks")?;
                let stack = *next;
                // SAFETY: there was room for as many stacks as there are threads.
                *next = unsafe { next.byte_add(*size) };
                begin_on(stack, *size, Box::new(run)).map(Begun::Shared)
            }
        }
    }
}

/// Begins a thread on a stack, whose lowest page becomes a guard.
fn begin_on(
    stack: NonNull<c_void>,
    size: usize,
    run: Box<dyn FnOnce() + Send>,
) -> Result<Receiver<()>, String> {
    // SAFETY: the page is part of the stack, which no one uses yet.
    if unsafe { libc::madvise(stack.as_ptr(), PAGE, GUARD_INSTALL) } != 0 {
        // An older kernel: the stacks are one mapping all the same.
        let _ = Errno::last();
    }
    let (sender, receiver) = channel();
    let start = Box::into_raw(Box::new(Start { run, ended: sender }));
    let mut attributes = MaybeUninit::uninit();
    let mut thread = MaybeUninit::uninit();
    // SAFETY: it makes the attributes, in room for them.
    unsafe { libc::pthread_attr_init(attributes.as_mut_ptr()) };
    let attributes: *mut libc::pthread_attr_t = attributes.as_mut_ptr();
    // SAFETY: the attributes were made.
    unsafe { libc::pthread_attr_setdetachstate(attributes, libc::PTHREAD_CREATE_DETACHED) };
    // SAFETY: the same. The stack belongs to this thread from now on, and is never unmapped.
    let mut failed = unsafe { libc::pthread_attr_setstack(attributes, stack.as_ptr(), size) };
    if failed == 0 {
        // SAFETY: the same. The thread takes over what it starts with.
        failed =
            unsafe { libc::pthread_create(thread.as_mut_ptr(), attributes, enter, start.cast()) };
    }
    // SAFETY: the attributes were made, and are not used again.
    unsafe { libc::pthread_attr_destroy(attributes) };
    match failed {
        0 => Ok(receiver),
        failed => {
            // SAFETY: no thread has begun that could have taken it.
            drop(unsafe { Box::from_raw(start) });
            Err(format!("a thread: {}", Errno::from_raw(failed)))
        }
    }
}

extern "C" fn enter(start: *mut c_void) -> *mut c_void {
    // SAFETY: the thread that began this one has given it away.
    let start = unsafe { Box::from_raw(start.cast::<Start>()) };
    go_deep();
    (start.run)();
    let _ = start.ended.send(());
    std::ptr::null_mut()
}

#[inline(never)]
fn go_deep() {
    let mut room = [1u8; DEPTH];
    std::hint::black_box(&mut room);
}
