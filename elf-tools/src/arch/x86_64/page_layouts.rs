//! Which page of the vvar is where in kernels before `enum vdso_pages`, and in those whose description
//! lacks it.
//!
//! They keep it in a linker script (`arch/x86/entry/vdso/vdso-layout.lds.S`) and in `asm/vvar.h`, of
//! which nothing remains in a built kernel except the code of its vDSO.

use std::borrow::Cow;

use crate::symtab::mapping_name::{VVAR, VVAR_VCLOCK};
use crate::symtab::page_layouts::{PAGE, Placement};

/// `VDSO_NR_VCLOCK_PAGES` of `arch/x86/include/asm/vdso/vsyscall.h`: a macro, hence not in BTF.
pub(super) const CLOCK_PAGES: i64 = 2;

/// The page layouts, oldest first.
pub(super) fn page_layouts() -> Vec<Placement> {
    // Linux 5.3 brought the generic `struct vdso_data`; there was no time namespace yet.
    let first = Placement {
        origin: Cow::Borrowed("Linux 5.3 to 5.5"),
        is_listed: true,
        mappings: vec![(VVAR, -3 * PAGE)],
        time: -3 * PAGE,
        timens: None,
        time_data: 0x80,
        rng: None,
        rng_in_time: Some(0x280),
        pvclock: -2 * PAGE,
        hvclock: -PAGE,
    };
    // `asm/vvar.h` declares the time data at 128 and, from 6.11 on, the random generator's state at
    // 640.
    let namespaces = Placement {
        origin: Cow::Borrowed("Linux 5.6 to 6.12"),
        mappings: vec![(VVAR, -4 * PAGE)],
        time: -4 * PAGE,
        timens: Some(-PAGE),
        pvclock: -3 * PAGE,
        hvclock: -2 * PAGE,
        ..first.clone()
    };
    // `asm/vvar.h` is gone and the clock pages have become a mapping of their own.
    let split = Placement {
        origin: Cow::Borrowed("Linux 6.13 and 6.14"),
        mappings: vec![(VVAR, -4 * PAGE), (VVAR_VCLOCK, -2 * PAGE)],
        timens: Some(-3 * PAGE),
        time_data: 0,
        pvclock: -2 * PAGE,
        hvclock: -PAGE,
        ..namespaces.clone()
    };
    // `enum vdso_pages` states this, if whoever made the description of the types has left it in it.
    let store = Placement {
        origin: Cow::Borrowed("Linux 6.15 to 7.3"),
        mappings: vec![(VVAR, -6 * PAGE), (VVAR_VCLOCK, -CLOCK_PAGES * PAGE)],
        time: -6 * PAGE,
        timens: Some(-5 * PAGE),
        rng: Some(-4 * PAGE),
        ..split.clone()
    };
    vec![first, namespaces, split, store]
}
