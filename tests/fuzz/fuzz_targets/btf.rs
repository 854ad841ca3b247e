//! Type information from anywhere.
#![no_main]

use elf_tools::layout::Layout;
use elf_tools::layout::btf::Btf;
use elf_tools::layout::dwarf::Dwarf;
use libfuzzer_sys::fuzz_target;

const NAMES: [&str; 6] =
    ["vdso_data", "vdso_time_data", "vdso_clock", "vdso_rng_data", "ms_hyperv_tsc_page", "pvclock_vsyscall_time_info"];

fn walk(layout: &dyn Layout) {
    for name in NAMES {
        let _ = layout.structure(name);
    }
    let _ = layout.enumeration("vdso_pages");
}

fuzz_target!(|bytes: &[u8]| {
    if let Ok(btf) = Btf::parse(bytes) {
        walk(&btf);
    }
    if let Ok(dwarf) = Dwarf::parse(bytes) {
        walk(&dwarf);
    }
});
