//! Run in child processes, since a process that is to have odd mappings cannot be one that runs
//! other tests.

use std::num::NonZeroUsize;
use std::time::Duration;

use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};

use super::*;
use crate::child::{self, Conditions};

const CONDITIONS: Conditions = Conditions {
    time_namespace: false,
    deadline: Duration::from_secs(20),
    processor_time: None,
};

#[test]
fn memory_that_is_writable_and_executable_is_noticed() {
    let outcome = child::run(CONDITIONS, |_| {
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE | ProtFlags::PROT_EXEC;
        // SAFETY: the kernel chooses a free place.
        let mapped =
            unsafe { mmap_anonymous(None, NonZeroUsize::MIN, protection, MapFlags::MAP_PRIVATE) };
        mapped.map_err(|errno| Error::io("memory")(errno.into()))?;
        AddressSpace::read()?.check_protection()
    });
    let error = outcome.unwrap_err().to_string();
    assert!(error.contains("writable and executable at 0x"), "{error}");
}

#[test]
fn a_hole_is_free_and_in_reach() {
    let space = AddressSpace::read().unwrap();
    for size in [1, PAGE, 3 * PAGE + 1, 64 << 20] {
        let hole = space.hole(size).unwrap();
        let end = hole.0 + size.next_multiple_of(PAGE);
        assert!(hole.0.is_multiple_of(PAGE));
        assert!(
            space
                .maps
                .iter()
                .all(|map| map.range.end <= hole || end <= map.range.start.0),
            "{hole}"
        );
        for (name, base) in space.mappings() {
            assert!(base.distance_from(hole).unsigned_abs() <= REACH, "{name}");
        }
    }
    assert!(space.hole(4 << 30).is_err());
    assert!(space.hole(u64::MAX - PAGE).is_err());
}

#[test]
fn candidates_stay_inside_their_gap() {
    let unit = (0x50_0000, 0x50_4000);
    for (gap, size) in [
        ((0x10_0000, 0x50_0000), 0x2000),
        ((0x50_4000, 0x50_8000), 0x2000),
        ((0x50_4000, 0x50_7000), 0x2000),
    ] {
        for at in candidates(gap, size, unit) {
            assert!(at > gap.0 && at + size < gap.1, "{at:#x} in {gap:#x?}");
        }
    }
    assert_eq!(
        candidates((0x50_4000, 0x50_7000), 0x2000, unit),
        Vec::<u64>::new()
    );
}
