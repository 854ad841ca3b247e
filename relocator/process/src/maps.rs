//! The mappings of a process: the one reader of `/proc/PID/maps`, and of `smaps` for the flags that
//! only it has.
//!
//! The reader keeps names as the kernel writes them. Any program can give a file the name of one of
//! the kernel's mappings, and callers must see that.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;

use elf_tools::Avma;
use elf_tools::symtab::mapping_name;
use nix::errno::Errno;

use crate::targets::{Mapping, Protection};
use crate::tracing::shared_memory;

/// The names that the kernel gives to the mappings of its vDSO.
const KERNEL_NAMES: [&str; 3] = [
    mapping_name::VVAR,
    mapping_name::VVAR_VCLOCK,
    mapping_name::VDSO,
];

/// The mappings of a process, lowest first. A process that has ended and was not waited for has
/// none.
///
/// Errors: what the operating system says; `ESRCH` if there is no such process, and
/// [`io::ErrorKind::InvalidData`] if a line is not as `proc(5)` has it.
pub fn of(pid: i32) -> io::Result<Vec<Mapping>> {
    parse(&contents(&format!("/proc/{pid}/maps"))?)
}

/// The mappings of this process, lowest first. Errors are those of [`of`].
pub fn own() -> io::Result<Vec<Mapping>> {
    parse(&contents("/proc/self/maps")?)
}

/// The memory of a process that is not as most is: what `VmFlags` of `/proc/PID/smaps` say, one
/// reading. Errors are those of [`of`].
pub fn special(pid: i32) -> io::Result<SpecialMemory> {
    let bytes = contents(&format!("/proc/{pid}/smaps"))?;
    let text = String::from_utf8_lossy(&bytes);
    let mut found = SpecialMemory::default();
    let memory = shared_memory();
    let mut current = None;
    for line in text.lines() {
        if let Some(flags) = line.strip_prefix(FLAGS) {
            if let Some(mapping) = current.take() {
                found.add(mapping, flags);
            }
        } else if let Some(mapping) = mapping(line) {
            if mapping.protection.shared && memory.is_some() && device_of(line) == memory {
                found.shared.push(mapping.range.clone());
            }
            current = Some(mapping);
        }
    }
    Ok(found)
}

/// How many mappings are watched. A library has one or two for its states.
const WATCHED: usize = 16;

/// Tells of a stopped process whether mappings are still droppable, without having all of `smaps`
/// read: for that, the kernel goes through all pages of all mappings.
///
/// Each mapping has a file of its own that was read up to that mapping while the process ran. The
/// kernel writes one record more then.
#[derive(Debug)]
pub(crate) struct Watch {
    files: Vec<(Range<Avma>, File)>,
}

impl Watch {
    /// Of mappings of a process that runs; `None` if they are too many, or not where they were.
    pub(crate) fn begin(pid: i32, ranges: &[Range<Avma>]) -> Option<Self> {
        if ranges.len() > WATCHED {
            return None;
        }
        let path = format!("/proc/{pid}/smaps");
        let all = match ranges.is_empty() {
            true => Vec::new(),
            false => contents(&path).ok()?,
        };
        let files = ranges.iter().map(|range| {
            let file = read_up_to(&path, &all, range)?;
            Some((range.clone(), file))
        });
        let files = files.collect::<Option<_>>()?;
        Some(Self { files })
    }

    /// Whether these are the mappings, and each is droppable. It can be asked once.
    pub(crate) fn holds(&self, ranges: &[Range<Avma>]) -> bool {
        let is_it = |((known, file), range): (&(Range<Avma>, File), &Range<Avma>)| {
            let flags = (known == range).then(|| flags_of_next(file, range));
            flags.flatten().is_some_and(|flags| {
                let mut flags = flags.split_whitespace();
                flags.any(|flag| flag == "dp")
            })
        };
        self.files.len() == ranges.len() && self.files.iter().zip(ranges).all(is_it)
    }
}

/// What the kernel calls the flags of a mapping.
const FLAGS: &str = "VmFlags:";

/// `smaps`, read up to the record of a mapping as it is in `all`.
fn read_up_to(path: &str, all: &[u8], range: &Range<Avma>) -> Option<File> {
    let text = std::str::from_utf8(all).ok()?;
    let mut before = 0;
    for line in text.split_inclusive('\n') {
        if mapping(line.trim_end()).is_some_and(|mapping| mapping.range == *range) {
            break;
        }
        before += line.len();
    }
    let file = File::open(path).ok()?;
    let mut read = Vec::with_capacity(before);
    (&file).take(before as u64).read_to_end(&mut read).ok()?;
    // The kernel has written nothing of the record yet: it writes whole ones.
    let last = read.strip_suffix(b"\n").unwrap_or(&read);
    let last = last.rsplit(|byte| *byte == b'\n').next()?;
    (read.is_empty() || last.starts_with(FLAGS.as_bytes())).then_some(file)
}

/// The flags in the next record, if that is of a mapping.
fn flags_of_next(mut file: &File, range: &Range<Avma>) -> Option<String> {
    /// Bytes that are read at once. Where a read goes beyond the record, the kernel writes another
    /// one; the line of flags is the last one of a record, and longer than this.
    const PART: usize = 16;
    const LONGEST: usize = 4096;
    let mut record: Vec<u8> = Vec::new();
    let mut part = [0; PART];
    while record.len() < LONGEST {
        let last = record.rsplit(|byte| *byte == b'\n').next()?;
        let is_last = last.starts_with(FLAGS.as_bytes());
        let wanted = if is_last || last.is_empty() { 1 } else { PART };
        let read = file.read(&mut part[..wanted]).ok()?;
        record.extend_from_slice(&part[..read]);
        if read == 0 || is_last && part[0] == b'\n' {
            break;
        }
    }
    let text = String::from_utf8(record).ok()?;
    let mut lines = text.lines();
    let found = mapping(lines.next()?)?;
    let flags = lines.find_map(|line| line.strip_prefix(FLAGS))?;
    (found.range == *range).then(|| flags.to_owned())
}

/// The number of a device: major and minor.
pub(crate) type Device = (u32, u32);

/// The device of the file that is mapped at an address of a process; `None` if nothing is.
pub(crate) fn device_at(pid: i32, at: Avma) -> Option<Device> {
    let bytes = contents(&format!("/proc/{pid}/maps")).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let mut lines = text.lines();
    let line = lines.find(|line| mapping(line).is_some_and(|it| it.range.contains(&at)));
    device_of(line?)
}

/// The device of the file that a line of the list is about.
fn device_of(line: &str) -> Option<Device> {
    let (major, minor) = line.split(' ').nth(3)?.split_once(':')?;
    let number = |digits| u32::from_str_radix(digits, 16).ok();
    Some((number(major)?, number(minor)?))
}

/// Ranges of memory with flags.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialMemory {
    /// What the kernel may turn into zeros at any time (`MAP_DROPPABLE`), as it may states of
    /// `getrandom`: `dp`.
    pub droppable: Vec<Range<Avma>>,
    /// Anonymous memory of the process alone that is left out of core dumps (`MADV_DONTDUMP`), and
    /// is not droppable: `dd`. Memory that was droppable is so too, if a restore did not know that.
    pub undumped: Vec<Range<Avma>>,
    /// What another process fills when it is touched (`userfaultfd`): `um`.
    pub on_demand: Vec<Range<Avma>>,
    /// Memory without a file that is shared with other processes, or may be.
    pub shared: Vec<Range<Avma>>,
    /// What can be neither moved nor unmapped nor covered any more (`mseal`): `sl`.
    pub sealed: Vec<Range<Avma>>,
}

impl SpecialMemory {
    fn add(&mut self, mapping: Mapping, flags: &str) {
        let has = |wanted: &str| flags.split_whitespace().any(|flag| flag == wanted);
        let protection = mapping.protection;
        let is_own = protection.write && !protection.shared && !mapping.name.starts_with('/');
        if has("um") {
            self.on_demand.push(mapping.range.clone());
        }
        if has("sl") {
            self.sealed.push(mapping.range.clone());
        }
        if has("dp") {
            self.droppable.push(mapping.range);
        } else if has("dd") && is_own {
            self.undumped.push(mapping.range);
        }
    }
}

/// The name of a mapping if it is one that the kernel gives to the mappings of its vDSO, one of
/// [`mapping_name`].
pub fn kernel_name(mapping: &Mapping) -> Option<&'static str> {
    let mut names = KERNEL_NAMES.into_iter();
    names.find(|name| mapping.name == *name)
}

fn parse(bytes: &[u8]) -> io::Result<Vec<Mapping>> {
    // Names of files are bytes.
    let text = String::from_utf8_lossy(bytes);
    let malformed = |line: &str| {
        let reason = format!("its list of mappings has a malformed line: {line}");
        io::Error::new(io::ErrorKind::InvalidData, reason)
    };
    text.lines()
        .map(|line| mapping(line).ok_or_else(|| malformed(line)))
        .collect()
}

/// What is in a file that does not say how large it is. Few large reads take a fraction of the time
/// of many small ones.
fn contents(path: &str) -> io::Result<Vec<u8>> {
    const ROOM: usize = 64 << 10;
    let mut bytes = Vec::with_capacity(ROOM);
    let read = File::open(path).and_then(|mut file| file.read_to_end(&mut bytes));
    match read {
        Ok(_) => Ok(bytes),
        // A file of /proc is missing because the process is.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Errno::ESRCH.into()),
        Err(error) => Err(error),
    }
}

/// One line: range, protection, offset, device, inode, and perhaps a name.
fn mapping(line: &str) -> Option<Mapping> {
    let mut fields = line.splitn(6, ' ');
    let (start, end) = fields.next()?.split_once('-')?;
    let address = |digits| u64::from_str_radix(digits, 16).ok().map(Avma);
    let range = address(start)?..address(end)?;
    let flags = fields.next()?.as_bytes();
    let has = |index: usize, letter: u8| flags.get(index) == Some(&letter);
    let protection = Protection {
        read: has(0, b'r'),
        write: has(1, b'w'),
        execute: has(2, b'x'),
        shared: has(3, b's'),
    };
    let name = fields.nth(3).unwrap_or("").trim_start().to_owned();
    Some(Mapping {
        range,
        protection,
        name,
    })
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::ptr::NonNull;

    use nix::libc::{self, c_void};
    use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};
    use nix::unistd::Pid;

    use super::*;

    #[test]
    fn lines_are_taken_apart() {
        let parts = |line| {
            let mapping = mapping(line)?;
            let range = (mapping.range.start.0, mapping.range.end.0);
            Some((range, mapping.protection.to_string(), mapping.name))
        };
        let named =
            "7fff4a5ee000-7fff4a5f0000 r-xp 00000000 00:00 0                          [vdso]";
        let expected = ((0x7fff_4a5e_e000, 0x7fff_4a5f_0000), "r-xp", "[vdso]");
        let expected = Some((expected.0, expected.1.to_owned(), expected.2.to_owned()));
        assert_eq!(parts(named), expected);
        let nameless = "1000-2000 rw-s 00000000 00:00 0 ";
        let expected = Some(((0x1000, 0x2000), "rw-s".to_owned(), String::new()));
        assert_eq!(parts(nameless), expected);
        let odd = "1000-2000 ---p 00000000 08:01 12      /a  b [vdso] (deleted)";
        assert_eq!(parts(odd).unwrap().2, "/a  b [vdso] (deleted)");
        for bad in [
            "",
            "Rss: 4 kB",
            "1000 r-xp",
            "1000-20z0 r-xp 0 0 0",
            "VmFlags: rd",
        ] {
            assert_eq!(parts(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_line_says_which_device_a_file_is_on() {
        let line = |device: &str| format!("1000-2000 r--p 00000000 {device} 12      /a");
        assert_eq!(device_of(&line("fe:0a")), Some((254, 10)));
        assert_eq!(device_of(&line("fe")), None);
    }

    fn own_special() -> SpecialMemory {
        special(Pid::this().as_raw()).unwrap()
    }

    #[test]
    fn flags_tell_what_memory_is_for() {
        let mut found = SpecialMemory::default();
        let mut add = |line: &str, flags: &str| found.add(mapping(line).unwrap(), flags);
        add(
            "1000-2000 rw-p 00000000 00:00 0 ",
            " rd wr mr mw me wf dd nr dp",
        );
        add(
            "2000-3000 rw-p 00000000 00:00 0 ",
            " rd wr mr mw me wf dd nr",
        );
        add("3000-4000 rw-s 00000000 00:01 7 /memfd:a", " rd wr dd");
        add(
            "4000-5000 r--p 00000000 00:00 0  [vvar]",
            " rd mr pf io de dd",
        );
        add("5000-6000 rw-p 00000000 00:00 0 ", " rd wr mr mw me um");
        add("6000-7000 rw-p 00000000 00:00 0  [anon:a]", " rd wr dd ac");
        add("7000-8000 rw-p 00000000 00:00 0 ", " rd wr ac");
        add("8000-9000 r-xp 00000000 00:00 0 ", " rd ex mr mw me sl");
        let page = |at: u64| Avma(at)..Avma(at + 0x1000);
        let expected = SpecialMemory {
            droppable: vec![page(0x1000)],
            undumped: vec![page(0x2000), page(0x6000)],
            on_demand: vec![page(0x5000)],
            sealed: vec![page(0x8000)],
            shared: Vec::new(),
        };
        assert_eq!(found, expected);
    }

    /// `MAP_DROPPABLE`, since Linux 6.11.
    const DROPPABLE: i32 = 8;

    /// Memory of a kind, of three pages.
    fn map(kind: i32, at: Option<NonZeroUsize>) -> nix::Result<NonNull<c_void>> {
        let size = NonZeroUsize::new(SIZE).unwrap();
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let fixed = if at.is_some() { libc::MAP_FIXED } else { 0 };
        let flags = MapFlags::from_bits_retain(kind | fixed);
        // SAFETY: new memory is mapped where the kernel likes, or over what nobody uses.
        unsafe { mmap_anonymous(at, size, protection, flags) }
    }

    const SIZE: usize = 0x3000;

    #[test]
    fn a_watch_tells_when_memory_is_no_longer_droppable() {
        let Ok(start) = map(DROPPABLE, None) else {
            // An older kernel, which has no such memory.
            return;
        };
        let own = Pid::this().as_raw();
        let at = Avma(start.addr().get() as u64);
        let range = at..at.offset(SIZE as i64);
        // Other tests map memory meanwhile.
        let begin = || Watch::begin(own, std::slice::from_ref(&range));
        let watch = || {
            std::iter::repeat_with(begin)
                .find_map(|watch| watch)
                .unwrap()
        };
        let (first, other) = (watch(), watch());
        assert!(first.holds(std::slice::from_ref(&range)));
        assert!(!other.holds(&[]));
        let late = watch();
        map(libc::MAP_PRIVATE, Some(start.addr())).unwrap();
        assert!(!late.holds(std::slice::from_ref(&range)));
        assert!(!watch().holds(std::slice::from_ref(&range)));
        // SAFETY: nobody uses it.
        unsafe { munmap(start, SIZE) }.unwrap();
    }

    #[test]
    fn droppable_memory_of_this_process_is_found() {
        let mapped = map(DROPPABLE, None);
        let Ok(start) = mapped else {
            // An older kernel, which has no such memory.
            assert!(own_special().droppable.is_empty());
            return;
        };
        let expected = Avma(start.addr().get() as u64);
        let found = own_special().droppable;
        assert!(
            found.iter().any(|range| range.contains(&expected)),
            "{found:?}"
        );
        // SAFETY: nobody uses it.
        unsafe { munmap(start, SIZE) }.unwrap();
    }
}
