//! Which page of a vvar is where: `enum vdso_pages` states it since Linux 6.15, and a list of the
//! architecture for older kernels ([`crate::arch`]).
//!
//! Struct layouts say where a field is in its struct, but not which page holds the struct. Nothing
//! in an old kernel says it except the code of its vDSO. Entries of the list are therefore
//! candidates: [`super::stock_symbols`] compares each with the code and accepts none that the code
//! contradicts.

use std::borrow::Cow;

use super::mapping_name::{VVAR, VVAR_VCLOCK};
use crate::arch::Arch;
use crate::{Error, Result};

/// Bytes in a page.
pub(crate) const PAGE: i64 = 0x1000;

/// More pages than any kernel could ask for in front of its vDSO.
const MAX_PAGES: i64 = 64;

/// Where the pages and objects of a vvar are. Every address is relative to the image, which starts
/// at 0, so all of them are negative.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Placement {
    /// What to call it in a report.
    pub(crate) origin: Cow<'static, str>,
    /// Whether it is from the list: nothing states the offsets of objects in their pages then.
    pub(crate) is_listed: bool,
    /// Name and address of each mapping, lowest first. Each one reaches to the next, the last one
    /// to the image.
    pub(crate) mappings: Vec<(&'static str, i64)>,
    /// The page with the clocks.
    pub(crate) time: i64,
    /// The page that takes its place in a time namespace.
    pub(crate) timens: Option<i64>,
    /// Offset of the time data within both.
    pub(crate) time_data: i64,
    /// The page with the state of the random number generator, where it has one of its own.
    pub(crate) rng: Option<i64>,
    /// Offset of that state within the time page, where it has none; `None` where the code does not
    /// say where it is.
    pub(crate) rng_in_time: Option<i64>,
    /// KVM's clock page.
    pub(crate) pvclock: i64,
    /// Hyper-V's clock page.
    pub(crate) hvclock: i64,
}

/// The page layout that the enumerators of `enum vdso_pages` state.
pub(crate) fn from_enumerators(
    arch: &dyn Arch,
    enumerators: &[(String, i64)],
) -> Result<Placement> {
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
    let clock_pages = arch.clock_pages();
    let start = -(count + clock_pages) * PAGE;
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
        is_listed: false,
        mappings: vec![(VVAR, start), (VVAR_VCLOCK, -clock_pages * PAGE)],
        time,
        timens: optional("VDSO_TIMENS_PAGE_OFFSET")?,
        time_data: 0,
        rng: optional("VDSO_RNG_PAGE_OFFSET")?,
        rng_in_time: None,
        pvclock: -clock_pages * PAGE,
        hvclock: -clock_pages * PAGE + PAGE,
    })
}

fn unsupported(reason: String) -> Error {
    Error::unsupported("page layout", reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::SPECIFIED;

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
        let placement = from_enumerators(SPECIFIED, &enumerators).unwrap();
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
            assert!(
                from_enumerators(SPECIFIED, &pages(values)).is_err(),
                "{values:?}"
            );
        }
    }
}
