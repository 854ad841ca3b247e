//! `relocator symtab SOURCE [-o FILE]`.

use std::path::PathBuf;

use crate::json::symtab::{Symbol, SymbolTable};
use crate::json::{self, Kernel, Mapping};
use crate::source::Spec;
use anyhow::Result;
use elf_tools::symtab::{Symtab, elf};
use relocator::source::Source;

use crate::command::{Outcome, output};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The kernel whose symbols to show.
    source: Spec,
    /// Write the table as an ELF symbol table object that readelf and nm show.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<Outcome> {
    let source = arguments.source.open()?;
    let symtab = source.require_symtab()?;
    if let Some(path) = &arguments.output {
        let bytes = elf::write(symtab).map_err(relocator::Error::input(&source.name))?;
        output::write_file(path, &bytes)?;
    }
    let report = report(&source, symtab);
    output::print_written(
        arguments.json,
        &report,
        text(&report),
        arguments.output.as_deref(),
    )?;
    Ok(Outcome::Done)
}

fn report(source: &Source, symtab: &Symtab) -> SymbolTable {
    let symbol = |s: &elf_tools::symtab::Symbol| Symbol {
        name: s.name.clone(),
        version: s.version,
        mapping: symtab.mappings()[s.mapping].name.clone(),
        offset: s.offset,
        size: s.size,
    };
    SymbolTable {
        schema: json::SYMTAB,
        kernel: Kernel::new(source),
        mappings: symtab.mappings().iter().map(Mapping::from).collect(),
        symbols: symtab.symbols().iter().map(symbol).collect(),
    }
}

fn text(report: &SymbolTable) -> String {
    let mut table = output::table(&["symbol", "version", "mapping", "offset", "size"]);
    for symbol in &report.symbols {
        table.add_row([
            symbol.name.clone(),
            symbol.version.to_string(),
            symbol.mapping.clone(),
            format!("{:#x}", symbol.offset),
            format!("{:#x}", symbol.size),
        ]);
    }
    let kernel = report.kernel.kernel.as_deref().unwrap_or("unknown");
    let gaps = report.kernel.gaps.iter();
    let gaps: String = gaps.map(|gap| format!("\n{gap}")).collect();
    format!(
        "kernel {kernel}, {} symbols ({}){gaps}\n\n{table}",
        report.symbols.len(),
        report.kernel.tables
    )
}
