//! Operands of instructions: what is read, and at which addresses.

use iced_x86::{InstructionInfo, OpAccess, OpKind, Register};

use super::{RAX, RSP, Step, number};
use crate::derive::value::{ConstantId, SetId, Unknown, Value};
use crate::disassembly::Field;

impl Step<'_, '_> {
    pub(super) fn constant_id(&self, immediate: bool) -> ConstantId {
        self.machine.at * 2 + ConstantId::from(immediate)
    }

    /// A value with a constant of this instruction in it, if the constant is stored in a way that
    /// can be changed.
    pub(super) fn with_constant(&mut self, value: i64, base: i64, immediate: bool) -> SetId {
        let field = match immediate {
            true => self.description.immediate,
            false => self.description.displacement,
        };
        let is_slot = match field {
            Field { size: 0, .. } => !immediate,
            Field { size, .. } => size == 1 || size == 4,
        };
        let provenance = match is_slot {
            true => vec![(self.constant_id(immediate), 1)],
            false => Vec::new(),
        };
        self.machine.pool.one(Value {
            base,
            constant: value,
            terms: Vec::new(),
            provenance,
        })
    }

    /// Addresses that the memory operand may have; `None` if they cannot be told.
    pub(super) fn address(&mut self) -> Option<SetId> {
        let i = self.instruction;
        if i.segment_prefix() != Register::None {
            return None;
        }
        if i.is_ip_rel_memory_operand() {
            let target = i.ip_rel_memory_address() as i64;
            return Some(self.with_constant(target, 1, false));
        }
        let is_wide = |register: Register| register == Register::None || register.is_gpr64();
        if !is_wide(i.memory_base()) || !is_wide(i.memory_index()) {
            return None;
        }
        let mut sum = self.with_constant(i.memory_displacement64() as i64, 0, false);
        if let Some(base) = number(i.memory_base()) {
            let base = self.machine.read(base);
            sum = self.machine.pool.sum(base, sum, 1)?;
        }
        if let Some(index) = number(i.memory_index()) {
            let index = self.machine.read(index);
            let scale = i64::from(i.memory_index_scale());
            sum = self.machine.pool.sum(sum, index, scale)?;
        }
        Some(sum)
    }

    /// Reads the memory operand.
    pub(super) fn load(&mut self) -> SetId {
        let size = self.instruction.memory_size().size() as u32;
        match self.address() {
            Some(address) => self.machine.load(address, size),
            None => {
                self.consume_address();
                self.machine
                    .pool
                    .of_unknown(Unknown::Loaded(self.machine.at))
            }
        }
    }

    pub(super) fn store(&mut self, set: SetId) {
        let size = self.instruction.memory_size().size() as u32;
        match self.address() {
            Some(address) => self.machine.store(address, size, set),
            None => {
                self.consume_address();
                self.machine.consume(set);
            }
        }
    }

    /// The memory operand's address is not followed.
    pub(super) fn consume_address(&mut self) {
        for register in [
            self.instruction.memory_base(),
            self.instruction.memory_index(),
        ] {
            if let Some(number) = number(register).filter(|&number| number != RSP) {
                self.machine.consume(self.machine.read(number));
            }
        }
    }

    pub(super) fn is_register(&self, operand: u32, size: usize) -> bool {
        self.instruction.op_kind(operand) == OpKind::Register
            && self.instruction.op_register(operand).size() == size
            && number(self.instruction.op_register(operand)).is_some()
    }

    /// A 64-bit source operand, or a 32-bit one extended by zeros; `None` for anything else.
    pub(super) fn source(&mut self, operand: u32, size: usize) -> Option<SetId> {
        let i = self.instruction;
        match i.op_kind(operand) {
            OpKind::Register if self.is_register(operand, size) => {
                let register = number(i.op_register(operand))?;
                let set = self.machine.read(register);
                Some(match size {
                    8 => set,
                    _ => self.machine.narrowed(set, false, register),
                })
            }
            OpKind::Memory => {
                let set = self.load();
                Some(match size {
                    8 => set,
                    _ => {
                        let register = number(i.op0_register()).unwrap_or(RAX);
                        self.machine.narrowed(set, false, register)
                    }
                })
            }
            OpKind::Immediate8to64 | OpKind::Immediate32to64 if size == 8 => {
                Some(self.with_constant(i.immediate(operand) as i64, 0, true))
            }
            OpKind::Immediate64 if size == 8 => {
                let value = Value::constant(i.immediate64() as i64);
                Some(self.machine.pool.one(value))
            }
            OpKind::Immediate32 | OpKind::Immediate8to32 if size == 4 => {
                let value = Value::constant(i64::from(i.immediate(operand) as u32));
                Some(self.machine.pool.one(value))
            }
            _ => None,
        }
    }

    /// The general register that is written as a whole: 64 bits, or 32 which clear the upper half.
    pub(super) fn destination(&self) -> Option<(u8, usize)> {
        let size = self.instruction.op0_register().size();
        let is_whole = self.is_register(0, size) && (size == 8 || size == 4);
        Some((number(self.instruction.op0_register())?, size)).filter(|_| is_whole)
    }

    pub(super) fn has_memory_operand(&self) -> bool {
        (0..self.instruction.op_count())
            .any(|operand| self.instruction.op_kind(operand) == OpKind::Memory)
    }

    /// Whether a register is read for nothing but the address of the memory operand.
    pub(super) fn forms_address(&self, register: Register, info: &InstructionInfo) -> bool {
        let i = self.instruction;
        let in_address = register == i.memory_base() || register == i.memory_index();
        let is_operand = (0..i.op_count()).any(|operand| {
            i.op_kind(operand) == OpKind::Register
                && info.op_access(operand) != OpAccess::Write
                && i.op_register(operand).full_register() == register.full_register()
        });
        in_address && !is_operand
    }
}
