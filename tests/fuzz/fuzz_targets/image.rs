//! A vDSO from anywhere: headers, exports, notes, alternatives, code.
#![no_main]

use elf_tools::reachability::Code;
use elf_tools::image::{Image, alternatives};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(image) = Image::parse(bytes) else {
        return;
    };
    if let Ok(alternatives) = alternatives::read(&image) {
        let patched = alternatives::apply(&image, &alternatives, |_| true);
        assert_eq!(patched.len(), image.bytes().len());
    }
    let _ = Code::of(&image);
});
