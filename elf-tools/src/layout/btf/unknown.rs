//! The sizes of types of kinds that neither this crate nor the blob states, from what follows.
//!
//! What a kind appends to the header of each of its types is a fixed number of bytes, so many for
//! each element, or both: so it is for all kinds there are, and so newer blobs state it. A wrong
//! number is found out soon, since what follows must be types again, one behind the other, that end
//! exactly where the section does and refer to each other as types may. So every number is tried.
//!
//! A number that is too large could still swallow whole types. So what a type of an unknown kind
//! appends must not contain what looks like a type of a known one; bytes that are none hardly ever
//! do. What takes fewer unknown kinds is believed. If two readings are left, the search says so and
//! believes neither.

use std::fmt;
use std::ops::Range;

use super::record::{KindLayouts, MemberRecord, TypeRecord, kind, trailing_size};
use super::{Blob, references};
use crate::record::{read, size};

/// Most bytes that types of a kind have each, and for each element. Kinds that are known have up to
/// 12 of either.
const MAX_FIXED: usize = 64;
const MAX_ELEMENT: usize = 32;
/// Sizes are whole words.
const WORD: usize = 4;
/// Most kinds whose sizes are looked for at once.
const MAX_KINDS: usize = 3;
/// Most headers and members that are looked at, for each one that there is room for. Wrong sizes
/// fail within a few; those that differ in nothing that occurs are followed to the end, each of
/// them: up to nine for each kind.
const WORK: usize = 256;
/// The same of a small blob, which has room for less than there are sizes.
const LEAST_WORK: usize = 1 << 20;

/// Why the types behind one of an unknown kind cannot be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Undecided {
    /// With no size all that follows is well formed.
    NoneFits,
    /// With several sizes all that follows is well formed, and the types are not the same.
    SeveralFit,
    /// The search has a limit.
    Limit,
}

impl fmt::Display for Undecided {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoneFits => "with no size is all that follows well formed",
            Self::SeveralFit => "several sizes fit what follows",
            Self::Limit => "too many sizes may fit what follows",
        })
    }
}

/// Where each type in `range` of a blob starts, the first of which is of an unknown kind.
pub(super) fn rest(
    blob: &Blob<'_>,
    range: Range<usize>,
    layouts: KindLayouts<'_>,
) -> Result<Vec<u32>, Undecided> {
    // Ids go up to what there is room for; those of the types from here on are not known yet.
    let room = range.len() / size::<TypeRecord>();
    let mut search = Search {
        blob,
        layouts,
        end: range.end,
        end_id: blob.end_id() + room,
        work: (WORK * room).max(LEAST_WORK),
        most_kinds: 0,
        assumed: Vec::new(),
        starts: Vec::new(),
        found: None,
    };
    for most_kinds in 1..=MAX_KINDS {
        search.most_kinds = most_kinds;
        search.follow(range.start)?;
        if let Some(found) = search.found {
            return Ok(found);
        }
    }
    Err(Undecided::NoneFits)
}

/// What the types of a kind are taken to append to their headers.
#[derive(Debug, Clone, Copy)]
struct Assumed {
    kind: u32,
    fixed: usize,
    element: usize,
}

struct Search<'a, 'data> {
    blob: &'a Blob<'data>,
    layouts: KindLayouts<'data>,
    end: usize,
    /// No type has this id or one above.
    end_id: usize,
    /// Headers and members that may still be looked at.
    work: usize,
    /// Kinds whose sizes may be assumed.
    most_kinds: usize,
    assumed: Vec<Assumed>,
    /// The types up to here.
    starts: Vec<u32>,
    /// The types that were found with sizes that fit.
    found: Option<Vec<u32>>,
}

impl Search<'_, '_> {
    /// Follows the types from `at` on to the end, with every size of those that need one.
    fn follow(&mut self, mut at: usize) -> Result<(), Undecided> {
        while at < self.end {
            let Ok(record) = self.blob.record(at) else {
                return Ok(());
            };
            self.spend(1 + self.members(&record, at).unwrap_or_default())?;
            if !self.is_plausible(&record, at) {
                return Ok(());
            }
            let (kind, count) = (record.kind(), record.count());
            let known =
                trailing_size(kind, count).or_else(|| self.layouts.trailing_size(kind, count));
            let Some(trailing) = known.or_else(|| self.assumed_size(kind, count)) else {
                return self.suppose(kind, at);
            };
            let header_end = at + size::<TypeRecord>();
            let next = header_end.checked_add(trailing);
            let Some(next) = next.filter(|&next| next <= self.end) else {
                return Ok(());
            };
            if known.is_none() && self.has_type(header_end..next)? {
                return Ok(());
            }
            self.starts.push(at as u32);
            at = next;
        }
        self.keep()
    }

    /// Whether what looks like a type of a known kind starts in a range.
    fn has_type(&mut self, range: Range<usize>) -> Result<bool, Undecided> {
        for at in range.step_by(WORD) {
            let Ok(record) = self.blob.record(at) else {
                continue;
            };
            self.spend(1 + self.members(&record, at).unwrap_or_default())?;
            if record.kind() <= kind::LAST && self.is_plausible(&record, at) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Keeps the types up to the end as what was found. Errors if others were found before.
    fn keep(&mut self) -> Result<(), Undecided> {
        let types = self.blob.types.len() + self.starts.len();
        self.spend(types)?;
        if self.found.as_ref() == Some(&self.starts)
            || !references::are_possible(self.blob, &self.starts)
        {
            return Ok(());
        }
        match self.found.replace(self.starts.clone()) {
            Some(_) => Err(Undecided::SeveralFit),
            None => Ok(()),
        }
    }

    fn spend(&mut self, work: usize) -> Result<(), Undecided> {
        self.work = self.work.checked_sub(work).ok_or(Undecided::Limit)?;
        Ok(())
    }

    fn assumed_size(&self, kind: u32, count: usize) -> Option<usize> {
        let assumed = self.assumed.iter().find(|assumed| assumed.kind == kind)?;
        assumed
            .element
            .checked_mul(count)?
            .checked_add(assumed.fixed)
    }

    /// Follows the types from `at` on with every size of a kind.
    fn suppose(&mut self, kind: u32, at: usize) -> Result<(), Undecided> {
        if self.assumed.len() == self.most_kinds {
            return Ok(());
        }
        let so_far = self.starts.len();
        for fixed in (0..=MAX_FIXED).step_by(WORD) {
            for element in (0..=MAX_ELEMENT).step_by(WORD) {
                self.assumed.push(Assumed {
                    kind,
                    fixed,
                    element,
                });
                self.follow(at)?;
                self.assumed.pop();
                self.starts.truncate(so_far);
            }
        }
        Ok(())
    }

    /// Whether a header obeys the rules by which the kernel itself checks BTF.
    fn is_plausible(&self, record: &TypeRecord, at: usize) -> bool {
        let is_named = record.name != 0;
        let has_elements = record.count() != 0;
        let refers = (record.size_or_type as usize) < self.end_id;
        let shape = match record.kind() {
            0 => false,
            kind::INT => is_named && !has_elements && record.size_or_type <= 16,
            kind::FLOAT => is_named && !has_elements,
            kind::PTR | kind::CONST | kind::VOLATILE | kind::RESTRICT => {
                !is_named && !has_elements && refers
            }
            kind::ARRAY => !is_named && !has_elements && record.size_or_type == 0,
            kind::TYPEDEF | kind::TYPE_TAG | kind::VAR | kind::DECL_TAG => {
                is_named && !has_elements && refers
            }
            kind::FWD => is_named && !has_elements && record.size_or_type == 0,
            kind::FUNC => is_named && refers,
            kind::FUNC_PROTO => !is_named && refers,
            kind::DATASEC => is_named,
            kind::STRUCT | kind::UNION => self.has_members(record, at),
            kind::ENUM | kind::ENUM64 => record.size_or_type <= 8,
            _ => true,
        };
        shape && self.is_name(record.name)
    }

    /// How many members a struct has, if it is one and has room for them.
    fn members(&self, record: &TypeRecord, at: usize) -> Option<usize> {
        let room = self.end.saturating_sub(at + size::<TypeRecord>()) / size::<MemberRecord>();
        let is_struct = matches!(record.kind(), kind::STRUCT | kind::UNION);
        (is_struct && record.count() <= room).then(|| record.count())
    }

    /// Whether the members of a struct have names and types.
    fn has_members(&self, record: &TypeRecord, at: usize) -> bool {
        let is_member = |index: usize| {
            let at = at + size::<TypeRecord>() + index * size::<MemberRecord>();
            let member = read(self.blob.bytes, "BTF member", at, self.blob.order);
            member.is_ok_and(|member: MemberRecord| {
                self.is_name(member.name) && (member.kind as usize) < self.end_id
            })
        };
        let members = self.members(record, at);
        members.is_some_and(|count| (0..count).all(is_member))
    }

    /// Whether a string starts there, in this blob or in its base.
    fn is_name(&self, offset: u32) -> bool {
        let Some(offset) = (offset as usize).checked_sub(self.blob.first_string) else {
            return true;
        };
        let before = offset
            .checked_sub(1)
            .map(|before| self.blob.strings.get(before));
        offset < self.blob.strings.len() && before.is_none_or(|byte| byte == Some(&0))
    }
}
