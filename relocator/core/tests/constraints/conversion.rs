//! The same image with entries and with the constraints that say the same.

use elf_tools::Avma;
use elf_tools::image::Image;
use elf_tools::relocation::{
    Constraint, Kind, OperandField, Relocations, RightHandSide, Term, Width,
};
use elf_tools::symtab::{self, Provenance};
use kernel_fixtures::fixture;
use relocator::link::{LinkedImage, New, Old, link};
use relocator::placement::Placement;
use relocator::plan::Policy;

/// Entries that name addresses and strides, as constraints of one constant each.
fn converted(old: &Old) -> Old {
    let table = old.relocations.as_ref().expect("a table");
    let mut new = Relocations {
        needs: table.needs.clone(),
        ..Relocations::default()
    };
    for entry in &table.entries {
        let (right_hand_side, addend) = match entry.kind {
            // S + A - P is stored, so the value is S - B and A - (P - B).
            Kind::Pc32 => (RightHandSide::Address, entry.addend - entry.place.signed()),
            Kind::Size32 => (RightHandSide::Size, entry.addend),
            _ => {
                new.entries.push(*entry);
                continue;
            }
        };
        let instruction = old.code.covering(entry.place).expect("an operand");
        new.operand_fields.push(OperandField {
            place: entry.place,
            width: Width::I32,
        });
        new.constraints.push(Constraint {
            site: instruction.address,
            right_hand_side,
            need: entry.need,
            addend,
            terms: vec![Term {
                operand_field: new.operand_fields.len() as u32 - 1,
                coefficient: 1,
            }],
        });
    }
    assert!(new.constraints.len() > 10);
    Old::new(old.image.clone(), old.code.clone(), Some(new))
}

fn linked(old: &Old, new: &str) -> LinkedImage {
    let found = fixture::find(new).expect("a fixture");
    let symtab = found.symtab.expect("with symbols");
    let symtab = symtab::elf::read(symtab, Provenance::Exported).expect("good symbols");
    let image = Image::parse(found.image).expect("a good image");
    let offer = New {
        symtab: Some(&symtab),
        image: Some(&image),
        processor: None,
    };
    let base = Avma(0x7fff_f7f0_0000);
    let placement = Placement::below(base, offer.symtab, offer.image).expect("it fits");
    link(old, &offer, &placement, Policy::Auto).expect("it links")
}

#[test]
fn constraints_of_one_constant_link_as_entries_do() {
    let mut relocated = 0;
    for name in ["operands", "defaulted-operands"] {
        let image = fixture::find(name).expect("a fixture").image;
        let old = Old::read(Image::parse(image).expect("a good image")).expect("a good table");
        let constraints = converted(&old);
        for new in ["operands", "shuffled", "reordered", "added", "semantics"] {
            let (expected, found) = (linked(&old, new), linked(&constraints, new));
            // Entries that the other table would have failed on are stored by neither.
            let plans = expected.functions.iter().zip(&found.functions);
            for (expected, found) in plans {
                assert_eq!(expected.strategy, found.strategy, "{name} {new} {found:?}");
                assert_eq!(expected.relocations, found.relocations);
            }
            if expected.functions.iter().all(|f| f.patch.is_none()) {
                assert_eq!(expected.bytes, found.bytes, "{name} to {new}");
                relocated += 1;
            }
            assert_eq!(found.moved, []);
        }
    }
    assert!(relocated >= 6, "{relocated}");
}
