//! Which pages of a process hold anything, and which are guards.
//!
//! The kernel says so by the file `/proc/PID/pagemap`: from Linux 6.7 on by its ioctl
//! `PAGEMAP_SCAN`, which skips what is empty and from 6.15 on names guard pages
//! (`MADV_GUARD_INSTALL`); before, by eight bytes for each page.
//! `Documentation/admin-guide/mm/pagemap.rst`

#![allow(
    unsafe_code,
    reason = "an ioctl that has no safe interface; its buffers are borrowed for the call"
)]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use elf_tools::Avma;
use nix::errno::Errno;
use nix::unistd::Pid;
use relocator::placement::PAGE;
use relocator::threads::Populated;

/// `struct pm_scan_arg`, of `linux/fs.h`.
#[derive(Debug, Default)]
#[repr(C)]
struct ScanArguments {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    regions: u64,
    region_count: u64,
    max_pages: u64,
    inverted: u64,
    all_of: u64,
    any_of: u64,
    returned: u64,
}

/// `struct page_region`
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

/// `PAGE_IS_PRESENT`, `PAGE_IS_SWAPPED`, `PAGE_IS_PFNZERO`, `PAGE_IS_GUARD`
const PRESENT: u64 = 1 << 3;
const SWAPPED: u64 = 1 << 4;
const ZERO: u64 = 1 << 5;
const GUARD: u64 = 1 << 8;

/// In the highest byte of the number of a page: bit 63 says that it is present, bit 62 that it was
/// swapped out.
const PRESENT_BIT: u8 = 0x80;
const SWAPPED_BIT: u8 = 0x40;

/// How many regions the kernel returns at once.
const REGIONS: usize = 64;

nix::ioctl_readwrite!(
    /// `PAGEMAP_SCAN`
    pagemap_scan,
    b'f',
    16,
    ScanArguments
);

/// What the kernel can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Interface {
    /// Regions, with guard pages.
    Guards,
    /// Regions. A guard page looks like one that was swapped out.
    Regions,
    /// A number for each page.
    Numbers,
}

/// Pages that were found.
struct Found {
    pages: Vec<Range<u64>>,
    /// How far the answer goes.
    end: u64,
    at_guard: bool,
}

/// The pages of a process.
#[derive(Debug)]
pub(crate) struct Pagemap {
    file: File,
    interface: AtomicU8,
}

impl Pagemap {
    /// Of a process that may be traced.
    pub(crate) fn open(pid: Pid) -> io::Result<Self> {
        let file = File::open(format!("/proc/{pid}/pagemap"))?;
        let interface = AtomicU8::new(Interface::Guards as u8);
        Ok(Self { file, interface })
    }

    /// What of a range of private anonymous memory may hold anything but zeros, up to the first
    /// guard page, or to where that has `enough` bytes.
    pub(crate) fn populated(&self, range: Range<Avma>, enough: u64) -> io::Result<Populated> {
        let start = range.start.0 / PAGE * PAGE;
        let end = range.end.0.next_multiple_of(PAGE);
        let Found {
            pages,
            end,
            at_guard,
        } = match self.interface() {
            Interface::Numbers => self.numbers(start..end, enough)?,
            interface => match self.scan(start..end, enough, interface == Interface::Guards) {
                // The kernel does not know the category, or the request.
                Err(Errno::EINVAL) if interface == Interface::Guards => {
                    return self.without(Interface::Regions, range, enough);
                }
                Err(_) => return self.without(Interface::Numbers, range, enough),
                Ok(found) => found,
            },
        };
        let cut = |part: Range<u64>| {
            let part = part.start.max(range.start.0)..part.end.min(range.end.0);
            (!part.is_empty()).then_some(Avma(part.start)..Avma(part.end))
        };
        Ok(Populated {
            parts: pages.into_iter().filter_map(cut).collect(),
            absent: Vec::new(),
            at_guard,
            end: Avma(end.clamp(range.start.0, range.end.0)),
        })
    }

    fn interface(&self) -> Interface {
        let known = [Interface::Guards, Interface::Regions];
        let now = self.interface.load(Relaxed);
        let mut known = known.into_iter();
        let found = known.find(|interface| *interface as u8 == now);
        found.unwrap_or(Interface::Numbers)
    }

    /// The same by another interface, from now on.
    fn without(
        &self,
        interface: Interface,
        range: Range<Avma>,
        enough: u64,
    ) -> io::Result<Populated> {
        self.interface.store(interface as u8, Relaxed);
        self.populated(range, enough)
    }

    /// The parts of a range that are not present: reading them may wait for somebody. Of a swapped
    /// page it is not known what it waits for. Where nothing is mapped nothing waits.
    pub(crate) fn missing(&self, range: Range<Avma>) -> io::Result<Vec<Range<Avma>>> {
        let range = range.start.0 / PAGE * PAGE..range.end.0.next_multiple_of(PAGE);
        let missing = match self.interface() {
            Interface::Numbers => self.numbers_missing(range)?,
            _ => match self.scan_missing(range.clone()) {
                Ok(missing) => missing,
                Err(_) => self.numbers_missing(range)?,
            },
        };
        let address = |part: Range<u64>| Avma(part.start)..Avma(part.end);
        Ok(missing.into_iter().map(address).collect())
    }

    fn scan_missing(&self, range: Range<u64>) -> nix::Result<Vec<Range<u64>>> {
        let mut found = Vec::new();
        let arguments = ScanArguments {
            inverted: PRESENT,
            all_of: PRESENT,
            returned: PRESENT,
            ..ScanArguments::default()
        };
        self.regions(range, &arguments, u64::MAX, |region| {
            extend(&mut found, region.start..region.end);
            true
        })?;
        Ok(found)
    }

    fn numbers_missing(&self, range: Range<u64>) -> io::Result<Vec<Range<u64>>> {
        let found = self.numbers_where(range, u64::MAX, |number| number & PRESENT_BIT == 0)?;
        Ok(found.pages)
    }

    /// Pages that hold something, and where the answer ends.
    fn scan(&self, range: Range<u64>, enough: u64, guards: bool) -> nix::Result<Found> {
        let mut found: Vec<Range<u64>> = Vec::new();
        let mut at_guard = None;
        let guard = if guards { GUARD } else { 0 };
        let arguments = ScanArguments {
            any_of: PRESENT | SWAPPED,
            returned: PRESENT | SWAPPED | ZERO | guard,
            ..ScanArguments::default()
        };
        let end = self.regions(range, &arguments, enough, |region| {
            if region.categories & GUARD != 0 {
                at_guard = Some(region.start);
                return false;
            }
            if region.categories & ZERO == 0 {
                extend(&mut found, region.start..region.end);
            }
            true
        })?;
        Ok(Found {
            pages: found,
            end: at_guard.unwrap_or(end),
            at_guard: at_guard.is_some(),
        })
    }

    /// Passes regions on, lowest first, until `take` wants no more or until they have `enough`
    /// bytes; says to where.
    fn regions(
        &self,
        range: Range<u64>,
        arguments: &ScanArguments,
        enough: u64,
        mut take: impl FnMut(&Region) -> bool,
    ) -> nix::Result<u64> {
        let mut start = range.start;
        let mut left = enough.div_ceil(PAGE);
        while start < range.end && left > 0 {
            let mut regions = [Region::default(); REGIONS];
            let mut arguments = ScanArguments {
                size: size_of::<ScanArguments>() as u64,
                start,
                end: range.end,
                regions: regions.as_mut_ptr().addr() as u64,
                region_count: REGIONS as u64,
                max_pages: left,
                ..*arguments
            };
            // SAFETY: the kernel writes to the structure and to the array that it describes, both
            // of which are borrowed here.
            let count = unsafe { pagemap_scan(self.file.as_raw_fd(), &raw mut arguments) }?;
            let mut regions = regions.iter().take(count.unsigned_abs() as usize);
            let more = regions.all(|region| {
                left = left.saturating_sub((region.end - region.start) / PAGE);
                take(region)
            });
            if !more || arguments.walk_end <= start {
                return Ok(start);
            }
            start = arguments.walk_end;
        }
        Ok(start)
    }

    /// Pages that hold something, by their numbers.
    fn numbers(&self, range: Range<u64>, enough: u64) -> io::Result<Found> {
        self.numbers_where(range, enough, |number| {
            number & (PRESENT_BIT | SWAPPED_BIT) != 0
        })
    }

    /// Pages of which the highest byte of the number is so.
    fn numbers_where(
        &self,
        range: Range<u64>,
        enough: u64,
        is_wanted: impl Fn(u8) -> bool,
    ) -> io::Result<Found> {
        const NUMBER: u64 = 8;
        /// How many numbers are read at once.
        const COUNT: u64 = 32 << 10;
        let mut found = Vec::new();
        let (mut end, mut size) = (range.start, 0);
        let mut bytes = Vec::new();
        for start in range.clone().step_by((COUNT * PAGE) as usize) {
            if size >= enough {
                break;
            }
            let pages = ((range.end - start) / PAGE).min(COUNT);
            bytes.resize((pages * NUMBER) as usize, 0);
            self.file.read_exact_at(&mut bytes, start / PAGE * NUMBER)?;
            let numbers = bytes.chunks_exact(NUMBER as usize);
            for (number, page) in numbers.zip((start..).step_by(PAGE as usize)) {
                if is_wanted(number[NUMBER as usize - 1]) {
                    extend(&mut found, page..page + PAGE);
                    size += PAGE;
                }
            }
            end = start + pages * PAGE;
        }
        Ok(Found {
            pages: found,
            end,
            at_guard: false,
        })
    }
}

/// Adds a part that is behind all others.
fn extend(found: &mut Vec<Range<u64>>, part: Range<u64>) {
    match found.last_mut() {
        Some(last) if last.end == part.start => last.end = part.end,
        _ => found.push(part),
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use nix::libc::c_void;
    use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};

    use super::*;

    const PAGES: usize = 64;

    /// Memory of this process, unmapped at the end.
    struct Pages(std::ptr::NonNull<c_void>);

    impl Pages {
        fn new() -> Self {
            let size = NonZeroUsize::new(PAGES * PAGE as usize).unwrap();
            let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
            // SAFETY: new memory is mapped where the kernel likes.
            let mapped = unsafe { mmap_anonymous(None, size, protection, MapFlags::MAP_PRIVATE) };
            Self(mapped.unwrap())
        }

        fn page(&self, index: usize) -> *mut u8 {
            // SAFETY: callers name a page of the mapping, or its end.
            unsafe { self.0.as_ptr().cast::<u8>().add(index * PAGE as usize) }
        }

        fn range(&self, pages: Range<usize>) -> Range<Avma> {
            let at = |page| Avma(self.page(page).addr() as u64);
            at(pages.start)..at(pages.end)
        }

        fn touch(&self, pages: Range<usize>) {
            for page in pages {
                // SAFETY: it is mapped, and nobody else uses it.
                unsafe { self.page(page).write_volatile(1) };
            }
        }

        fn guard(&self, page: usize) -> bool {
            /// `MADV_GUARD_INSTALL`, since Linux 6.13.
            const GUARD_INSTALL: i32 = 102;
            // SAFETY: nobody uses the page.
            let said =
                unsafe { nix::libc::madvise(self.page(page).cast(), PAGE as usize, GUARD_INSTALL) };
            said == 0
        }
    }

    impl Drop for Pages {
        fn drop(&mut self) {
            // SAFETY: nobody uses it any more.
            let _ = unsafe { munmap(self.0, PAGES * PAGE as usize) };
        }
    }

    #[test]
    fn touched_pages_are_populated_by_every_interface() {
        let pages = Pages::new();
        pages.touch(3..5);
        pages.touch(40..41);
        // SAFETY: it is mapped; reading it makes it a page of zeros.
        unsafe { pages.page(50).read_volatile() };
        for interface in [Interface::Guards, Interface::Regions, Interface::Numbers] {
            let pagemap = Pagemap::open(Pid::this()).unwrap();
            pagemap.interface.store(interface as u8, Relaxed);
            let mut expected = vec![pages.range(3..5), pages.range(40..41)];
            if pagemap.interface() == Interface::Numbers {
                expected.push(pages.range(50..51));
            }
            let all = pages.range(0..PAGES);
            let found = pagemap.populated(all.clone(), u64::MAX).unwrap();
            assert_eq!(found.end, all.end);
            if pagemap.interface() == interface {
                assert_eq!(found.parts, expected, "{interface:?}");
            }
            let odd = pages.range(4..5).start.offset(0x123)..pages.range(40..41).start.offset(8);
            let found = pagemap.populated(odd.clone(), u64::MAX).unwrap();
            let expected = [
                odd.start..pages.range(4..5).end,
                pages.range(40..41).start..odd.end,
            ];
            assert_eq!((found.parts, found.end), (expected.to_vec(), odd.end));
        }
    }

    #[test]
    fn pages_that_were_not_touched_are_missing_by_every_interface() {
        let pages = Pages::new();
        pages.touch(3..5);
        pages.touch(40..PAGES);
        for interface in [Interface::Guards, Interface::Regions, Interface::Numbers] {
            let pagemap = Pagemap::open(Pid::this()).unwrap();
            pagemap.interface.store(interface as u8, Relaxed);
            let missing = |range| pagemap.missing(pages.range(range)).unwrap();
            let all = missing(0..PAGES);
            assert_eq!(
                all,
                [pages.range(0..3), pages.range(5..40)],
                "{interface:?}"
            );
            assert_eq!(missing(3..5), []);
            let odd = pages.range(4..5).start.offset(0x123)..pages.range(5..6).start.offset(1);
            assert_eq!(pagemap.missing(odd).unwrap(), [pages.range(5..6)]);
        }
    }

    #[test]
    fn an_answer_ends_where_there_is_enough() {
        let pages = Pages::new();
        pages.touch(3..5);
        pages.touch(40..PAGES);
        for interface in [Interface::Guards, Interface::Regions] {
            let pagemap = Pagemap::open(Pid::this()).unwrap();
            pagemap.interface.store(interface as u8, Relaxed);
            let found = pagemap.populated(pages.range(0..PAGES), 4 * PAGE).unwrap();
            if pagemap.interface() == interface {
                let expected = [pages.range(3..5), pages.range(40..42)];
                assert_eq!(found.parts, expected, "{interface:?}");
                assert_eq!((found.end, found.at_guard), (expected[1].end, false));
            }
        }
    }

    #[test]
    fn more_regions_than_one_answer_has_are_all_found() {
        let pages = Pages::new();
        for page in (0..PAGES).step_by(2) {
            pages.touch(page..page + 1);
        }
        let pagemap = Pagemap::open(Pid::this()).unwrap();
        let found = pagemap.populated(pages.range(0..PAGES), u64::MAX).unwrap();
        assert_eq!(found.parts.len(), PAGES / 2);
    }

    #[test]
    fn an_answer_ends_at_a_guard_page() {
        let pages = Pages::new();
        pages.touch(0..PAGES);
        let pagemap = Pagemap::open(Pid::this()).unwrap();
        let all = pages.range(0..PAGES);
        let before = pagemap.populated(all.clone(), u64::MAX).unwrap();
        assert_eq!((before.parts, before.end), (vec![all.clone()], all.end));
        if !pages.guard(20) {
            // An older kernel, on which no stack has such a page.
            return;
        }
        let found = pagemap.populated(all.clone(), u64::MAX).unwrap();
        if pagemap.interface() == Interface::Guards {
            assert_eq!(
                (found.parts, found.end),
                (vec![pages.range(0..20)], pages.range(20..21).start)
            );
            let behind = pagemap.populated(pages.range(21..PAGES), u64::MAX).unwrap();
            assert_eq!(behind.parts, [pages.range(21..PAGES)]);
            let inside = pagemap.populated(pages.range(20..22), u64::MAX).unwrap();
            assert_eq!(
                (inside.parts, inside.end),
                (vec![], pages.range(20..21).start)
            );
        } else {
            assert_eq!((found.parts, found.end), (vec![all.clone()], all.end));
        }
    }
}
