//! `relocator inspect SOURCE`.

use std::fmt::Write;

use crate::json::inspect::{Export, Image, Inspect, Recognised, Symbols};
use crate::json::{self, Kernel, Mapping, Reentry};
use crate::source::Spec;
use anyhow::Result;
use elf_tools::image::alternatives;
use relocator::link::Old;
use relocator::source::Source;
use relocator::tables::{self, Options, ReentrySummary};

use crate::command::recognised;
use crate::command::tables::remember;
use crate::command::{Outcome, output};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// What to inspect.
    source: Spec,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<Outcome> {
    let source = arguments.source.open()?;
    remember(&source);
    let recognised = match arguments.source {
        Spec::Pid(pid) => Some(recognised::look(pid)?),
        _ => None,
    };
    let report = report(&source, recognised)?;
    output::print(arguments.json, &report, text(&report))?;
    Ok(Outcome::Done)
}

fn report(source: &Source, recognised: Option<Recognised>) -> Result<Inspect> {
    let image = source
        .image
        .as_ref()
        .map(|image| image_report(source, image))
        .transpose()?;
    let symtab = source.symtab.as_ref().map(|symtab| Symbols {
        symbols: symtab.symbols().len(),
        mappings: symtab.mappings().iter().map(Mapping::from).collect(),
    });
    Ok(Inspect {
        schema: json::INSPECT,
        kernel: Kernel::new(source),
        image,
        symtab,
        no_symtab: source.no_symtab.as_ref().map(ToString::to_string),
        mappings: source.live.iter().map(Mapping::from).collect(),
        recognised,
    })
}

fn image_report(source: &Source, image: &elf_tools::image::Image) -> Result<Image> {
    let failed = |error| relocator::Error::Input {
        what: source.name.clone(),
        source: error,
    };
    let old = match elf_tools::arch::is_decoded(image.machine()) {
        true => Some(Old::read(image.clone()).map_err(failed)?),
        false => None,
    };
    let relocations = old.as_ref().and_then(|old| old.relocations.as_ref());
    let uses = old.as_ref().and_then(|old| old.uses.as_ref());
    let used = |address| {
        let functions = old.as_ref()?.code.functions();
        let index = functions
            .iter()
            .position(|function| function.entry == address)?;
        uses.map(|uses| uses.by_function[index].len())
    };
    let exports = image.exports().iter().map(|export| Export {
        name: export.name.clone(),
        version: export.version.clone(),
        address: export.address.0,
        size: export.size,
        relocations: used(export.address),
    });
    let reentry = match &old {
        Some(old) => tables::reentry(old, &source.name, &Options::default())
            .map(|(table, _)| Reentry::from(&ReentrySummary::of(&table)))
            .map_err(|error| format!("{:#}", anyhow::Error::from(error))),
        None => Err(format!("code of {} is not read", image.machine())),
    };
    Ok(Image {
        size: image.bytes().len(),
        machine: image.machine().to_string(),
        relocation_capable: relocations.is_some(),
        alternatives: alternatives::read(image).map_err(failed)?.len(),
        exports: exports.collect(),
        needs: relocations.map_or_else(Vec::new, json::needs),
        opaque: relocations.map_or(0, |table| table.opaque.len()),
        no_reentry: reentry.as_ref().err().cloned(),
        reentry: reentry.ok(),
    })
}

fn text(report: &Inspect) -> String {
    let mut text = String::new();
    let kernel = &report.kernel;
    let unknown = || "unknown".to_owned();
    let _ = writeln!(text, "source     {}", kernel.source);
    let _ = writeln!(
        text,
        "kernel     {}",
        kernel.kernel.clone().unwrap_or_else(unknown)
    );
    let _ = writeln!(
        text,
        "build-id   {}",
        kernel.build_id.clone().unwrap_or_else(unknown)
    );
    match (&report.symtab, &report.no_symtab) {
        (Some(symtab), _) => {
            let _ = writeln!(text, "symbols    {} ({})", symtab.symbols, kernel.tables);
            for gap in &kernel.gaps {
                let _ = writeln!(text, "           {gap}");
            }
        }
        (None, reason) => {
            let _ = writeln!(
                text,
                "symbols    none: {}",
                reason.as_deref().unwrap_or("the source has none")
            );
        }
    }
    for mapping in &report.mappings {
        let _ = writeln!(
            text,
            "mapped     {:#x} {:#x} {}",
            mapping.address, mapping.size, mapping.name
        );
    }
    if let Some(recognised) = &report.recognised {
        recognised.text(&mut text);
    }
    if let Some(image) = &report.image {
        image_text(image, &mut text);
    }
    text
}

fn image_text(image: &Image, text: &mut String) {
    let capable = if image.relocation_capable {
        "relocation-capable"
    } else {
        "without relocation tables"
    };
    let _ = writeln!(
        text,
        "image      {} bytes, {}, {capable}",
        image.size, image.machine
    );
    let _ = writeln!(text, "           {} alternatives\n", image.alternatives);
    let mut exports = output::table(&["function", "version", "address", "size", "relocations"]);
    for export in &image.exports {
        let relocations = export
            .relocations
            .map_or_else(|| "-".to_owned(), |count| count.to_string());
        exports.add_row([
            export.name.clone(),
            export.version.clone().unwrap_or_default(),
            format!("{:#x}", export.address),
            export.size.to_string(),
            relocations,
        ]);
    }
    let _ = writeln!(text, "{exports}");
    if !image.needs.is_empty() {
        let _ = writeln!(text, "\n{}", output::needs(&image.needs));
    }
    if image.opaque > 0 {
        let _ = writeln!(text, "\n{} instructions cannot be stated", image.opaque);
    }
    let reentry = match (&image.reentry, &image.no_reentry) {
        (Some(summary), _) => output::reentry(summary),
        (None, reason) => format!("none: {}", reason.as_deref().unwrap_or_default()),
    };
    let _ = writeln!(text, "\nre-entry   {reentry}");
}
