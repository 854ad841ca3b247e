//! Whether types refer to each other as types may: one that was missed shifts the numbers of all
//! that follow.

use super::Blob;
use super::record::{ArrayRecord, MemberRecord, TypeRecord, kind};
use crate::record::{read, size};

/// Whether the references between the types of a blob are possible, if these are the rest of its
/// types. The rules are those of the kernel's own check.
pub(super) fn are_possible(blob: &Blob<'_>, rest: &[u32]) -> bool {
    let starts: Vec<u32> = blob.types.iter().chain(rest).copied().collect();
    let record = |&start: &u32| blob.record(start as usize).ok();
    let Some(records) = starts.iter().map(record).collect::<Option<Vec<_>>>() else {
        return false;
    };
    let types = Types { blob, records };
    let mut all = types.records.iter().zip(&starts);
    all.all(|(record, &start)| types.refers_to_possible(record, start as usize))
}

struct Types<'a, 'data> {
    blob: &'a Blob<'data>,
    records: Vec<TypeRecord>,
}

impl Types<'_, '_> {
    /// The kind of a type; kind 0 is `void`, and what a base has is of no kind here.
    fn kind(&self, id: u32) -> Option<Kind> {
        if id == 0 {
            return Some(Kind::Is(0));
        }
        let Some(index) = (id as usize).checked_sub(self.blob.first_id) else {
            return Some(Kind::OfBase);
        };
        let record = self.records.get(index)?;
        Some(Kind::Is(record.kind()))
    }

    fn refers_to_possible(&self, record: &TypeRecord, start: usize) -> bool {
        let target = || self.kind(record.size_or_type);
        match record.kind() {
            kind::FUNC => target().is_some_and(|target| match target {
                Kind::Is(kind) => kind == kind::FUNC_PROTO,
                Kind::OfBase => true,
            }),
            kind::PTR
            | kind::TYPEDEF
            | kind::CONST
            | kind::VOLATILE
            | kind::RESTRICT
            | kind::TYPE_TAG
            | kind::FUNC_PROTO => target().is_some_and(Kind::is_type),
            kind::VAR => target().is_some_and(Kind::has_size),
            kind::ARRAY => {
                let array = read(
                    self.blob.bytes,
                    "BTF array",
                    trailing(start),
                    self.blob.order,
                );
                array.is_ok_and(|array: ArrayRecord| {
                    self.kind(array.element).is_some_and(Kind::has_size)
                        && self.kind(array.index).is_some_and(Kind::has_size)
                })
            }
            kind::STRUCT | kind::UNION => (0..record.count()).all(|index| {
                let at = trailing(start) + index * size::<MemberRecord>();
                let member = read(self.blob.bytes, "BTF member", at, self.blob.order);
                member.is_ok_and(|member: MemberRecord| {
                    self.kind(member.kind).is_some_and(Kind::has_size)
                })
            }),
            _ => true,
        }
    }
}

/// Where what follows the header of a type starts.
fn trailing(start: usize) -> usize {
    start + size::<TypeRecord>()
}

/// What a reference leads to.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Is(u32),
    OfBase,
}

impl Kind {
    /// Whether it is a type at all, or `void`: not a function, a variable, a section or a tag.
    fn is_type(self) -> bool {
        const NONE: [u32; 4] = [kind::FUNC, kind::VAR, kind::DATASEC, kind::DECL_TAG];
        !matches!(self, Self::Is(kind) if NONE.contains(&kind))
    }

    /// Whether it can be a member.
    fn has_size(self) -> bool {
        self.is_type() && !matches!(self, Self::Is(0 | kind::FUNC_PROTO | kind::FWD))
    }
}
