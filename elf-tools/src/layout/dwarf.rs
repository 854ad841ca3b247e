//! DWARF, the full type description that a kernel built with debug information carries in
//! `vmlinux`.
//!
//! Understands versions 4 and 5 (and what older ones share with them) in a linked file or in a
//! relocatable object (`.o`), whose own relocations are then applied to a copy of the debug
//! sections. Debug sections that are compressed, split off (`.dwo`) or spread over type units
//! (`-fdebug-types-section`) are refused with that reason; kernels are built with none of these
//! unless asked to.

mod section;

use std::borrow::Cow;
use std::collections::HashMap;
use std::rc::Rc;

use gimli::{AttributeValue, DebugInfoOffset, EndianSlice, RunTimeEndian, UnitOffset};
use gimli::{
    DW_AT_bit_offset, DW_AT_bit_size, DW_AT_byte_size, DW_AT_const_value, DW_AT_count,
    DW_AT_data_bit_offset,
};
use gimli::{
    DW_AT_data_member_location, DW_AT_declaration, DW_AT_name, DW_AT_type, DW_AT_upper_bound,
};
use object::Object;

use super::{Budget, Layout, MAX_NAME, Member, Structure, Type, array, push_member};
use crate::symtab::Provenance;
use crate::{Error, Result};

type Slice<'a> = EndianSlice<'a, RunTimeEndian>;
type Unit<'a> = gimli::Unit<Slice<'a>>;
type Entry<'a> = gimli::DebuggingInformationEntry<Slice<'a>>;

/// The sections in which types are described, and those that the first entry of every unit refers
/// to: the line table and, as Clang writes it, the list of addresses.
const SECTIONS: [gimli::SectionId; 7] = [
    gimli::SectionId::DebugInfo,
    gimli::SectionId::DebugAbbrev,
    gimli::SectionId::DebugStr,
    gimli::SectionId::DebugStrOffsets,
    gimli::SectionId::DebugLineStr,
    gimli::SectionId::DebugLine,
    gimli::SectionId::DebugAddr,
];

/// The types that one ELF file describes.
#[derive(Debug)]
pub struct Dwarf<'data> {
    sections: gimli::DwarfSections<Cow<'data, [u8]>>,
    endian: RunTimeEndian,
    /// Start of every unit in `.debug_info`, ascending.
    units: Vec<usize>,
    structures: HashMap<String, Definition>,
    enumerations: HashMap<String, Definition>,
}

/// Where a named type is defined.
#[derive(Debug, Clone, Copy)]
struct Definition {
    /// Offset of its entry in `.debug_info`.
    offset: usize,
    size: Option<u64>,
    /// Another unit defines the name with another size.
    contradicted: bool,
}

impl<'data> Dwarf<'data> {
    /// Reads the debug sections of a whole ELF file and notes what its units define at their top
    /// level.
    ///
    /// Of a type that many units define - a kernel repeats its types in each of them - the first
    /// definition answers; others are only compared by size.
    pub fn parse(file: &'data [u8]) -> Result<Self> {
        let file = object::File::parse(file)
            .map_err(|error| Error::malformed("ELF file", 0, error.to_string()))?;
        let endian = if file.is_little_endian() {
            RunTimeEndian::Little
        } else {
            RunTimeEndian::Big
        };
        let sections = gimli::DwarfSections::load(|id| {
            if SECTIONS.contains(&id) {
                section::load(&file, id.name())
            } else {
                Ok(Cow::Borrowed(&[][..]))
            }
        })?;
        let mut dwarf = Self {
            sections,
            endian,
            units: Vec::new(),
            structures: HashMap::new(),
            enumerations: HashMap::new(),
        };
        dwarf.index()?;
        if dwarf.units.is_empty() {
            return Err(Error::not_found(
                "DWARF",
                "the file has no .debug_info; build it with -g",
            ));
        }
        Ok(dwarf)
    }

    fn borrow(&self) -> gimli::Dwarf<Slice<'_>> {
        self.sections
            .borrow(|section| EndianSlice::new(section, self.endian))
    }

    fn index(&mut self) -> Result<()> {
        let (mut structures, mut enumerations) = (HashMap::new(), HashMap::new());
        let mut starts = Vec::new();
        {
            let dwarf = self.borrow();
            let mut headers = dwarf.units();
            let mut at = 0;
            while let Some(header) = headers.next().map_err(|error| malformed(at, error))? {
                let start = header.debug_info_offset().map_or(at, |offset| offset.0);
                at = start;
                starts.push(start);
                let unit = dwarf
                    .unit(header)
                    .map_err(|error| malformed(start, error))?;
                index_unit(&dwarf, &unit, &mut structures, &mut enumerations)
                    .map_err(|error| malformed(start, error))?;
            }
        }
        (self.units, self.structures, self.enumerations) = (starts, structures, enumerations);
        Ok(())
    }

    /// The place of the definition of `name`, unless there is more than one.
    fn definition(
        &self,
        definitions: &HashMap<String, Definition>,
        name: &str,
    ) -> Result<Option<usize>> {
        match definitions.get(name) {
            Some(definition) if definition.contradicted => Err(Error::unsupported(
                format!("DWARF type `{name}`"),
                "units define it with different sizes",
            )),
            definition => Ok(definition.map(|definition| definition.offset)),
        }
    }
}

impl Layout for Dwarf<'_> {
    fn structure(&self, name: &str) -> Result<Option<Structure>> {
        let Some(offset) = self.definition(&self.structures, name)? else {
            return Ok(None);
        };
        let dwarf = self.borrow();
        Question::new(&dwarf, &self.units)
            .structure(offset)
            .map(Some)
    }

    fn enumeration(&self, name: &str) -> Result<Option<Vec<(String, i64)>>> {
        let Some(offset) = self.definition(&self.enumerations, name)? else {
            return Ok(None);
        };
        let dwarf = self.borrow();
        Question::new(&dwarf, &self.units)
            .enumerators(offset)
            .map(Some)
    }

    fn provenance(&self) -> Provenance {
        Provenance::Dwarf
    }
}

/// Offsets in DWARF errors are offsets into `.debug_info`, which is where all entries are.
fn malformed(offset: usize, reason: impl ToString) -> Error {
    Error::malformed(
        "DWARF entry of .debug_info",
        offset as u64,
        reason.to_string(),
    )
}

/// Notes the named structs, unions and enums at the top level of `unit`.
fn index_unit<'a>(
    dwarf: &gimli::Dwarf<Slice<'a>>,
    unit: &Unit<'a>,
    structures: &mut HashMap<String, Definition>,
    enumerations: &mut HashMap<String, Definition>,
) -> gimli::Result<()> {
    let start = unit.header.debug_info_offset().map_or(0, |offset| offset.0);
    let mut cursor = unit.entries();
    // The unit's own entry, then its first child.
    if !cursor.next_entry()?
        || !cursor.current().is_some_and(|root| root.has_children())
        || !cursor.next_entry()?
    {
        return Ok(());
    }
    while let Some(entry) = cursor.current() {
        let definitions = match entry.tag() {
            gimli::DW_TAG_structure_type | gimli::DW_TAG_union_type => Some(&mut *structures),
            gimli::DW_TAG_enumeration_type => Some(&mut *enumerations),
            _ => None,
        };
        let name = entry
            .attr_value(DW_AT_name)
            .filter(|_| !entry.has_attr(DW_AT_declaration));
        if let (Some(definitions), Some(name)) = (definitions, name) {
            let name = dwarf.attr_string(unit, name)?.to_string_lossy();
            let size = unsigned(entry, DW_AT_byte_size);
            match definitions.get_mut(name.as_ref()) {
                Some(first) => first.contradicted |= first.size != size,
                None => {
                    let definition = Definition {
                        offset: start + entry.offset().0,
                        size,
                        contradicted: false,
                    };
                    definitions.insert(name.into_owned(), definition);
                }
            }
        }
        cursor.next_sibling()?;
    }
    Ok(())
}

/// An attribute that is a constant and not negative.
fn unsigned(entry: &Entry<'_>, attribute: gimli::DwAt) -> Option<u64> {
    entry.attr_value(attribute)?.udata_value()
}

/// One walk over entries, which keeps the units that it touched.
struct Question<'a> {
    dwarf: &'a gimli::Dwarf<Slice<'a>>,
    starts: &'a [usize],
    units: HashMap<usize, Rc<Unit<'a>>>,
    budget: Budget,
}

impl<'a> Question<'a> {
    fn new(dwarf: &'a gimli::Dwarf<Slice<'a>>, starts: &'a [usize]) -> Self {
        Self {
            dwarf,
            starts,
            units: HashMap::new(),
            budget: Budget::new(),
        }
    }

    /// The unit that holds `offset` of `.debug_info`, and the offset within it.
    fn unit(&mut self, offset: usize) -> Result<(Rc<Unit<'a>>, UnitOffset)> {
        let following = self.starts.partition_point(|&start| start <= offset);
        let start = *self.starts[..following]
            .last()
            .ok_or_else(|| malformed(offset, "no unit holds it"))?;
        if let Some(unit) = self.units.get(&start) {
            return Ok((Rc::clone(unit), UnitOffset(offset - start)));
        }
        let header = self
            .dwarf
            .unit_header(DebugInfoOffset(start))
            .map_err(|error| malformed(start, error))?;
        let unit = Rc::new(
            self.dwarf
                .unit(header)
                .map_err(|error| malformed(start, error))?,
        );
        self.units.insert(start, Rc::clone(&unit));
        Ok((unit, UnitOffset(offset - start)))
    }

    /// The entry at `offset` of `.debug_info` and its immediate children, in order.
    fn entry_and_children(
        &mut self,
        offset: usize,
    ) -> Result<(Rc<Unit<'a>>, Entry<'a>, Vec<Entry<'a>>)> {
        let (unit, within) = self.unit(offset)?;
        let budget = &mut self.budget;
        let walk = || -> gimli::Result<Option<(Entry<'a>, Vec<Entry<'a>>)>> {
            let mut cursor = unit.entries_at_offset(within)?;
            if !cursor.next_entry()? {
                return Ok(None);
            }
            let Some(entry) = cursor.current().cloned() else {
                return Ok(None);
            };
            let mut children = Vec::new();
            if entry.has_children() && cursor.next_entry()? {
                while let Some(child) = cursor.current() {
                    children.push(child.clone());
                    // One more than the budget is enough to exceed it below.
                    if children.len() > budget.members as usize {
                        break;
                    }
                    cursor.next_sibling()?;
                }
            }
            Ok(Some((entry, children)))
        };
        let (entry, children) = walk()
            .map_err(|error| malformed(offset, error))?
            .ok_or_else(|| malformed(offset, "no entry there"))?;
        for _ in &children {
            budget.member(offset as u64)?;
        }
        Ok((unit, entry, children))
    }

    fn name(&self, unit: &Unit<'a>, entry: &Entry<'a>, offset: usize) -> Result<String> {
        let Some(name) = entry.attr_value(DW_AT_name) else {
            return Ok(String::new());
        };
        let name = self
            .dwarf
            .attr_string(unit, name)
            .map_err(|error| malformed(offset, error))?;
        if name.len() > MAX_NAME {
            return Err(malformed(offset, format!("a name of {} bytes", name.len())));
        }
        Ok(name.to_string_lossy().into_owned())
    }

    /// Where the type of `entry` is described. Refuses an entry without one: `void` has no size.
    fn reference(&self, unit: &Unit<'a>, entry: &Entry<'a>, offset: usize) -> Result<usize> {
        let start = unit.header.debug_info_offset().map_or(0, |start| start.0);
        match entry.attr_value(DW_AT_type) {
            Some(AttributeValue::UnitRef(within)) => start
                .checked_add(within.0)
                .ok_or_else(|| malformed(offset, "type reference wraps around")),
            Some(AttributeValue::DebugInfoRef(target)) => Ok(target.0),
            Some(AttributeValue::DebugTypesRef(_)) => Err(Error::unsupported(
                "DWARF",
                "types in type units; build without -fdebug-types-section",
            )),
            Some(_) => Err(malformed(offset, "type reference of an unknown form")),
            None => Err(malformed(offset, "needs the size of void")),
        }
    }

    fn structure(&mut self, offset: usize) -> Result<Structure> {
        let (unit, entry, children) = self.entry_and_children(offset)?;
        let size = unsigned(&entry, DW_AT_byte_size)
            .ok_or_else(|| malformed(offset, "struct without a size"))?;
        let mut structure = Structure {
            name: self.name(&unit, &entry, offset)?,
            size,
            members: Vec::new(),
        };
        for child in children
            .iter()
            .filter(|child| child.tag() == gimli::DW_TAG_member)
        {
            let described = offset - entry.offset().0 + child.offset().0;
            let member = self.member(&unit, child, described)?;
            push_member(&mut structure, member, described as u64)?;
        }
        Ok(structure)
    }

    fn member(&mut self, unit: &Unit<'a>, entry: &Entry<'a>, offset: usize) -> Result<Member> {
        let name = self.name(unit, entry, offset)?;
        let byte = match entry.attr_value(DW_AT_data_member_location) {
            // Members of a union have none.
            None => 0,
            Some(location) => location.udata_value().ok_or_else(|| {
                Error::unsupported(format!("DWARF member `{name}`"), "its offset is computed")
            })?,
        };
        let target = self.reference(unit, entry, offset)?;
        let kind = self.type_at(target)?;
        let Some(bits) = unsigned(entry, DW_AT_bit_size) else {
            return Ok(Member {
                name,
                offset: byte,
                kind,
            });
        };
        let bit = bitfield_start(entry, byte, bits, kind.size());
        let bit =
            bit.ok_or_else(|| malformed(offset, format!("bitfield `{name}` has no place")))?;
        let width = u32::try_from(bits)
            .map_err(|_| malformed(offset, format!("bitfield of {bits} bits")))?;
        Ok(Member {
            name,
            offset: bit / 8,
            kind: Type::Bitfield {
                first_bit: (bit % 8) as u8,
                bits: width,
            },
        })
    }

    /// The type that is described at `offset`, past typedefs and qualifiers.
    fn type_at(&mut self, offset: usize) -> Result<Type> {
        self.budget.enter(offset as u64)?;
        let kind = self.type_inside(offset)?;
        self.budget.leave();
        Ok(kind)
    }

    fn type_inside(&mut self, offset: usize) -> Result<Type> {
        let (unit, within) = self.unit(offset)?;
        let entry = unit
            .entry(within)
            .map_err(|error| malformed(offset, error))?;
        match entry.tag() {
            gimli::DW_TAG_base_type | gimli::DW_TAG_enumeration_type => {
                let size = unsigned(&entry, DW_AT_byte_size);
                size.map(|size| Type::Scalar { size })
                    .ok_or_else(|| malformed(offset, "scalar without a size"))
            }
            gimli::DW_TAG_pointer_type => {
                let default = u64::from(unit.header.address_size());
                Ok(Type::Scalar {
                    size: unsigned(&entry, DW_AT_byte_size).unwrap_or(default),
                })
            }
            gimli::DW_TAG_structure_type | gimli::DW_TAG_union_type => {
                self.structure(offset).map(Type::Structure)
            }
            gimli::DW_TAG_array_type => self.array(offset),
            gimli::DW_TAG_typedef
            | gimli::DW_TAG_const_type
            | gimli::DW_TAG_volatile_type
            | gimli::DW_TAG_restrict_type
            | gimli::DW_TAG_atomic_type => {
                let target = self.reference(&unit, &entry, offset)?;
                self.type_at(target)
            }
            tag => Err(malformed(offset, format!("{tag} has no size"))),
        }
    }

    fn array(&mut self, offset: usize) -> Result<Type> {
        let (unit, entry, children) = self.entry_and_children(offset)?;
        let target = self.reference(&unit, &entry, offset)?;
        let mut kind = self.type_at(target)?;
        // The outermost dimension comes first.
        let ranges = children
            .iter()
            .filter(|child| child.tag() == gimli::DW_TAG_subrange_type);
        for range in ranges.rev() {
            let count = unsigned(range, DW_AT_count);
            // An upper bound of -1 is a compiler's way to say that there is no element.
            let bound = || unsigned(range, DW_AT_upper_bound).map(|bound| bound.wrapping_add(1));
            kind = array(kind, count.or_else(bound).unwrap_or(0), offset as u64)?;
        }
        Ok(kind)
    }

    fn enumerators(&mut self, offset: usize) -> Result<Vec<(String, i64)>> {
        let (unit, _, children) = self.entry_and_children(offset)?;
        let enumerators = children
            .iter()
            .filter(|child| child.tag() == gimli::DW_TAG_enumerator);
        enumerators
            .map(|entry| {
                let value = match entry.attr_value(DW_AT_const_value) {
                    Some(AttributeValue::Sdata(value)) => Some(value),
                    // Forms of fixed size do not say whether they are signed; compilers use them
                    // for unsigned values.
                    Some(value) => value.udata_value().map(|value| value as i64),
                    None => None,
                };
                let value = value.ok_or_else(|| malformed(offset, "enumerator without a value"))?;
                Ok((self.name(&unit, entry, offset)?, value))
            })
            .collect()
    }
}

/// First bit of a bitfield, counted from the start of its struct. `byte` is the member's byte
/// offset, `storage` the size of its declared type.
fn bitfield_start(entry: &Entry<'_>, byte: u64, bits: u64, storage: u64) -> Option<u64> {
    let base = byte.checked_mul(8)?;
    if let Some(bit) = unsigned(entry, DW_AT_data_bit_offset) {
        return base.checked_add(bit);
    }
    // DWARF 4 and older count from the most significant bit of the storage unit, which
    // little-endian targets keep last.
    let Some(from_top) = unsigned(entry, DW_AT_bit_offset) else {
        return Some(base);
    };
    let storage = unsigned(entry, DW_AT_byte_size)
        .unwrap_or(storage)
        .checked_mul(8)?;
    base.checked_add(storage)?
        .checked_sub(from_top)?
        .checked_sub(bits)
}

#[cfg(test)]
mod tests;
