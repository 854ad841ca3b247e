//! Images that tests make: a task with the vDSO of a fixture.

use std::rc::Rc;

use bytes::Bytes;
use elf_tools::Avma;
use elf_tools::reentry::Register;
use prost::Message;
use relocator::placement::PAGE;
use relocator::threads::Registers;

use crate::arch::Core;
use crate::directory::Held;
use crate::image_file::Kind;
use crate::messages::{
    AddressSpace, Inventory, MappingEntry, PagesEntry, PagesHead, TaskCore, TaskEntry, ThreadCore,
};

/// The task, and its second thread.
pub(crate) const PID: u32 = 7;
pub(crate) const THREAD: u32 = 8;

/// Where the old vDSO is, the old data before it, and memory of the program.
pub(crate) const VDSO: u64 = 0x7fff_f7f0_0000;
pub(crate) const DATA: u64 = VDSO - 2 * PAGE;
pub(crate) const STACK: u64 = 0x7fff_0000_0000;
/// Pages of the stack.
pub(crate) const STACK_PAGES: u64 = 4;

/// Bits of a mapping: status, flags, protection.
pub(crate) const STACK_BITS: (u32, u32, u32) = (1 | 1 << 9, 0x22, 3);
const VDSO_BITS: (u32, u32, u32) = (1 | 1 << 3 | 1 << 9, 0x22, 5);
const DATA_BITS: (u32, u32, u32) = (1 | 1 << 12 | 1 << 9, 0x22, 1);

const PRESENT: u32 = 1 << 2;

/// A file with its magic numbers and messages.
pub(crate) fn file(kind: Kind, messages: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = match kind {
        Kind::Inventory => Vec::new(),
        _ => 0x5456_4319u32.to_le_bytes().to_vec(),
    };
    bytes.extend((kind as u32).to_le_bytes());
    for message in messages {
        bytes.extend((message.len() as u32).to_le_bytes());
        bytes.extend(message);
    }
    bytes
}

/// A directory that is being made.
#[derive(Debug, Clone)]
pub(crate) struct Made {
    pub(crate) held: Held,
}

impl Made {
    /// A task with two threads outside of its vDSO, which is the fixture's.
    pub(crate) fn new(fixture: &str) -> Self {
        let mut made = Self {
            held: Held::default(),
        };
        let inventory = Inventory {
            version: Some(2),
            compression: None,
        };
        made.put(
            "inventory.img",
            Kind::Inventory,
            &[inventory.encode_to_vec()],
        );
        let entry = TaskEntry {
            pid: Some(PID),
            parent: Some(0),
            threads: vec![PID, THREAD],
        };
        made.put("pstree.img", Kind::Tasks, &[entry.encode_to_vec()]);
        made.thread(PID, &registers(0x40_0000));
        made.thread(THREAD, &registers(0x40_0000));
        let image = kernel_fixtures::fixture::find(fixture).unwrap().image;
        let mut vdso = image.to_vec();
        vdso.resize(vdso.len().next_multiple_of(PAGE as usize), 0);
        let end = VDSO + vdso.len() as u64;
        made.mappings(&[
            mapping(STACK, STACK + STACK_PAGES * PAGE, STACK_BITS),
            mapping(DATA, VDSO, DATA_BITS),
            mapping(VDSO, end, VDSO_BITS),
        ]);
        let vdso_pages = vdso.len() as u64 / PAGE;
        made.pages(&[(STACK, 1, PRESENT), (VDSO, vdso_pages, PRESENT)]);
        let mut pages = vec![0x5a; PAGE as usize];
        pages.extend(vdso);
        made.raw("pages-1.img", pages);
        made
    }

    pub(crate) fn raw(&mut self, name: &str, bytes: Vec<u8>) {
        self.held.files.insert(name.to_owned(), bytes);
    }

    pub(crate) fn put(&mut self, name: &str, kind: Kind, messages: &[Vec<u8>]) {
        self.raw(name, file(kind, messages));
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.held.files.remove(name).unwrap();
    }

    /// The core of a thread.
    pub(crate) fn thread(&mut self, number: u32, registers: &Registers) {
        let mut core = Core::of(registers);
        core.task = (number == PID).then(|| TaskCore {
            state: Some(1),
            name: Some("made".to_owned()),
            limits: None,
        });
        core.thread = Some(ThreadCore {
            blocked: Some(1 << 13),
            ..ThreadCore::default()
        });
        let name = format!("core-{number}.img");
        self.put(&name, Kind::Core, &[core.encode_to_vec()]);
    }

    pub(crate) fn mappings(&mut self, mappings: &[MappingEntry]) {
        let encoded = mappings.iter().map(|one| Bytes::from(one.encode_to_vec()));
        let space = AddressSpace {
            stack: Some(STACK + 8),
            heap: None,
            auxiliary: vec![6, PAGE, 33, VDSO, 0, 0],
            mappings: encoded.collect(),
        };
        self.put("mm-7.img", Kind::AddressSpace, &[space.encode_to_vec()]);
    }

    /// Runs of pages: first address, how many, flags.
    pub(crate) fn pages(&mut self, runs: &[(u64, u64, u32)]) {
        let entries = runs.iter().map(|&(start, count, flags)| PagesEntry {
            start: Some(start),
            short_count: Some(0),
            in_parent: None,
            flags: Some(flags),
            count: Some(count),
            blocks: None,
        });
        self.entries(&entries.collect::<Vec<_>>());
    }

    pub(crate) fn entries(&mut self, entries: &[PagesEntry]) {
        let head = PagesHead { id: Some(1) };
        let mut messages = vec![head.encode_to_vec()];
        messages.extend(entries.iter().map(Message::encode_to_vec));
        self.put("pagemap-7.img", Kind::Pages, &messages);
    }

    pub(crate) fn parent(&mut self, parent: Self) {
        self.held.parent = Some(Rc::new(parent.held));
    }
}

/// A mapping.
pub(crate) fn mapping(start: u64, end: u64, bits: (u32, u32, u32)) -> MappingEntry {
    let (status, flags, protection) = bits;
    MappingEntry {
        start: Some(start),
        end: Some(end),
        offset: Some(0),
        backing: Some(0),
        protection: Some(protection),
        flags: Some(flags),
        status: Some(status),
        advice: Some(0),
    }
}

/// A thread at a place, with an empty stack.
pub(crate) fn registers(pc: u64) -> Registers {
    let mut registers = Registers {
        general: [0; Register::COUNT],
        pc: Avma(pc),
        system_call: -1,
    };
    registers.set_stack_pointer(Avma(STACK + STACK_PAGES * PAGE - 0x800));
    registers
}
