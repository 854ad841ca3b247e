//! Whether the code of a vDSO agrees with a page layout.
//!
//! Whatever code accesses before its image must be a field, of its size; whatever it loads the
//! address of must be where a page, an object, an element or a field begins; and what it compares
//! with `VDSO_CLOCKMODE_TIMENS` must be the `clock_mode` of the *time* page, the one thing that
//! tells it from the equally laid out page of a time namespace.
//!
//! A page that the code never touches cannot be checked. This is harmless: no thread of that kernel
//! is inside code that uses the page, and foreign code reaches it only by a clock mode that this
//! kernel does not have.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use super::layout_fault::LayoutFault;
use super::place::{Place, Role};
use super::vvar_accesses::{Evidence, Touch};
use crate::Svma;

/// How many different fields of the clocks the code must be seen to touch before its word counts.
/// Stock images touch at least eight.
const MIN_CLOCK_FIELDS: usize = 4;

/// Errors at the first thing in the code that `places` do not explain, and where too little is seen
/// to tell. In `undescribed` ranges are objects of which nothing is known: what the code does there
/// says nothing.
pub(super) fn check(
    evidence: &Evidence,
    places: &[Place],
    undescribed: &[Range<i64>],
    timens_mode: Option<i64>,
) -> Result<(), LayoutFault> {
    let index = Index::new(places);
    let is_undescribed = |address| undescribed.iter().any(|range| range.contains(&address));
    for &(at, address) in &evidence.loads {
        if !is_undescribed(address) && !index.starts_anything(address) {
            let target = place_of(address);
            return Err(LayoutFault::Load { at, target });
        }
    }
    let mut touched = BTreeSet::new();
    let touches = evidence.touches.iter();
    for touch in touches.filter(|touch| !is_undescribed(touch.target)) {
        let field = index.field(touch).ok_or(LayoutFault::Access {
            at: touch.at,
            size: touch.size,
            target: place_of(touch.target),
        })?;
        touched.insert(field);
    }
    let seen = touched
        .iter()
        .filter(|name| name.starts_with("time.clock[]."))
        .count();
    if seen < MIN_CLOCK_FIELDS || !touched.contains("time.clock[].seq") {
        return Err(LayoutFault::TooFewFields { seen });
    }
    let timens_in_use = touched.iter().any(|name| name.starts_with("timens."))
        || evidence
            .loads
            .iter()
            .any(|&(_, address)| index.is_timens(address));
    check_namespace_tests(evidence, &index, timens_mode, timens_in_use)
}

/// Checks the comparisons by which code finds out that it is in a time namespace.
fn check_namespace_tests(
    evidence: &Evidence,
    index: &Index<'_>,
    timens_mode: Option<i64>,
    timens_in_use: bool,
) -> Result<(), LayoutFault> {
    // Four bytes are compared, whose sign depends on who reads the constant.
    let is_test = |touch: &&Touch| {
        timens_mode.is_some()
            && touch.compared_with.map(|v| v as i32) == timens_mode.map(|v| v as i32)
    };
    let mut tests = evidence.touches.iter().filter(is_test).peekable();
    if timens_in_use && tests.peek().is_none() {
        return Err(LayoutFault::NoNamespaceTest);
    }
    match tests.find(|test| index.field(test) != Some("time.clock[].clock_mode")) {
        Some(test) => Err(LayoutFault::NamespaceTest {
            at: test.at,
            target: place_of(test.target),
        }),
        None => Ok(()),
    }
}

fn place_of(address: i64) -> Svma {
    Svma(0).offset(address)
}

/// Places by address, in every element of their arrays.
struct Index<'a> {
    /// Fields with their sizes.
    fields: HashMap<i64, (u64, &'a str)>,
    /// What begins at an address.
    started: HashMap<i64, &'a str>,
}

impl<'a> Index<'a> {
    fn new(places: &'a [Place]) -> Self {
        let mut index = Self {
            fields: HashMap::new(),
            started: HashMap::new(),
        };
        for place in places {
            for address in place.addresses() {
                // Of the members of a union the first one gives its name.
                index.started.entry(address).or_insert(&place.name);
                if place.role == Role::Field {
                    let field = (place.size, place.name.as_str());
                    index.fields.entry(address).or_insert(field);
                }
            }
        }
        index
    }

    /// The field that an instruction accesses as a whole. Of the width of a shift, compilers read no
    /// more than the first byte.
    fn field(&self, touch: &Touch) -> Option<&'a str> {
        let &(size, name) = self.fields.get(&touch.target)?;
        let is_part = || name.ends_with(".shift") && touch.size == 1;
        (u64::from(touch.size) == size || is_part()).then_some(name)
    }

    fn starts_anything(&self, address: i64) -> bool {
        self.started.contains_key(&address)
    }

    fn is_timens(&self, address: i64) -> bool {
        self.started
            .get(&address)
            .is_some_and(|name| name.starts_with("timens."))
    }
}
