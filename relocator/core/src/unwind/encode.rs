//! Writes call frame information: programs, frame descriptions, and what these have in common.
//!
//! Frame descriptions have the form that compilers give them (`"zR"`, addresses relative to the
//! place where they are stored, in four bytes), which every unwinder reads.

use super::rules::{Convention, Frame, Row, Rule, Rules};

/// Frame descriptions begin at a multiple of this.
const ALIGNMENT: usize = 4;

/// Four bytes, signed, relative to their own place.
pub(super) const RELATIVE: u8 = 0x1b;

/// Instructions of call frame programs: DWARF 5, table 7.29. The first three have an operand in
/// their low six bits.
mod instruction {
    pub(super) const ADVANCE: u8 = 0x40;
    pub(super) const OFFSET: u8 = 0x80;
    pub(super) const RESTORE: u8 = 0xc0;
    pub(super) const ADVANCE_1: u8 = 0x02;
    pub(super) const ADVANCE_2: u8 = 0x03;
    pub(super) const ADVANCE_4: u8 = 0x04;
    pub(super) const RESTORE_EXTENDED: u8 = 0x06;
    pub(super) const UNDEFINED: u8 = 0x07;
    pub(super) const SAME_VALUE: u8 = 0x08;
    pub(super) const REGISTER: u8 = 0x09;
    pub(super) const REMEMBER_STATE: u8 = 0x0a;
    pub(super) const RESTORE_STATE: u8 = 0x0b;
    pub(super) const FRAME: u8 = 0x0c;
    pub(super) const FRAME_REGISTER: u8 = 0x0d;
    pub(super) const FRAME_OFFSET: u8 = 0x0e;
    pub(super) const FRAME_EXPRESSION: u8 = 0x0f;
    pub(super) const EXPRESSION: u8 = 0x10;
    pub(super) const OFFSET_SIGNED: u8 = 0x11;
    pub(super) const FRAME_SIGNED: u8 = 0x12;
    pub(super) const IS_OFFSET_SIGNED: u8 = 0x15;
    pub(super) const IS_EXPRESSION: u8 = 0x16;
}

/// A call frame program.
struct Program<'a> {
    convention: &'a Convention,
    bytes: Vec<u8>,
}

/// The program that states these rows, which follow each other without gaps. It begins with the
/// rules at the entry of a function. `None` if an offset is no multiple of what it has to be.
pub(super) fn program(convention: &Convention, rows: &[Row]) -> Option<Vec<u8>> {
    let mut program = Program {
        convention,
        bytes: Vec::new(),
    };
    let mut now = &convention.at_entry;
    let mut at = rows.first()?.range.start;
    // The row at which the rules come back that were remembered.
    let mut back = None;
    for (index, row) in rows.iter().enumerate() {
        program.advance(row.range.start - at)?;
        at = row.range.start;
        if back == Some(index) {
            program.bytes.push(instruction::RESTORE_STATE);
            back = None;
        } else {
            let comes_back = |later: &Row| later.rules == *now;
            if index > 0 && back.is_none() {
                let found = rows[index + 1..].iter().position(comes_back);
                back = found.map(|distance| index + 1 + distance);
                if back.is_some() {
                    program.bytes.push(instruction::REMEMBER_STATE);
                }
            }
            program.change(now, &row.rules)?;
        }
        now = &row.rules;
    }
    Some(program.bytes)
}

impl Program<'_> {
    fn advance(&mut self, distance: u64) -> Option<()> {
        let alignment = u64::from(self.convention.code_alignment);
        if !distance.is_multiple_of(alignment) {
            return None;
        }
        match u32::try_from(distance / alignment).ok()? {
            0 => {}
            short @ 1..0x40 => self.bytes.push(instruction::ADVANCE | short as u8),
            byte @ 0x40..0x100 => self.bytes.extend([instruction::ADVANCE_1, byte as u8]),
            half @ 0x100..0x1_0000 => {
                self.bytes.push(instruction::ADVANCE_2);
                self.bytes.extend((half as u16).to_le_bytes());
            }
            word => {
                self.bytes.push(instruction::ADVANCE_4);
                self.bytes.extend(word.to_le_bytes());
            }
        }
        Some(())
    }

    /// States what differs.
    fn change(&mut self, from: &Rules, to: &Rules) -> Option<()> {
        if from.frame != to.frame {
            self.frame(&from.frame, &to.frame)?;
        }
        let both = from.registers.iter().chain(&to.registers);
        let mut registers: Vec<u16> = both.map(|(register, _)| *register).collect();
        registers.sort_unstable();
        registers.dedup();
        for register in registers {
            if from.of(register) != to.of(register) {
                self.register(register, to.of(register))?;
            }
        }
        Some(())
    }

    fn frame(&mut self, from: &Frame, to: &Frame) -> Option<()> {
        match (from, to) {
            (Frame::At(before, _), Frame::At(register, offset))
                if before == register && *offset >= 0 =>
            {
                self.bytes.push(instruction::FRAME_OFFSET);
                self.unsigned(offset.unsigned_abs());
            }
            (Frame::At(_, before), Frame::At(register, offset)) if before == offset => {
                self.bytes.push(instruction::FRAME_REGISTER);
                self.unsigned(u64::from(*register));
            }
            (_, Frame::At(register, offset)) if *offset >= 0 => {
                self.bytes.push(instruction::FRAME);
                self.unsigned(u64::from(*register));
                self.unsigned(offset.unsigned_abs());
            }
            (_, Frame::At(register, offset)) => {
                let factored = self.factored(*offset)?;
                self.bytes.push(instruction::FRAME_SIGNED);
                self.unsigned(u64::from(*register));
                self.signed(factored);
            }
            (_, Frame::Expression(expression)) => {
                self.bytes.push(instruction::FRAME_EXPRESSION);
                self.block(expression);
            }
        }
        Some(())
    }

    fn register(&mut self, register: u16, rule: Option<&Rule>) -> Option<()> {
        let at_entry = self.convention.at_entry.of(register);
        if rule == at_entry {
            match register {
                0..0x40 => self.bytes.push(instruction::RESTORE | register as u8),
                _ => self.simple(instruction::RESTORE_EXTENDED, register),
            }
            return Some(());
        }
        match rule {
            None | Some(Rule::SameValue) => self.simple(instruction::SAME_VALUE, register),
            Some(Rule::Undefined) => self.simple(instruction::UNDEFINED, register),
            Some(Rule::In(other)) => {
                self.simple(instruction::REGISTER, register);
                self.unsigned(u64::from(*other));
            }
            Some(Rule::At(offset)) => {
                let factored = self.factored(*offset)?;
                match (u64::try_from(factored), register) {
                    (Ok(factored), 0..0x40) => {
                        self.bytes.push(instruction::OFFSET | register as u8);
                        self.unsigned(factored);
                    }
                    _ => {
                        self.simple(instruction::OFFSET_SIGNED, register);
                        self.signed(factored);
                    }
                }
            }
            Some(Rule::Is(offset)) => {
                let factored = self.factored(*offset)?;
                self.simple(instruction::IS_OFFSET_SIGNED, register);
                self.signed(factored);
            }
            Some(Rule::AtExpression(expression)) => {
                self.simple(instruction::EXPRESSION, register);
                self.block(expression);
            }
            Some(Rule::IsExpression(expression)) => {
                self.simple(instruction::IS_EXPRESSION, register);
                self.block(expression);
            }
        }
        Some(())
    }

    fn simple(&mut self, instruction: u8, register: u16) {
        self.bytes.push(instruction);
        self.unsigned(u64::from(register));
    }

    fn block(&mut self, expression: &[u8]) {
        self.unsigned(expression.len() as u64);
        self.bytes.extend(expression);
    }

    fn factored(&self, offset: i64) -> Option<i64> {
        let alignment = i64::from(self.convention.data_alignment);
        (offset % alignment == 0).then(|| offset / alignment)
    }

    fn unsigned(&mut self, value: u64) {
        unsigned(&mut self.bytes, value);
    }

    fn signed(&mut self, value: i64) {
        signed(&mut self.bytes, value);
    }
}

/// A number in LEB128.
fn unsigned(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// A signed number in LEB128.
fn signed(bytes: &mut Vec<u8>, mut value: i64) {
    while !(-0x40..0x40).contains(&value) {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8 & 0x7f);
}

/// What frame descriptions have in common.
pub(super) fn common(convention: &Convention, is_signal: bool) -> Option<Vec<u8>> {
    let mut entry = vec![0; 4];
    // Version 1, as in every `.eh_frame`.
    entry.push(1);
    entry.extend(if is_signal {
        b"zRS\0".as_slice()
    } else {
        b"zR\0"
    });
    unsigned(&mut entry, u64::from(convention.code_alignment));
    signed(&mut entry, i64::from(convention.data_alignment));
    unsigned(&mut entry, u64::from(convention.return_address));
    // One byte of augmentation data.
    entry.extend([1, RELATIVE]);
    let nothing = Rules {
        frame: Frame::Expression(Vec::new()),
        registers: Vec::new(),
    };
    let bare = Convention {
        at_entry: nothing.clone(),
        ..convention.clone()
    };
    let mut program = Program {
        convention: &bare,
        bytes: Vec::new(),
    };
    program.change(&nothing, &convention.at_entry)?;
    entry.extend(program.bytes);
    Some(whole(entry))
}

/// A frame description at an address, for what is common at another address before it.
pub(super) fn description(
    convention: &Convention,
    rows: &[Row],
    at: u64,
    common: u64,
) -> Option<Vec<u8>> {
    let (first, last) = (rows.first()?, rows.last()?);
    let mut entry = Vec::new();
    entry.extend(u32::try_from(at + 4 - common).ok()?.to_le_bytes());
    let distance = first.range.start.cast_signed() - (at + 8).cast_signed();
    entry.extend(i32::try_from(distance).ok()?.to_le_bytes());
    let size = u32::try_from(last.range.end - first.range.start).ok()?;
    entry.extend(size.to_le_bytes());
    // No augmentation data.
    entry.push(0);
    entry.extend(program(convention, rows)?);
    Some(whole(entry))
}

/// An entry with its length before it, filled up with instructions that do nothing.
fn whole(mut entry: Vec<u8>) -> Vec<u8> {
    entry.resize(entry.len().next_multiple_of(ALIGNMENT), 0);
    let mut bytes = (entry.len() as u32).to_le_bytes().to_vec();
    bytes.extend(entry);
    bytes
}
