//! Processes whose old vDSO, or whose mappings of the kernel's, are not as a restore leaves them.
//! They are this program, executed again on a bed.

#![allow(unsafe_code, reason = "processes with all their corners")]

use std::ffi::c_int;
use std::thread;
use std::time::Duration;

use libtest_mimic::Trial;
use nix::libc;
use relocator_cli::source::Spec;
use relocator_process::tracing::ProcessMemory;
use relocator_tests::bed::PARK;
use relocator_tests::running::in_words;
use relocator_tests::trials::{ensure, trial};

use crate::bounded::{self, gives_up, goes_on, links, start};
use crate::hostile::{self, Pages, named, text};
use crate::linker::Linker;
use crate::odd::rest;
use crate::odd_processes::load;
use crate::places::{OLD, fetched};

/// A page of its old vDSO is not copied by `fork`, so that the kernel splits the mapping.
pub(crate) const SPLIT: &str = "split";
/// The program can write to its old vDSO.
pub(crate) const WRITABLE: &str = "writable";
/// It can write to the last page.
pub(crate) const PARTLY_WRITABLE: &str = "partly-writable";
/// A byte of a function is another one.
pub(crate) const CHANGED: &str = "changed";
/// A `userfaultfd` of its own asks it before mappings change.
pub(crate) const WATCHED: &str = "watched";
/// It has unmapped the kernel's vDSO.
pub(crate) const NO_KERNEL: &str = "no-kernel";
/// It has unmapped the data of the kernel's vDSO.
pub(crate) const NO_DATA: &str = "no-data";
/// It changes the limit of its stack all the time.
pub(crate) const CHANGING: &str = "changing";
/// It maps something where the kernel's vDSO was, as soon as that has moved.
pub(crate) const TAKING: &str = "taking";

/// Those that are linked.
const LINKED: [&str; 1] = [SPLIT];

/// Those that are refused, and in which words.
const REFUSED: [(&str, &str); 6] = [
    (WRITABLE, "the program can write to it"),
    (PARTLY_WRITABLE, "the program can write to it"),
    (CHANGED, "another program has changed it"),
    (WATCHED, "would have to answer while it is stopped"),
    (NO_KERNEL, "has no vDSO of the running kernel"),
    (NO_DATA, "has no [vvar]: there is nothing to link to"),
];

const PAGE: usize = 0x1000;

const READ: c_int = libc::PROT_READ;
const EXECUTE: c_int = libc::PROT_READ | libc::PROT_EXEC;
const ALL: c_int = EXECUTE | libc::PROT_WRITE;

pub(crate) fn trials(listing: bool) -> Vec<Trial> {
    let possible = fetched(listing);
    let watched = possible.clone().and_then(|()| {
        let opened = hostile::userfaultfd().map(drop);
        opened.map_err(|error| in_words(&error))
    });
    let mut trials = vec![
        trial("texts::changing", &possible, changing),
        trial("texts::taking", &possible, taking),
        trial("texts::too_many", &possible, too_many),
    ];
    for what in LINKED {
        let name = format!("texts::{what}");
        trials.push(trial(name, &possible, move || as_one_piece(what)));
    }
    for (what, words) in REFUSED {
        let possible = if what == WATCHED { &watched } else { &possible };
        let name = format!("texts::{what}");
        trials.push(trial(name, possible, move || gives_up(what, words)));
    }
    trials
}

pub(crate) fn live(what: &str) {
    let whole = old_text();
    let last = Pages {
        start: whole.start + whole.size - PAGE,
        size: PAGE,
    };
    match what {
        SPLIT => {
            // SAFETY: the memory stays what it is.
            let done = unsafe { libc::madvise(last.pointer(), PAGE, libc::MADV_DONTFORK) };
            assert_eq!(done, 0);
        }
        WRITABLE => protect(whole, ALL),
        PARTLY_WRITABLE => protect(last, ALL),
        CHANGED => overwrite(whole, |bytes| {
            // The last byte of the code: what is behind it is padding.
            let code = bytes.iter().rposition(|&byte| byte == 0xcc || byte == 0xc3);
            bytes[code.expect("it has code")] ^= 1;
        }),
        WATCHED => hostile::watch(whole),
        NO_KERNEL => unmap("[vdso]"),
        NO_DATA => unmap("[vvar]"),
        CHANGING => change_limits(),
        TAKING => {
            thread::spawn(take_place);
        }
        other => unreachable!("{other}"),
    }
    rest(0);
}

fn old_text() -> Pages {
    let found = named(|_, start| start == text()).pop();
    found.expect("it is mapped")
}

fn protect(pages: Pages, protection: c_int) {
    // SAFETY: nothing of this program is in the pages, or will be.
    let done = unsafe { libc::mprotect(pages.pointer(), pages.size, protection) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

fn overwrite(pages: Pages, change: impl FnOnce(&mut [u8])) {
    protect(pages, ALL);
    // SAFETY: nothing else refers to it.
    let bytes = unsafe { std::slice::from_raw_parts_mut(pages.pointer().cast(), pages.size) };
    change(bytes);
    protect(pages, EXECUTE);
}

fn unmap(name: &str) {
    for pages in named(|other, _| other == name) {
        // SAFETY: the program calls the old vDSO, if any.
        assert_eq!(unsafe { libc::munmap(pages.pointer(), pages.size) }, 0);
    }
}

fn change_limits() {
    thread::spawn(|| {
        for pages in (0..1 << 20).cycle() {
            let limit = libc::rlimit {
                rlim_cur: (8 << 20) + (pages << 12),
                rlim_max: libc::RLIM_INFINITY,
            };
            // SAFETY: the kernel reads the structure.
            let done = unsafe { libc::setrlimit(libc::RLIMIT_STACK, &raw const limit) };
            assert_eq!(done, 0);
        }
    });
}

/// Maps a page where the first of the kernel's mappings was.
fn take_place() {
    let place = PARK.0 as usize;
    let is_there = || !named(|_, start| start == place).is_empty();
    while is_there() {
        thread::sleep(Duration::from_millis(1));
    }
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
    let at = Pages {
        start: place,
        size: PAGE,
    };
    // SAFETY: nothing is replaced.
    let taken = unsafe { libc::mmap(at.pointer(), PAGE, READ, flags, -1, 0) };
    assert_eq!(taken, at.pointer());
}

/// It is linked and rolled back, and its text is one mapping then.
fn as_one_piece(what: &str) -> Result<(), String> {
    links(what)?;
    let linker = Linker::new(&Spec::Kernel(OLD.to_owned()))?;
    let mut odd = start(what)?;
    let text = odd.restored.text.clone();
    let read = || {
        let mut bytes = vec![0; (text.end.0 - text.start.0) as usize];
        let was_read = relocator::threads::Memory::read(
            &ProcessMemory::of(nix::unistd::Pid::from_raw(odd.pid())),
            text.start,
            &mut bytes,
        );
        ensure(was_read, || "the text cannot be read".to_owned()).map(|()| bytes)
    };
    let before = read()?;
    linker.apply(odd.pid())?;
    linker.roll_back(odd.pid())?;
    ensure(read()? == before, || "the text is another one".to_owned())?;
    goes_on(&mut odd)
}

/// More than the tool keeps in its memory.
fn too_many() -> Result<(), String> {
    let mut odd = load("texts", 8400, 0)?;
    let ended = bounded::apply(&odd)?;
    let is_refused = ended.status == Some(1)
        && ended
            .said
            .contains("take more memory than the tool looks at");
    ensure(is_refused, || format!("{ended:?}"))?;
    goes_on(&mut odd)
}

/// It is refused, unless the tool has met a moment in which nothing changed.
fn changing() -> Result<(), String> {
    let mut odd = start(CHANGING)?;
    let ended = bounded::apply(&odd)?;
    let is_clear = match ended.status {
        Some(0) => true,
        status => status == Some(1) && ended.said.contains("keeps changing its mappings"),
    };
    ensure(is_clear, || format!("{ended:?}"))?;
    goes_on(&mut odd)
}

/// What it has mapped there stays, and the process stays linked.
fn taking() -> Result<(), String> {
    let linker = Linker::new(&Spec::Kernel(OLD.to_owned()))?;
    let mut odd = start(TAKING)?;
    linker.apply(odd.pid())?;
    let pid = odd.pid();
    let is_taken = || {
        let maps = relocator_process::maps::of(pid);
        maps.is_ok_and(|maps| maps.iter().any(|map| map.range.start == PARK))
    };
    while !is_taken() {
        goes_on(&mut odd)?;
        thread::sleep(Duration::from_millis(1));
    }
    let said = linker.roll_back(odd.pid()).err().unwrap_or_default();
    ensure(said.contains("would have to go back to"), || said)?;
    goes_on(&mut odd)
}
