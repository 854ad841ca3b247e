//! A relocation-capable image from anywhere, read and linked to a good kernel.
#![no_main]

use elf_tools::Avma;
use elf_tools::image::Image;
use elf_tools::symtab::{self, Provenance};
use libfuzzer_sys::fuzz_target;
use relocator::link::{New, Old, link};
use relocator::placement::Placement;
use relocator::plan::Policy;

fuzz_target!(|bytes: &[u8]| {
    let Ok(old) = Image::parse(bytes).and_then(Old::read) else {
        return;
    };
    let fixture = kernel_fixtures::fixture::find("shuffled").expect("built in");
    let image = Image::parse(&fixture.image).expect("built in");
    let table = fixture.symtab.as_ref().expect("built in");
    let symtab = symtab::elf::read(table, Provenance::Exported).expect("built in");
    let new = New { symtab: Some(&symtab), image: Some(&image), processor: None };
    let placement = Placement::below(Avma(0x7fff_f7f0_0000), new.symtab, new.image).expect("it fits");
    if let Ok(linked) = link(&old, &new, &placement, Policy::Auto) {
        assert!(linked.bytes.len() >= bytes.len());
    }
});
