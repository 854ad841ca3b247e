//! The order of Debian package versions.

use std::cmp::Ordering;

/// Compares two package versions as dpkg does (Debian Policy, 5.6.12): epoch, upstream version, revision.
pub(super) fn compare(left: &str, right: &str) -> Ordering {
    let (left_epoch, left_upstream, left_revision) = parts(left);
    let (right_epoch, right_upstream, right_revision) = parts(right);
    compare_part(left_epoch, right_epoch)
        .then_with(|| compare_part(left_upstream, right_upstream))
        .then_with(|| compare_part(left_revision, right_revision))
}

/// The upstream part of a package version.
pub(super) fn upstream(version: &str) -> &str {
    parts(version).1
}

fn parts(version: &str) -> (&str, &str, &str) {
    let (epoch, rest) = version.split_once(':').unwrap_or(("0", version));
    // No revision counts as revision 0.
    let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, "0"));
    (epoch, upstream, revision)
}

/// Compares stretches of other characters and stretches of digits in turn.
fn compare_part(mut left: &str, mut right: &str) -> Ordering {
    while !left.is_empty() || !right.is_empty() {
        let (left_text, left_rest) = split(left, |c| !c.is_ascii_digit());
        let (right_text, right_rest) = split(right, |c| !c.is_ascii_digit());
        let (left_number, left_rest) = split(left_rest, |c| c.is_ascii_digit());
        let (right_number, right_rest) = split(right_rest, |c| c.is_ascii_digit());
        let order = compare_text(left_text, right_text)
            .then_with(|| compare_number(left_number, right_number));
        if order.is_ne() {
            return order;
        }
        (left, right) = (left_rest, right_rest);
    }
    Ordering::Equal
}

/// Splits off the start that consists of such characters.
fn split(text: &str, of: impl Fn(char) -> bool) -> (&str, &str) {
    let end = text.find(|c| !of(c)).unwrap_or(text.len());
    text.split_at(end)
}

/// By character: `~` before the end, the end before letters, letters before all others.
fn compare_text(left: &str, right: &str) -> Ordering {
    let weight = |c: char| match c {
        '~' => (0, c),
        c if c.is_ascii_alphabetic() => (2, c),
        c => (3, c),
    };
    // An end mark that orders between `~` and letters makes the order lexicographic.
    let weights = |text: &str| {
        text.chars()
            .map(weight)
            .chain([(1, ' ')])
            .collect::<Vec<_>>()
    };
    weights(left).cmp(&weights(right))
}

/// Numbers may be too long for an integer, so by length without leading zeros, then by digits.
fn compare_number(left: &str, right: &str) -> Ordering {
    let left = left.trim_start_matches('0');
    let right = right.trim_start_matches('0');
    left.len().cmp(&right.len()).then_with(|| left.cmp(right))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oldest first; the order was confirmed with `dpkg --compare-versions`.
    const ORDERED: [&str; 14] = [
        "5.10.223-1",
        "6.1.94-1",
        "6.1.176-1",
        "6.12~rc1-1~exp1",
        "6.12.94-1~bpo12+1",
        "6.12.94-1~deb12u1",
        "6.12.94-1",
        "6.12.94-1+b1",
        "6.12.94-1.1",
        "6.12.117-1",
        "7.3~rc7-1~exp1",
        "7.3-1~exp1",
        "7.3-1",
        "1:1.0-1",
    ];

    #[test]
    fn versions_are_ordered_as_dpkg_orders_them() {
        for (i, left) in ORDERED.iter().enumerate() {
            for (j, right) in ORDERED.iter().enumerate() {
                assert_eq!(compare(left, right), i.cmp(&j), "{left} {right}");
            }
        }
    }

    #[test]
    fn leading_zeros_and_a_missing_revision_do_not_count() {
        assert!(compare("6.01-0", "6.1").is_eq());
        assert!(compare("6.1-1", "6.1-01").is_eq());
        assert!(compare("1.99999999999999999999999", "1.100000000000000000000000").is_lt());
    }

    #[test]
    fn upstream_is_what_is_between_epoch_and_revision() {
        assert_eq!(upstream("1:6.12.94-1~bpo"), "6.12.94");
        assert_eq!(upstream("7.3~rc7-1~exp1"), "7.3~rc7");
        assert_eq!(upstream("6.1"), "6.1");
    }
}
