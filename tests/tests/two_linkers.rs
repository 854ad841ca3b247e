//! Two linkers, one result.
//!
//! All fixtures are compiled from one source. So an image made of operands, linked by us to the layout that another such
//! image was linked to by GNU ld, must come out with the very code of that other image.

use elf_tools::image::Image;
use elf_tools::symtab::{self, Provenance, Symtab, mapping_name};
use elf_tools::{Avma, Svma};
use kernel_fixtures::fixture;
use relocator::link::{New, Old, link};
use relocator::placement::Placement;
use relocator::plan::{Policy, Strategy};

const BASE: Avma = Avma(0x7fff_f7f0_0000);

fn open(name: &str) -> (Old, Symtab) {
    let found = fixture::find(name).unwrap_or_else(|| panic!("no fixture {name}"));
    let old = Old::read(Image::parse(found.image).unwrap()).unwrap();
    let symtab = symtab::elf::read(found.symtab.unwrap(), Provenance::Exported).unwrap();
    (old, symtab)
}

/// The image where its own kernel maps it.
fn at_home(symtab: &Symtab) -> Placement {
    let vdso = symtab.mapping(mapping_name::VDSO).unwrap().address;
    let place = |mapping: &symtab::Mapping| {
        let distance = mapping.address as i64 - vdso as i64;
        (mapping.name.clone(), BASE.offset(distance))
    };
    Placement {
        image: BASE,
        mappings: symtab.mappings().iter().map(place).collect(),
    }
}

fn text(image: &Image, bytes: &[u8]) -> Vec<(Svma, u8)> {
    let ranges = image.text().iter().cloned();
    ranges
        .flatten()
        .map(|at| (Svma(at), bytes[at as usize]))
        .collect()
}

#[test]
fn operands_linked_by_us_are_operands_linked_by_ld() {
    let mut pairs = 0;
    for (from, to) in [
        ("operands", "shuffled"),
        ("shuffled", "operands"),
        ("operands", "operands"),
    ] {
        let (old, _) = open(from);
        let (new, symtab) = open(to);
        let offer = New {
            symtab: Some(&symtab),
            image: Some(&new.image),
        };
        let linked = link(&old, &offer, &at_home(&symtab), Policy::Auto).unwrap();
        assert!(
            linked
                .functions
                .iter()
                .all(|f| matches!(f.strategy, Strategy::Relocate | Strategy::Keep))
        );
        let ours = text(&old.image, &linked.bytes);
        let theirs = text(&new.image, new.image.bytes());
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert_eq!(ours, theirs, "{from} onto {to}");
        }
        assert_eq!(ours.len(), theirs.len());
        pairs += 1;
    }
    assert_eq!(pairs, 3);
}
