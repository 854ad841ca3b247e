//! Images that say what cannot be: an error with the file and the offset, each.

use prost::Message;
use relocator::placement::PAGE;

use super::{error, task};
use crate::image_file::Kind;
use crate::images::Images;
use crate::made::{Made, PID, STACK, STACK_BITS, STACK_PAGES, THREAD, mapping, registers};
use crate::messages::{Inventory, PageBlocks, PagesEntry, TaskEntry};
use crate::{Compression, Error, Fault, Unsupported};

const PARENT: u32 = 1;
const LAZY: u32 = 2;
const PRESENT: u32 = 4;

/// The fault of an image file that cannot be read, and where it is.
fn fault(made: &Made) -> (String, u64, Fault) {
    match error(&made.held) {
        Error::Image {
            file,
            offset,
            fault,
        } => (file, offset, fault),
        other => panic!("{other}"),
    }
}

fn unsupported(made: &Made) -> Unsupported {
    match error(&made.held) {
        Error::Unsupported { reason, .. } => reason,
        other => panic!("{other}"),
    }
}

#[test]
fn files_that_end_too_early_are_truncated() {
    let whole = Made::new("bare");
    for name in [
        "inventory.img",
        "pstree.img",
        "core-8.img",
        "mm-7.img",
        "pagemap-7.img",
    ] {
        let bytes = &whole.held.files[name];
        for cut in 1..bytes.len() {
            let mut made = whole.clone();
            made.raw(name, bytes[..cut].to_vec());
            // Where a message ends, a list may end.
            let Err(error) = task(&made.held) else {
                assert_eq!(name, "pagemap-7.img", "{cut}");
                continue;
            };
            let words = error.to_string();
            assert!(
                words.starts_with(name) || matches!(error, Error::Unsupported { .. }),
                "{words}"
            );
        }
    }
    let mut made = whole.clone();
    made.raw("pages-1.img", vec![0; PAGE as usize]);
    let (file, offset, found) = fault(&made);
    assert_eq!((file.as_str(), offset), ("pages-1.img", PAGE));
    assert!(matches!(found, Fault::Truncated { .. }), "{found}");
}

#[test]
fn a_message_of_four_gibibytes_is_not_read() {
    let mut made = Made::new("bare");
    let mut bytes = made.held.files["mm-7.img"].clone();
    bytes[8..12].fill(0xff);
    made.raw("mm-7.img", bytes);
    let (file, offset, found) = fault(&made);
    assert_eq!((file.as_str(), offset), ("mm-7.img", 8));
    assert!(
        matches!(
            found,
            Fault::TooLong {
                length: 0xffff_ffff,
                ..
            }
        ),
        "{found}"
    );
}

#[test]
fn other_files_are_told_by_their_magic_numbers() {
    let mut made = Made::new("bare");
    let tasks = made.held.files["pstree.img"].clone();
    made.raw("mm-7.img", tasks);
    let (file, offset, found) = fault(&made);
    assert_eq!((file.as_str(), offset), ("mm-7.img", 4));
    assert!(matches!(found, Fault::Magic { .. }), "{found}");
}

#[test]
fn a_thread_without_core_is_an_error() {
    let mut made = Made::new("bare");
    made.remove(&format!("core-{THREAD}.img"));
    let (file, _, found) = fault(&made);
    assert_eq!(file, "core-8.img");
    assert!(matches!(found, Fault::Missing(_)), "{found}");
    let mut made = Made::new("bare");
    made.remove("mm-7.img");
    assert_eq!(fault(&made).0, "mm-7.img");
}

#[test]
fn registers_have_to_be_there() {
    let mut made = Made::new("bare");
    let mut core = crate::arch::Core::default();
    core.machine = crate::arch::Core::of(&registers(0x1000)).machine;
    made.put("core-8.img", Kind::Core, &[core.encode_to_vec()]);
    let (file, _, found) = fault(&made);
    assert_eq!(file, "core-8.img");
    assert_eq!(found, Fault::Missing("whole set of registers"));
    core.machine = Some(3);
    made.put("core-8.img", Kind::Core, &[core.encode_to_vec()]);
    assert_eq!(unsupported(&made), Unsupported::Machine(3));
}

#[test]
fn pages_are_in_mappings_and_do_not_overlap() {
    let overlapping: [&[(u64, u64, u32)]; 3] = [
        &[(STACK, 2, PRESENT), (STACK + PAGE, 1, PRESENT)],
        &[(STACK + PAGE, 1, PRESENT), (STACK, 1, PRESENT)],
        &[(STACK, 1, PRESENT), (STACK, 1, PARENT)],
    ];
    for runs in overlapping {
        let mut made = Made::new("bare");
        made.pages(runs);
        let (file, _, found) = fault(&made);
        assert_eq!(file, "pagemap-7.img");
        assert!(matches!(found, Fault::Order { .. }), "{found}");
    }
    let end = STACK + STACK_PAGES * PAGE;
    for outside in [
        (STACK - PAGE, 1),
        (STACK, STACK_PAGES + 1),
        (end, 1),
        (STACK - PAGE, 2),
    ] {
        let mut made = Made::new("bare");
        made.pages(&[(outside.0, outside.1, PRESENT)]);
        made.raw("pages-1.img", vec![0; 16 * PAGE as usize]);
        let (_, _, found) = fault(&made);
        assert!(
            matches!(found, Fault::Unmapped { .. }),
            "{outside:x?}: {found}"
        );
    }
    for odd in [
        (STACK + 1, 1),
        (STACK, 0),
        (STACK, u64::MAX / PAGE),
        (STACK, u64::MAX),
    ] {
        let mut made = Made::new("bare");
        made.pages(&[(odd.0, odd.1, PRESENT)]);
        let (_, _, found) = fault(&made);
        assert!(matches!(found, Fault::Range { .. }), "{odd:x?}: {found}");
    }
}

#[test]
fn mappings_are_in_order_and_made_of_pages() {
    let bad = [
        vec![mapping(STACK, STACK, STACK_BITS)],
        vec![mapping(STACK + 8, STACK + PAGE, STACK_BITS)],
        vec![mapping(STACK + PAGE, STACK, STACK_BITS)],
        vec![
            mapping(STACK, STACK + 2 * PAGE, STACK_BITS),
            mapping(STACK + PAGE, STACK + 3 * PAGE, STACK_BITS),
        ],
    ];
    for mappings in bad {
        let mut made = Made::new("bare");
        made.mappings(&mappings);
        let (file, _, found) = fault(&made);
        assert_eq!(file, "mm-7.img");
        assert!(
            matches!(found, Fault::Range { .. } | Fault::Order { .. }),
            "{found}"
        );
    }
}

#[test]
fn parents_have_to_have_what_children_say() {
    let mut made = Made::new("bare");
    made.pages(&[(STACK, 2, PARENT)]);
    assert!(matches!(fault(&made).2, Fault::NotInParent { .. }));
    let mut parent = Made::new("bare");
    parent.pages(&[(STACK, 1, PRESENT)]);
    parent.raw("pages-1.img", vec![0; PAGE as usize]);
    made.parent(parent);
    let (file, _, found) = fault(&made);
    assert_eq!(file, "pagemap-7.img");
    assert!(
        matches!(found, Fault::NotInParent { at } if at.0 == STACK + PAGE),
        "{found}"
    );
}

#[test]
fn cyclic_parents_are_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let (first, second) = (directory.path().join("1"), directory.path().join("2"));
    let mut made = Made::new("bare");
    made.pages(&[(STACK, 1, PARENT)]);
    for path in [&first, &second] {
        std::fs::create_dir(path).unwrap();
        for (name, bytes) in &made.held.files {
            std::fs::write(path.join(name), bytes).unwrap();
        }
    }
    let cyclic = |from: &std::path::Path, to: &str| {
        let link = from.join("parent");
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(to, link).unwrap();
        let images = Images::open(from).unwrap();
        let task = images.tasks().next().unwrap();
        task.err().unwrap().to_string()
    };
    assert!(cyclic(&first, ".").contains("lead back"));
    std::os::unix::fs::symlink("../1", second.join("parent")).unwrap();
    assert!(cyclic(&first, "../2").contains("lead back"));
    // One that leads nowhere is no missing one.
    assert!(cyclic(&first, "../nowhere").contains("parent"));
}

#[test]
fn compressed_pages_that_contradict_themselves_are_an_error() {
    let page = PAGE as u32;
    let entry = |sizes: &[u32], total: u64, pages: u32| PagesEntry {
        start: Some(STACK),
        short_count: Some(0),
        in_parent: None,
        flags: Some(PRESENT),
        count: Some(3),
        blocks: Some(PageBlocks {
            sizes: sizes.to_vec(),
            total: Some(total),
            pages: Some(pages),
        }),
    };
    for bad in [
        entry(&[], 0, 0),
        entry(&[0], 0, 1025),
        entry(&[0], 0, 2),
        entry(&[0, 0, 0], 0, 2),
        entry(&[2 * page + 1, 0], u64::from(2 * page + 1), 2),
        entry(&[0, page + 1], u64::from(page + 1), 2),
        entry(&[page, 0], u64::from(page) - 1, 2),
    ] {
        let mut made = Made::new("bare");
        made.entries(&[bad]);
        let (file, _, found) = fault(&made);
        assert_eq!(file, "pagemap-7.img");
        assert!(matches!(found, Fault::Compressed(_)), "{found}");
    }
    // What is no LZ4 shows when it is read.
    let mut made = Made::new("bare");
    made.entries(&[entry(&[20, 0], 20, 2)]);
    made.raw("pages-1.img", vec![0xff; 20]);
    let task = task(&made.held).unwrap();
    let mut bytes = [0; 8];
    let read = task.content.read(elf_tools::Avma(STACK), &mut bytes);
    let Err(Error::Image { file, fault, .. }) = read else {
        panic!("it was read");
    };
    assert_eq!(file, "pages-1.img");
    assert!(
        matches!(fault, Fault::Compressed(Compression::Block(_))),
        "{fault}"
    );
}

#[test]
fn what_is_elsewhere_is_said() {
    let mut made = Made::new("bare");
    made.remove("pages-1.img");
    assert_eq!(unsupported(&made), Unsupported::RemotePages);
    let mut made = Made::new("bare");
    made.pages(&[(STACK, 1, LAZY)]);
    assert!(matches!(unsupported(&made), Unsupported::LazyPages(at) if at.0 == STACK));
    let mut made = Made::new("bare");
    made.remove("pstree.img");
    assert_eq!(unsupported(&made), Unsupported::PreDump);
    made.remove("inventory.img");
    assert_eq!(unsupported(&made), Unsupported::NoInventory);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let reason = |path: &std::path::Path| match Images::open(path).err() {
        Some(Error::Unsupported { reason, .. }) => reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(reason(path), Unsupported::NoInventory);
    let _socket = std::os::unix::net::UnixListener::bind(path.join("streamer-serve.sock")).unwrap();
    assert_eq!(reason(path), Unsupported::Stream);
    let file = path.join("checkpoint.tar");
    std::fs::write(&file, "").unwrap();
    assert_eq!(reason(&file), Unsupported::File);
    // A pipe under the name of an image has no end.
    let inventory = path.join("inventory.img");
    nix::unistd::mkfifo(&inventory, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(matches!(Images::open(path), Err(Error::Io { .. })));
}

#[test]
fn unknown_versions_and_odd_numbers_are_an_error() {
    let put = |version, compression| {
        let mut made = Made::new("bare");
        let inventory = Inventory {
            version: Some(version),
            compression,
        };
        made.put(
            "inventory.img",
            Kind::Inventory,
            &[inventory.encode_to_vec()],
        );
        made
    };
    assert_eq!(fault(&put(3, None)).2, Fault::Version(3));
    let unknown = Fault::Compressed(Compression::Mode(2));
    assert_eq!(fault(&put(2, Some(2))).2, unknown);
    assert!(task(&put(2, Some(1)).held).is_ok());
    for (pid, threads) in [
        (0, vec![0]),
        (1 << 31, vec![1 << 31]),
        (PID, vec![PID, PID]),
        (PID, vec![THREAD]),
    ] {
        let mut made = Made::new("bare");
        let entry = TaskEntry {
            pid: Some(pid),
            parent: Some(0),
            threads,
        };
        made.put("pstree.img", Kind::Tasks, &[entry.encode_to_vec()]);
        let (file, _, found) = fault(&made);
        assert_eq!(file, "pstree.img");
        assert!(matches!(found, Fault::Number { .. }), "{found}");
    }
    let mut made = Made::new("bare");
    made.put("pstree.img", Kind::Tasks, &[]);
    assert_eq!(fault(&made).2, Fault::Empty);
}
