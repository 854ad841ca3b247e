//! A kernel file from anywhere: containers, compression, embedded images.
#![no_main]

use elf_tools::kernel::{KernelFile, is_kernel_file};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = is_kernel_file(bytes);
    if let Ok(kernel) = KernelFile::parse(bytes) {
        let _ = kernel.native_vdso();
    }
});
