//! Reading the entries of relocation tables, wherever the tables are.

use std::collections::BTreeMap;

use object::elf;

use crate::elf::{RawSymbol, View};
use crate::elf_writer::RELA;
use crate::image::Image;
use crate::reachability::Code;
use crate::relocation::need::{need, reason};
use crate::relocation::place::{Places, check_quantity};
use crate::relocation::rela::{self, Rela, Type};
use crate::relocation::{
    Constraint, Kind, Opaque, OpaqueReason, OperandField, Relocation, Relocations, RightHandSide,
    TableFault, Term, Width,
};
use crate::symtab::name::Reference;
use crate::{Error, Result, Svma};

/// Collects the tables that describe one image.
pub(super) struct Reader<'a> {
    places: Places<'a>,
    /// Operand fields are in the order in which they are met.
    relocations: Relocations,
    operand_fields: BTreeMap<OperandField, OperandFieldUse>,
    /// The bytes that entries and operand fields take.
    spans: Vec<Span>,
    open: Option<OpenConstraint>,
    /// Number of entries that were read.
    count: usize,
}

/// An operand field that was met.
struct OperandFieldUse {
    index: u32,
    /// Number of the constraint that used it last.
    constraint: usize,
}

/// Bytes that change.
struct Span {
    place: Svma,
    width: u64,
    /// Position in the table.
    index: usize,
}

/// A constraint that more terms can belong to; it is the last one.
#[derive(Clone, Copy)]
struct OpenConstraint {
    /// Position in the table.
    index: usize,
    site: Svma,
}

/// The symbols of the table that is being read, with the needs that they became.
struct Symbols<'a, 'data> {
    view: &'a View<'data>,
    symbols: &'a [RawSymbol<'data>],
    needs: Vec<Option<u32>>,
}

impl<'a, 'data> Symbols<'a, 'data> {
    fn get(&self, index: usize) -> Result<&'a RawSymbol<'data>, TableFault> {
        let count = self.symbols.len();
        let symbol = self.symbols.get(index);
        symbol.ok_or(TableFault::NoSymbol { index, count })
    }
}

impl<'a> Reader<'a> {
    /// A reader of tables for `image`, whose instructions are `code`.
    pub(super) fn new(image: &'a Image, code: &'a Code) -> Result<Self> {
        Ok(Self {
            places: Places::new(image, code)?,
            relocations: Relocations::default(),
            operand_fields: BTreeMap::new(),
            spans: Vec::new(),
            open: None,
            count: 0,
        })
    }

    /// Reads all `SHT_RELA` sections of an object.
    pub(super) fn sections(&mut self, view: &View<'_>) -> Result<()> {
        for section in view
            .sections
            .iter()
            .filter(|section| section.kind == elf::SHT_RELA.0)
        {
            let symbols = view.symbols_in(section.link)?;
            self.table(view, section.offset, view.data(section)?, &symbols)?;
        }
        Ok(())
    }

    /// Reads the table in `bytes`, which are at `offset` of the object.
    pub(super) fn table(
        &mut self,
        view: &View<'_>,
        offset: u64,
        bytes: &[u8],
        symbols: &[RawSymbol<'_>],
    ) -> Result<()> {
        if !(bytes.len() as u64).is_multiple_of(RELA) {
            let reason = format!("{} bytes are no whole number of entries", bytes.len());
            return Err(Error::malformed("relocation table", offset, reason));
        }
        let mut symbols = Symbols {
            view,
            symbols,
            needs: vec![None; symbols.len()],
        };
        let count = bytes.len() / RELA as usize;
        self.relocations.entries.reserve(count);
        self.spans.reserve(count);
        for entry in rela::entries(bytes) {
            let index = self.count;
            self.count += 1;
            self.entry(index, entry, &mut symbols)?;
        }
        self.close()
    }

    fn entry(&mut self, index: usize, entry: Rela, symbols: &mut Symbols<'_, '_>) -> Result<()> {
        let failed = |reason| failed(index, entry.place, reason);
        let number = entry.number;
        let kind = Type::from_number(self.places.arch, number)
            .ok_or_else(|| failed(TableFault::TypeNotAllowed { number }))?;
        if !matches!(kind, Type::Ignored | Type::Term(_)) {
            self.close()?;
        }
        match kind {
            Type::Ignored => Ok(()),
            Type::Kind(kind) => self.relocation(index, kind, entry, symbols),
            Type::Constraint(right_hand_side) => {
                self.constraint(index, right_hand_side, entry, symbols)
            }
            Type::Term(width) => self.term(index, width, entry),
            Type::Opaque => self.opaque(entry, symbols),
        }
        .map_err(failed)
    }

    fn relocation(
        &mut self,
        index: usize,
        kind: Kind,
        entry: Rela,
        symbols: &mut Symbols<'_, '_>,
    ) -> Result<(), TableFault> {
        let Rela { place, addend, .. } = entry;
        let need = self.need(entry.symbol, symbols)?;
        check_quantity(&self.relocations.needs[need as usize].reference, kind)?;
        self.places.check_entry(place, kind)?;
        self.relocations.entries.push(Relocation {
            place,
            kind,
            need,
            addend,
        });
        self.spans.push(Span {
            place,
            width: kind.width(),
            index,
        });
        Ok(())
    }

    fn constraint(
        &mut self,
        index: usize,
        right_hand_side: RightHandSide,
        entry: Rela,
        symbols: &mut Symbols<'_, '_>,
    ) -> Result<(), TableFault> {
        let (site, addend) = (entry.place, entry.addend);
        let need = self.need(entry.symbol, symbols)?;
        let reference = &self.relocations.needs[need as usize].reference;
        if matches!(reference, Reference::OffsetOf { .. }) {
            let reference = Box::new(reference.clone());
            return Err(TableFault::ConstraintOnDistance { reference });
        }
        if right_hand_side == RightHandSide::Presence && addend != 0 {
            return Err(TableFault::AddendToNothing { addend });
        }
        self.places.check_site(site)?;
        self.relocations.constraints.push(Constraint {
            site,
            right_hand_side,
            need,
            addend,
            terms: Vec::new(),
        });
        self.open = Some(OpenConstraint { index, site });
        Ok(())
    }

    fn term(&mut self, index: usize, width: Width, entry: Rela) -> Result<(), TableFault> {
        let number = self.relocations.constraints.len();
        let constraint = self.relocations.constraints.last_mut();
        let Some(constraint) = constraint.filter(|_| self.open.is_some()) else {
            return Err(TableFault::TermOutside);
        };
        if constraint.right_hand_side == RightHandSide::Presence {
            return Err(TableFault::TermOfPresence);
        }
        if entry.symbol != 0 {
            let symbol = entry.symbol;
            return Err(TableFault::TermNamesSymbol { symbol });
        }
        if entry.addend == 0 {
            return Err(TableFault::ZeroCoefficient);
        }
        let operand_field = OperandField {
            place: entry.place,
            width,
        };
        let known = match self.operand_fields.get_mut(&operand_field) {
            Some(known) if known.constraint == number => {
                let site = constraint.site;
                return Err(TableFault::SecondTerm { site });
            }
            Some(known) => known,
            None => {
                self.places.check_operand_field(operand_field)?;
                let met = OperandFieldUse {
                    index: self.relocations.operand_fields.len() as u32,
                    constraint: number,
                };
                self.relocations.operand_fields.push(operand_field);
                self.spans.push(Span {
                    place: operand_field.place,
                    width: width.bytes(),
                    index,
                });
                self.operand_fields.entry(operand_field).or_insert(met)
            }
        };
        known.constraint = number;
        constraint.terms.push(Term {
            operand_field: known.index,
            coefficient: entry.addend,
        });
        Ok(())
    }

    fn opaque(&mut self, entry: Rela, symbols: &Symbols<'_, '_>) -> Result<(), TableFault> {
        if entry.addend != 0 {
            let addend = entry.addend;
            return Err(TableFault::AddendToNothing { addend });
        }
        let site = entry.place;
        self.places.check_site(site)?;
        let reason = OpaqueReason::Stored(reason(symbols.get(entry.symbol)?)?);
        self.relocations.opaque.push(Opaque { site, reason });
        Ok(())
    }

    /// The index of the need that symbol `index` states.
    fn need(&mut self, index: usize, symbols: &mut Symbols<'_, '_>) -> Result<u32, TableFault> {
        let symbol = symbols.get(index)?;
        if let Some(need) = symbols.needs[index] {
            return Ok(need);
        }
        let need =
            need(symbols.view, symbol).map_err(|error| TableFault::Symbol(Box::new(error)))?;
        let position = self.relocations.needs.len() as u32;
        self.relocations.needs.push(need);
        symbols.needs[index] = Some(position);
        Ok(position)
    }

    /// Ends the constraint that terms were added to.
    fn close(&mut self) -> Result<()> {
        let Some(OpenConstraint { index, site }) = self.open.take() else {
            return Ok(());
        };
        match self.relocations.constraints.last() {
            Some(constraint)
                if constraint.right_hand_side == RightHandSide::Address
                    && constraint.terms.is_empty() =>
            {
                Err(failed(index, site, TableFault::NoTerms))
            }
            _ => Ok(()),
        }
    }

    /// Everything that was read, in order.
    pub(super) fn finish(mut self) -> Result<Relocations> {
        self.check_overlaps()?;
        self.sort_operand_fields();
        // Tables are usually sorted, which these sorts notice in linear time.
        let Relocations {
            entries,
            constraints,
            opaque,
            ..
        } = &mut self.relocations;
        entries.sort_by_key(|entry| entry.place);
        constraints.sort_by_key(|constraint| constraint.site);
        opaque.sort_by_key(|opaque| opaque.site);
        Ok(self.relocations)
    }

    fn check_overlaps(&mut self) -> Result<()> {
        self.spans.retain(|span| span.width > 0);
        self.spans.sort_by_key(|span| span.place);
        let overlap = |pair: &&[Span]| pair[1].place.0 < pair[0].place.0 + pair[0].width;
        match self.spans.windows(2).find(overlap) {
            None => Ok(()),
            Some(pair) => {
                let other = pair[0].place;
                let reason = TableFault::Overlap { other };
                Err(failed(pair[1].index, pair[1].place, reason))
            }
        }
    }

    /// Puts operand fields in their final order, and the terms that refer to them.
    fn sort_operand_fields(&mut self) {
        let Relocations {
            operand_fields,
            constraints,
            ..
        } = &mut self.relocations;
        operand_fields.sort_unstable();
        let mut positions = vec![0; operand_fields.len()];
        for (operand_field, position) in operand_fields.iter().zip(0..) {
            positions[self.operand_fields[operand_field].index as usize] = position;
        }
        for constraint in constraints {
            for term in &mut constraint.terms {
                term.operand_field = positions[term.operand_field as usize];
            }
            constraint.terms.sort_unstable();
        }
    }
}

fn failed(index: usize, place: Svma, reason: TableFault) -> Error {
    Error::Relocation {
        index,
        place,
        reason,
    }
}
