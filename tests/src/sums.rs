//! Tables of sums, made from tables that state each place alone.

use elf_tools::code::Code;
use elf_tools::relocation::{Demand, Kind, Relocation, Relocations, Slot, Sum, Term, Width};

/// The table with sums in place of what refers to one symbol: what a derivation would say about the same code.
pub fn as_sums(table: &Relocations, code: &Code) -> Relocations {
    let is_sum = |kind| matches!(kind, Kind::Pc32 | Kind::Size32);
    let (summed, entries): (Vec<Relocation>, Vec<_>) =
        table.entries.iter().partition(|e| is_sum(e.kind));
    let sums = summed.iter().zip(0..).map(|(entry, slot)| {
        let instruction = code.covering(entry.place).unwrap();
        // S + A - P, where P is B plus the place.
        let (demand, addend) = match entry.kind {
            Kind::Pc32 => (Demand::Address, entry.addend - entry.place.0 as i64),
            _ => (Demand::Size, entry.addend),
        };
        Sum {
            site: instruction.address,
            demand,
            need: entry.need,
            addend,
            terms: vec![Term {
                slot,
                coefficient: 1,
            }],
        }
    });
    let slots = summed.iter().map(|entry| Slot {
        place: entry.place,
        width: Width::Word,
    });
    Relocations {
        needs: table.needs.clone(),
        entries,
        slots: slots.collect(),
        sums: sums.collect(),
        opaque: Vec::new(),
    }
}
