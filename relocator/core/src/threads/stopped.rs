//! A thread as it was stopped, and what recipes make of it.

use elf_tools::reentry::{Context, Location, Recipe, Register, Source};
use elf_tools::{Avma, Svma};

use super::{FixUp, Memory, RecipeFault, Registers, StuckReason, Verdict, Write};
use crate::arch::native;

/// A thread inside an image.
#[derive(Clone, Copy)]
pub(super) struct Stopped<'a> {
    /// Where the image's first byte is.
    pub(super) image: Avma,
    pub(super) registers: &'a Registers,
    pub(super) memory: &'a dyn Memory,
    /// Whether the code that it runs in is not as it was at home: constants in it are others.
    pub(super) was_linked: bool,
}

/// Whether a number is computed with constants that linking may change: those that go into
/// addresses of the vvar. What is added to the stack pointer is none of them.
fn depends_on_layout(register: Register, source: &Source) -> bool {
    let is_added = source.constant != 0 && source.location != Location::Nowhere;
    let is_scaled = source.scale.unsigned_abs() != 1;
    register != native::STACK_POINTER && (source.image != 0 || is_added || is_scaled)
}

impl Stopped<'_> {
    /// Whether the return addresses are those of a context.
    pub(super) fn is_in(&self, context: &Context) -> bool {
        context.calls.iter().all(|call| {
            let found = self.content(call.at);
            found.is_ok_and(|address| address == call.returns_to.at(self.image).0)
        })
    }

    /// The same thread at another instruction.
    pub(super) fn moved(&self, from: Svma, to: Svma) -> FixUp {
        FixUp {
            from,
            to,
            registers: Registers {
                pc: to.at(self.image),
                ..*self.registers
            },
            writes: Vec::new(),
            returns: 0,
        }
    }

    /// The thread in a replacement of the function at `entry`: a jump or a system call, which leave
    /// the arguments and the saved registers in their places. It starts over, unless it has made
    /// the system call already: then it returns.
    pub(super) fn in_replacement(
        &self,
        entry: Svma,
        place: Svma,
        bytes: &[u8],
    ) -> Result<Verdict, StuckReason> {
        let mut fix_up = self.moved(place, entry);
        fix_up.registers.system_call = -1;
        if !native::is_return(bytes) {
            return Ok(match place == entry {
                true => Verdict::Untouched,
                false => Verdict::FixUp(fix_up),
            });
        }
        let target = self.word(self.registers.return_address())?;
        fix_up.registers.return_to(Avma(target));
        fix_up.returns = 1;
        Ok(Verdict::FixUp(fix_up))
    }

    /// The thread at the entry of its function.
    pub(super) fn re_enter(
        &self,
        from: Svma,
        context: &Context,
        recipe: &Recipe,
    ) -> Result<FixUp, StuckReason> {
        let mut fix_up = self.moved(from, context.function);
        let registers = &mut fix_up.registers;
        for &(register, ref source) in &recipe.registers {
            if self.was_linked && depends_on_layout(register, source) {
                return Err(StuckReason::LinkedEarlier(register));
            }
            let value = self
                .value(source)
                .map_err(|fault| StuckReason::Register { register, fault })?;
            let place = registers.general.get_mut(register.index());
            *place.ok_or(RecipeFault::NoSuchRegister(register))? = value;
        }
        // The kernel must not repeat a system call for a thread that starts over.
        registers.system_call = -1;
        for clear in &recipe.clear {
            let object = self.general(&fix_up.registers, clear.argument)?;
            fix_up.writes.push(Write {
                at: Avma(object.wrapping_add_signed(clear.offset)),
                bytes: vec![0; usize::from(clear.size)],
            });
        }
        fix_up.returns = context.calls.len();
        Ok(fix_up)
    }

    fn value(&self, source: &Source) -> Result<u64, RecipeFault> {
        let content = self.content(source.location)?;
        let image = self.image.0.wrapping_mul(source.image as u64);
        let scaled = content
            .wrapping_sub(image)
            .wrapping_sub(source.constant as u64) as i64;
        let value = match source.scale {
            1 => scaled,
            -1 => scaled.wrapping_neg(),
            0 => return Err(RecipeFault::NoScale),
            scale if scaled % scale == 0 => scaled / scale,
            scale => {
                let value = scaled;
                return Err(RecipeFault::NoMultiple { value, scale });
            }
        };
        Ok(match source.low {
            true => u64::from(value as u32),
            false => value as u64,
        })
    }

    fn content(&self, location: Location) -> Result<u64, RecipeFault> {
        match location {
            Location::Nowhere => Ok(0),
            Location::Register(register) => self.general(self.registers, register),
            Location::Memory { base, offset } => {
                let base = self.general(self.registers, base)?;
                let at = Avma(base.wrapping_add_signed(offset));
                self.word(at)
            }
        }
    }

    fn word(&self, at: Avma) -> Result<u64, RecipeFault> {
        let mut bytes = [0; 8];
        match self.memory.read(at, &mut bytes) {
            true => Ok(u64::from_le_bytes(bytes)),
            false => Err(RecipeFault::Unreadable(at)),
        }
    }

    fn general(&self, registers: &Registers, register: Register) -> Result<u64, RecipeFault> {
        let value = registers.general.get(register.index());
        value.copied().ok_or(RecipeFault::NoSuchRegister(register))
    }
}
