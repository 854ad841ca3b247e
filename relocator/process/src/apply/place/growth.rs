//! What the main stack and the heap may still take: nothing is placed there.

use elf_tools::Avma;

use super::gaps::GUARD;
use crate::targets::{Growth, Mapping};
use relocator::placement::PAGE;

/// A limit that is none.
const UNLIMITED: u64 = 1 << 46;

/// The mappings as placing sees them: the main stack with all that its limit lets it have and the
/// gap that the kernel keeps below it, and the heap where it begins, though it may have nothing yet.
pub(in crate::apply) fn with_growth(mappings: &[Mapping], growth: Growth) -> Vec<Mapping> {
    let mut all = mappings.to_vec();
    let limit = growth.stack.filter(|limit| *limit < UNLIMITED);
    for stack in all.iter_mut().filter(|mapping| mapping.name == "[stack]") {
        let range = &mut stack.range;
        let lowest = limit.map(|limit| range.end.0.saturating_sub(limit).saturating_sub(GUARD));
        range.start = lowest.map_or(range.start, |lowest| {
            range.start.min(Avma(lowest / PAGE * PAGE))
        });
    }
    let has_heap = all.iter().any(|mapping| mapping.name == "[heap]");
    let heap = growth.heap.filter(|_| !has_heap).map(|start| {
        let start = Avma(start.0 / PAGE * PAGE);
        Mapping {
            range: start..start.offset(PAGE as i64),
            protection: Default::default(),
            name: "[heap]".to_owned(),
        }
    });
    all.extend(heap);
    all.sort_by_key(|mapping| mapping.range.start);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_takes_what_its_limit_lets_it_have() {
        let mapping = |start: u64, end: u64, name: &str| Mapping {
            range: Avma(start)..Avma(end),
            protection: Default::default(),
            name: name.to_owned(),
        };
        let mappings = [
            mapping(0x40_0000, 0x40_1000, "/a"),
            mapping(0x7fff_0000_0000, 0x7fff_0002_1000, "[stack]"),
        ];
        let starts = |stack: Option<u64>, heap: Option<u64>| -> Vec<u64> {
            let heap = heap.map(Avma);
            let all = with_growth(&mappings, Growth { stack, heap });
            all.iter().map(|mapping| mapping.range.start.0).collect()
        };
        let grown = 0x7fff_0002_1000 - (8 << 20) - (1 << 20);
        assert_eq!(starts(Some(8 << 20), None), [0x40_0000, grown]);
        assert_eq!(
            starts(Some(0x1000), None),
            [0x40_0000, 0x7fff_0002_1000 - 0x1000 - (1 << 20)]
        );
        assert_eq!(starts(Some(u64::MAX), None), [0x40_0000, 0x7fff_0000_0000]);
        assert_eq!(
            starts(None, Some(0x55_0123)),
            [0x40_0000, 0x55_0000, 0x7fff_0000_0000]
        );
    }
}
