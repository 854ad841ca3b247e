//! What x86-64 instructions do to the abstract state.
//!
//! Moves, address arithmetic and the stack are followed; the results of everything else are numbers
//! that nothing is known of, and an address that goes into such an instruction makes it opaque.

mod arithmetic;
mod operand;

use iced_x86::{
    ConditionCode, Decoder, DecoderOptions, Instruction, InstructionInfoFactory, Mnemonic,
    OpAccess, OpKind, Register,
};

use crate::arch::Dataflow;
use crate::derive::machine::{Known, Learned, Machine, REGISTERS, State};
use crate::derive::pool::Pool;
use crate::derive::value::{Unknown, Value};
use crate::disassembly::Flow;
use crate::image::Image;
use crate::reachability::Code;
use crate::relocation::OpaqueReason;

/// Registers by the number that the processor gives them; the stack pointer is 4.
const RAX: u8 = 0;
const RCX: u8 = 1;
const RSP: u8 = 4;
const RBP: u8 = 5;
const R11: u8 = 11;

/// Decoded instructions of an image.
pub(super) struct Instructions<'a> {
    code: &'a Code,
    decoded: Vec<Instruction>,
}

impl<'a> Instructions<'a> {
    pub(super) fn new(image: &Image, code: &'a Code) -> Self {
        let mut decoder = Decoder::with_ip(64, image.bytes(), 0, DecoderOptions::NONE);
        let decode = |instruction: &crate::disassembly::Instruction| {
            // The position was decoded before, so it lies in the image.
            let _ = decoder.set_position(instruction.address.index());
            decoder.set_ip(instruction.address.0);
            decoder.decode()
        };
        Self {
            code,
            decoded: code.instructions().iter().map(decode).collect(),
        }
    }
}

impl Dataflow for Instructions<'_> {
    fn flags(&self) -> u8 {
        16
    }

    fn entry_state(&self, pool: &mut Pool) -> State {
        let mut registers = [0; REGISTERS];
        for (number, register) in registers.iter_mut().enumerate() {
            *register = match number as u8 {
                RSP => pool.of_unknown(Unknown::Stack),
                number => pool.of_unknown(Unknown::Initial(number)),
            };
        }
        State::at_entry(registers)
    }

    fn apply(&self, index: u32, machine: &mut Machine<'_>) {
        Step {
            instruction: &self.decoded[index as usize],
            description: &self.code.instructions()[index as usize],
            machine,
        }
        .apply();
    }

    /// `cmp register, immediate` with `je` or `jne` behind it.
    fn learned(&self, index: u32, state: &State, pool: &Pool) -> Learned {
        let [compare, branch] = &self.decoded[index as usize - 1..=index as usize] else {
            return Learned::default();
        };
        let is_constant = matches!(
            compare.op1_kind(),
            OpKind::Immediate8to64 | OpKind::Immediate32to64
        );
        if compare.mnemonic() != Mnemonic::Cmp || !is_constant || !compare.op0_register().is_gpr64()
        {
            return Learned::default();
        }
        let compared = compare.op0_register().number();
        let [value] = pool.values(state.registers[compared]) else {
            return Learned::default();
        };
        let unknown = value.as_unknown().map(|id| pool.unknown_of(id));
        let Some(Unknown::Initial(register)) = unknown else {
            return Learned::default();
        };
        let number = compare.immediate(1) as i64;
        let equal = Some(Known { register, number });
        match branch.condition_code() {
            ConditionCode::e => Learned {
                taken: equal,
                not_taken: None,
            },
            ConditionCode::ne => Learned {
                taken: None,
                not_taken: equal,
            },
            _ => Learned::default(),
        }
    }

    fn returned(&self, mut machine: Machine<'_>, to_caller: bool) -> State {
        machine.pop(RSP, 8);
        if to_caller {
            machine.consume(machine.read(RAX));
        }
        machine.forget_below(RSP);
        machine.state
    }

    fn compared_with(&self, index: u32) -> Option<i64> {
        let i = self.decoded.get(index as usize)?;
        let is_comparison = i.mnemonic() == Mnemonic::Cmp && i.op0_kind() == OpKind::Memory;
        (is_comparison && is_immediate(i.op1_kind())).then(|| i.immediate(1) as i64)
    }
}

fn is_immediate(kind: OpKind) -> bool {
    matches!(
        kind,
        OpKind::Immediate8
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64
    )
}

/// One instruction about to be applied.
struct Step<'a, 'm> {
    instruction: &'a Instruction,
    description: &'a crate::disassembly::Instruction,
    machine: &'a mut Machine<'m>,
}

/// Whether a register is the lowest byte of a general register.
fn is_lowest_byte(register: Register) -> bool {
    let is_high = matches!(
        register,
        Register::AH | Register::BH | Register::CH | Register::DH
    );
    register.is_gpr8() && !is_high
}

/// The number of a general register, whatever part of it is named.
fn number(register: Register) -> Option<u8> {
    let full = register.full_register();
    full.is_gpr64().then(|| full.number() as u8)
}

impl Step<'_, '_> {
    fn apply(&mut self) {
        if matches!(self.description.flow, Flow::Call(_)) {
            // A return address is no address that code computes with.
            let address = self.machine.computed(RSP);
            return self.machine.push(RSP, 8, address);
        }
        let done = match self.instruction.mnemonic() {
            Mnemonic::Nop
            | Mnemonic::Endbr64
            | Mnemonic::Pause
            | Mnemonic::Lfence
            | Mnemonic::Jmp
            | Mnemonic::Ret => Some(()),
            Mnemonic::Mov => self.mov(),
            Mnemonic::Movsxd | Mnemonic::Movsx | Mnemonic::Movzx => self.extend(),
            Mnemonic::Lea => self.lea(),
            Mnemonic::Add => self.add(1),
            Mnemonic::Sub if self.is_zeroing() => self.zero(),
            Mnemonic::Xor if self.is_zeroing() => self.zero(),
            Mnemonic::Sub => self.add(-1),
            Mnemonic::Inc => self.increment(1),
            Mnemonic::Dec => self.increment(-1),
            Mnemonic::Neg => self.multiply(-1),
            Mnemonic::Shl | Mnemonic::Sal => self.shift_left(),
            Mnemonic::Imul => self.imul(),
            Mnemonic::And if self.has_immediate(0) => self.constant(0),
            Mnemonic::And if self.is_stack_pointer() => self.align_stack(),
            Mnemonic::And => self.bits(|number, mask| number & mask),
            Mnemonic::Or if self.has_immediate(-1) => self.constant(-1),
            Mnemonic::Or => self.bits(|number, mask| number | mask),
            Mnemonic::Xor => self.bits(|number, mask| number ^ mask),
            Mnemonic::Sbb if self.is_same_register_twice() => self.borrow(),
            Mnemonic::Xchg => self.exchange(),
            Mnemonic::Cmp | Mnemonic::Test | Mnemonic::Bt => self.compare(),
            Mnemonic::Push => self.push(),
            Mnemonic::Pop => self.pop(),
            Mnemonic::Leave => self.leave(),
            Mnemonic::Syscall => self.syscall(),
            _ if self.is_conditional_move() => self.conditional_move(),
            _ if self.is_condition() => self.condition(),
            _ => None,
        };
        if done.is_none() {
            self.anything();
        }
    }

    /// Of `xor` and `sub`: the result is zero.
    fn is_zeroing(&self) -> bool {
        self.is_same_register_twice()
    }

    fn is_same_register_twice(&self) -> bool {
        let i = self.instruction;
        i.op0_kind() == OpKind::Register
            && i.op1_kind() == OpKind::Register
            && i.op0_register() == i.op1_register()
            && i.op0_register().size() >= 4
    }

    /// Whether the second operand is that number, and the first a register.
    fn has_immediate(&self, number: i64) -> bool {
        let i = self.instruction;
        let value = match i.op0_register().size() {
            4 => i64::from(number as u32),
            _ => number,
        };
        let stored = || match i.op0_register().size() {
            4 => i64::from(i.immediate(1) as u32),
            _ => i.immediate(1) as i64,
        };
        self.destination().is_some() && is_immediate(i.op1_kind()) && stored() == value
    }

    /// What has a condition and two operands is `cmovcc`.
    fn is_conditional_move(&self) -> bool {
        self.instruction.condition_code() != ConditionCode::None && self.instruction.op_count() == 2
    }

    /// What has a condition and one register is `setcc`.
    fn is_condition(&self) -> bool {
        let i = self.instruction;
        i.condition_code() != ConditionCode::None
            && i.op_count() == 1
            && i.op0_kind() == OpKind::Register
            && is_lowest_byte(i.op0_register())
    }

    fn mov(&mut self) -> Option<()> {
        if let Some((register, size)) = self.destination() {
            let set = self.source(1, size)?;
            let is_load = self.instruction.op1_kind() == OpKind::Memory && size == 8;
            let from = self.address().filter(|_| is_load);
            self.machine.write(register, set);
            if let Some(from) = from {
                self.machine.restored(from, register);
            }
            return Some(());
        }
        if self.instruction.op0_kind() != OpKind::Memory {
            return None;
        }
        let is_immediate = matches!(
            self.instruction.op1_kind(),
            OpKind::Immediate8 | OpKind::Immediate16
        );
        let set = match self.instruction.memory_size().size() {
            size @ (4 | 8) => self.source(1, size)?,
            _ if is_immediate => {
                let number = self.instruction.immediate(1) as i64;
                self.machine.pool.one(Value::constant(number))
            }
            _ => return None,
        };
        self.store(set);
        if self.is_register(1, 8)
            && let Some(saved) = number(self.instruction.op1_register())
            && let Some(at) = self.address()
        {
            self.machine.saved(at, saved);
        }
        Some(())
    }

    fn extend(&mut self) -> Option<()> {
        let (register, _) = self.destination()?;
        let set = if self.instruction.op1_kind() == OpKind::Memory {
            let set = self.load();
            let signed = self.instruction.mnemonic() != Mnemonic::Movzx;
            match self.instruction.memory_size().size() {
                4 => self.machine.narrowed(set, signed, register),
                // Compilers do not save parts of an address, and parts of a number are another
                // number.
                _ => {
                    self.machine.consume(set);
                    self.machine.computed(register)
                }
            }
        } else if let Some(bit) = self.extended_bit() {
            bit
        } else if self.instruction.mnemonic() == Mnemonic::Movsxd && self.is_register(1, 4) {
            let source = number(self.instruction.op1_register())?;
            self.machine
                .narrowed(self.machine.read(source), true, source)
        } else {
            return None;
        };
        self.machine.write(register, set);
        Some(())
    }

    fn lea(&mut self) -> Option<()> {
        let (register, size) = self.destination()?;
        let address = self.address()?;
        if size == 8 {
            self.machine.write(register, address);
        } else {
            self.machine.consume(address);
            self.machine.write_computed(register);
        }
        Some(())
    }

    fn zero(&mut self) -> Option<()> {
        let register = number(self.instruction.op0_register())?;
        let zero = self.machine.pool.one(Value::default());
        self.machine.write(register, zero);
        self.machine.set_flags(&[]);
        Some(())
    }

    fn compare(&mut self) -> Option<()> {
        let mut operand = |operand: u32| {
            let i = self.instruction;
            match i.op_kind(operand) {
                OpKind::Memory => Some(self.load()),
                OpKind::Register => {
                    number(i.op_register(operand)).map(|register| self.machine.read(register))
                }
                _ => Some(self.machine.pool.one(Value::default())),
            }
        };
        let (left, right) = (operand(0)?, operand(1)?);
        self.machine.set_flags(&[left, right]);
        Some(())
    }

    fn push(&mut self) -> Option<()> {
        if self.is_register(0, 8) {
            let register = number(self.instruction.op0_register())?;
            self.machine.push_register(RSP, 8, register);
            return Some(());
        }
        let set = self.source(0, 8)?;
        self.machine.push(RSP, 8, set);
        Some(())
    }

    fn pop(&mut self) -> Option<()> {
        let (register, _) = self.destination().filter(|&(_, size)| size == 8)?;
        self.machine.pop_register(RSP, 8, register);
        Some(())
    }

    fn leave(&mut self) -> Option<()> {
        let frame = self.machine.read(RBP);
        self.machine.write(RSP, frame);
        self.machine.pop_register(RSP, 8, RBP);
        Some(())
    }

    /// The kernel takes what it needs and leaves three registers changed. It leaves all others as
    /// they are.
    fn syscall(&mut self) -> Option<()> {
        for register in [RAX, RCX, R11] {
            self.machine.write_computed(register);
        }
        Some(())
    }

    fn conditional_move(&mut self) -> Option<()> {
        let (register, size) = self.destination()?;
        self.machine.use_flags();
        let (kept, moved) = (self.source(0, size)?, self.source(1, size)?);
        let either = self.machine.either(kept, moved, register);
        self.machine.write(register, either);
        Some(())
    }

    /// Any other instruction, by what the decoder says that it reads and writes.
    fn anything(&mut self) {
        let mut factory = InstructionInfoFactory::new();
        let info = factory.info(self.instruction);
        let reads = |access| {
            matches!(
                access,
                OpAccess::Read | OpAccess::CondRead | OpAccess::ReadWrite | OpAccess::ReadCondWrite
            )
        };
        let writes = |access| {
            matches!(
                access,
                OpAccess::Write
                    | OpAccess::CondWrite
                    | OpAccess::ReadWrite
                    | OpAccess::ReadCondWrite
            )
        };
        if self.instruction.rflags_read() != 0 {
            self.machine.use_flags();
        }
        let has_operand = self.has_memory_operand();
        for used in info.used_registers() {
            let addresses = has_operand && self.forms_address(used.register(), info);
            let Some(register) = number(used.register()).filter(|_| !addresses) else {
                continue;
            };
            if reads(used.access()) && register != RSP {
                self.machine.consume(self.machine.read(register));
            }
        }
        for used in info.used_memory() {
            if !has_operand {
                // The stack of `pushf`, or the operands of a string instruction.
                for register in [used.base(), used.index()].into_iter().filter_map(number) {
                    let set = self.machine.read(register);
                    match register {
                        RSP => self.machine.lose_stack(OpaqueReason::StackUsed),
                        _ => self.machine.consume(set),
                    }
                }
                continue;
            }
            if reads(used.access()) {
                let loaded = self.load();
                self.machine.consume(loaded);
            }
            if writes(used.access()) {
                let stored = self
                    .machine
                    .pool
                    .of_unknown(Unknown::Loaded(self.machine.at));
                self.store(stored);
            }
        }
        for used in info.used_registers() {
            let Some(register) = number(used.register()).filter(|_| writes(used.access())) else {
                continue;
            };
            if register == RSP {
                self.machine.lose_stack(OpaqueReason::StackPointerChanged);
            }
            match used.register().size() < 4 {
                true => self.machine.write_part(register),
                false => self.machine.write_computed(register),
            }
        }
        if self.instruction.rflags_modified() != 0 {
            self.machine.set_flags(&[]);
        }
    }
}
