//! What call frame information says, and whether the analysis of the code agrees.
//!
//! Both say where a frame is and where callee-saved registers were put. They come from different
//! hands, the compiler's and ours, so where they contradict each other one of them is wrong, and
//! the thread stays where it is. Code without call frame information has the analysis alone.

use gimli::{
    BaseAddresses, CfaRule, CieOrFde, EhFrame, LittleEndian, RegisterRule, UnwindContext,
    UnwindSection,
};

use super::source::Stopped;
use crate::arch::Arch;
use crate::derive::value::UnknownId;
use crate::image::Image;
use crate::reentry::{NoRecipe, Register};
use crate::{Error, Result, Svma};

/// The rules for a range of instructions.
#[derive(Debug, Clone)]
struct Row {
    start: u64,
    end: u64,
    frame: Frame,
    /// For each callee-saved register, in the architecture's order, where it is.
    saved: Vec<Saved>,
}

#[derive(Debug, Clone, Copy)]
enum Frame {
    /// The canonical frame address is a register's value plus an offset.
    At(Register, i64),
    /// It is an expression, which compilers do not use in vDSOs.
    Other,
}

#[derive(Debug, Clone, Copy)]
enum Saved {
    /// In its register.
    InPlace,
    /// At that distance from the frame.
    At(i64),
    Other,
}

/// All rules of an image.
#[derive(Debug, Default)]
pub(super) struct Rules {
    /// By start.
    rows: Vec<Row>,
}

/// The frame that a thread is in, as the analysis sees it.
pub(super) struct Active {
    /// Where the return address of the innermost call is.
    pub(super) returns_at: (UnknownId, i64),
    /// The depth of that call.
    pub(super) depth: u32,
}

impl Rules {
    /// Reads `.eh_frame`; no rules where there is none.
    pub(super) fn read(arch: &dyn Arch, image: &Image) -> Result<Self> {
        let registers = arch.registers();
        let view = image.view()?;
        let Some(section) = view.section(".eh_frame") else {
            return Ok(Self::default());
        };
        let (offset, address) = (section.offset, section.address);
        let failed = |error: gimli::Error| {
            let reason = format!("cannot be read: {error}");
            Error::malformed("call frame information", offset, reason)
        };
        let frames = EhFrame::new(view.data(section)?, LittleEndian);
        let bases = BaseAddresses::default().set_eh_frame(address).set_text(0);
        let mut rows = Vec::new();
        let mut context = UnwindContext::new();
        let mut entries = frames.entries(&bases);
        while let Some(entry) = entries.next().map_err(failed)? {
            let CieOrFde::Fde(partial) = entry else {
                continue;
            };
            let description = partial.parse(EhFrame::cie_from_offset).map_err(failed)?;
            let table = description.rows(&frames, &bases, &mut context);
            let mut table = table.map_err(failed)?;
            while let Some(row) = table.next_row().map_err(failed)? {
                rows.push(Row {
                    start: row.start_address(),
                    end: row.end_address(),
                    frame: match row.cfa() {
                        CfaRule::RegisterAndOffset { register, offset }
                            if register.0 < registers.return_address =>
                        {
                            Frame::At(Register(register.0 as u8), *offset)
                        }
                        _ => Frame::Other,
                    },
                    saved: registers
                        .callee_saved
                        .iter()
                        .map(|saved| saved_in(row, *saved))
                        .collect(),
                });
            }
        }
        rows.sort_by_key(|row| row.start);
        Ok(Self { rows })
    }

    /// Compares the rules for `boundary` with what the analysis says; how they differ, if they do.
    pub(super) fn check(
        &self,
        boundary: Svma,
        stopped: &Stopped<'_>,
        active: &Active,
    ) -> Result<(), NoRecipe> {
        let after = self.rows.partition_point(|row| row.start <= boundary.0);
        let covering = self.rows[..after].last().filter(|row| boundary.0 < row.end);
        match covering {
            Some(row) => row.check(stopped, active),
            None => Ok(()),
        }
    }
}

/// Where a row says that a register is.
fn saved_in(row: &gimli::UnwindTableRow<usize>, register: Register) -> Saved {
    match row.register(gimli::Register(register.0.into())) {
        None | Some(RegisterRule::SameValue) => Saved::InPlace,
        Some(RegisterRule::Offset(offset)) => Saved::At(offset),
        Some(_) => Saved::Other,
    }
}

impl Row {
    fn check(&self, stopped: &Stopped<'_>, active: &Active) -> Result<(), NoRecipe> {
        let Frame::At(base, offset) = self.frame else {
            return Err(NoRecipe::FrameExpression);
        };
        let value = stopped.register(stopped.arch.number(base));
        let place = value.and_then(|value| stopped.place(value));
        let frame = place.map(|(unknown, at)| (unknown, at + offset));
        let above = stopped.arch.frame_above_return_address();
        let expected = (active.returns_at.0, active.returns_at.1 + above);
        if frame != Some(expected) {
            return Err(NoRecipe::FrameElsewhere(base, offset));
        }
        let registers = stopped.arch.registers().callee_saved;
        for (&register, &saved) in registers.iter().zip(&self.saved) {
            let number = stopped.arch.number(register);
            let agrees = match saved {
                Saved::InPlace => {
                    stopped.state.untouched[usize::from(number)].contains(active.depth)
                }
                Saved::At(offset) => {
                    stopped
                        .kept(expected.0, expected.1 + offset)
                        .is_some_and(|kept| {
                            kept.register == number && kept.calls.contains(active.depth)
                        })
                }
                Saved::Other => false,
            };
            if !agrees {
                return Err(NoRecipe::RegisterElsewhere(register));
            }
        }
        Ok(())
    }
}
