//! Memory by address: of the images, of their parents, compressed, of nowhere.

use elf_tools::Avma;
use relocator::placement::PAGE;
use relocator::threads::Memory;

use super::task;
use crate::made::{Made, PID, STACK, STACK_PAGES, THREAD, VDSO};
use crate::messages::{PageBlocks, PagesEntry};
use crate::pages::Page;
use crate::restored::{NewUnit, Restored};
use crate::task::Task;

const PARENT: u32 = 1;
const PRESENT: u32 = 4;
const ALIGNED: u32 = 8;

fn page(task: &Task, at: u64) -> (Page, u8) {
    let mut bytes = [0xff; 16];
    let read = task.content.read(Avma(at), &mut bytes).unwrap();
    assert!(bytes.iter().all(|byte| *byte == bytes[0]));
    (read, bytes[0])
}

#[test]
fn a_task_is_read_with_its_threads_and_memory() {
    let made = Made::new("bare");
    let task = task(&made.held).unwrap();
    assert_eq!((task.pid, task.name.as_str()), (PID.cast_signed(), "made"));
    let threads: Vec<i32> = task.threads.iter().map(|one| one.thread.id).collect();
    assert_eq!(threads, [PID.cast_signed(), THREAD.cast_signed()]);
    assert_eq!(task.threads[0].blocked, 1 << 13);
    assert_eq!(task.auxv_vdso, Some(Avma(VDSO)));
    assert_eq!(page(&task, STACK), (Page::Read, 0x5a));
    assert_eq!(page(&task, STACK + PAGE), (Page::Absent, 0xff));
}

#[test]
fn a_restored_task_reads_zeros_where_nothing_was_dumped() {
    let made = Made::new("bare");
    let task = task(&made.held).unwrap();
    let unit = NewUnit {
        mappings: &[],
        vdso: &[],
    };
    let restored = Restored::new(&task, &unit);
    let mut bytes = [0xff; 32];
    // Across the end of the page that is there.
    assert!(restored.read(Avma(STACK + PAGE - 16), &mut bytes));
    assert_eq!(bytes[..16], [0x5a; 16]);
    assert_eq!(bytes[16..], [0; 16]);
    // The data of the old kernel.
    assert!(restored.read(Avma(VDSO - PAGE), &mut bytes));
    assert_eq!(bytes, [0; 32]);
    for nowhere in [STACK - 16, STACK + STACK_PAGES * PAGE - 16, u64::MAX - 8] {
        assert!(!restored.read(Avma(nowhere), &mut bytes), "{nowhere:#x}");
    }
}

#[test]
fn pages_of_parents_are_found() {
    let mut oldest = Made::new("bare");
    oldest.pages(&[(STACK, 4, PRESENT)]);
    oldest.raw("pages-1.img", pages(&[1, 2, 3, 4]));
    let mut old = Made::new("bare");
    old.pages(&[
        (STACK, 2, PARENT),
        (STACK + 2 * PAGE, 1, PRESENT),
        (STACK + 3 * PAGE, 1, PARENT),
    ]);
    old.raw("pages-1.img", pages(&[13]));
    old.parent(oldest);
    let mut made = Made::new("bare");
    made.pages(&[(STACK, 1, PRESENT), (STACK + PAGE, 3, PARENT)]);
    made.raw("pages-1.img", pages(&[21]));
    made.parent(old);
    let task = task(&made.held).unwrap();
    let found: Vec<u8> = (0..4)
        .map(|index| page(&task, STACK + index * PAGE).1)
        .collect();
    assert_eq!(found, [21, 2, 13, 4]);
    assert_eq!(task.pages().unwrap().parents(), 2);
}

/// Pages, each of one byte.
fn pages(bytes: &[u8]) -> Vec<u8> {
    bytes
        .iter()
        .flat_map(|byte| vec![*byte; PAGE as usize])
        .collect()
}

/// Versions before 4.2 have another field for the number of pages, and the oldest no flags.
#[test]
fn older_entries_are_understood() {
    let mut made = Made::new("bare");
    let entry = |start, count, flags| PagesEntry {
        start: Some(start),
        short_count: Some(count),
        in_parent: None,
        flags,
        count: None,
        blocks: None,
    };
    made.entries(&[entry(STACK, 1, Some(PRESENT)), entry(STACK + PAGE, 2, None)]);
    made.raw("pages-1.img", pages(&[1, 2, 3]));
    let task = task(&made.held).unwrap();
    let found: Vec<u8> = (0..3)
        .map(|index| page(&task, STACK + index * PAGE).1)
        .collect();
    assert_eq!(found, [1, 2, 3]);
}

#[test]
fn compressed_pages_are_read() {
    let raw = pages(&[7, 8]);
    let repeated = pages(&[9, 9]);
    let last = pages(&[5]);
    let stored = [
        lz4_flex::block::compress(&repeated),
        lz4_flex::block::compress(&last),
    ];
    let sizes = vec![
        0,
        raw.len() as u32,
        stored[0].len() as u32,
        stored[1].len() as u32,
    ];
    let total: u64 = sizes.iter().map(|&size| u64::from(size)).sum();
    let run = PagesEntry {
        start: Some(STACK),
        short_count: Some(0),
        in_parent: None,
        flags: Some(PRESENT),
        count: Some(7),
        blocks: Some(PageBlocks {
            sizes,
            total: Some(total),
            pages: Some(2),
        }),
    };
    // What is behind a compressed run begins at a page again if its flag says so.
    let plain = PagesEntry {
        start: Some(STACK + 8 * PAGE),
        flags: Some(PRESENT | ALIGNED),
        count: Some(1),
        blocks: None,
        ..run.clone()
    };
    let mut file = [raw, stored[0].clone(), stored[1].clone()].concat();
    assert!(!(file.len() as u64).is_multiple_of(PAGE));
    file.resize(file.len().next_multiple_of(PAGE as usize), 0xee);
    file.extend(pages(&[6]));
    let mut made = Made::new("bare");
    made.mappings(&[crate::made::mapping(
        STACK,
        STACK + 16 * PAGE,
        crate::made::STACK_BITS,
    )]);
    made.entries(&[run, plain]);
    made.raw("pages-1.img", file);
    let task = task(&made.held).unwrap();
    let found: Vec<u8> = (0..9)
        .map(|index| page(&task, STACK + index * PAGE).1)
        .collect();
    assert_eq!(found, [0, 0, 7, 8, 9, 9, 5, 0xff, 6]);
}
