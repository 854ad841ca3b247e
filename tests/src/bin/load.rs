//! A process with much of something: threads, mappings, memory of a kind. It says a line when it
//! has all of it, and sleeps until it is killed.

#![allow(
    unsafe_code,
    reason = "mappings, and threads that are given their stacks"
)]

use std::ffi::{c_int, c_void};
use std::io::Write;
use std::ptr::null_mut;

use clap::{Parser, ValueEnum};
use nix::libc;

/// A process with much of something, which says a line when it has it and sleeps.
#[derive(Parser)]
struct Arguments {
    /// Of what.
    kind: Kind,
    /// How much: a number, or bytes.
    #[arg(default_value_t = 0)]
    amount: usize,
    /// How many threads it has besides.
    #[arg(long, default_value_t = 0)]
    threads: usize,
}

/// What there is much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Nothing.
    Nothing,
    /// Mappings of one page.
    Mappings,
    /// Bytes of one mapping that has the stacks of all threads, no guard pages, and is in use.
    Stacks,
    /// Bytes above the stack pointer of a thread, all of them contexts that no signal has left.
    Forged,
    /// Bytes of droppable memory that was not touched.
    Droppable,
    /// Bytes of memory that is in use.
    Resident,
    /// Bytes of memory that was not touched.
    Reserved,
    /// Bytes of code that was not touched.
    Code,
    /// Copies of the old vDSO.
    Texts,
    /// Mappings of one file of a mebibyte that has the old vDSO.
    Files,
    /// Bytes of the main stack below its pointer that were in use.
    MainStack,
}

const PAGE: usize = 0x1000;

const READ: c_int = libc::PROT_READ;
const WRITE: c_int = libc::PROT_READ | libc::PROT_WRITE;
const EXECUTE: c_int = libc::PROT_READ | libc::PROT_EXEC;

const PRIVATE: c_int = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;

/// `MAP_DROPPABLE`, since Linux 6.11.
const DROPPABLE: c_int = 8;

/// Bytes of a stack.
const STACK: usize = 64 << 10;

fn main() {
    let arguments = Arguments::parse();
    let Arguments {
        kind,
        amount,
        threads,
    } = arguments;
    let mut stacks = None;
    match kind {
        Kind::Nothing => {}
        Kind::Mappings => {
            // Neighbours are of different kinds, so that the kernel does not join them.
            let memory = map(amount * PAGE, READ, PRIVATE);
            for page in (0..amount).step_by(2) {
                protect(memory.wrapping_byte_add(page * PAGE), PAGE, WRITE);
            }
        }
        Kind::Stacks | Kind::Forged => {
            let memory = map(amount, WRITE, PRIVATE);
            fill(memory, amount, kind == Kind::Forged);
            stacks = Some((memory, amount / threads.max(1)));
        }
        Kind::Droppable => drop(map(amount, WRITE, DROPPABLE | libc::MAP_ANONYMOUS)),
        Kind::Resident => fill(map(amount, WRITE, PRIVATE), amount, false),
        Kind::Reserved => drop(map(amount, WRITE, PRIVATE | libc::MAP_NORESERVE)),
        Kind::Code => drop(map(amount, EXECUTE, PRIVATE | libc::MAP_NORESERVE)),
        Kind::Texts => {
            let text = old_text();
            for _ in 0..amount {
                // Room for its record is free behind each.
                let memory = map(text.len() + ROOM, WRITE, PRIVATE);
                let behind = memory.wrapping_byte_add(text.len());
                // SAFETY: nobody uses it.
                assert_eq!(unsafe { libc::munmap(behind, ROOM) }, 0);
                // SAFETY: there is room for it.
                unsafe {
                    memory
                        .cast::<u8>()
                        .copy_from_nonoverlapping(text.as_ptr(), text.len())
                };
                protect(memory, text.len(), EXECUTE);
            }
        }
        Kind::Files => map_files(amount),
        Kind::MainStack => drop(use_stack(amount)),
    }
    for index in 0..threads {
        match stacks {
            Some((memory, size)) if size >= STACK => {
                begin(memory.wrapping_byte_add(index * size), STACK);
            }
            _ => begin(map(STACK, WRITE, PRIVATE), STACK),
        }
    }
    let mut output = std::io::stdout();
    let said = writeln!(output, "0").and_then(|()| output.flush());
    said.expect("somebody listens");
    rest();
}

fn rest() -> ! {
    loop {
        nix::unistd::pause();
    }
}

fn map(size: usize, protection: c_int, flags: c_int) -> *mut c_void {
    // SAFETY: new memory.
    let memory = unsafe { libc::mmap(null_mut(), size, protection, flags, -1, 0) };
    assert_ne!(
        memory,
        libc::MAP_FAILED,
        "{}",
        std::io::Error::last_os_error()
    );
    memory
}

fn protect(memory: *mut c_void, size: usize, protection: c_int) {
    // SAFETY: nothing refers to the memory.
    let done = unsafe { libc::mprotect(memory, size, protection) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

/// Memory that is in use, or full of contexts.
fn fill(memory: *mut c_void, size: usize, forged: bool) {
    // SAFETY: nothing else refers to it.
    let bytes = unsafe { std::slice::from_raw_parts_mut(memory.cast::<u8>(), size) };
    match forged {
        false => bytes.fill(0x33),
        true => {
            let entry = entry();
            let places = bytes.chunks_exact_mut(CONTEXT);
            places.for_each(|place| forge(place, entry));
        }
    }
}

/// Bytes that are free behind a copy of a text: fewer than the next one takes.
const ROOM: usize = 2 * PAGE;

/// From one forged context to the next.
const CONTEXT: usize = 512;

/// Where a function of the old vDSO begins.
fn entry() -> u64 {
    let image = elf_tools::image::Image::parse(old_text()).expect("an image");
    let export = image.exports().first().expect("a function");
    let start = old_text().as_ptr().addr() as u64;
    export.address.at(elf_tools::Avma(start)).0
}

/// What a search takes for a context, at an entry of the old vDSO: it has no floating point
/// state, and what its handler returns to cannot be read.
fn forge(place: &mut [u8], entry: u64) {
    const AT: usize = 16;
    let at = place.as_ptr().addr() as u64;
    let mut put = |offset: usize, word: u64| {
        place[AT + offset..][..8].copy_from_slice(&word.to_le_bytes());
    };
    // Below: where the handler returns to.
    for (offset, word) in [
        // The mode of the alternate stack: none.
        (24, 2),
        // The stack pointer, the program counter, the flags and the segments.
        (160, at),
        (168, entry),
        (176, 0x246),
        (184, 0x002b_0000_0000_0033),
    ] {
        put(offset, word);
    }
    place[AT - 8..AT].copy_from_slice(&(at & 0xffff_ffff | 1 << 46).to_le_bytes());
}

/// The old vDSO, as the auxiliary vector names it.
fn old_text() -> &'static [u8] {
    // SAFETY: it asks for a number.
    let at = unsafe { libc::getauxval(libc::AT_SYSINFO_EHDR) } as usize;
    let size = 2 * PAGE;
    // SAFETY: vDSOs have two pages at least, which can be read.
    unsafe { std::slice::from_raw_parts(std::ptr::with_exposed_provenance(at), size) }
}

fn map_files(count: usize) {
    const SIZE: usize = 1 << 20;
    let path = std::env::temp_dir().join(format!("load-{}", std::process::id()));
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .expect("a file");
    std::fs::remove_file(&path).expect("it is there");
    (&file).write_all(old_text()).expect("there is room");
    file.set_len(SIZE as u64).expect("there is room");
    let descriptor = std::os::fd::AsRawFd::as_raw_fd(&file);
    for _ in 0..count {
        // SAFETY: new memory.
        let memory =
            unsafe { libc::mmap(null_mut(), SIZE, EXECUTE, libc::MAP_PRIVATE, descriptor, 0) };
        assert_ne!(
            memory,
            libc::MAP_FAILED,
            "{}",
            std::io::Error::last_os_error()
        );
    }
}

/// Uses that much of the main stack.
fn use_stack(amount: usize) -> u8 {
    let bytes = [1u8; 64 << 10];
    let bytes = std::hint::black_box(&bytes);
    match amount.checked_sub(bytes.len()) {
        Some(rest) => use_stack(rest).wrapping_add(bytes[rest % bytes.len()]),
        None => bytes[amount],
    }
}

extern "C" fn sleep(_: *mut c_void) -> *mut c_void {
    rest();
}

fn begin(stack: *mut c_void, size: usize) {
    // SAFETY: zeros are a valid value, and it is initialised next.
    let mut attributes = unsafe { std::mem::zeroed::<libc::pthread_attr_t>() };
    let mut thread = 0;
    // SAFETY: it is written.
    let initialised = unsafe { libc::pthread_attr_init(&raw mut attributes) };
    assert_eq!(initialised, 0);
    // SAFETY: the stack is the thread's alone, and stays.
    let set = unsafe { libc::pthread_attr_setstack(&raw mut attributes, stack, size) };
    assert_eq!(set, 0);
    let attributes = &raw const attributes;
    // SAFETY: the thread takes nothing.
    let begun = unsafe { libc::pthread_create(&raw mut thread, attributes, sleep, null_mut()) };
    assert_eq!(begun, 0, "{}", std::io::Error::from_raw_os_error(begun));
}
