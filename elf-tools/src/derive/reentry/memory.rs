//! What an address means to a function: its own frame, what an argument points to, or what the
//! kernel keeps current.

use crate::derive::machine::Access;
use crate::derive::pool::Pool;
use crate::derive::value::{SetId, Unknown, Value};

/// An object that an argument points to: the processor's number of the register, and the offset.
pub(super) type Place = (u8, i64);

/// A place and a number of bytes.
pub(super) type Bytes = (Place, u32);

/// Whether an access may be to what the kernel keeps current, rather than to what an argument
/// points to.
pub(super) fn is_kernels(pool: &Pool, access: &Access) -> bool {
    pool.values(access.address)
        .iter()
        .any(|value| !is_from_arguments(pool, value))
}

/// Whether a value is made of nothing but what registers held at the entry. What is on the stack is
/// never asked for.
fn is_from_arguments(pool: &Pool, value: &Value) -> bool {
    let known = |unknown: Unknown| {
        matches!(
            unknown,
            Unknown::Initial(_) | Unknown::Stack | Unknown::AlignedStack(_)
        )
    };
    value.base == 0
        && !value.terms.is_empty()
        && value
            .terms
            .iter()
            .all(|term| known(pool.unknown_of(term.unknown)))
}

/// The object and the offset that an address means, if it is one only.
pub(super) fn place(pool: &Pool, address: SetId) -> Option<Place> {
    let [value] = pool.values(address) else {
        return None;
    };
    let [term] = value.terms[..] else {
        return None;
    };
    match pool.unknown_of(term.unknown) {
        Unknown::Initial(number) if value.base == 0 && term.coefficient == 1 => {
            Some((number, value.constant))
        }
        _ => None,
    }
}
