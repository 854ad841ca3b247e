//! Processes that bring their own memory when it is touched, and never or late. They are this
//! program, executed again on a bed.

#![allow(unsafe_code, reason = "processes with all their corners")]

use std::ffi::{c_int, c_void};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd};
use std::thread;

use nix::libc;

use crate::odd::{rest, say_and_rest};

/// A `userfaultfd` fills what is above the stack pointer of a thread, and nobody reads from it.
pub(crate) const STACK_UNSERVED: &str = "stack-unserved";
/// The same, and a thread of the process reads from it.
pub(crate) const STACK_SERVED: &str = "stack-served";
/// The same for the first page of the old vDSO.
pub(crate) const TEXT_UNSERVED: &str = "text-unserved";
/// The same, and a thread brings what was there.
pub(crate) const TEXT_SERVED: &str = "text-served";

const PAGE: usize = 0x1000;

/// Bytes of a stack, and of what is above it in the same mapping.
const STACK: usize = 256 << 10;
const ABOVE: usize = 64 << 10;

pub(crate) fn live(what: &str) {
    match what {
        STACK_UNSERVED => on_stack(|above| Filled::register(above).leak()),
        STACK_SERVED => on_stack(|above| Filled::register(above).serve(Vec::new())),
        TEXT_UNSERVED => {
            take_text(|filled, _| filled.leak());
            rest(0);
        }
        TEXT_SERVED => {
            take_text(Filled::serve);
            rest(0);
        }
        other => unreachable!("{other}"),
    }
}

/// Pages of this process.
#[derive(Debug, Clone, Copy)]
struct Pages {
    start: usize,
    size: usize,
}

impl Pages {
    fn map(size: usize) -> Self {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: new memory.
        let memory = unsafe { libc::mmap(std::ptr::null_mut(), size, protection, flags, -1, 0) };
        assert_ne!(memory, libc::MAP_FAILED);
        let start = memory.addr();
        Self { start, size }
    }

    fn pointer(self) -> *mut c_void {
        std::ptr::with_exposed_provenance_mut(self.start)
    }
}

/// Runs a thread on a stack with more of the same mapping above it, which `fill` gets.
fn on_stack(fill: impl FnOnce(Pages)) {
    let all = Pages::map(STACK + ABOVE);
    fill(Pages {
        start: all.start + STACK,
        size: ABOVE,
    });
    // SAFETY: zeros are a valid value, and it is initialised next.
    let mut attributes = unsafe { std::mem::zeroed::<libc::pthread_attr_t>() };
    let mut thread = 0;
    // SAFETY: the stack is the thread's alone, and stays.
    unsafe {
        assert_eq!(libc::pthread_attr_init(&raw mut attributes), 0);
        let stack = all.pointer();
        assert_eq!(
            libc::pthread_attr_setstack(&raw mut attributes, stack, STACK),
            0
        );
        let started = libc::pthread_create(
            &raw mut thread,
            &raw const attributes,
            say_and_rest,
            std::ptr::null_mut(),
        );
        assert_eq!(started, 0);
        libc::pthread_join(thread, std::ptr::null_mut());
    }
}

/// Takes the first page of the old vDSO away, which comes back when it is touched.
fn take_text(then: impl FnOnce(Filled, Vec<u8>)) {
    // SAFETY: it asks for a number.
    let text = unsafe { libc::getauxval(libc::AT_SYSINFO_EHDR) } as usize;
    let page = Pages {
        start: text,
        size: PAGE,
    };
    // SAFETY: it can be read.
    let bytes = unsafe { std::slice::from_raw_parts(page.pointer().cast::<u8>(), PAGE) };
    let bytes = bytes.to_vec();
    let filled = Filled::register(page);
    // SAFETY: nothing of this program is in the vDSO, or will be.
    assert_eq!(
        unsafe { libc::madvise(page.pointer(), PAGE, libc::MADV_DONTNEED) },
        0
    );
    then(filled, bytes);
}

/// `struct uffdio_api`, `struct uffdio_register` and `struct uffdio_copy` of `linux/userfaultfd.h`.
#[derive(Debug, Default)]
#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[derive(Debug, Default)]
#[repr(C)]
struct Register {
    start: u64,
    length: u64,
    mode: u64,
    ioctls: u64,
}

#[derive(Debug, Default)]
#[repr(C)]
struct Copy {
    to: u64,
    from: u64,
    length: u64,
    mode: u64,
    copied: i64,
}

nix::ioctl_readwrite!(uffd_api, 0xaa, 0x3f, Api);
nix::ioctl_readwrite!(uffd_register, 0xaa, 0x00, Register);
nix::ioctl_readwrite!(uffd_copy, 0xaa, 0x03, Copy);

/// Memory that a `userfaultfd` fills.
#[derive(Debug)]
struct Filled {
    faults: File,
    pages: Pages,
}

impl Filled {
    fn register(pages: Pages) -> Self {
        let faults = userfaultfd().expect("this kernel has it");
        let mut api = Api {
            api: 0xaa,
            ..Api::default()
        };
        // SAFETY: the kernel reads and writes the structure.
        unsafe { uffd_api(faults.as_raw_fd(), &raw mut api) }.expect("the interface is known");
        let mut register = Register {
            start: pages.start as u64,
            length: pages.size as u64,
            // UFFDIO_REGISTER_MODE_MISSING
            mode: 1,
            ..Register::default()
        };
        // SAFETY: as above.
        unsafe { uffd_register(faults.as_raw_fd(), &raw mut register) }.expect("it is registered");
        Self { faults, pages }
    }

    /// Nobody reads from it.
    fn leak(self) {
        std::mem::forget(self.faults);
    }

    /// A thread brings these bytes, or zeros.
    fn serve(mut self, bytes: Vec<u8>) {
        thread::spawn(move || {
            let mut bytes = bytes;
            bytes.resize(PAGE, 0);
            loop {
                // `struct uffd_msg`: the address of a fault is at 16.
                let mut message = [0; 32];
                self.faults.read_exact(&mut message).expect("a fault");
                let at = u64::from_ne_bytes(std::array::from_fn(|index| message[16 + index]));
                let page = at & !(PAGE as u64 - 1);
                assert!((self.pages.start as u64..).contains(&page));
                let mut copy = Copy {
                    to: page,
                    from: bytes.as_ptr().addr() as u64,
                    length: PAGE as u64,
                    ..Copy::default()
                };
                // SAFETY: the page is missing until this fills it.
                let _ = unsafe { uffd_copy(self.faults.as_raw_fd(), &raw mut copy) };
            }
        });
    }
}

/// One that also waits for faults of the kernel, or the reason why there is none.
pub(crate) fn userfaultfd() -> std::io::Result<File> {
    // SAFETY: it takes a number.
    let opened = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) };
    match c_int::try_from(opened) {
        // SAFETY: the descriptor is new.
        Ok(descriptor) if descriptor >= 0 => Ok(unsafe { File::from_raw_fd(descriptor) }),
        _ => Err(std::io::Error::last_os_error()),
    }
}
