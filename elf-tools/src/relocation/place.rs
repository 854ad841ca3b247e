//! Where in an image a table may refer to.

use crate::arch::{self, Arch};
use crate::disassembly::{Access, Instruction};
use crate::image::Image;
use crate::reachability::Code;
use crate::relocation::{Kind, OperandField, Quantity, TableFault, Width};
use crate::symtab::name::Reference;
use crate::{Error, Result, Svma};

/// An image and its instructions, to check places against.
pub(super) struct Places<'a> {
    /// The image's architecture.
    pub(super) arch: &'static dyn Arch,
    image: &'a Image,
    code: &'a Code,
}

impl<'a> Places<'a> {
    /// Refuses an image of an architecture that no relocation types are specified for.
    pub(super) fn new(image: &'a Image, code: &'a Code) -> Result<Self> {
        let (machine, class) = (image.machine(), image.class());
        if let Some(arch) = arch::of(machine, class) {
            return Ok(Self { arch, image, code });
        }
        let reason = format!(
            "{machine} {class:?}; relocation types are specified for {}",
            arch::SUPPORTED
        );
        Err(Error::unsupported("relocation table", reason))
    }

    /// A relocation of that kind must have a place inside the image that is no part of something
    /// else.
    pub(super) fn check_entry(&self, place: Svma, kind: Kind) -> Result<(), TableFault> {
        let width = kind.width();
        if place
            .0
            .checked_add(width)
            .is_none_or(|end| end > self.image.loaded_size())
        {
            let size = self.image.loaded_size();
            return Err(TableFault::OutsideImage { width, size });
        }
        let last = place.offset(width as i64 - 1);
        let instruction = self
            .code
            .covering(place)
            .or_else(|| self.code.covering(last));
        match instruction {
            Some(instruction) => check_operand(instruction, place, width),
            None if self.image.has_sections() && self.image.is_text(place) => {
                Err(TableFault::BetweenInstructions)
            }
            None => Ok(()),
        }
    }

    /// A site must be the start of an instruction.
    pub(super) fn check_site(&self, site: Svma) -> Result<(), TableFault> {
        self.instruction_at(site).map(|_| ())
    }

    /// An operand field must be a whole constant of an instruction, or the place of one that is
    /// missing.
    pub(super) fn check_operand_field(
        &self,
        operand_field: OperandField,
    ) -> Result<(), TableFault> {
        if operand_field.width == Width::None {
            let instruction = self.instruction_at(operand_field.place)?;
            let lacks_one =
                instruction.access != Access::None && instruction.displacement.size == 0;
            return match lacks_one {
                true => Ok(()),
                false => Err(TableFault::NothingLacks),
            };
        }
        let instruction = self.code.covering(operand_field.place);
        let instruction = instruction.ok_or(TableFault::NotInInstruction)?;
        check_operand(
            instruction,
            operand_field.place,
            operand_field.width.bytes(),
        )
    }

    fn instruction_at(&self, address: Svma) -> Result<&Instruction, TableFault> {
        let instruction = self.code.covering(address);
        let instruction = instruction.filter(|instruction| instruction.address == address);
        instruction.ok_or(TableFault::NotBoundary)
    }
}

fn check_operand(instruction: &Instruction, place: Svma, width: u64) -> Result<(), TableFault> {
    match instruction.has_operand(place, width) {
        true => Ok(()),
        false => Err(TableFault::NotOperand {
            instruction: instruction.address,
        }),
    }
}

/// A kind of relocation must ask for something that its reference has.
pub(super) fn check_quantity(reference: &Reference, kind: Kind) -> Result<(), TableFault> {
    match (reference, kind.quantity()) {
        (Reference::Place(_), Quantity::Value) if !matches!(kind, Kind::Abs64 | Kind::GlobDat) => {
            let reference = Box::new(reference.clone());
            Err(TableFault::NoAddress { kind, reference })
        }
        (Reference::OffsetOf { .. }, Quantity::Value) if kind != Kind::GlobDat => Ok(()),
        (Reference::OffsetOf { .. }, _) => {
            let reference = Box::new(reference.clone());
            Err(TableFault::OnlyDistance { kind, reference })
        }
        (Reference::Place(_), _) => Ok(()),
    }
}
