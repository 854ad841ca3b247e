//! Arithmetic: what is followed of it.

use iced_x86::{OpKind, Register};

use super::{RSP, Step, is_lowest_byte, number};
use crate::derive::value::{SetId, Unknown, Value};

impl Step<'_, '_> {
    /// `or` with all bits, and `and` with none: whatever was in the register, the result is that
    /// number. Where it counts most that code is small, compilers load constants like this.
    pub(super) fn constant(&mut self, number: i64) -> Option<()> {
        let (register, size) = self.destination()?;
        let number = match size {
            4 => i64::from(number as u32),
            _ => number,
        };
        let set = self.machine.pool.one(Value::constant(number));
        self.machine.write(register, set);
        self.machine.set_flags(&[]);
        Some(())
    }

    /// `sbb` of a register and itself: all bits are the carry flag, whatever was in the register.
    pub(super) fn borrow(&mut self) -> Option<()> {
        let (register, size) = self.destination()?;
        self.machine.use_flags();
        let all = match size {
            4 => i64::from(u32::MAX),
            _ => -1,
        };
        let both = [0, all].map(Value::constant);
        let both = self.machine.pool.set(both.into());
        self.machine.write(register, both);
        Some(())
    }

    /// `xchg` of two whole registers.
    pub(super) fn exchange(&mut self) -> Option<()> {
        if !(self.is_register(0, 8) && self.is_register(1, 8)) {
            return None;
        }
        let [first, second] = [
            number(self.instruction.op0_register())?,
            number(self.instruction.op1_register())?,
        ];
        let (one, other) = (self.machine.read(first), self.machine.read(second));
        self.machine.write(first, other);
        self.machine.write(second, one);
        Some(())
    }

    /// `add` and `sub`
    pub(super) fn add(&mut self, factor: i64) -> Option<()> {
        let (register, _) = self.destination().filter(|&(_, size)| size == 8)?;
        let left = self.machine.read(register);
        let right = self.source(1, 8)?;
        let sum = self.machine.pool.sum(left, right, factor)?;
        self.machine.set_flags(&[left, right]);
        self.machine.write(register, sum);
        Some(())
    }

    pub(super) fn increment(&mut self, by: i64) -> Option<()> {
        let (register, _) = self.destination().filter(|&(_, size)| size == 8)?;
        let left = self.machine.read(register);
        let by = self.machine.pool.one(Value::constant(by));
        let sum = self.machine.pool.sum(left, by, 1)?;
        self.machine.set_flags(&[left]);
        self.machine.write(register, sum);
        Some(())
    }

    pub(super) fn multiply(&mut self, factor: i64) -> Option<()> {
        let (register, size) = self.destination()?;
        let set = self.machine.read(register);
        let product = match size {
            8 => self.machine.pool.product(set, factor)?,
            _ => self.halves(set, |number| number.wrapping_mul(factor))?,
        };
        self.machine.set_flags(&[set]);
        self.machine.write(register, product);
        Some(())
    }

    pub(super) fn shift_left(&mut self) -> Option<()> {
        let immediate = self.instruction.op1_kind() == OpKind::Immediate8;
        let count = self.instruction.immediate8();
        if !immediate || count >= 62 {
            return None;
        }
        self.multiply(1 << count)
    }

    pub(super) fn imul(&mut self) -> Option<()> {
        let (register, _) = self.destination().filter(|&(_, size)| size == 8)?;
        let constant = matches!(
            self.instruction.op2_kind(),
            OpKind::Immediate8to64 | OpKind::Immediate32to64
        );
        if self.instruction.op_count() != 3 || !constant {
            return None;
        }
        let factor = self.instruction.immediate(2) as i64;
        let source = self.source(1, 8)?;
        let id = self.constant_id(true);
        let product = self.machine.pool.scaled(source, factor, id)?;
        self.machine.pin(source);
        self.machine.set_flags(&[source]);
        self.machine.write(register, product);
        Some(())
    }

    /// `and` that rounds the stack pointer down.
    pub(super) fn align_stack(&mut self) -> Option<()> {
        if self.instruction.op0_register() != Register::RSP {
            return None;
        }
        let aligned = Unknown::AlignedStack(self.machine.at);
        let set = self.machine.pool.of_unknown(aligned);
        self.machine.write(RSP, set);
        self.machine.set_flags(&[]);
        Some(())
    }

    pub(super) fn is_stack_pointer(&self) -> bool {
        self.instruction.op0_register() == Register::RSP
    }

    /// `and`, `or` and `xor` of known numbers and a number.
    pub(super) fn bits(&mut self, operation: fn(i64, i64) -> i64) -> Option<()> {
        let (register, size) = self.destination()?;
        if !super::is_immediate(self.instruction.op1_kind()) {
            return None;
        }
        let immediate = self.instruction.immediate(1) as i64;
        let old = self.machine.read(register);
        let numbers = self.numbers(old)?.into_iter();
        let results = numbers.map(|number| match (operation(number, immediate), size) {
            (result, 4) => Value::constant(i64::from(result as u32)),
            (result, _) => Value::constant(result),
        });
        let results = results.collect();
        let results = self.machine.pool.set(results);
        self.machine.write(register, results);
        self.machine.set_flags(&[]);
        Some(())
    }

    /// What 32-bit arithmetic makes of known numbers.
    fn halves(&mut self, set: SetId, operation: impl Fn(i64) -> i64) -> Option<SetId> {
        let numbers = self.numbers(set)?.into_iter();
        let halves = numbers.map(|number| Value::constant(i64::from(operation(number) as u32)));
        let halves = halves.collect();
        Some(self.machine.pool.set(halves))
    }

    /// The values of a set, if all of them are numbers that no constant which may change is in.
    fn numbers(&self, set: SetId) -> Option<Vec<i64>> {
        let values = self.machine.pool.values(set).iter();
        let number = |value: &Value| {
            let is_number =
                value.base == 0 && value.terms.is_empty() && value.provenance.is_empty();
            is_number.then_some(value.constant)
        };
        values.map(number).collect()
    }

    /// `setcc`: 0 or 1 in the lowest byte. Compilers choose between two pages by what they make of
    /// it.
    pub(super) fn condition(&mut self) -> Option<()> {
        let register = number(self.instruction.op0_register())?;
        self.machine.use_flags();
        let old = self.machine.read(register);
        match self.numbers(old).as_deref() {
            Some([old]) => {
                let rest = old & !0xff;
                let both = [rest, rest | 1].map(Value::constant);
                let both = self.machine.pool.set(both.into());
                self.machine.write(register, both);
            }
            _ if self.machine.pool.has_address(old) => self.machine.write_part(register),
            _ => {
                let bit = Unknown::Bit(self.machine.at, register);
                let bit = self.machine.pool.of_unknown(bit);
                self.machine.write(register, bit);
            }
        }
        Some(())
    }

    /// `movzx` of a byte that is 0 or 1.
    pub(super) fn extended_bit(&mut self) -> Option<SetId> {
        let i = self.instruction;
        if i.mnemonic() != iced_x86::Mnemonic::Movzx
            || i.op1_kind() != OpKind::Register
            || !is_lowest_byte(i.op1_register())
        {
            return None;
        }
        let source = self.machine.read(number(i.op1_register())?);
        let [value] = self.machine.pool.values(source) else {
            return None;
        };
        let unknown = value
            .as_unknown()
            .map(|id| self.machine.pool.unknown_of(id));
        if !matches!(unknown, Some(Unknown::Bit(..))) {
            return None;
        }
        let both = [0, 1].map(Value::constant);
        Some(self.machine.pool.set(both.into()))
    }
}
