//! Relocation tables as bytes, and as the sections of the object that holds them.

use object::{elf, pod};

use crate::arch::SPECIFIED;
use crate::elf_writer::{
    Content, NewSection, RELA, SYMBOL, add_name, object_symbol, table_section,
};
use crate::relocation::rela::{Rela, Type};
use crate::relocation::{Constraint, Need, Opaque, Relocations, TableFault};
use crate::symtab::name::MAX_LEN;
use crate::{Error, Result, Svma};

/// The tables as bytes.
pub(super) struct Tables {
    /// First of all: symbols state where their defaults are.
    defaults: Vec<u8>,
    defaults_at: u64,
    relocations: Vec<u8>,
    symbols: Symbols,
}

/// A symbol table and its strings.
struct Symbols {
    table: Vec<u8>,
    strings: Vec<u8>,
}

impl Tables {
    /// `section` is the index of the section of defaults, and `defaults_at` its place in the
    /// object.
    ///
    /// Refuses a table that contradicts itself, so that it could not be stored; whether it fits an
    /// image is for readers to check.
    pub(super) fn encode(
        relocations: &Relocations,
        section: u32,
        defaults_at: u64,
    ) -> Result<Self> {
        let mut tables = Self {
            defaults: Vec::new(),
            defaults_at,
            relocations: Vec::with_capacity(entries(relocations) * RELA as usize),
            symbols: Symbols::default(),
        };
        for need in &relocations.needs {
            tables.need(need, section as u16);
        }
        for entry in &relocations.entries {
            let kind = Type::Kind(entry.kind);
            tables.entry(kind, entry.place, entry.need as usize + 1, entry.addend)?;
        }
        for constraint in &relocations.constraints {
            tables.constraint(constraint, relocations)?;
        }
        for opaque in &relocations.opaque {
            tables.opaque(opaque)?;
        }
        Ok(tables)
    }

    fn need(&mut self, need: &Need, section: u16) {
        let (binding, section, value) = match &need.default {
            None => (elf::STB_GLOBAL.0, elf::SHN_UNDEF.0, 0),
            Some(bytes) => {
                let aligned = self.defaults.len().next_multiple_of(8);
                self.defaults.resize(aligned, 0);
                self.defaults.extend_from_slice(bytes);
                (elf::STB_WEAK.0, section, self.defaults_at + aligned as u64)
            }
        };
        let name = need.reference.to_string();
        self.symbols.add(&name, binding, section, value, need.size);
    }

    fn constraint(&mut self, constraint: &Constraint, relocations: &Relocations) -> Result<()> {
        self.entry(
            Type::Constraint(constraint.right_hand_side),
            constraint.site,
            constraint.need as usize + 1,
            constraint.addend,
        )?;
        for term in &constraint.terms {
            let operand_field = relocations
                .operand_fields
                .get(term.operand_field as usize)
                .ok_or_else(|| {
                    let (index, count) = (term.operand_field, relocations.operand_fields.len());
                    self.failed(constraint.site, TableFault::NoOperandField { index, count })
                })?;
            let kind = Type::Term(operand_field.width);
            self.entry(kind, operand_field.place, 0, term.coefficient)?;
        }
        Ok(())
    }

    fn opaque(&mut self, opaque: &Opaque) -> Result<()> {
        let reason = opaque.reason.to_string();
        if reason.is_empty() || reason.len() > MAX_LEN || reason.contains('\0') {
            let fault = TableFault::ReasonNotStorable { reason };
            return Err(self.failed(opaque.site, fault));
        }
        let (binding, undefined) = (elf::STB_GLOBAL.0, elf::SHN_UNDEF.0);
        let symbol = self.symbols.add(&reason, binding, undefined, 0, 0);
        self.entry(Type::Opaque, opaque.site, symbol, 0)
    }

    fn entry(&mut self, kind: Type, place: Svma, symbol: usize, addend: i64) -> Result<()> {
        let Some(number) = kind.number(SPECIFIED) else {
            let what = format!("{kind:?}");
            return Err(self.failed(place, TableFault::TypeNotSpecified { what }));
        };
        let entry = Rela {
            place,
            number,
            symbol,
            addend,
        };
        self.relocations
            .extend_from_slice(pod::bytes_of(&entry.stored()));
        Ok(())
    }

    /// An error about the entry that is to be written next.
    fn failed(&self, place: Svma, reason: TableFault) -> Error {
        Error::Relocation {
            index: self.relocations.len() / RELA as usize,
            place,
            reason,
        }
    }

    /// The tables as sections from index `first` on: defaults, relocations, symbols, strings.
    pub(super) fn into_sections(self, first: u32) -> [NewSection<'static>; 4] {
        let table = |name, kind, content| NewSection {
            content: Content::New(content),
            ..table_section(name, kind)
        };
        [
            NewSection {
                address: self.defaults_at,
                align: 8,
                ..table(".vvar.defaults", elf::SHT_PROGBITS.0, self.defaults)
            },
            NewSection {
                link: first + 2,
                align: 8,
                entry_size: RELA,
                ..table(".rela.vvar", elf::SHT_RELA.0, self.relocations)
            },
            NewSection {
                link: first + 3,
                info: 1,
                align: 8,
                entry_size: SYMBOL,
                ..table(".vvar.symtab", elf::SHT_SYMTAB.0, self.symbols.table)
            },
            table(".vvar.strtab", elf::SHT_STRTAB.0, self.symbols.strings),
        ]
    }
}

impl Default for Symbols {
    /// The null symbol, and the empty name.
    fn default() -> Self {
        Self {
            table: vec![0; SYMBOL as usize],
            strings: vec![0],
        }
    }
}

impl Symbols {
    /// Adds a symbol and returns its index.
    fn add(&mut self, name: &str, binding: u8, section: u16, value: u64, size: u64) -> usize {
        let index = self.table.len() / SYMBOL as usize;
        let name = add_name(&mut self.strings, name);
        let symbol = object_symbol(name, binding, section, value, size);
        self.table.extend_from_slice(pod::bytes_of(&symbol));
        index
    }
}

/// Number of entries that the table takes.
fn entries(relocations: &Relocations) -> usize {
    let in_sums = relocations
        .constraints
        .iter()
        .map(|constraint| 1 + constraint.terms.len());
    relocations.entries.len() + in_sums.sum::<usize>() + relocations.opaque.len()
}
