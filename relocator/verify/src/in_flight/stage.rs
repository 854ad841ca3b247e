//! The memory that experiments are made in: seen by the thread where it lives, and by the tracer at
//! another place where all of it can be written.
//!
//! | from the start | |
//! |---|---|
//! | the old kernel's unit | its vvar pages and its vDSO, at its own distances; room for a longer linked image |
//! | landing pads | where functions return to, and the handler of signals |
//! | results | operand fields that functions and system calls write to |
//! | state | that of `getrandom` |
//! | stacks | the usual one, and the alternate one for signals |

use std::ops::Range;

use crate::emulated::Unit;
use crate::memory::{PAGE, Region, Shared};
use elf_tools::Avma;
use elf_tools::symtab::mapping_name;

use crate::address_space::AddressSpace;
use crate::arch::{self, LandingPad};
use crate::{Error, Result};
use relocator::threads::{Memory, Write};

/// Bytes in each stack. A signal frame with the largest vector registers has 4 KiB, and the deepest
/// test has three.
const STACK: usize = 8 * PAGE;

/// What results and stacks hold where nothing was written: no plausible result.
pub(super) const FILL: u8 = 0xd7;

/// A place that functions write their results to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OperandField {
    /// Of the function that is interrupted.
    Outer,
    /// Of the function that a signal handler calls.
    Inner,
    /// Of system calls.
    Witness,
}

impl OperandField {
    /// Bytes in an operand field.
    pub(super) const SIZE: usize = 2 * PAGE;

    const COUNT: usize = 3;
}

/// Where everything is, counted from the start.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    /// The old vvar pages.
    pub(super) pages: Range<usize>,
    /// The vDSO of the kernel that is emulated, if the old image is not it.
    pub(super) vdso: Range<usize>,
    /// The old image, with room for a longer one.
    pub(super) text: Range<usize>,
    landing_pads: usize,
    /// Everything that functions write to.
    pub(super) writable: Range<usize>,
}

impl Layout {
    /// For a kernel with a vDSO of its own that takes `other` bytes, or none, and an image that
    /// takes up to `size` bytes once it is linked.
    pub(super) fn new(unit: &Unit, other: usize, size: usize) -> Result<Self> {
        let vdso = unit.offset(mapping_name::VDSO).unwrap_or(0) as usize;
        let mappings = unit.mappings_at(Avma(0));
        if mappings.iter().any(|(_, start)| start.0 as usize > vdso) || vdso == 0 {
            return Err(Error::Unlinkable {
                what: "an image for a sweep".to_owned(),
                reason: "its kernel does not map its vvar below it".to_owned(),
            });
        }
        let start = vdso + other.next_multiple_of(PAGE);
        let end = (start + size).max(unit.size() as usize);
        let landing_pads = end.next_multiple_of(PAGE);
        let writable = landing_pads + PAGE;
        let size = OperandField::COUNT * OperandField::SIZE + PAGE + 2 * STACK;
        Ok(Self {
            pages: 0..vdso,
            vdso: vdso..start,
            text: start..landing_pads,
            landing_pads,
            writable: writable..writable + size,
        })
    }

    fn operand_field(&self, operand_field: OperandField) -> Range<usize> {
        let start = self.writable.start + operand_field as usize * OperandField::SIZE;
        start..start + OperandField::SIZE
    }

    fn state(&self) -> usize {
        self.writable.start + OperandField::COUNT * OperandField::SIZE
    }

    fn stack(&self) -> Range<usize> {
        let start = self.state() + PAGE;
        start..start + STACK
    }

    fn alternate_stack(&self) -> Range<usize> {
        let start = self.stack().end;
        start..start + STACK
    }
}

/// The memory.
#[derive(Debug)]
pub(super) struct Stage {
    layout: Layout,
    /// Where the thread sees it.
    home: Avma,
    shared: Shared,
    /// Where the tracer writes it.
    view: Region,
}

impl Stage {
    /// Maps it in this process, near the kernel's own mappings. Processes that are forked have it
    /// as well.
    pub(super) fn map(layout: Layout) -> Result<Self> {
        let size = layout.writable.end;
        let home = AddressSpace::read()?.hole(size as u64)?;
        let failed = |what: &str| Error::io(format!("{what} {size:#x} bytes at {home}"));
        let shared = Shared::new(size).map_err(failed("sharing"))?;
        let mut thread = shared.view(Some(home)).map_err(failed("mapping"))?;
        let mut protect = || {
            thread.freeze(layout.pages.clone())?;
            thread.execute(layout.vdso.start..layout.writable.start)
        };
        protect().map_err(failed("protecting"))?;
        // The thread lives there until its process ends.
        thread.leak();
        let mut view = shared.view(None).map_err(failed("mapping"))?;
        view.write(layout.landing_pads, &arch::landing_pad_code())
            .map_err(failed("writing to"))?;
        Ok(Self {
            layout,
            home,
            shared,
            view,
        })
    }

    /// One more view of it that can be written.
    pub(super) fn another_view(&self) -> Result<Region> {
        let view = self.shared.view(None);
        view.map_err(Error::io("another view of shared memory"))
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    fn at(&self, offset: usize) -> Avma {
        Avma(self.home.0 + offset as u64)
    }

    fn range(&self, range: Range<usize>) -> Range<Avma> {
        self.at(range.start)..self.at(range.end)
    }

    /// The old image, and what takes its place.
    pub(super) fn text(&self) -> Range<Avma> {
        self.range(self.layout.text.clone())
    }

    /// Where the old kernel's mappings begin.
    pub(super) fn kernel(&self) -> Avma {
        self.home
    }

    pub(super) fn image(&self) -> Avma {
        self.at(self.layout.text.start)
    }

    pub(super) fn landing_pad(&self, pad: LandingPad) -> Avma {
        self.at(self.layout.landing_pads + pad.offset())
    }

    pub(super) fn operand_field(&self, operand_field: OperandField) -> Avma {
        self.at(self.layout.operand_field(operand_field).start)
    }

    pub(super) fn state(&self) -> Avma {
        self.at(self.layout.state())
    }

    pub(super) fn stack(&self) -> Range<Avma> {
        self.range(self.layout.stack())
    }

    pub(super) fn alternate_stack(&self) -> Range<Avma> {
        self.range(self.layout.alternate_stack())
    }

    /// What an operand field holds.
    pub(super) fn slot_bytes(&self, operand_field: OperandField) -> Vec<u8> {
        self.bytes(self.layout.operand_field(operand_field))
    }

    /// Makes an operand field as if nothing had ever been written to it.
    pub(super) fn clear_slot(&mut self, operand_field: OperandField) {
        self.put(
            self.layout.operand_field(operand_field).start,
            &[FILL; OperandField::SIZE],
        );
    }

    /// Makes all operand fields and stacks so, and the state of `getrandom` zero.
    pub(super) fn clear(&mut self) {
        let writable = self.layout.writable.clone();
        self.put(writable.start, &vec![FILL; writable.len()]);
        self.put(self.layout.state(), &[0; PAGE]);
    }

    /// What a range of the layout holds.
    pub(super) fn bytes(&self, range: Range<usize>) -> Vec<u8> {
        let mut bytes = vec![0; range.len()];
        // The layout lies in the view, which was mapped as large.
        let _ = self.view.read(range.start, &mut bytes);
        bytes
    }

    /// Writes to a place in the layout.
    pub(super) fn put(&mut self, offset: usize, bytes: &[u8]) {
        // As above; and nothing in this view is protected.
        let _ = self.view.write(offset, bytes);
    }

    /// Writes where the thread sees `at`; whether that is a place that it could write to itself.
    pub(super) fn write(&mut self, at: Avma, bytes: &[u8]) -> bool {
        let writable = self.layout.writable.clone();
        match self.offset(at, bytes.len()) {
            Some(range) if range.start >= writable.start => {
                self.put(range.start, bytes);
                true
            }
            _ => false,
        }
    }

    /// Makes all of these writes, or as many as can be made; whether all could.
    pub(super) fn write_all(&mut self, writes: &[Write]) -> bool {
        writes
            .iter()
            .all(|write| self.write(write.at, &write.bytes))
    }

    fn offset(&self, at: Avma, length: usize) -> Option<Range<usize>> {
        let start = usize::try_from(at.0.checked_sub(self.home.0)?).ok()?;
        let end = start.checked_add(length)?;
        (end <= self.layout.writable.end).then_some(start..end)
    }
}

impl Memory for Stage {
    fn read(&self, at: Avma, bytes: &mut [u8]) -> bool {
        match self.offset(at, bytes.len()) {
            Some(range) => self.view.read(range.start, bytes).is_ok(),
            None => false,
        }
    }
}
