//! Which symbol an address means.

use std::ops::Range;

use super::value::{ConstantId, Value};
use crate::Svma;
use crate::disassembly::{Access, Instruction};
use crate::relocation::OpaqueReason;
use crate::symtab::name::VersionedName;
use crate::symtab::{Symbol, Symtab, mapping_name};
use crate::{Error, Result};

/// The vvar of an image's own kernel, relative to the image.
pub(super) struct Vvar<'a> {
    symtab: &'a Symtab,
    fields: Vec<Field<'a>>,
    lowest: i64,
    highest: i64,
    /// The time page and the page of time namespaces, whose contents trade places.
    pages: Option<SwappedPages>,
}

/// A symbol that nothing is part of.
struct Field<'a> {
    symbol: &'a Symbol,
    address: i64,
    /// Outermost first.
    arrays: Vec<Array<'a>>,
    /// Whether it belongs to the clocks, which both pages have.
    is_time: bool,
}

#[derive(Clone, Copy)]
struct Array<'a> {
    name: &'a str,
    stride: i64,
    count: i64,
}

/// An array that code indexes by something that is not known before it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Indexed {
    /// Name without `[]`.
    pub(super) array: String,
    pub(super) stride: i64,
    /// The constant of the code that is the stride, if it is stored as such.
    pub(super) scale: Option<ConstantId>,
}

/// What an address means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Meaning {
    pub(super) name: VersionedName,
    /// Size of the symbol in bytes.
    pub(super) size: u64,
    /// Distance of the address from the symbol, in the layout of the image's own kernel.
    pub(super) within: i64,
    pub(super) indexed: Vec<Indexed>,
}

/// The two pages whose contents the kernel swaps in a time namespace, relative to the image. Both
/// have the size of the first.
#[derive(Debug)]
struct SwappedPages {
    time: Range<i64>,
    timens: Range<i64>,
}

impl SwappedPages {
    /// Of pages by their addresses and sizes; `None` if there are not both, or if a table puts one of
    /// them at an end of the address space.
    fn of(time: Option<(i64, i64)>, timens: Option<(i64, i64)>) -> Option<Self> {
        let ((time, size), (timens, _)) = time.zip(timens)?;
        Some(Self {
            time: time..time.checked_add(size)?,
            timens: timens..timens.checked_add(size)?,
        })
    }
}

/// One way to read an address as part of a field.
struct Match<'f, 'a> {
    field: &'f Field<'a>,
    indices: Vec<i64>,
    /// Which of the arrays are indexed by an unknown, with the constant that is the stride.
    unknown: Vec<Option<Option<ConstantId>>>,
    /// Offset in the field.
    offset: i64,
}

impl Match<'_, '_> {
    /// An unknown index that the code adds a negative number to is possible, but less likely than
    /// one that it does not.
    fn is_natural(&self) -> bool {
        self.indices.iter().all(|&index| index >= 0)
    }
}

impl<'a> Vvar<'a> {
    /// Reads the fields of a symbol table.
    pub(super) fn of(symtab: &'a Symtab) -> Result<Self> {
        let image = symtab.mapping(mapping_name::VDSO).ok_or_else(|| {
            Error::not_found(
                mapping_name::VDSO,
                "the symbol table does not say how far the vvar is from the image",
            )
        })?;
        let relative = |address: u64| address.wrapping_sub(image.address) as i64;
        let address =
            |symbol: &Symbol| relative(symtab.mappings()[symbol.mapping].address + symbol.offset);
        let page = |name| {
            symtab
                .get(name)
                .map(|page| (address(page), page.size as i64))
        };
        let fields = symtab.symbols().iter().filter(|symbol| {
            !symbol.name.ends_with(".page")
                && !symbol.name.ends_with("[]")
                && symtab.get(&format!("{}[]", symbol.name)).is_none()
        });
        let fields = fields.map(|symbol| Field {
            symbol,
            address: address(symbol),
            arrays: arrays(symtab, &symbol.name),
            is_time: symbol.name.starts_with("time.") || symbol.name.starts_with("timens."),
        });
        let areas = || {
            symtab
                .mappings()
                .iter()
                .filter(|mapping| mapping.name != mapping_name::VDSO)
        };
        Ok(Self {
            symtab,
            fields: fields.collect(),
            lowest: areas().map(|m| relative(m.address)).min().unwrap_or(0),
            highest: areas()
                .map(|m| relative(m.address + m.size))
                .max()
                .unwrap_or(0),
            pages: SwappedPages::of(page("time.page"), page("timens.page")),
        })
    }

    /// Whether an image-relative address lies in the vvar.
    pub(super) fn contains(&self, address: i64) -> bool {
        (self.lowest..self.highest).contains(&address)
    }

    /// Whether an instruction has an operand of its own in the vvar.
    pub(super) fn is_referred_to_by(&self, instruction: &Instruction) -> bool {
        let target = instruction.target.map(Svma::signed);
        instruction.access != Access::None && target.is_some_and(|target| self.contains(target))
    }

    /// What an access of `size` bytes at `value` means; several things where it covers several
    /// fields, or where fields share their place. Errors where that cannot be told.
    pub(super) fn meaning(&self, value: &Value, size: u32) -> Result<Vec<Meaning>, OpaqueReason> {
        let mut meanings = Vec::new();
        let mut done = 0;
        while done < i64::from(size.max(1)) {
            let address = value.constant.wrapping_add(done);
            let mut matches = self.matches(address, value, None);
            if matches.is_empty() {
                matches = self.mirrored(address, value);
            }
            if matches.iter().any(Match::is_natural) {
                matches.retain(Match::is_natural);
            }
            let Some(first) = matches.first() else {
                return Err(OpaqueReason::NoSymbolAt(spelled(address, value)));
            };
            let left = i64::from(size) - done;
            let extent = |found: &Match<'_, '_>| {
                let rest = found.field.symbol.size as i64 - found.offset;
                (rest.min(left), found.offset)
            };
            let covered = extent(first).0;
            // What shares a place as the members of a union do is one thing; anything else is a
            // choice.
            let alike = |found: &Match<'_, '_>| {
                extent(found) == extent(first) && found.field.address == first.field.address
            };
            // Part of a field is one thing, but parts of two are none.
            let whole = covered == i64::from(size) || covered == first.field.symbol.size as i64;
            if !matches.iter().all(alike) || !whole || size == 0 {
                return Err(OpaqueReason::Ambiguous(spelled(address, value)));
            }
            meanings.extend(matches.iter().map(|found| self.meant(found, done)));
            done += covered;
        }
        Ok(meanings)
    }

    /// All ways to read the address as part of a field.
    fn matches(&self, address: i64, value: &Value, page: Option<i64>) -> Vec<Match<'_, 'a>> {
        let mut matches = Vec::new();
        for field in &self.fields {
            let in_page =
                |pages: &SwappedPages| !field.is_time && pages.time.contains(&field.address);
            if page.is_some() && !self.pages.as_ref().is_some_and(in_page) {
                continue;
            }
            let Some(unknown) = assign(field, value) else {
                continue;
            };
            let mut indices = Vec::with_capacity(field.arrays.len());
            let distance = address.wrapping_sub(field.address);
            find(field, &unknown, distance, &mut indices, &mut matches);
        }
        matches
    }

    /// In a time namespace the kernel swaps the contents of two pages, and what else is in the time
    /// page goes with them: code that looks for it in the other page then means the same thing.
    fn mirrored(&self, address: i64, value: &Value) -> Vec<Match<'_, 'a>> {
        match &self.pages {
            Some(SwappedPages { time, timens }) if timens.contains(&address) => {
                let offset = address - timens.start;
                self.matches(time.start + offset, value, Some(time.start))
            }
            _ => Vec::new(),
        }
    }

    fn meant(&self, found: &Match<'_, '_>, done: i64) -> Meaning {
        let field = found.field;
        let mut within = found.offset - done;
        let mut indexed = Vec::new();
        let mut indices = Vec::with_capacity(found.indices.len());
        for ((array, &index), unknown) in
            field.arrays.iter().zip(&found.indices).zip(&found.unknown)
        {
            match *unknown {
                None => indices.push(index as u64),
                Some(scale) => {
                    within = within.wrapping_add(index.wrapping_mul(array.stride));
                    indices.push(0);
                    indexed.push(Indexed {
                        array: array.name.to_owned(),
                        stride: array.stride,
                        scale,
                    });
                }
            }
        }
        Meaning {
            name: VersionedName {
                name: field.symbol.name.clone(),
                indices,
                version: field.symbol.version,
            },
            size: field.symbol.size,
            within,
            indexed,
        }
    }

    pub(super) fn symbol(&self, name: &str) -> Option<&'a Symbol> {
        self.symtab.get(name)
    }
}

/// The arrays that a name goes through.
fn arrays<'a>(symtab: &Symtab, name: &'a str) -> Vec<Array<'a>> {
    let array = |(end, _): (usize, &str)| {
        let name = &name[..end];
        let (stride, count) = symtab.array(name)?;
        Some(Array {
            name,
            stride: i64::try_from(stride).ok()?,
            count: i64::try_from(count).ok()?,
        })
    };
    name.match_indices("[]").filter_map(array).collect()
}

/// Which of the field's arrays each unknown of the address indexes: the one of that stride. `None`
/// if one of them indexes no array.
fn assign(field: &Field<'_>, value: &Value) -> Option<Vec<Option<Option<ConstantId>>>> {
    let mut unknown = vec![None; field.arrays.len()];
    for term in &value.terms {
        let free = |(at, array): &(usize, &Array<'_>)| {
            array.stride == term.coefficient && unknown[*at].is_none()
        };
        let (at, _) = field.arrays.iter().enumerate().find(free)?;
        unknown[at] = Some(term.scale);
    }
    Some(unknown)
}

/// Finds the indices under which `distance` from the field's first element is inside the field.
fn find<'f, 'a>(
    field: &'f Field<'a>,
    unknown: &[Option<Option<ConstantId>>],
    distance: i64,
    indices: &mut Vec<i64>,
    matches: &mut Vec<Match<'f, 'a>>,
) {
    let size = field.symbol.size as i64;
    let Some(array) = field.arrays.get(indices.len()) else {
        if (0..size).contains(&distance) {
            matches.push(Match {
                field,
                indices: indices.clone(),
                unknown: unknown.to_vec(),
                offset: distance,
            });
        }
        return;
    };
    let first = match unknown[indices.len()] {
        Some(_) => 1 - array.count,
        None => 0,
    };
    let is_last = indices.len() + 1 == field.arrays.len();
    // The field lies in its element, so for the innermost array there is only one index to try.
    let range = match is_last {
        true => {
            let only = distance.div_euclid(array.stride);
            only.max(first)..only.min(array.count - 1) + 1
        }
        false => first..array.count,
    };
    for index in range {
        indices.push(index);
        find(
            field,
            unknown,
            distance.wrapping_sub(index.wrapping_mul(array.stride)),
            indices,
            matches,
        );
        indices.pop();
    }
}

/// An address in words.
fn spelled(address: i64, value: &Value) -> String {
    let sign = if address < 0 { "-" } else { "+" };
    let mut text = format!("image{sign}{:#x}", address.unsigned_abs());
    for term in &value.terms {
        text.push_str(&format!(
            " plus {} times an unknown number",
            term.coefficient
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_at_an_end_of_the_address_space_are_none() {
        let page = |start: i64| Some((start, 0x1000));
        let pages = SwappedPages::of(page(-0x4000), page(-0x1000)).unwrap();
        assert_eq!((pages.time.end, pages.timens.end), (-0x3000, 0));
        for (time, timens) in [
            (page(i64::MAX - 0xfff), page(0)),
            (page(0), page(i64::MAX)),
            (page(0), None),
            (None, page(0)),
        ] {
            assert!(SwappedPages::of(time, timens).is_none());
        }
    }
}
