//! A fixture's layout is stated twice: by its symbol table, which the C compiler and the linker made, and by the DWARF that
//! the same compiler wrote for the same structures. Read by two different modules, both have to say the same.

use elf_tools::layout::dwarf::Dwarf;
use elf_tools::layout::{Layout, Member, Structure, Type};
use elf_tools::symtab::{self, Provenance, Symtab};
use kernel_fixtures::fixture;

/// Compares every member that the table has a symbol for; returns how many that were.
fn compare(symtab: &Symtab, object: &str, base: u64, members: &[Member]) -> usize {
    let mut compared = 0;
    for member in members {
        let name = format!("{object}.{}", member.name);
        if let Some(symbol) = symtab.get(&name) {
            let place = (symbol.offset, symbol.size);
            assert_eq!(place, (base + member.offset, member.kind.size()), "{name}");
            compared += 1;
        }
        if let Type::Array { element, .. } = &member.kind
            && let Type::Structure(structure) = &**element
        {
            let element = format!("{name}[]");
            compared += compare(symtab, &element, base + member.offset, &structure.members);
        }
    }
    compared
}

#[test]
fn dwarf_and_symbol_table_agree_on_every_clock() {
    let mut fixtures = 0;
    for fixture in fixture::all() {
        let (Some(debug), Some(table)) = (fixture.debug, fixture.symtab) else {
            continue;
        };
        let dwarf = Dwarf::parse(debug).unwrap();
        let symtab = symtab::elf::read(table, Provenance::Exported).unwrap();
        // Until Linux 6.14 the clock is the whole `vdso_data`.
        let clock = ["vdso_clock", "vdso_data"];
        let clock: Structure = clock
            .iter()
            .find_map(|name| dwarf.structure(name).unwrap())
            .expect(fixture.name);
        for page in ["time", "timens"] {
            let element = symtab.get(&format!("{page}.clock[]")).expect(fixture.name);
            assert_eq!(element.size, clock.size, "stride in {}", fixture.name);
            let compared = compare(&symtab, &element.name, element.offset, &clock.members);
            // seq, clock_mode, cycle_last, mask, mult, shift; two arrays with two fields each.
            assert!(compared >= 12, "{compared} in {}", fixture.name);
        }
        fixtures += 1;
    }
    assert!(fixtures >= 9, "{fixtures}");
}
