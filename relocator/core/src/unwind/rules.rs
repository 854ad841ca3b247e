//! Where a frame and the registers of its caller are.
//!
//! The words are those of DWARF: a *row* has the rules for a range of instructions. Registers have
//! their DWARF numbers. Here rules are values, whatever instructions of a call frame program state
//! them.

use std::ops::Range;

/// Where the frame of a function is: its canonical frame address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame {
    /// At the content of a register plus an offset.
    At(u16, i64),
    /// At the result of an expression.
    Expression(Vec<u8>),
}

/// Where the caller's content of a register is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Nowhere.
    Undefined,
    /// In the register.
    SameValue,
    /// In memory, at that distance from the frame.
    At(i64),
    /// It is the address of the frame plus that.
    Is(i64),
    /// In another register.
    In(u16),
    /// In memory, at the result of an expression.
    AtExpression(Vec<u8>),
    /// It is the result of an expression.
    IsExpression(Vec<u8>),
}

/// All rules at an instruction. Registers without a rule are in place, or of no use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rules {
    /// Where the frame is.
    pub(crate) frame: Frame,
    /// Rules by register, ascending, each once.
    pub(crate) registers: Vec<(u16, Rule)>,
}

impl Rules {
    /// The rule of a register.
    pub(crate) fn of(&self, register: u16) -> Option<&Rule> {
        let mut registers = self.registers.iter();
        let found = registers.find(|(number, _)| *number == register);
        found.map(|(_, rule)| rule)
    }
}

/// The rules for a range of image-relative addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    /// The addresses.
    pub(crate) range: Range<u64>,
    /// The rules.
    pub(crate) rules: Rules,
}

/// What call frame programs of an architecture begin with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Convention {
    /// Addresses of instructions are multiples of this.
    pub(crate) code_alignment: u8,
    /// Distances of saved registers are multiples of this.
    pub(crate) data_alignment: i8,
    /// The register that stands for the return address.
    pub(crate) return_address: u16,
    /// The rules at the entry of a function, where nothing has been saved yet.
    pub(crate) at_entry: Rules,
}

/// Puts rules over a part of some rows, which are ascending and do not overlap. What no row covers
/// stays so.
pub(crate) fn overlay(rows: &[Row], part: &Range<u64>, rules: &Rules) -> Vec<Row> {
    let mut all = Vec::new();
    for row in rows {
        let cuts = [
            row.range.start..row.range.end.min(part.start),
            row.range.start.max(part.start)..row.range.end.min(part.end),
            row.range.start.max(part.end)..row.range.end,
        ];
        for (index, range) in cuts.into_iter().enumerate() {
            let rules = if index == 1 { rules } else { &row.rules };
            if range.start < range.end {
                push(&mut all, range, rules);
            }
        }
    }
    all
}

/// Adds a row, or makes the last one longer that has the same rules.
pub(crate) fn push(rows: &mut Vec<Row>, range: Range<u64>, rules: &Rules) {
    match rows.last_mut() {
        Some(last) if last.range.end == range.start && last.rules == *rules => {
            last.range.end = range.end;
        }
        _ => rows.push(Row {
            range,
            rules: rules.clone(),
        }),
    }
}

/// The rules at an address.
pub(crate) fn at(rows: &[Row], address: u64) -> Option<&Rules> {
    let row = rows.iter().find(|row| row.range.contains(&address))?;
    Some(&row.rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(offset: i64) -> Rules {
        Rules {
            frame: Frame::At(7, offset),
            registers: Vec::new(),
        }
    }

    fn rows(all: &[(Range<u64>, i64)]) -> Vec<Row> {
        let rows = all.iter().map(|(range, offset)| Row {
            range: range.clone(),
            rules: rules(*offset),
        });
        rows.collect()
    }

    #[test]
    fn rules_over_a_part_leave_the_rest_as_it_was() {
        let before = rows(&[(0..4, 8), (4..10, 16), (20..30, 8)]);
        let over = |part: Range<u64>| overlay(&before, &part, &rules(24));
        assert_eq!(over(12..18), before);
        let both = rows(&[(0..2, 8), (2..6, 24), (6..10, 16), (20..30, 8)]);
        assert_eq!(over(2..6), both);
        let gap = rows(&[
            (0..4, 8),
            (4..8, 16),
            (8..10, 24),
            (20..22, 24),
            (22..30, 8),
        ]);
        assert_eq!(over(8..22), gap);
        // Rules that were there make one row with their neighbours.
        let same = overlay(&before, &(2..10), &rules(8));
        assert_eq!(same, rows(&[(0..10, 8), (20..30, 8)]));
        assert_eq!(at(&same, 9), Some(&rules(8)));
        assert_eq!(at(&same, 10), None);
    }
}
