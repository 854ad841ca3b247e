//! A symbol table object from anywhere; what is accepted survives a round trip.
#![no_main]

use elf_tools::digest;
use elf_tools::symtab::{Provenance, elf};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // What is wrong behind a right digest.
    let mut sealed = bytes.to_vec();
    let bytes = match digest::seal(&mut sealed) {
        Ok(()) => &sealed[..],
        Err(_) => bytes,
    };
    let Ok(symtab) = elf::read(bytes, Provenance::File) else {
        return;
    };
    let written = elf::write(&symtab).expect("what was read can be written");
    assert_eq!(elf::read(&written, Provenance::File).as_ref(), Ok(&symtab));
});
