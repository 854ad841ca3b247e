//! What jumps have overwritten of alternatives.

use elf_tools::image::alternatives::Feature;
use kernel_fixtures::fixture;

use super::*;

/// Eight bytes, of which four are replaced on some processors.
const PLACE: Range<usize> = 0x240..0x248;
const REPLACEMENT: Range<usize> = 0x80..0x84;

fn named(feature: Feature, negated: bool) -> Named<'static> {
    Named {
        name: "named".to_owned(),
        image: Image::parse(fixture::find("got").unwrap().image).unwrap(),
        alternatives: vec![Alternative {
            original: PLACE.start as u64..PLACE.end as u64,
            replacement: REPLACEMENT.start as u64..REPLACEMENT.end as u64,
            feature,
            negated,
        }],
        free: Vec::new(),
        source: None,
    }
}

#[test]
fn what_is_left_of_an_alternative_says_what_it_was() {
    for negated in [false, true] {
        // No processor has it, so the absence of it asks for the replacement.
        let named = named(Feature::MAX, negated);
        let original = named.image.bytes().to_vec();
        let mut replaced = original.clone();
        replaced[PLACE.start..PLACE.start + 4].copy_from_slice(&original[REPLACEMENT]);
        // Another kernel may do nothing in another way.
        replaced[PLACE.start + 4..PLACE.end].copy_from_slice(&[0x0f, 0x1f, 0x40, 0x00]);
        assert_ne!(original[PLACE], replaced[PLACE]);
        let own = [&original, &replaced][usize::from(negated)];
        for covered in [PLACE.start - 14..PLACE.start + 2, PLACE.start..PLACE.end] {
            for found in [&original, &replaced] {
                let mut jumped = found.clone();
                jumped[covered.clone()].fill(0xcc);
                let prepared = named.prepared(&jumped, std::slice::from_ref(&covered));
                let is_whole = covered.end == PLACE.end;
                let expected = if is_whole { own } else { found };
                let kept = PLACE.start..PLACE.start + 2;
                assert_eq!(
                    prepared[kept.clone()],
                    expected[kept],
                    "{negated} {covered:x?}"
                );
                assert_eq!(prepared[..PLACE.start], original[..PLACE.start]);
                assert_eq!(prepared[PLACE.end..], original[PLACE.end..]);
            }
        }
    }
}
