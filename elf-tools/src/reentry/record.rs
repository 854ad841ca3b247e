//! The records of a stored re-entry table: `docs/abi.md`, section 4.4. Here are their fields and
//! nothing of what they mean.

use scroll::{Pread, Pwrite, SizeWith};

use crate::record;

/// A context: `.vvar.reentry`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pread, Pwrite, SizeWith)]
pub(super) struct ContextRecord {
    pub(super) boundary: u32,
    pub(super) function: u32,
    /// Index of the first call.
    pub(super) calls: u32,
    pub(super) call_count: u16,
    pub(super) flags: u16,
    /// Index of a recipe or, with [`LOST`], offset of the reason in the string table.
    pub(super) recovery: u32,
}

/// Flag of a context: something may be read from here on that depends on the kernel.
pub(super) const READS: u16 = 1;
/// Flag of a context: there is no recipe but a reason.
pub(super) const LOST: u16 = 2;

/// A call that has not returned: `.vvar.reentry.calls`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pread, Pwrite, SizeWith)]
pub(super) struct CallRecord {
    pub(super) offset: i64,
    pub(super) returns_to: u32,
    pub(super) base: u8,
    /// Must be 0.
    pub(super) rest: [u8; 3],
}

/// A recipe: `.vvar.reentry.recipes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pread, Pwrite, SizeWith)]
pub(super) struct RecipeRecord {
    /// Index of the first step.
    pub(super) first: u32,
    pub(super) count: u32,
}

/// One step of a recipe: `.vvar.reentry.steps`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pread, Pwrite, SizeWith)]
pub(super) struct StepRecord {
    /// [`FROM_REGISTER`], [`FROM_MEMORY`], [`FROM_NOWHERE`] or [`CLEAR`].
    pub(super) kind: u8,
    /// What is put back; of a `CLEAR` the argument.
    pub(super) register: u8,
    /// The register that is looked into.
    pub(super) base: u8,
    /// 1 if only 32 bits count; of a `CLEAR` the number of bytes.
    pub(super) size: u8,
    /// Must be 0.
    pub(super) rest: u32,
    pub(super) offset: i64,
    pub(super) image: i64,
    pub(super) constant: i64,
    pub(super) scale: i64,
}

/// Kind of a step: a register's value is in a register.
pub(super) const FROM_REGISTER: u8 = 1;
/// Kind of a step: a register's value is in memory.
pub(super) const FROM_MEMORY: u8 = 2;
/// Kind of a step: a register's value is a constant.
pub(super) const FROM_NOWHERE: u8 = 3;
/// Kind of a step: memory is set to zero.
pub(super) const CLEAR: u8 = 4;

/// A record of a stored table.
pub(super) trait Record: record::Record {
    /// Name of the section that it is stored in.
    const SECTION: &'static str;
}

impl Record for ContextRecord {
    const SECTION: &'static str = ".vvar.reentry";
}

impl Record for CallRecord {
    const SECTION: &'static str = ".vvar.reentry.calls";
}

impl Record for RecipeRecord {
    const SECTION: &'static str = ".vvar.reentry.recipes";
}

impl Record for StepRecord {
    const SECTION: &'static str = ".vvar.reentry.steps";
}

#[cfg(test)]
mod tests {
    use scroll::Endian;
    use scroll::ctx::TryIntoCtx;

    use super::*;

    fn same<R>(record: R, stored: &[u8])
    where
        R: Record + TryIntoCtx<Endian, Error = scroll::Error>,
        R: Copy + PartialEq + std::fmt::Debug,
    {
        assert_eq!(record::stored(record), stored);
        assert_eq!(stored.len(), record::size::<R>());
        assert_eq!(record::all::<R>(stored).collect::<Vec<_>>(), [record]);
    }

    #[test]
    fn fields_are_where_the_specification_puts_them() {
        let context = ContextRecord {
            boundary: 0x0403_0201,
            function: 0x0807_0605,
            calls: 0x0c0b_0a09,
            call_count: 0x0e0d,
            flags: 0x100f,
            recovery: 0x1413_1211,
        };
        same(context, &(1..=20).collect::<Vec<u8>>());
        let call = CallRecord {
            offset: 0x0807_0605_0403_0201,
            returns_to: 0x0c0b_0a09,
            base: 13,
            rest: [14, 15, 16],
        };
        same(call, &(1..=16).collect::<Vec<u8>>());
        let recipe = RecipeRecord {
            first: 0x0403_0201,
            count: 0x0807_0605,
        };
        same(recipe, &(1..=8).collect::<Vec<u8>>());
        let step = StepRecord {
            kind: 1,
            register: 2,
            base: 3,
            size: 4,
            rest: 0x0807_0605,
            offset: 0x100f_0e0d_0c0b_0a09,
            image: 0x1817_1615_1413_1211,
            constant: 0x201f_1e1d_1c1b_1a19,
            scale: 0x2827_2625_2423_2221,
        };
        same(step, &(1..=40).collect::<Vec<u8>>());
    }
}
