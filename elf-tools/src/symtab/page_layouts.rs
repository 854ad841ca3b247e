//! Which page of a vvar is where: `enum vdso_pages` states it since Linux 6.15, and a list here for
//! older kernels.
//!
//! Struct layouts say where a field is in its struct, but not which page holds the struct. Old
//! kernels keep that in a linker script (`arch/x86/entry/vdso/vdso-layout.lds.S`) and in
//! `asm/vvar.h`, of which nothing remains in a built kernel except the code of its vDSO. Entries
//! are therefore candidates: [`super::stock_symbols`] compares each with the code and accepts none
//! that the code contradicts.

use std::borrow::Cow;

use super::mapping_name::{VVAR, VVAR_VCLOCK};
use crate::{Error, Result};

/// Bytes in a page of x86-64.
pub(super) const PAGE: i64 = 0x1000;

/// `VDSO_NR_VCLOCK_PAGES` of `arch/x86/include/asm/vdso/vsyscall.h`: a macro, hence not in BTF.
const VCLOCK_PAGES: i64 = 2;

/// More pages than any kernel could ask for in front of its vDSO.
const MAX_PAGES: i64 = 64;

/// Where the pages and objects of a vvar are. Every address is relative to the image, which starts
/// at 0, so all of them are negative.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Placement {
    /// What to call it in a report.
    pub(super) origin: Cow<'static, str>,
    /// Name and address of each mapping, lowest first. Each one reaches to the next, the last one
    /// to the image.
    pub(super) mappings: Vec<(&'static str, i64)>,
    /// The page with the clocks.
    pub(super) time: i64,
    /// The page that takes its place in a time namespace.
    pub(super) timens: Option<i64>,
    /// Offset of the time data within both.
    pub(super) time_data: i64,
    /// The page with the state of the random number generator, where it has one of its own.
    pub(super) rng: Option<i64>,
    /// Offset of that state within the time page, where it has none.
    pub(super) rng_in_time: i64,
    /// KVM's clock page.
    pub(super) pvclock: i64,
    /// Hyper-V's clock page.
    pub(super) hvclock: i64,
}

/// The page layouts of x86-64 kernels before `enum vdso_pages`.
pub(super) fn entries() -> Vec<Placement> {
    // Linux 5.3 gave x86 the generic `struct vdso_data`; there was no time namespace yet.
    let first = Placement {
        origin: Cow::Borrowed("Linux 5.3 to 5.5"),
        mappings: vec![(VVAR, -3 * PAGE)],
        time: -3 * PAGE,
        timens: None,
        time_data: 0x80,
        rng: None,
        rng_in_time: 0x280,
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
    vec![first, namespaces, split]
}

/// The page layout that the enumerators of `enum vdso_pages` state.
pub(super) fn from_enumerators(enumerators: &[(String, i64)]) -> Result<Placement> {
    let value = |name: &str| {
        enumerators
            .iter()
            .find(|(n, _)| n == name)
            .map(|&(_, value)| value)
    };
    let require = |name: &str| {
        value(name).ok_or_else(|| unsupported(format!("enum vdso_pages has no {name}")))
    };
    let count = require("VDSO_NR_PAGES")?;
    if !(1..=MAX_PAGES).contains(&count) {
        return Err(unsupported(format!("VDSO_NR_PAGES is {count}")));
    }
    let start = -(count + VCLOCK_PAGES) * PAGE;
    let mut taken: Vec<i64> = Vec::new();
    let mut page = |name: &str, index: i64| {
        if !(0..count).contains(&index) || taken.contains(&index) {
            return Err(unsupported(format!(
                "{name} is {index}, outside the {count} pages or taken"
            )));
        }
        taken.push(index);
        Ok(start + index * PAGE)
    };
    let time = page("VDSO_TIME_PAGE_OFFSET", require("VDSO_TIME_PAGE_OFFSET")?)?;
    let mut optional = |name| value(name).map(|index| page(name, index)).transpose();
    Ok(Placement {
        origin: Cow::Borrowed("enum vdso_pages"),
        mappings: vec![(VVAR, start), (VVAR_VCLOCK, -VCLOCK_PAGES * PAGE)],
        time,
        timens: optional("VDSO_TIMENS_PAGE_OFFSET")?,
        time_data: 0,
        rng: optional("VDSO_RNG_PAGE_OFFSET")?,
        rng_in_time: 0x280,
        pvclock: -VCLOCK_PAGES * PAGE,
        hvclock: -VCLOCK_PAGES * PAGE + PAGE,
    })
}

fn unsupported(reason: String) -> Error {
    Error::unsupported("page layout", reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(values: &[(&str, i64)]) -> Vec<(String, i64)> {
        values
            .iter()
            .map(|&(name, value)| (name.to_owned(), value))
            .collect()
    }

    #[test]
    fn enumerators_place_pages_before_the_clock_pages() {
        let enumerators = pages(&[
            ("VDSO_TIME_PAGE_OFFSET", 0),
            ("VDSO_TIMENS_PAGE_OFFSET", 1),
            ("VDSO_RNG_PAGE_OFFSET", 2),
            ("VDSO_ARCH_PAGES_START", 3),
            ("VDSO_ARCH_PAGES_END", 3),
            ("VDSO_NR_PAGES", 4),
        ]);
        let placement = from_enumerators(&enumerators).unwrap();
        assert_eq!(
            (placement.time, placement.timens, placement.rng),
            (-0x6000, Some(-0x5000), Some(-0x4000))
        );
        assert_eq!((placement.pvclock, placement.hvclock), (-0x2000, -0x1000));
        assert_eq!(
            placement.mappings,
            [(VVAR, -0x6000), (VVAR_VCLOCK, -0x2000)]
        );
    }

    #[test]
    fn enumerators_that_cannot_be_pages_are_refused() {
        for values in [
            &[("VDSO_TIME_PAGE_OFFSET", 0)][..],
            &[("VDSO_NR_PAGES", 4)],
            &[("VDSO_TIME_PAGE_OFFSET", 4), ("VDSO_NR_PAGES", 4)],
            &[("VDSO_TIME_PAGE_OFFSET", -1), ("VDSO_NR_PAGES", 4)],
            &[("VDSO_TIME_PAGE_OFFSET", 0), ("VDSO_NR_PAGES", i64::MAX)],
            &[
                ("VDSO_TIME_PAGE_OFFSET", 0),
                ("VDSO_TIMENS_PAGE_OFFSET", 0),
                ("VDSO_NR_PAGES", 4),
            ],
        ] {
            assert!(from_enumerators(&pages(values)).is_err(), "{values:?}");
        }
    }
}
