//! By how much a constant may change.

use elf_tools::relocation::Width;

/// Inclusive bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) low: i64,
    pub(super) high: i64,
}

impl Range {
    pub(super) fn contains(self, value: i64) -> bool {
        (self.low..=self.high).contains(&value)
    }

    pub(super) fn is_open(self) -> bool {
        self.low < self.high
    }
}

/// By how much a constant can change.
#[derive(Debug, Clone, Copy)]
pub(super) struct Variable {
    pub(super) width: Width,
    /// While it stays where it is.
    pub(super) fits: Range,
    /// If its instruction is moved out of line.
    pub(super) reach: Range,
}

impl Variable {
    /// The variable of a constant that is stored in `width` and has `value`.
    pub(super) fn new(width: Width, value: i64) -> Self {
        let word = Range {
            low: i64::from(i32::MIN) - value,
            high: i64::from(i32::MAX) - value,
        };
        let fits = match width {
            Width::None => Range { low: 0, high: 0 },
            Width::I8 => Range {
                low: i64::from(i8::MIN) - value,
                high: i64::from(i8::MAX) - value,
            },
            Width::I32 => word,
        };
        Self {
            width,
            fits,
            reach: word,
        }
    }

    /// Whether moving the instruction gains anything.
    pub(super) fn is_narrow(self) -> bool {
        self.fits != self.reach
    }
}
