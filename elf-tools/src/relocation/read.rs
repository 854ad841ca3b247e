//! Reading relocation tables.

use object::elf;

use crate::assemble::{RELA, SYMBOL};
use crate::code::Code;
use crate::elf::{RawSymbol, Section, View};
use crate::image::{Image, TablesNote};
use crate::relocation::rela::{self, Rela};
use crate::relocation::{Kind, Need, Quantity, Relocation, Relocations};
use crate::symtab::name::Reference;
use crate::{Class, Error, Machine, Result, Svma};

/// Longest default, in bytes.
const MAX_DEFAULT: u64 = 64;

/// Reads the relocation table of an image; `None` if it has no note that announces one.
///
/// Everything that `docs/abi.md` section 4 tells a reader to reject is an error here.
pub fn read(image: &Image, code: &Code) -> Result<Option<Relocations>> {
    let Some(note) = image.tables_note() else {
        return Ok(None);
    };
    if image.machine() != Machine::X86_64 || image.class() != Class::Elf64 {
        let reason = format!(
            "{} {:?}; relocation types are specified for 64-bit x86-64",
            image.machine(),
            image.class()
        );
        return Err(Error::unsupported("relocation table", reason));
    }
    let view = image.view()?;
    let mut reader = Reader {
        image,
        code,
        relocations: Relocations::default(),
    };
    if view.sections.is_empty() {
        reader.table_from_note(&view, note)?;
    } else {
        check_note(&view, note)?;
        for section in view
            .sections
            .iter()
            .filter(|section| section.kind == elf::SHT_RELA.0)
        {
            let symbols = view.symbols_in(section.link)?;
            reader.table(&view, section.offset, view.data(section)?, &symbols)?;
        }
    }
    reader.finish().map(Some)
}

/// The note's words, where it has any, must describe sections that exist.
fn check_note(view: &View<'_>, note: &TablesNote) -> Result<()> {
    if !note.states_tables() {
        return Ok(());
    }
    let describes = |section: &Section, kinds: &[u32], range: (u64, u64)| {
        kinds.contains(&section.kind) && (section.offset, section.size) == range
    };
    let stated = [
        (
            "relocation table",
            (note.relocations.0, note.relocations.1.saturating_mul(RELA)),
            vec![elf::SHT_RELA.0],
        ),
        (
            "symbol table",
            (note.symbols.0, note.symbols.1.saturating_mul(SYMBOL)),
            vec![elf::SHT_SYMTAB.0, elf::SHT_DYNSYM.0],
        ),
        ("string table", note.strings, vec![elf::SHT_STRTAB.0]),
    ];
    for (what, range, kinds) in stated {
        if !view
            .sections
            .iter()
            .any(|section| describes(section, &kinds, range))
        {
            let reason = format!(
                "no section is the {what} that the note puts at {:#x}",
                range.0
            );
            return Err(Error::malformed("vDSO note", note.offset, reason));
        }
    }
    Ok(())
}

struct Reader<'a> {
    image: &'a Image,
    code: &'a Code,
    relocations: Relocations,
}

impl Reader<'_> {
    fn table_from_note(&mut self, view: &View<'_>, note: &TablesNote) -> Result<()> {
        if !note.states_tables() {
            return Err(Error::not_found(
                "relocation table",
                "neither section headers nor the note lead to one",
            ));
        }
        let strings = view.slice("string table of the note", note.strings.0, note.strings.1)?;
        let symbols = view.symbols(note.symbols.0, note.symbols.1, strings)?;
        let size = note.relocations.1.saturating_mul(RELA);
        let bytes = view.slice("relocation table of the note", note.relocations.0, size)?;
        self.table(view, note.relocations.0, bytes, &symbols)
    }

    fn table(
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
        let mut needs: Vec<Option<u32>> = vec![None; symbols.len()];
        self.relocations
            .entries
            .reserve(bytes.len() / RELA as usize);
        for entry in rela::entries(bytes) {
            let index = self.relocations.entries.len();
            let Rela {
                place,
                number,
                symbol,
                addend,
            } = entry;
            let failed = |reason: String| Error::Relocation {
                index,
                place,
                reason,
            };
            if number == elf::R_X86_64_NONE.0 {
                continue;
            }
            let kind = Kind::from_number(number)
                .ok_or_else(|| failed(format!("type {number} is not allowed")))?;
            let need = match needs.get(symbol) {
                None => {
                    return Err(failed(format!(
                        "symbol {symbol} of {} does not exist",
                        symbols.len()
                    )));
                }
                Some(Some(need)) => *need,
                Some(None) => {
                    let need = need(view, &symbols[symbol]).map_err(|e| failed(e.to_string()))?;
                    self.relocations.needs.push(need);
                    let position = self.relocations.needs.len() as u32 - 1;
                    needs[symbol] = Some(position);
                    position
                }
            };
            let relocation = Relocation {
                place,
                kind,
                need,
                addend,
            };
            self.check(&relocation).map_err(failed)?;
            self.relocations.entries.push(relocation);
        }
        Ok(())
    }

    fn check(&self, relocation: &Relocation) -> Result<(), String> {
        let Relocation { place, kind, .. } = *relocation;
        let reference = &self.relocations.needs[relocation.need as usize].reference;
        match (reference, kind.quantity()) {
            (Reference::Place(_), Quantity::Value)
                if !matches!(kind, Kind::Abs64 | Kind::GlobDat) =>
            {
                return Err(format!("{kind} cannot hold the address of {reference}"));
            }
            (Reference::OffsetOf { .. }, Quantity::Distance | Quantity::Size) => {
                return Err(format!(
                    "{kind} asks for more than the distance {reference}"
                ));
            }
            (Reference::OffsetOf { .. }, Quantity::Value) if kind == Kind::GlobDat => {
                return Err(format!(
                    "{kind} asks for more than the distance {reference}"
                ));
            }
            _ => {}
        }
        if place
            .0
            .checked_add(kind.width())
            .is_none_or(|end| end > self.image.loaded_size())
        {
            return Err(format!(
                "{} bytes leave the image of {:#x} bytes",
                kind.width(),
                self.image.loaded_size()
            ));
        }
        self.check_operand(place, kind.width())
    }

    /// A place in code must be one whole operand of one instruction.
    fn check_operand(&self, place: Svma, width: u64) -> Result<(), String> {
        let last = place.offset(width as i64 - 1);
        let instruction = self
            .code
            .covering(place)
            .or_else(|| self.code.covering(last));
        match instruction {
            Some(instruction) if instruction.has_operand(place, width) => Ok(()),
            Some(instruction) => Err(format!(
                "inside the instruction at {}, but not one of its operands",
                instruction.address
            )),
            None if self.image.has_sections() && self.image.is_text(place) => {
                Err("in code, but not in an instruction".to_owned())
            }
            None => Ok(()),
        }
    }

    fn finish(mut self) -> Result<Relocations> {
        // Tables are usually sorted, which this sort notices in linear time.
        self.relocations.entries.sort_by_key(|entry| entry.place);
        let overlap =
            |pair: &[Relocation]| pair[1].place.0 < pair[0].place.0 + pair[0].kind.width();
        if let Some(index) = self.relocations.entries.windows(2).position(overlap) {
            let [first, second] =
                [index, index + 1].map(|index| self.relocations.entries[index].place);
            let reason = format!("overlaps the one at {first}");
            return Err(Error::Relocation {
                index: index + 1,
                place: second,
                reason,
            });
        }
        Ok(self.relocations)
    }
}

/// What an entry of the table's symbol table asks for.
fn need(view: &View<'_>, symbol: &RawSymbol<'_>) -> Result<Need> {
    let name = std::str::from_utf8(symbol.name).map_err(|_| {
        Error::symbol(
            String::from_utf8_lossy(symbol.name),
            "the name is not UTF-8",
        )
    })?;
    let defined = symbol.section != elf::SHN_UNDEF.0;
    let weak = symbol.binding == elf::STB_WEAK.0;
    if defined && !weak {
        return Err(Error::symbol(
            name,
            "defined in the image itself: there is nothing to relocate",
        ));
    }
    let default = match defined {
        false => None,
        true => Some(default(view, symbol).map_err(|reason| Error::symbol(name, reason))?),
    };
    Ok(Need {
        reference: Reference::parse(name)?,
        size: symbol.size,
        default,
    })
}

/// The bytes of a weak definition.
fn default(view: &View<'_>, symbol: &RawSymbol<'_>) -> Result<Vec<u8>, String> {
    if symbol.size == 0 || symbol.size > MAX_DEFAULT {
        return Err(format!(
            "a default has 1 to {MAX_DEFAULT} bytes, not {}",
            symbol.size
        ));
    }
    if symbol.section >= elf::SHN_LORESERVE {
        return Err(format!(
            "a default lies in a section, not in {:#x}",
            symbol.section
        ));
    }
    // Without section headers an image-relative address is an offset; with them, the section says where its bytes are.
    let offset = match view.sections.get(usize::from(symbol.section)) {
        None => symbol.value,
        Some(section) => {
            let within = symbol.value.checked_sub(section.address).filter(|&at| {
                at.checked_add(symbol.size)
                    .is_some_and(|end| end <= section.size)
            });
            let within = within
                .ok_or_else(|| format!("the default lies outside its section {}", section.name))?;
            section
                .offset
                .checked_add(within)
                .ok_or("the default lies outside the file")?
        }
    };
    view.slice("default", offset, symbol.size)
        .map(<[u8]>::to_vec)
        .map_err(|e| e.to_string())
}
