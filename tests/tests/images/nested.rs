//! Functions that begin inside each other. No compiler makes them, and an image may claim anything: one of them cannot be
//! replaced without breaking the other.

use elf_tools::image::Image;
use elf_tools::relocation::Need;
use elf_tools::symtab::name::Reference;
use relocator::link::{Old, link};
use relocator::placement::Placement;
use relocator::plan::Policy;
use relocator_tests::pretend::{BASE, Pretend};

/// An image with the second function that far behind the start of the first, in all its symbols.
fn nested(image: &Image, outer: &str, inner: &str, distance: i64) -> Image {
    let [outer, moved] = [outer, inner].map(|name| image.export(name).unwrap());
    let symbol = [moved.address.0, moved.size].map(u64::to_le_bytes).concat();
    let entry = outer.address.offset(distance);
    let mut bytes = image.bytes().to_vec();
    let mut found = 0;
    for at in (0..bytes.len() - 16).step_by(4) {
        if bytes[at..at + 16] == symbol {
            bytes[at..at + 8].copy_from_slice(&entry.0.to_le_bytes());
            found += 1;
        }
    }
    assert!(found >= 2, "name and alias");
    let image = Image::parse(&bytes).unwrap();
    assert_eq!(image.export(inner).unwrap().address, entry);
    image
}

#[track_caller]
fn assert_refused(old: &Old, placement: &Placement, policy: Policy) {
    let new = Pretend::open("got");
    let error = link(old, &new.offer(), placement, policy).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("inside the replacement"), "{error}");
}

#[test]
fn two_replacements_do_not_overlap() {
    let bare = Pretend::open("bare").old.image;
    let nested = nested(&bare, "__vdso_getcpu", "__vdso_time", 4);
    let home = Pretend::open("got").home();
    assert_refused(&Old::read(nested).unwrap(), &home, Policy::Proxy);
}

/// One that would be kept, behind an instruction of another one that cannot be relocated, and in the way of a jump that
/// leads far.
#[test]
fn a_replacement_does_not_overlap_what_runs_on() {
    let good = Pretend::open("operands").old;
    let time = good
        .code
        .function(good.image.export("time").unwrap().address)
        .unwrap();
    let first = good.code.reached(time).next().unwrap();
    let (entry, length) = (time.entry, i64::from(first.length));
    let mut old = Old::read(nested(&good.image, "__vdso_time", "__vdso_getcpu", length)).unwrap();
    let new = Pretend::open("got");
    let mut placement = new.home();
    placement.mappings.retain(|mapping| mapping.0 != "[vdso]");
    placement
        .mappings
        .push(("[vdso]".to_owned(), BASE.offset(-(1 << 40))));
    // Nothing is in the way as long as both run on.
    assert!(link(&old, &new.offer(), &placement, Policy::Relocate).is_ok());
    let table = old.relocations.as_mut().unwrap();
    let mut places = table.entries.iter_mut();
    let operand = places
        .find(|found| (entry..first.end()).contains(&found.place))
        .unwrap();
    operand.need = table.needs.len() as u32;
    table.needs.push(Need {
        reference: Reference::parse("time.absent").unwrap(),
        size: 0,
        default: None,
    });
    assert_refused(&old, &placement, Policy::Auto);
}
