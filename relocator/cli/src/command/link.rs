//! `relocator link OLD --onto NEW [-o FILE] [--dry-run]`.

use std::path::PathBuf;

use crate::json::{Kernel, Link};
use crate::source::Spec;
use anyhow::{Context, Result, bail};
use elf_tools::Avma;
use elf_tools::processor::ProcessorFeatures;
use relocator::link::{self, New};
use relocator::placement::{PAGE, Placement};
use relocator::plan::Policy;
use relocator::source::Source;
use relocator_process::cpu_features;

use crate::command::processor::Processor;
use crate::command::{Outcome, output, tables, words};

/// Where an image is placed by default: in the part of the address space where kernels put vDSOs.
const DEFAULT_BASE: u64 = 0x7fff_f7f0_0000;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The vDSO to link.
    old: Spec,
    /// The kernel to link it to.
    #[arg(long, value_name = "NEW")]
    onto: Spec,
    /// Write the linked image.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Do everything except writing.
    #[arg(long)]
    dry_run: bool,
    /// Which strategies may be used.
    #[arg(long, value_parser = words::policy(), default_value_t)]
    strategy: Policy,
    /// Address at which the old image is mapped.
    #[arg(long, value_name = "ADDRESS", value_parser = address, default_value_t = Avma(DEFAULT_BASE))]
    at: Avma,
    /// Address of one of the new kernel's mappings, for example '[vvar]=0x7ffff7fc0000'. May be
    /// repeated. By default the mappings lie directly below the image, at the kernel's distances.
    #[arg(long, value_name = "MAPPING=ADDRESS", value_parser = mapping)]
    map: Vec<(String, Avma)>,
    /// What the processor has that is to run the image: names as in /proc/cpuinfo, separated by
    /// commas and with a minus before what it lacks; a file like /proc/cpuinfo; `self` for this
    /// one; or `base` for what every processor has. A function that it cannot execute is proxied.
    /// By default it is this one if NEW is the running kernel, and else nothing is checked.
    #[arg(long, value_name = "FEATURES")]
    cpu: Option<Processor>,
    #[command(flatten)]
    tables: tables::OldTables,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

fn address(text: &str) -> Result<Avma> {
    let digits = text
        .strip_prefix("0x")
        .context("an address begins with 0x")?;
    let value = u64::from_str_radix(digits, 16).context("an address has hexadecimal digits")?;
    if !value.is_multiple_of(PAGE) {
        bail!("an address is a multiple of {PAGE:#x}");
    }
    Ok(Avma(value))
}

fn mapping(text: &str) -> Result<(String, Avma)> {
    let (name, place) = text.split_once('=').context("expected MAPPING=ADDRESS")?;
    Ok((name.to_owned(), address(place)?))
}

pub(crate) fn run(arguments: &Arguments) -> Result<Outcome> {
    let old_source = arguments.old.open()?;
    let new_source = arguments.onto.open()?;
    let (old, old_tables) = old_source.old(&arguments.tables.options()?)?;
    let new = New {
        symtab: new_source.symtab.as_ref(),
        image: new_source.image.as_ref(),
        processor: processor(arguments, &new_source),
    };
    let placement = placement(arguments, &new)?;
    let linked = link::link(&old, &new, &placement, arguments.strategy)?;
    let written = arguments.output.as_deref().filter(|_| !arguments.dry_run);
    if let Some(path) = written {
        output::write_file(path, &linked.bytes)?;
    }
    let report = Link::new(
        Kernel::old(&old_source, &old_tables),
        Kernel::new(&new_source),
        old_tables.no_tables.map(|reason| reason.to_string()),
        &linked,
    );
    output::print_written(arguments.json, &report, text(&report, &new_source), written)?;
    Ok(Outcome::Done)
}

fn processor(arguments: &Arguments, new: &Source) -> Option<ProcessorFeatures> {
    let own = (!new.live.is_empty()).then(cpu_features::running);
    arguments.cpu.map_or(own, |Processor(has)| Some(has))
}

fn placement(arguments: &Arguments, new: &New<'_>) -> Result<Placement> {
    let mut placement = Placement::below(arguments.at, new.symtab, new.image)?;
    for (name, base) in &arguments.map {
        match placement
            .mappings
            .iter_mut()
            .find(|mapping| mapping.0 == *name)
        {
            Some(mapping) => mapping.1 = *base,
            None => {
                let known: Vec<_> = placement
                    .mappings
                    .iter()
                    .map(|mapping| mapping.0.as_str())
                    .collect();
                bail!(
                    "the new kernel has no mapping {name}; it has {}",
                    known.join(", ")
                );
            }
        }
    }
    Ok(placement)
}

fn text(report: &Link, new: &Source) -> String {
    let mut table = output::table(&["function", "strategy", "relocations", "detours", "reason"]);
    for function in &report.functions {
        table.add_row([
            function.name.clone(),
            function.strategy.clone(),
            function.relocations.to_string(),
            function.detours.to_string(),
            function.reason.clone(),
        ]);
    }
    let no_tables = report
        .no_tables
        .as_ref()
        .map_or_else(String::new, |reason| {
            format!("no relocations of the old image: {reason}\n")
        });
    let no_symtab = new.no_symtab.as_ref().map_or_else(String::new, |reason| {
        format!("no symbols of the new kernel: {reason}\n")
    });
    format!(
        "old  {}\nnew  {}\n{no_tables}{no_symtab}\n{table}",
        report.old, report.new
    )
}
