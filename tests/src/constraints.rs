//! Relocation tables with constraints, and an image that they can refer to.

use std::sync::LazyLock;

use elf_tools::Svma;
use elf_tools::disassembly::{Access, Field, Instruction};
use elf_tools::image::{Image, LinuxVersion};
use elf_tools::reachability::Code;
use elf_tools::relocation::{
    self, Constraint, Kind, Need, Opaque, OperandField, Relocation, Relocations, RightHandSide,
    Term, Width, object, write,
};
use elf_tools::symtab::name::Reference;
use kernel_fixtures::fixture;

use crate::damage::sealed;

const VERSION: LinuxVersion = LinuxVersion(0x06_0c_03);

/// An image with the note that a table can be attached to, and everything in its code that a table can refer to.
pub struct Subject {
    /// The image.
    pub image: Image,
    /// Its instructions.
    pub code: Code,
    /// Instructions of more than one byte.
    pub sites: Vec<Svma>,
    /// Constants of one byte.
    pub bytes: Vec<OperandField>,
    /// Constants of four bytes.
    pub words: Vec<OperandField>,
    /// Displacements that are not there.
    pub absent: Vec<OperandField>,
}

/// The subject of all tests of tables.
pub static SUBJECT: LazyLock<Subject> = LazyLock::new(|| {
    let image = Image::parse(fixture::find("operands").unwrap().image).unwrap();
    let code = Code::of(&image).unwrap();
    let mut subject = Subject {
        sites: Vec::new(),
        bytes: Vec::new(),
        words: Vec::new(),
        absent: Vec::new(),
        image,
        code: code.clone(),
    };
    for instruction in code.instructions() {
        // One byte further there must not be another one.
        if instruction.length > 1 {
            subject.sites.push(instruction.address);
        }
        for field in [instruction.displacement, instruction.immediate] {
            let list = match field.size {
                1 => &mut subject.bytes,
                4 => &mut subject.words,
                _ => continue,
            };
            list.push(constant(instruction, field));
        }
        if instruction.access != Access::None && instruction.displacement.size == 0 {
            subject.absent.push(OperandField {
                place: instruction.address,
                width: Width::None,
            });
        }
    }
    assert!(subject.bytes.len() > 20 && subject.words.len() > 20 && subject.absent.len() > 5);
    subject
});

fn constant(instruction: &Instruction, field: Field) -> OperandField {
    let width = match field.size {
        1 => Width::I8,
        _ => Width::I32,
    };
    OperandField {
        place: instruction.address.offset(i64::from(field.offset)),
        width,
    }
}

impl Subject {
    /// Its build-id.
    pub fn build_id(&self) -> &[u8] {
        self.image.build_id().unwrap().as_bytes()
    }

    /// A table of it as an object.
    pub fn object(&self, table: &Relocations) -> Vec<u8> {
        object::write(table, self.image.build_id(), Some(VERSION)).unwrap()
    }

    /// An object read as a table of it, with the digest that it ought to have.
    pub fn read(&self, object: &[u8]) -> Result<Relocations, String> {
        object::read(&sealed(object), &self.image, &self.code).map_err(|error| error.to_string())
    }

    /// The table as it is read back from the image that it was attached to.
    pub fn attach(&self, table: &Relocations) -> Result<Relocations, String> {
        let bytes = write::attach(&self.image, table).map_err(|error| error.to_string())?;
        let image = Image::parse(&bytes).unwrap();
        let code = Code::of(&image).unwrap();
        let table = relocation::read(&image, &code).map_err(|error| error.to_string())?;
        Ok(table.expect("the note announces it"))
    }
}

/// A need without size and default.
pub fn need(reference: &str) -> Need {
    Need {
        reference: Reference::parse(reference).unwrap(),
        size: 0,
        default: None,
    }
}

/// A term.
pub fn term(operand_field: u32, coefficient: i64) -> Term {
    Term {
        operand_field,
        coefficient,
    }
}

/// One of everything. Slots are in the order of [`Width`].
pub fn sample() -> Relocations {
    let subject = &*SUBJECT;
    let mut operand_fields = vec![subject.absent[1], subject.bytes[3], subject.words[5]];
    operand_fields.sort();
    let constraint = |site: usize, right_hand_side, need, addend, terms: &[Term]| Constraint {
        site: subject.sites[site],
        right_hand_side,
        need,
        addend,
        terms: terms.to_vec(),
    };
    let defaulted = Need {
        size: 8,
        default: Some(vec![7; 8]),
        ..need("time.clock[].max_cycles")
    };
    Relocations {
        needs: vec![
            need("time.clock[1].basetime[].sec"),
            need("time.clock[]"),
            defaulted,
        ],
        entries: vec![Relocation {
            place: subject.words[9].place,
            kind: Kind::Pc32,
            need: 0,
            addend: -4,
        }],
        operand_fields,
        constraints: vec![
            constraint(
                2,
                RightHandSide::Address,
                0,
                -1234,
                &[term(0, 1), term(2, 1)],
            ),
            constraint(3, RightHandSide::Size, 1, 5, &[term(1, -8), term(2, 3)]),
            constraint(3, RightHandSide::Size, 1, -232, &[]),
            constraint(8, RightHandSide::Presence, 2, 0, &[]),
        ],
        opaque: vec![Opaque {
            site: subject.sites[6],
            reason: "an index that is ≥ 2 is read from memory".into(),
        }],
    }
}

/// What a table says, without the numbers by which its parts refer to each other.
pub fn meaning(table: &Relocations) -> impl PartialEq + std::fmt::Debug {
    let need = |index: u32| table.needs[index as usize].clone();
    let entries = table.entries.iter();
    let entries = entries.map(|entry| (entry.place, entry.kind, need(entry.need), entry.addend));
    let constraints = table.constraints.iter().map(|constraint| {
        let operand_field = |term: &Term| {
            (
                table.operand_fields[term.operand_field as usize],
                term.coefficient,
            )
        };
        let terms: Vec<_> = constraint.terms.iter().map(operand_field).collect();
        (
            constraint.site,
            constraint.right_hand_side,
            need(constraint.need),
            constraint.addend,
            terms,
        )
    });
    (
        entries.collect::<Vec<_>>(),
        table.operand_fields.clone(),
        constraints.collect::<Vec<_>>(),
        table.opaque.clone(),
    )
}

/// An entry as it is stored.
pub fn stored(place: Svma, number: u32, symbol: u32, addend: i64) -> Vec<u8> {
    let info = (u64::from(symbol) << 32) | u64::from(number);
    let words = [place.0, info, addend as u64];
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// The bytes with `from`, which is there once, turned into `to`.
pub fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let places = bytes.windows(from.len()).enumerate();
    let places: Vec<usize> = places
        .filter(|(_, b)| *b == from)
        .map(|(at, _)| at)
        .collect();
    let [place] = places[..] else {
        panic!("{from:x?} is at {places:?}");
    };
    let mut bytes = bytes.to_vec();
    bytes[place..place + to.len()].copy_from_slice(to);
    bytes
}

/// The table with constraints in place of what refers to one symbol: what a derivation would say about the same code.
pub fn as_constraints(table: &Relocations, code: &Code) -> Relocations {
    let is_sum = |kind| matches!(kind, Kind::Pc32 | Kind::Size32);
    let (summed, entries): (Vec<Relocation>, Vec<_>) =
        table.entries.iter().partition(|e| is_sum(e.kind));
    let constraints = summed.iter().zip(0..).map(|(entry, operand_field)| {
        let instruction = code.covering(entry.place).unwrap();
        // S + A - P, where P is B plus the place.
        let (right_hand_side, addend) = match entry.kind {
            Kind::Pc32 => (RightHandSide::Address, entry.addend - entry.place.0 as i64),
            _ => (RightHandSide::Size, entry.addend),
        };
        Constraint {
            site: instruction.address,
            right_hand_side,
            need: entry.need,
            addend,
            terms: vec![Term {
                operand_field,
                coefficient: 1,
            }],
        }
    });
    let operand_fields = summed.iter().map(|entry| OperandField {
        place: entry.place,
        width: Width::I32,
    });
    Relocations {
        needs: table.needs.clone(),
        entries,
        operand_fields: operand_fields.collect(),
        constraints: constraints.collect(),
        opaque: Vec::new(),
    }
}
