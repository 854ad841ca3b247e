//! Frames of the new vDSO, where proxies lead to.
//!
//! A process knows one vDSO, the old one. Unwinders find nothing about an address in the new one,
//! unless the call frame information of the old one speaks of it. Both have addresses in it that
//! are relative, so distances of up to two gigabytes are no matter. Then
//!
//! - a debugger finds them, since it asks the call frame information of each object file;
//! - an unwinder that goes by program headers finds them, if one of these says that the old vDSO is
//!   there as well ([`load_all`]);
//! - a C library that has remembered where the old vDSO ends finds nothing there.

use std::ops::Range;

use elf_tools::Svma;
use elf_tools::image::Image;

use super::elf::{Elf, Named};
use super::read::{Description, Frames, HEADER};
use crate::arch::Arch;

/// Distances that frame descriptions state have 32 bits. Both images, and what is added to them,
/// are smaller than what is left of that.
const REACH: u64 = (1 << 31) - (1 << 24);

/// What a description of the new vDSO's code takes in a linked image, and why it is one of it.
#[derive(Debug, Clone)]
pub(crate) struct Proxied {
    /// Where the new vDSO is loaded. Addresses are relative to the old image; below that they wrap.
    pub(super) loaded: Range<u64>,
    /// Where its code is.
    pub(super) code: Range<u64>,
    /// Descriptions of the code that proxies can come to.
    pub(super) descriptions: Vec<Description>,
    /// The functions that proxies lead to.
    pub(super) named: Vec<Named>,
}

impl Proxied {
    /// Of a new vDSO whose first byte is `distance` away from that of the old image, and to whose
    /// functions at these places proxies lead. `None` if it has no call frame information, or is
    /// too far away.
    pub(crate) fn read(
        arch: &dyn Arch,
        new: &Image,
        distance: i64,
        targets: &[Svma],
    ) -> Option<Self> {
        if distance.unsigned_abs() > REACH {
            return None;
        }
        let bytes = new.bytes();
        let frames = Frames::read(&Elf::read(bytes)?, bytes, &arch.convention())?;
        // What no exported function is in, may be of any.
        let of_others = |one: &Description| {
            let mut exports = new.exports().iter().map(|export| export.address);
            exports.any(|at| one.range.contains(&at.0) && !targets.contains(&at))
        };
        let moved = |range: &Range<u64>| {
            range.start.wrapping_add_signed(distance)..range.end.wrapping_add_signed(distance)
        };
        let wanted = frames.descriptions.into_iter().filter(|one| {
            let is_target = targets.iter().any(|at| one.range.contains(&at.0));
            is_target || !of_others(one)
        });
        let mut descriptions: Vec<Description> = wanted.collect();
        for one in &mut descriptions {
            one.program = None;
            one.range = moved(&one.range);
            for row in &mut one.rows {
                row.range = moved(&row.range);
            }
        }
        let named = targets.iter().filter_map(|&at| {
            let export = new.exports_at(at).next()?;
            Some(Named {
                name: format!("{}.new", export.name),
                range: moved(&(at.0..at.0 + export.size)),
            })
        });
        let text = new.text();
        Some(Self {
            loaded: moved(&(0..new.loaded_size())),
            code: moved(&(text.first()?.start..text.last()?.end)),
            named: named.collect(),
            descriptions,
        })
    }

    /// How many descriptions there are at most.
    pub(crate) fn most(new: &Image) -> u64 {
        let bytes = new.bytes();
        let header = Elf::read(bytes).and_then(|elf| elf.frame_header);
        let count = header.and_then(|at| {
            let count = bytes.get(at.index()..)?.get(HEADER as usize - 4..)?;
            Some(u32::from_le_bytes(count.first_chunk().copied()?))
        });
        count.unwrap_or(0).into()
    }
}
