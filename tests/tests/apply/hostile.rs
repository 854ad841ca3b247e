//! Processes that bring their own memory when it is touched, and never or late. They are this
//! program, executed again on a bed.

#![allow(unsafe_code, reason = "processes with all their corners")]

use std::ffi::{c_int, c_void};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;

use nix::libc;
use relocator_tests::odd::control;

use crate::odd::{rest, say, say_and_rest};
use crate::served;

/// A `userfaultfd` fills what is above the stack pointer of a thread, and nobody reads from it.
pub(crate) const STACK_UNSERVED: &str = "stack-unserved";
/// The same, and a thread of the process reads from it.
pub(crate) const STACK_SERVED: &str = "stack-served";
/// The same for the first page of the old vDSO.
pub(crate) const TEXT_UNSERVED: &str = "text-unserved";
/// The same, and a thread brings what was there.
pub(crate) const TEXT_SERVED: &str = "text-served";

/// Its old vDSO is sealed.
pub(crate) const SEALED_TEXT: &str = "sealed-text";
/// The kernel's mappings are.
pub(crate) const SEALED_KERNEL: &str = "sealed-kernel";
/// It must not make data executable.
pub(crate) const NO_NEW_CODE: &str = "no-new-code";
/// Its system calls may go to itself, and do not at the moment.
pub(crate) const DISPATCHING: &str = "dispatching";
/// They do, but for those of libc.
pub(crate) const DISPATCHED: &str = "dispatched";
/// It has all the address space that it may have.
pub(crate) const FULL_SPACE: &str = "full-space";
/// It has all the private memory that it may have.
pub(crate) const FULL_DATA: &str = "full-data";
/// It has as many mappings as there can be.
pub(crate) const FULL_MAPPINGS: &str = "full-mappings";
/// Its old vDSO cannot be read.
pub(crate) const EXECUTE_ONLY: &str = "execute-only";
/// Its first thread has ended.
pub(crate) const HEADLESS: &str = "headless";
/// It has files in its memory that it serves itself, and has not looked at.
pub(crate) const FILES_SERVED: &str = "files-served";
/// The same, and no file is ever answered for.
pub(crate) const FILES_UNSERVED: &str = "files-unserved";
/// The stack of a thread is next to memory of such a file.
pub(crate) const FILE_STACK_SERVED: &str = "file-stack-served";
/// The same, and no file is ever answered for.
pub(crate) const FILE_STACK_UNSERVED: &str = "file-stack-unserved";
/// It uses most of its main stack when it is told to.
pub(crate) const DEEP: &str = "deep";

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
        SEALED_TEXT => {
            let text = named(|_, start| start == text());
            text.iter().for_each(|pages| seal(*pages));
            rest(0);
        }
        SEALED_KERNEL => {
            let kernel = named(|name, _| ["[vdso]", "[vvar]", "[vvar_vclock]"].contains(&name));
            kernel.iter().for_each(|pages| seal(*pages));
            rest(0);
        }
        NO_NEW_CODE => {
            // PR_MDWE_REFUSE_EXEC_GAIN
            control(libc::PR_SET_MDWE, 1, 0);
            rest(0);
        }
        DISPATCHING => dispatch(0, Pages { start: 0, size: 0 }),
        DISPATCHED => {
            let own = libc::pause as *const () as usize;
            let libc = named(|_, start| start <= own);
            let libc = libc
                .into_iter()
                .rfind(|pages| own < pages.start + pages.size);
            dispatch(1, libc.expect("libc is mapped"));
        }
        FULL_SPACE => limit(libc::RLIMIT_AS, "VmSize:"),
        FULL_DATA => limit(libc::RLIMIT_DATA, "VmData:"),
        FULL_MAPPINGS => {
            map_all();
            rest(0);
        }
        EXECUTE_ONLY => {
            for pages in named(|_, start| start == text()) {
                // SAFETY: it is executed as before.
                let done = unsafe { libc::mprotect(pages.pointer(), pages.size, libc::PROT_EXEC) };
                assert_eq!(done, 0);
            }
            rest(0);
        }
        HEADLESS => end_alone(),
        FILES_SERVED | FILES_UNSERVED => {
            let file = served::file(what == FILES_SERVED);
            for _ in 0..20 {
                served::map(&file, libc::PROT_READ | libc::PROT_EXEC, None);
            }
            // When the process ends, nobody answers for files that it has open.
            drop(file);
            rest(0);
        }
        FILE_STACK_SERVED | FILE_STACK_UNSERVED => {
            let file = served::file(what == FILE_STACK_SERVED);
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            on_stack(|above| {
                served::map(&file, protection, Some(above));
                drop(file);
            });
        }
        DEEP => {
            say(0);
            let mut told = [0];
            std::io::stdin().read_exact(&mut told).expect("it is told");
            let used = dig(DEEP_BYTES);
            say(i32::from(used));
            rest(0);
        }
        other => crate::texts::live(other),
    }
}

/// How much of the main stack that is, of the usual 8 MiB.
const DEEP_BYTES: usize = (7 << 20) + (768 << 10);

/// Uses that much of the stack.
fn dig(bytes: usize) -> u8 {
    let page = [1u8; 16 << 10];
    let page = std::hint::black_box(&page);
    match bytes.checked_sub(page.len() + (1 << 10)) {
        Some(rest) => dig(rest).max(page[rest % page.len()]),
        None => page[0],
    }
}

/// Where the old vDSO begins.
pub(crate) fn text() -> usize {
    // SAFETY: it asks for a number.
    unsafe { libc::getauxval(libc::AT_SYSINFO_EHDR) as usize }
}

/// Mappings of this process of which the name and the start are such.
pub(crate) fn named(is_it: impl Fn(&str, usize) -> bool) -> Vec<Pages> {
    let own = relocator_process::maps::own().expect("its mappings");
    let own = own.iter().map(|mapping| {
        let start = mapping.range.start.0 as usize;
        let size = mapping.size() as usize;
        (mapping.name.as_str(), Pages { start, size })
    });
    let found = own.filter(|(name, pages)| is_it(name, pages.start));
    found.map(|(_, pages)| pages).collect()
}

fn seal(pages: Pages) {
    const MSEAL: libc::c_long = 462;
    // SAFETY: nothing about the memory is changed but that it cannot be changed.
    let done = unsafe { libc::syscall(MSEAL, pages.start, pages.size, 0) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

/// Whether this kernel can seal memory.
pub(crate) fn can_seal() -> Result<(), String> {
    let page = Pages::map(PAGE);
    const MSEAL: libc::c_long = 462;
    // SAFETY: as above; nobody uses the page.
    match unsafe { libc::syscall(MSEAL, page.start, PAGE, 0) } {
        0 => Ok(()),
        _ => Err(format!("mseal: {}", std::io::Error::last_os_error())),
    }
}

/// System calls from everywhere but these pages go to this process while the selector is 1.
fn dispatch(selector: u8, exempt: Pages) -> ! {
    static SELECTOR: AtomicU8 = AtomicU8::new(0);
    /// `PR_SET_SYSCALL_USER_DISPATCH`, `PR_SYS_DISPATCH_ON`
    const DISPATCH: (c_int, usize) = (59, 1);
    let selected = SELECTOR.as_ptr();
    // SAFETY: the selector stays where it is.
    let done = unsafe { libc::prctl(DISPATCH.0, DISPATCH.1, exempt.start, exempt.size, selected) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    say(0);
    SELECTOR.store(selector, SeqCst);
    loop {
        // SAFETY: it waits.
        unsafe { libc::pause() };
    }
}

/// May have no more of something than it has.
fn limit(resource: libc::__rlimit_resource_t, line: &str) -> ! {
    let status = std::fs::read_to_string("/proc/self/status").expect("its status");
    let value = status.lines().find_map(|each| each.strip_prefix(line));
    let kib = value.and_then(|value| value.trim().split(' ').next()?.parse::<u64>().ok());
    let bytes = kib.expect("a number") * 1024;
    let limit = libc::rlimit {
        rlim_cur: bytes,
        rlim_max: libc::RLIM_INFINITY,
    };
    say(0);
    // SAFETY: the kernel reads the structure.
    assert_eq!(unsafe { libc::setrlimit(resource, &raw const limit) }, 0);
    loop {
        nix::unistd::pause();
    }
}

/// Maps pages until there can be no more mappings.
fn map_all() {
    let most = std::fs::read_to_string("/proc/sys/vm/max_map_count").expect("a limit");
    let pages = 2 * most.trim().parse::<usize>().expect("a number");
    let all = Pages::map(pages * PAGE);
    for page in (0..pages).step_by(2) {
        let at = all.pointer().wrapping_byte_add(page * PAGE);
        // SAFETY: nobody uses the page.
        if unsafe { libc::mprotect(at, PAGE, libc::PROT_READ) } != 0 {
            return;
        }
    }
}

/// The main thread ends, and another one sleeps.
fn end_alone() -> ! {
    thread::spawn(|| {
        let stat = format!("/proc/{}/stat", std::process::id());
        while !std::fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") Z ")) {
            thread::yield_now();
        }
        rest(0);
    });
    // SAFETY: nothing of this thread is needed any more; its stack stays.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
    unreachable!("it has ended");
}

/// Pages of this process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pages {
    pub(crate) start: usize,
    pub(crate) size: usize,
}

impl Pages {
    pub(crate) fn map(size: usize) -> Self {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: new memory.
        let memory = unsafe { libc::mmap(std::ptr::null_mut(), size, protection, flags, -1, 0) };
        assert_ne!(memory, libc::MAP_FAILED);
        let start = memory.addr();
        Self { start, size }
    }

    pub(crate) fn pointer(self) -> *mut c_void {
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
    // SAFETY: it is written.
    let initialised = unsafe { libc::pthread_attr_init(&raw mut attributes) };
    assert_eq!(initialised, 0);
    // SAFETY: the stack is the thread's alone, and stays.
    let set = unsafe { libc::pthread_attr_setstack(&raw mut attributes, all.pointer(), STACK) };
    assert_eq!(set, 0);
    let (attributes, nothing) = (&raw const attributes, std::ptr::null_mut());
    // SAFETY: the thread takes nothing.
    let begun = unsafe { libc::pthread_create(&raw mut thread, attributes, say_and_rest, nothing) };
    assert_eq!(begun, 0);
    // SAFETY: it was begun, and nobody else waits for it.
    unsafe { libc::pthread_join(thread, std::ptr::null_mut()) };
}

/// Takes the first page of the old vDSO away, which comes back when it is touched.
fn take_text(then: impl FnOnce(Filled, Vec<u8>)) {
    let page = Pages {
        start: text(),
        size: PAGE,
    };
    // SAFETY: it can be read.
    let bytes = unsafe { std::slice::from_raw_parts(page.pointer().cast::<u8>(), PAGE) };
    let bytes = bytes.to_vec();
    // The kernel would split the mapping where only a part of it was registered.
    let whole = named(|_, start| start == text()).pop();
    let filled = Filled::register(whole.expect("it is mapped"));
    // SAFETY: nothing of this program is in the vDSO, or will be.
    let dropped = unsafe { libc::madvise(page.pointer(), PAGE, libc::MADV_DONTNEED) };
    assert_eq!(dropped, 0);
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

/// Has the process asked before these pages move, or are unmapped. Nobody answers.
pub(crate) fn watch(pages: Pages) {
    // UFFD_FEATURE_EVENT_REMAP and UFFD_FEATURE_EVENT_UNMAP
    Filled::with(pages, 1 << 2 | 1 << 6).leak();
}

impl Filled {
    fn register(pages: Pages) -> Self {
        Self::with(pages, 0)
    }

    fn with(pages: Pages, features: u64) -> Self {
        let faults = userfaultfd().expect("this kernel has it");
        let mut api = Api {
            api: 0xaa,
            features,
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
                let all = self.pages.start as u64..(self.pages.start + self.pages.size) as u64;
                assert!(all.contains(&page));
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
