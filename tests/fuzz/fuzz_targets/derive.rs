//! Code from anywhere, read with the symbols of a good kernel, and linked to another one.
#![no_main]

use elf_tools::Avma;
use elf_tools::reachability::Code;
use elf_tools::derive::derive;
use elf_tools::image::Image;
use elf_tools::relocation::object;
use elf_tools::symtab::{self, Provenance, Symtab};
use libfuzzer_sys::fuzz_target;
use relocator::link::{New, Old, link};
use relocator::placement::Placement;
use relocator::plan::Policy;

fn kernel(name: &str) -> (Image, Symtab) {
    let fixture = kernel_fixtures::fixture::find(name).expect("built in");
    let table = fixture.symtab.as_ref().expect("built in");
    let symtab = symtab::elf::read(table, Provenance::Exported).expect("built in");
    (Image::parse(fixture.image).expect("built in"), symtab)
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(image) = Image::parse(bytes) else {
        return;
    };
    let Ok(code) = Code::of(&image) else {
        return;
    };
    let (_, home) = kernel("hidden");
    let Ok(derivation) = derive(&image, &code, &home) else {
        return;
    };
    // What was derived can be written, and is the same when it is read.
    let table = derivation.relocations;
    let id = image.build_id();
    let written = object::write(&table, id, None).expect("what was derived can be written");
    let read = object::read(&written, &image, &code).expect("what was written can be read");
    assert_eq!(read, table);
    let (new_image, symtab) = kernel("shuffled");
    let new = New { symtab: Some(&symtab), image: Some(&new_image), processor: None };
    let placement = Placement::below(Avma(0x7fff_f7f0_0000), new.symtab, new.image).expect("it fits");
    let old = Old::new(image, code, Some(table));
    if let Ok(linked) = link(&old, &new, &placement, Policy::Auto) {
        assert!(linked.bytes.len() >= bytes.len());
    }
});
