//! What a re-entry table says, counted.

use elf_tools::reentry::{Context, Recipe, Recovery};

use super::*;

#[test]
fn boundaries_are_counted_once_as_the_worst_of_their_contexts() {
    let context = |boundary, function, reads, recovery| Context {
        boundary: Svma(boundary),
        function: Svma(function),
        calls: Vec::new(),
        reads,
        recovery,
    };
    let lost = |reason: &str| Recovery::None(reason.into());
    let table = ReentryTable {
        recipes: vec![Recipe::default()],
        contexts: vec![
            context(1, 1, true, Recovery::Recipe(0)),
            context(2, 1, false, lost("nobody asks")),
            context(3, 1, true, Recovery::Recipe(0)),
            context(3, 9, true, lost("a")),
            context(4, 1, false, Recovery::Recipe(0)),
            context(4, 9, true, Recovery::Recipe(0)),
            context(5, 1, true, lost("b")),
            context(6, 1, true, lost("b")),
        ],
    };
    let summary = ReentrySummary::of(&table);
    assert_eq!(
        (summary.functions, summary.boundaries, summary.recipes),
        (2, 6, 1)
    );
    assert_eq!(
        (summary.untouched, summary.reenter, summary.lost),
        (1, 2, 3)
    );
    let reasons = summary.reasons.iter().map(|r| (&*r.reason, r.boundaries));
    assert_eq!(reasons.collect::<Vec<_>>(), [("b", 2), ("a", 1)]);
}
