//! Random functions are linked, mapped and called, and must read what they are meant to read.

use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};

use elf_tools::Avma;
use elf_tools::relocation::Width::{self, I8, I32};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
use proptest::prelude::*;
use relocator::plan::{Reason, Strategy as Way, Unsolvable};

use crate::body::{Body, Linked, PAGE};

/// One step of a function that calculates with `edx`.
#[derive(Debug, Clone)]
enum Step {
    /// Adds the field, read without a displacement, with one of a byte, or of a word.
    Bare(i64),
    I8(i64),
    I32(i64),
    /// Adds the field, read by a distance of its own.
    Distance(i64),
    /// Adds the field after adding an immediate to a pointer.
    Immediate(i64),
    Rotate,
    Nothing,
    /// Leaves out the next step if this bit of the argument is not set.
    Unless(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let field = || (0i64..60).prop_map(|index| index * 4);
    let far = || (0i64..512).prop_map(|index| index * 4);
    prop_oneof![
        3 => prop_oneof![Just(0i64), field()].prop_map(Step::Bare),
        3 => prop_oneof![6 => (0i64..32).prop_map(|i| i * 4), 1 => far()].prop_map(Step::I8),
        2 => far().prop_map(Step::I32),
        2 => far().prop_map(Step::Distance),
        1 => prop_oneof![3 => (0i64..32).prop_map(|i| i * 4), 1 => far()].prop_map(Step::Immediate),
        2 => Just(Step::Rotate),
        2 => Just(Step::Nothing),
        2 => (0u8..3).prop_map(Step::Unless),
    ]
}

/// What the page has at a field.
fn content(field: i64) -> u32 {
    (field as u32 + 1).wrapping_mul(0x9e37_79b1)
}

fn expected(steps: &[Step], argument: u32) -> u32 {
    let (mut value, mut skip) = (0u32, false);
    for step in steps {
        if std::mem::take(&mut skip) {
            continue;
        }
        match step {
            Step::Bare(field)
            | Step::I8(field)
            | Step::I32(field)
            | Step::Distance(field)
            | Step::Immediate(field) => value = value.wrapping_add(content(*field)),
            Step::Rotate => value = value.rotate_left(1),
            Step::Nothing => {}
            Step::Unless(bit) => skip = argument & (1 << bit) == 0,
        }
    }
    value
}

/// xor edx, edx; the steps; mov eax, edx; ret.
fn assemble(steps: &[Step]) -> Body {
    let mut body = Body::new();
    let base = body.point();
    body.put(&[0x31, 0xd2]);
    for (index, step) in steps.iter().enumerate() {
        let skipped = steps[index + 1..].first().map_or(0, length);
        let start = body.here();
        match step {
            Step::Bare(field) => {
                body.field(base, &[0x03, 0x10], 0, Width::None, *field);
            }
            Step::I8(field) => {
                body.field(base, &[0x03, 0x50, 4], 2, I8, *field);
            }
            Step::I32(field) => {
                body.field(base, &[0x03, 0x90, 4, 0, 0, 0], 2, I32, *field);
            }
            Step::Distance(field) => {
                let operand_field = body.operand_field(&[0x03, 0x15, 0, 0, 0, 0], 2, I32);
                let end = body.here().signed();
                body.constraint(start, &[(operand_field, 1)], field - end);
            }
            Step::Immediate(field) => {
                body.put(&[0x48, 0x89, 0xc1]);
                let add = body.operand_field(&[0x48, 0x83, 0xc1, 8], 3, I8);
                let site = body.put(&[0x03, 0x11]);
                let end = body.table.operand_fields[base as usize]
                    .place
                    .offset(4)
                    .signed();
                body.constraint(site, &[(base, 1), (add, 1)], field - end);
            }
            Step::Rotate => {
                body.put(&[0xd1, 0xc2]);
            }
            Step::Nothing => {
                body.put(&[0x90]);
            }
            Step::Unless(bit) => {
                body.put(&[0x40, 0xf6, 0xc7, 1 << bit, 0x74, skipped]);
            }
        }
        assert_eq!(body.here().0 - start.0, u64::from(length(step)));
    }
    body.put(&[0x89, 0xd0, 0xc3]);
    body
}

fn length(step: &Step) -> u8 {
    match step {
        Step::Bare(_) | Step::Rotate => 2,
        Step::I8(_) => 3,
        Step::I32(_) | Step::Distance(_) | Step::Unless(_) => 6,
        Step::Immediate(_) => 9,
        Step::Nothing => 1,
    }
}

/// A linked image with its page, mapped here.
struct Mapped {
    start: NonNull<u8>,
    entry: u64,
}

const SIZE: usize = PAGE as usize + 0x1000;

impl Mapped {
    fn new(body: &Body) -> (Self, Linked) {
        let size = NonZeroUsize::new(SIZE).unwrap();
        let writable = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping wherever there is room affects no other memory.
        let start = unsafe { mmap_anonymous(None, size, writable, MapFlags::MAP_PRIVATE) };
        let start = start.unwrap().cast::<u8>();
        let linked = body.link_at(Avma(start.as_ptr() as u64));
        let mut bytes = linked.image.bytes.clone();
        assert!(bytes.len() <= PAGE as usize);
        bytes.resize(PAGE as usize, 0xcc);
        bytes.extend((0..0x400).flat_map(|index| content(index * 4).to_le_bytes()));
        // SAFETY: the mapping is ours, writable, and has SIZE bytes, as many as there are here.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), start.as_ptr(), bytes.len()) };
        let executable = ProtFlags::PROT_READ | ProtFlags::PROT_EXEC;
        // SAFETY: nothing refers to the mapping yet.
        unsafe { mprotect(start.cast(), SIZE, executable) }.unwrap();
        let entry = linked.entry.0;
        (Self { start, entry }, linked)
    }

    fn call(&self, argument: u32) -> u32 {
        let code = self.start.as_ptr() as usize + self.entry as usize;
        // SAFETY: the function was linked for this place; it takes an integer, returns one, and
        // keeps all registers that the calling convention wants kept.
        let function: extern "C" fn(u32) -> u32 = unsafe { std::mem::transmute(code) };
        function(argument)
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no thread executes it any more.
        unsafe { munmap(self.start.cast(), SIZE) }.unwrap();
    }
}

static RELOCATED: AtomicUsize = AtomicUsize::new(0);
static DETOURS: AtomicUsize = AtomicUsize::new(0);

#[test]
fn linked_functions_read_what_they_are_meant_to() {
    let steps = proptest::collection::vec(step(), 1..12);
    proptest!(ProptestConfig::with_cases(400), |(steps in steps)| {
        let body = assemble(&steps);
        let (mapped, linked) = Mapped::new(&body);
        let plan = linked.plan();
        if plan.strategy != Way::Relocate {
            let Reason::Unsolvable { fault, .. } = &plan.reason else {
                return Err(TestCaseError::fail(plan.reason.to_string()));
            };
            prop_assert_eq!(*fault, Unsolvable::Contradiction);
            return Ok(());
        }
        RELOCATED.fetch_add(1, Ordering::Relaxed);
        DETOURS.fetch_add(plan.detours, Ordering::Relaxed);
        for argument in 0..8 {
            prop_assert_eq!(mapped.call(argument), expected(&steps, argument));
        }
    });
    let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    let counts = [&RELOCATED, &DETOURS].map(count);
    assert!(counts[0] > 200 && counts[1] > 100, "{counts:?}");
}
