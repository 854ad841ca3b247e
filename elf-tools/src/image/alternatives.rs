//! Boot-time alternatives: what a kernel patches into its vDSO for the processor it runs on.
//!
//! An image that was dumped from a process has them applied. One that was cut from a kernel file
//! has not, and running it would be wrong (a clock read without ordering) rather than merely slow.
//! How they are stored, and which features there are, depends on the architecture: [`crate::arch`].

use std::ops::Range;

use crate::image::Image;
use crate::{Result, arch};

pub use crate::arch::feature;

/// A feature bit as the kernel numbers them: 32 times the capability word, plus the bit.
pub type Feature = u16;

/// One place that a kernel may patch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alternative {
    /// The instructions as linked.
    pub original: Range<u64>,
    /// What to put there instead; shorter or as long.
    pub replacement: Range<u64>,
    /// The feature that asks for it.
    pub feature: Feature,
    /// Whether the *absence* of the feature asks for it.
    pub negated: bool,
}

/// Reads the alternatives of an image; empty where it has none.
///
/// # Errors
///
/// [`crate::Error::Malformed`] if the table is in none of the known formats.
pub fn read(image: &Image) -> Result<Vec<Alternative>> {
    arch::alternatives(image)
}

/// The image's bytes with alternatives applied as a kernel would on a processor with these
/// features.
///
/// The last entry that applies to a place wins, as in the kernel. Instructions that do nothing fill
/// what is left of the original.
pub fn apply(
    image: &Image,
    alternatives: &[Alternative],
    has: impl Fn(Feature) -> bool,
) -> Vec<u8> {
    let original = image.bytes();
    let mut bytes = original.to_vec();
    for alternative in alternatives.iter().filter(|a| has(a.feature) != a.negated) {
        let source =
            &original[alternative.replacement.start as usize..alternative.replacement.end as usize];
        let target =
            &mut bytes[alternative.original.start as usize..alternative.original.end as usize];
        let (now, rest) = target.split_at_mut(source.len());
        now.copy_from_slice(source);
        arch::fill_with_no_operations(image.machine(), rest);
    }
    bytes
}
