//! A relocation table object from anywhere, read for the re-entry table of a good image.
#![no_main]

use elf_tools::digest;
use elf_tools::reachability::Code;
use elf_tools::image::Image;
use elf_tools::relocation::object;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // What is wrong behind a right digest.
    let mut sealed = bytes.to_vec();
    let bytes = match digest::seal(&mut sealed) {
        Ok(()) => &sealed[..],
        Err(_) => bytes,
    };
    // The image of the seeds.
    let fixture = kernel_fixtures::fixture::find("bare").expect("built in");
    let image = Image::parse(fixture.image).expect("built in");
    let code = Code::of(&image).expect("built in");
    let Ok(Some(table)) = object::read_reentry(bytes, &image, &code) else {
        return;
    };
    for context in &table.contexts {
        assert!(table.at(context.boundary).contains(context));
        if let Ok(recipe) = table.recipe(context) {
            assert!(recipe.registers.iter().all(|(_, source)| source.scale != 0));
        }
    }
    // What was read can be written, and is the same when it is read again.
    let Ok(relocations) = object::read(bytes, &image, &code) else {
        return;
    };
    if let Ok(written) = object::write_with_reentry(&relocations, &table, &image, &code) {
        let read = object::read_reentry(&written, &image, &code).expect("what was written is read");
        assert!(read == Some(table));
    }
});
