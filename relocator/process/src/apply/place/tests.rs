//! Address spaces that are made up; small ones against all places that there are.

use proptest::prelude::*;

use super::gaps::{GROWTH, GUARD, HEAP_GROWTH};
use super::*;
use crate::targets::Protection;
use relocator::placement::END;

const TEXT: u64 = 0x7fff_f7f0_0000;
const LOW: u64 = 0x3_0000;
const LIMITS: Limits = Limits {
    lowest: 0x1_0000,
    highest: 1 << 47,
};

fn range(start: u64, pages: u64) -> Range<Avma> {
    Avma(start)..Avma(start + pages * PAGE)
}

fn mapping(range: Range<Avma>, name: &str) -> Mapping {
    Mapping {
        range,
        protection: Protection::default(),
        name: name.to_owned(),
    }
}

fn part(range: Range<Avma>) -> KernelMapping {
    let name = "[vvar]";
    KernelMapping { name, range }
}

/// The kernel's mappings where each begins, of 4, 2, and 2 pages.
fn parts(starts: [u64; 3]) -> Vec<KernelMapping> {
    let sizes = starts.into_iter().zip([4, 2, 2]);
    sizes
        .map(|(start, pages)| part(range(start, pages)))
        .collect()
}

fn together(at: u64) -> Vec<KernelMapping> {
    parts([at, at + 4 * PAGE, at + 6 * PAGE])
}

/// The places of a unit near a text of two pages at [`TEXT`], with `others` in the way.
fn near_text(
    unit: &[KernelMapping],
    zeros: u64,
    others: &[Mapping],
) -> Result<UnitPlace, Unreachable> {
    let text = range(TEXT, 2);
    let zeros = (zeros > 0).then(|| range(TEXT - zeros * PAGE, zeros));
    let mut mappings = others.to_vec();
    mappings.extend(
        unit.iter()
            .map(|part| mapping(part.range.clone(), part.name)),
    );
    mappings.push(mapping(text.clone(), ""));
    mappings.extend(zeros.clone().map(|zeros| mapping(zeros, "")));
    mappings.sort_by_key(|mapping| mapping.range.start);
    let unit = Unit { mappings: unit };
    place(unit, &[text], zeros, &mappings, LIMITS)
}

fn at(start: u64) -> Result<UnitPlace, Unreachable> {
    Ok(UnitPlace::At(Avma(start)))
}

#[test]
fn a_unit_that_is_parked_low_goes_to_where_the_old_vvar_was() {
    let unit = together(LOW);
    assert_eq!(near_text(&unit, 4, &[]), at(TEXT - 8 * PAGE));
    // A library below leaves no room for all of it there.
    let library = mapping(range(TEXT - 16 * PAGE, 10), "libc");
    assert_eq!(near_text(&unit, 4, &[library]), at(TEXT + 2 * PAGE));
    let library = mapping(range(TEXT - 16 * PAGE, 8), "libc");
    assert_eq!(near_text(&unit, 4, &[library]), at(TEXT - 8 * PAGE));
    // The place is as near as any, but another one is as well, and takes nothing away.
    let library = mapping(range(TEXT + 2 * PAGE, 1), "libc");
    assert_eq!(near_text(&unit, 0, &[library]), at(TEXT - 8 * PAGE));
}

#[test]
fn a_unit_in_reach_stays() {
    let end = TEXT + 2 * PAGE;
    let lowest = end - REACH;
    let highest = TEXT + REACH - 8 * PAGE;
    for start in [lowest, TEXT - 8 * PAGE, end, highest] {
        assert_eq!(near_text(&together(start), 4, &[]), Ok(UnitPlace::Stays));
    }
    for start in [lowest - PAGE, highest + PAGE] {
        let moved = near_text(&together(start), 4, &[]);
        assert_eq!(moved, at(TEXT - 8 * PAGE), "{start:#x}");
    }
}

#[test]
fn a_half_moved_unit_is_brought_together_where_parts_of_it_are() {
    let place = TEXT - 8 * PAGE;
    let half = parts([place, LOW + 4 * PAGE, LOW + 6 * PAGE]);
    assert_eq!(near_text(&half, 0, &[]), at(place));
    let half = parts([LOW, LOW + 4 * PAGE, place + 6 * PAGE]);
    assert_eq!(near_text(&half, 0, &[]), at(place));
    let blocked = mapping(range(place + 2 * PAGE, 1), "");
    assert_eq!(near_text(&half, 0, &[blocked]), at(TEXT + 2 * PAGE));
    // In reach, but not together.
    let apart = parts([place - PAGE, place + 4 * PAGE, place + 6 * PAGE]);
    assert_eq!(near_text(&apart, 0, &[]), at(TEXT + 2 * PAGE));
}

#[test]
fn growing_stacks_and_the_heap_keep_their_room() {
    let unit = together(LOW);
    let behind = mapping(range(TEXT + 2 * PAGE, 1 << 20), "");
    let stack = mapping(range(TEXT - 16 * PAGE, 16), "[stack]");
    let below = TEXT - 16 * PAGE - GROWTH - 8 * PAGE;
    assert_eq!(near_text(&unit, 0, &[stack, behind.clone()]), at(below));
    // A stack has no use for what is below something else. Of what it can grow into it keeps half,
    // and its guard.
    for (free, is_room) in [
        (4 << 20, true),
        (GUARD + 8 * PAGE, true),
        (GUARD + 7 * PAGE, false),
    ] {
        let stack = mapping(range(TEXT + 2 * PAGE + free, 16), "[stack]");
        let above = stack.range.end.0;
        assert_eq!(
            near_text(&unit, 0, std::slice::from_ref(&stack)),
            at(TEXT - 8 * PAGE)
        );
        let below = mapping(Avma(LIMITS.lowest + 64 * PAGE)..Avma(TEXT), "");
        let expected = if is_room { TEXT + 2 * PAGE } else { above };
        assert_eq!(near_text(&unit, 0, &[below, stack]), at(expected));
    }
    let heap = mapping(range(TEXT + 2 * PAGE, 16), "[heap]");
    let before = mapping(Avma(LIMITS.lowest + 64 * PAGE)..Avma(TEXT), "");
    // There is not as much above as the heap may have: it keeps half.
    let end = TEXT + 18 * PAGE;
    let place = end + ((END - end) / 2 / PAGE * PAGE).min(HEAP_GROWTH);
    assert_eq!(near_text(&unit, 0, &[before, heap]), at(place));
}

#[test]
fn nothing_is_put_into_the_last_page_or_below_the_first() {
    let end = (1 << 47) - PAGE;
    let unit = together(LOW);
    let texts = [range(end - 10 * PAGE, 2)];
    let mut mappings = vec![
        mapping(Avma(LIMITS.lowest)..texts[0].start, ""),
        mapping(texts[0].clone(), ""),
    ];
    let placed = |mappings: &[Mapping], limits| {
        place(Unit { mappings: &unit }, &texts, None, mappings, limits)
    };
    assert_eq!(placed(&mappings, LIMITS), at(end - 8 * PAGE));
    mappings.push(mapping(range(end - 8 * PAGE, 1), ""));
    let error = placed(&mappings, LIMITS).unwrap_err();
    assert_eq!((error.size, error.largest), (8 * PAGE, 7 * PAGE));
    let wide = Limits {
        highest: 1 << 56,
        ..LIMITS
    };
    assert!(placed(&mappings, wide).is_err());

    let unit = together(TEXT);
    let texts = [range(LOW, 2)];
    let mappings = [mapping(texts[0].start..Avma(TEXT), "")];
    let limits = |lowest| Limits { lowest, ..LIMITS };
    let placed = |lowest| {
        place(
            Unit { mappings: &unit },
            &texts,
            None,
            &mappings,
            limits(lowest),
        )
    };
    assert_eq!(placed(LOW - 8 * PAGE), at(LOW - 8 * PAGE));
    assert!(placed(LOW - 8 * PAGE + 1).is_err());
}

#[test]
fn texts_that_are_too_far_apart_are_an_error_in_words() {
    let unit = together(LOW);
    let texts = [range(TEXT, 2), range(TEXT - 2 * REACH, 2)];
    let mappings: Vec<_> = texts.iter().map(|text| mapping(text.clone(), "")).collect();
    let error = place(Unit { mappings: &unit }, &texts, None, &mappings, LIMITS).unwrap_err();
    assert!(error.to_string().contains("no place"), "{error}");
    let full = [mapping(Avma(1)..Avma(u64::MAX), "")];
    let error = place(Unit { mappings: &unit }, &texts[..1], None, &full, LIMITS).unwrap_err();
    assert!(error.to_string().contains("the largest hole"), "{error}");
    assert!(error.to_string().contains("0x8000 bytes"), "{error}");
}

#[test]
fn odd_addresses_do_no_harm() {
    let unit = [
        part(Avma(u64::MAX - 1)..Avma(u64::MAX)),
        part(Avma(5)..Avma(3)),
    ];
    let text = Avma(u64::MAX - 3)..Avma(u64::MAX);
    let texts = [text, Avma(0)..Avma(1)];
    for texts in [&texts[..], &texts[..1], &texts[1..], &[]] {
        for zeros in [None, Some(Avma(u64::MAX - 1)..Avma(u64::MAX))] {
            for highest in [0, u64::MAX] {
                let limits = Limits {
                    lowest: highest,
                    highest,
                };
                let _ = place(Unit { mappings: &unit }, texts, zeros.clone(), &[], limits);
            }
        }
    }
    let nothing = Unit { mappings: &[] };
    assert_eq!(
        place(nothing, &texts, None, &[], LIMITS),
        Ok(UnitPlace::Stays)
    );
}

#[test]
fn room_is_what_is_free_next_to_a_text() {
    let text = OldText {
        mapping: range(TEXT, 2),
        image: Avma(TEXT),
        bytes: Vec::new(),
        size: 0,
        is_by_auxv: true,
    };
    let zeros = range(TEXT - 2 * PAGE, 2);
    let all = [
        mapping(range(TEXT - 3 * PAGE, 1), ""),
        mapping(zeros.clone(), ""),
        mapping(text.mapping.clone(), ""),
        mapping(range(TEXT + 5 * PAGE, 1), ""),
    ];
    let room = |zeros, all, pages| room(&text, zeros, all, LIMITS, pages);
    let expected = |behind, before| Room { behind, before };
    assert_eq!(room(Some(zeros.clone()), &all, 8), expected(3, 2));
    assert_eq!(room(Some(zeros), &all, 1), expected(1, 1));
    assert_eq!(room(None, &all, 8), expected(3, 0));
    assert_eq!(room(None, &all[2..3], 8), expected(8, 8));
}

/// What a few pages of a small address space are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Other,
    Text,
    Zeros,
    Part,
}

/// A small address space: all of it, page by page.
#[derive(Debug, Clone)]
struct Small {
    blocks: Vec<(u64, u64, Kind)>,
    /// The kernel's mappings are at their places in the other direction.
    is_reversed: bool,
    reach: u64,
    lowest: u64,
    highest: u64,
}

fn small() -> impl Strategy<Value = Small> {
    let kind = prop_oneof![
        3 => Just(Kind::Other),
        2 => Just(Kind::Text),
        2 => Just(Kind::Zeros),
        4 => Just(Kind::Part)
    ];
    let gap = prop_oneof![2 => Just(0u64), 1 => 1u64..9];
    let block = (gap, 1u64..4, kind);
    let blocks = prop::collection::vec(block, 2..9);
    let blocks = blocks.prop_map(|mut blocks| {
        blocks[0].2 = Kind::Text;
        blocks[1].2 = Kind::Part;
        blocks
    });
    let blocks = blocks.prop_shuffle().prop_map(|blocks| {
        let mut free = 2;
        let mut has_zeros = false;
        let place = |(gap, pages, kind)| {
            let start = free + gap;
            free = start + pages;
            let is_second = kind == Kind::Zeros && std::mem::replace(&mut has_zeros, true);
            (start, pages, if is_second { Kind::Other } else { kind })
        };
        blocks.into_iter().map(place).collect()
    });
    let spaces = (blocks, any::<bool>(), 2u64..48, 1u64..6, 8u64..48);
    spaces.prop_map(|(blocks, is_reversed, reach, lowest, highest)| Small {
        blocks,
        is_reversed,
        reach,
        lowest,
        highest,
    })
}

impl Small {
    fn ranges(&self, kind: Kind) -> Vec<Range<u64>> {
        let blocks = self.blocks.iter().filter(|block| block.2 == kind);
        blocks
            .map(|(start, pages, _)| *start..start + pages)
            .collect()
    }

    /// Each mapping of the unit with its distance from the lowest.
    fn unit(&self) -> Vec<(u64, Range<u64>)> {
        let mut parts = self.ranges(Kind::Part);
        if self.is_reversed {
            parts.reverse();
        }
        let mut distance = 0;
        let mut unit = Vec::new();
        for part in parts {
            unit.push((distance, part.clone()));
            distance += part.end - part.start;
        }
        unit
    }

    fn size(&self) -> u64 {
        self.ranges(Kind::Part)
            .iter()
            .map(|part| part.end - part.start)
            .sum()
    }

    /// The largest distance of something at `start` from a text.
    fn distance(&self, start: u64) -> u64 {
        let end = start + self.size();
        let texts = self.ranges(Kind::Text);
        let of = |text: &Range<u64>| {
            end.saturating_sub(text.start)
                .max(text.end.saturating_sub(start))
        };
        texts.iter().map(of).max().unwrap_or(0)
    }

    /// How good a place is, the lowest being the best, or `None` if it is none.
    fn rank(&self, start: u64) -> Option<(u8, u64)> {
        let is_free = |page: u64| {
            let mut blocks = self.blocks.iter();
            let taken = blocks.any(|(start, pages, kind)| {
                (*start..start + pages).contains(&page) && *kind != Kind::Zeros
            });
            !taken && (self.lowest..self.highest).contains(&page)
        };
        if self.distance(start) > self.reach {
            return None;
        }
        let unit = self.unit();
        let stays = |part: &(u64, Range<u64>)| start + part.0 == part.1.start;
        let mut moved = unit.iter().filter(|part| !stays(part));
        let fits = moved.all(|(distance, part)| {
            let to = start + distance;
            (to..to + part.end - part.start).all(is_free)
        });
        if !fits {
            return None;
        }
        let pages = start..start + self.size();
        let meets_zeros = self
            .ranges(Kind::Zeros)
            .iter()
            .any(|zeros| zeros.clone().any(|page| pages.contains(&page)));
        let class = match (unit.iter().any(stays), meets_zeros) {
            (true, _) => 0,
            (false, true) => 1,
            (false, false) => 2,
        };
        Some((class, self.distance(start)))
    }

    fn placed(&self) -> Result<UnitPlace, Unreachable> {
        let pages = |range: &Range<u64>| Avma(range.start * PAGE)..Avma(range.end * PAGE);
        let ranges = |kind| self.ranges(kind).iter().map(pages).collect::<Vec<_>>();
        let all = self.blocks.iter();
        let all = all.map(|(start, count, _)| mapping(range(start * PAGE, *count), ""));
        let unit: Vec<_> = self.unit().iter().map(|(_, at)| part(pages(at))).collect();
        let limits = Limits {
            lowest: self.lowest * PAGE,
            highest: self.highest * PAGE,
        };
        place_within(
            self.reach * PAGE,
            Unit { mappings: &unit },
            &ranges(Kind::Text),
            ranges(Kind::Zeros).pop(),
            &all.collect::<Vec<_>>(),
            limits,
        )
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn a_place_is_the_best_of_all_that_there_are(space in small()) {
        let unit = space.unit();
        let present = unit[0].1.start;
        let is_together = unit.iter().all(|(distance, part)| present + distance == part.start);
        let best = (0..64).filter_map(|start| space.rank(start)).min();
        match space.placed() {
            Ok(UnitPlace::Stays) => {
                prop_assert!(is_together && space.distance(present) <= space.reach);
            }
            Ok(UnitPlace::At(at)) => {
                prop_assert!(!is_together || space.distance(present) > space.reach);
                prop_assert_eq!(at.0 % PAGE, 0);
                prop_assert_eq!(space.rank(at.0 / PAGE), best);
            }
            Err(error) => {
                prop_assert_eq!(best, None);
                prop_assert_eq!(error.size, space.size() * PAGE);
                prop_assert!(error.largest < error.size);
            }
        }
    }
}
