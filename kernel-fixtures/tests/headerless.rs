//! A checkpoint may keep only what program headers cover. An image that has lost its section headers still says everything:
//! exports through the dynamic segment, tables through the note.

use elf_tools::image::Image;
use elf_tools::reachability::Code;
use elf_tools::relocation::{self, Relocations};
use kernel_fixtures::fixture;

/// What the relocations of an image come to, in an order that does not depend on how the table was found.
fn meaning(relocations: &Relocations) -> Vec<String> {
    let describe = |entry: &relocation::Relocation| {
        let need = &relocations.needs[entry.need as usize];
        let (place, kind, addend) = (entry.place, entry.kind, entry.addend);
        format!("{place} {kind} {need:?} {addend}")
    };
    relocations.entries.iter().map(describe).collect()
}

fn read(bytes: &[u8]) -> (Image, Option<Relocations>) {
    let image = Image::parse(bytes).unwrap();
    let relocations = relocation::read(&image, &Code::of(&image).unwrap()).unwrap();
    (image, relocations)
}

#[test]
fn tables_are_found_without_section_headers() {
    let mut with_tables = 0;
    for fixture in fixture::all() {
        let (image, relocations) = read(fixture.image);
        let mut bytes = fixture.image.to_vec();
        bytes[40..48].fill(0); // e_shoff
        bytes[58..64].fill(0); // e_shentsize, e_shnum, e_shstrndx
        let (bare, found) = read(&bytes);
        assert_eq!(image.exports(), bare.exports(), "{}", fixture.name);
        assert_eq!(
            relocations.as_ref().map(meaning),
            found.as_ref().map(meaning),
            "{}",
            fixture.name
        );
        with_tables += usize::from(found.is_some());
    }
    assert_eq!(
        with_tables,
        fixture::all().len() - 3,
        "all but `bare`, `hidden` and `stock`"
    );
}
