//! Files that a process serves itself (FUSE), in its own memory. `linux/fuse.h` has the protocol.

#![allow(unsafe_code, reason = "mounting, and mapping what is mounted")]

use std::ffi::{CString, c_int};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::thread;

use nix::libc;

use crate::hostile::Pages;

/// Bytes of the file.
const SIZE: u64 = 1 << 16;

/// The number of its node; that of the directory is 1.
const NODE: u64 = 2;

/// Kinds of requests.
const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const RELEASE: u32 = 18;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const INTERRUPT: u32 = 36;
const MANY_FORGET: u32 = 42;

/// Bytes before what belongs to a kind of request.
const HEADER: usize = 40;

/// A file that a thread of this process serves: its names and sizes, and what it has if `answers`.
pub(crate) fn file(answers: bool) -> File {
    let device = File::options().read(true).write(true).open("/dev/fuse");
    let device = device.expect("there is such a device");
    // SAFETY: only this process sees what is mounted.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, 0);
    mount("none", "/", None, libc::MS_REC | libc::MS_PRIVATE, "");
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0",
        device.as_raw_fd()
    );
    mount("served", "/mnt", Some("fuse"), 0, &options);
    let requests = device.as_fd().try_clone_to_owned().expect("a descriptor");
    std::mem::forget(device);
    thread::spawn(move || serve(File::from(requests), answers));
    File::options()
        .read(true)
        .open("/mnt/file")
        .expect("it is there")
}

/// Whether there can be such files, or why not.
pub(crate) fn can_be() -> Result<(), String> {
    // SAFETY: it asks for a number.
    match (unsafe { libc::geteuid() }, File::open("/dev/fuse")) {
        (0, Ok(_)) => Ok(()),
        (0, Err(error)) => Err(format!("/dev/fuse: {error}")),
        _ => Err("only root can mount a file system".to_owned()),
    }
}

/// Maps it, at a place if one is given.
pub(crate) fn map(file: &File, protection: c_int, place: Option<Pages>) {
    let fixed = place.map_or(0, |_| libc::MAP_FIXED);
    let flags = libc::MAP_PRIVATE | fixed;
    let size = place.map_or(SIZE as usize, |place| place.size);
    let at = place.map_or(std::ptr::null_mut(), Pages::pointer);
    // SAFETY: what is at the place is nobody's.
    let memory = unsafe { libc::mmap(at, size, protection, flags, file.as_raw_fd(), 0) };
    assert_ne!(
        memory,
        libc::MAP_FAILED,
        "{}",
        std::io::Error::last_os_error()
    );
}

fn mount(what: &str, place: &str, kind: Option<&str>, flags: libc::c_ulong, options: &str) {
    let text = |text: &str| CString::new(text).expect("text");
    let (what, place, options) = (text(what), text(place), text(options));
    let kind = kind.map(text);
    let kind = kind.as_ref().map_or(std::ptr::null(), |kind| kind.as_ptr());
    let options = options.as_ptr().cast();
    // SAFETY: the kernel reads the texts.
    let done = unsafe { libc::mount(what.as_ptr(), place.as_ptr(), kind, flags, options) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

fn serve(mut requests: File, answers: bool) {
    let mut buffer = vec![0; 1 << 17];
    loop {
        let size = requests.read(&mut buffer).expect("a request");
        let request = &buffer[..size];
        let half = |at: usize| u32::from_ne_bytes(std::array::from_fn(|byte| request[at + byte]));
        let (kind, unique) = (half(4), &request[8..16]);
        let node = u64::from(half(16));
        let answer = match kind {
            FORGET | MANY_FORGET | INTERRUPT => continue,
            READ if !answers => continue,
            INIT => init(),
            LOOKUP => [words(&[NODE, 0, 3600, 3600, 0]), attributes(NODE)].concat(),
            GETATTR => [words(&[3600, 0]), attributes(node)].concat(),
            OPEN => words(&[0, 0]),
            READ => vec![0; half(HEADER + 16) as usize],
            RELEASE | FLUSH => Vec::new(),
            _ => {
                reply(&mut requests, unique, -libc::ENOSYS, &[]);
                continue;
            }
        };
        reply(&mut requests, unique, 0, &answer);
    }
}

fn reply(requests: &mut File, unique: &[u8], error: c_int, answer: &[u8]) {
    let size = (16 + answer.len()) as u32;
    let parts = [&size.to_ne_bytes(), &error.to_ne_bytes(), unique, answer];
    // Whoever has asked may be gone.
    let _ = requests.write(&parts.concat());
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// `struct fuse_init_out` of version 7.31: the rest are zeros.
fn init() -> Vec<u8> {
    let mut answer = vec![0; 64];
    answer[0..4].copy_from_slice(&7u32.to_ne_bytes());
    answer[4..8].copy_from_slice(&31u32.to_ne_bytes());
    answer[20..24].copy_from_slice(&0x1000u32.to_ne_bytes());
    answer
}

/// `struct fuse_attr`
fn attributes(node: u64) -> Vec<u8> {
    let (mode, size) = match node {
        NODE => (libc::S_IFREG | 0o755, SIZE),
        _ => (libc::S_IFDIR | 0o755, 0),
    };
    let mut attributes = words(&[node, size, size / 512, 0, 0, 0]);
    for half in [0, 0, 0, mode, 1, 0, 0, 0, 0x1000, 0] {
        attributes.extend(u32::to_ne_bytes(half));
    }
    attributes
}
