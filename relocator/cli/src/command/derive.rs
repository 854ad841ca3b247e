//! `relocator derive SOURCE [-o FILE]`.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::PathBuf;

use crate::json::derive::{Derive, DerivedFunction, OpaqueInstruction};
use crate::json::{self, Kernel};
use crate::source::Spec;
use anyhow::Result;
use elf_tools::Svma;
use elf_tools::printable;
use elf_tools::reachability::Function;
use elf_tools::reentry::ReentryTable;
use elf_tools::relocation::{FunctionUses, Relocations};
use relocator::link::Old;
use relocator::tables::{self, Options, ReentrySummary, Store};

use crate::cache;

use crate::command::tables::remember;
use crate::command::{Outcome, output};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The kernel whose vDSO to derive the table of.
    source: Spec,
    /// Write the table as an ELF relocation table object that readelf shows.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<Outcome> {
    let source = arguments.source.open()?;
    let cache = cache::locate();
    let (old, unreached) =
        tables::derive(&source, cache.as_ref().map(|cache| cache as &dyn Store))?;
    remember(&source);
    let table = old.relocations.clone().unwrap_or_default();
    let (reentry, _) = tables::reentry(&old, &source.name, &Options::default())?;
    if let Some(path) = &arguments.output {
        let bytes = tables::object(&old, &table, Some(&reentry))
            .map_err(relocator::Error::input(&source.name))?;
        output::write_file(path, &bytes)?;
    }
    let report = report(Kernel::new(&source), &old, &table, &reentry, &unreached);
    output::print_written(
        arguments.json,
        &report,
        text(&report),
        arguments.output.as_deref(),
    )?;
    Ok(Outcome::Done)
}

/// `table` is the one that `old` has.
fn report(
    kernel: Kernel,
    old: &Old,
    table: &Relocations,
    reentry: &ReentryTable,
    unreached: &[Svma],
) -> Derive {
    let uses = old.uses.iter().flat_map(|uses| &uses.by_function);
    let functions = old.code.functions().iter().zip(uses);
    Derive {
        schema: json::DERIVE,
        kernel,
        operand_fields: table.operand_fields.len(),
        functions: functions
            .map(|(function, uses)| function_report(old, table, function, uses))
            .collect(),
        needs: json::needs(table),
        reentry: (&ReentrySummary::of(reentry)).into(),
        unreached: unreached.iter().map(|address| address.0).collect(),
    }
}

fn function_report(
    old: &Old,
    table: &Relocations,
    function: &Function,
    uses: &FunctionUses,
) -> DerivedFunction {
    let exports = old.image.exports_at(function.entry);
    let mut names = exports.map(|export| export.name.clone());
    let constraints = uses
        .constraints
        .iter()
        .map(|&index| &table.constraints[index as usize]);
    let operand_fields: BTreeSet<u32> = constraints
        .flat_map(|constraint| constraint.terms.iter().map(|term| term.operand_field))
        .collect();
    let opaque = uses
        .opaque
        .iter()
        .map(|&index| &table.opaque[index as usize]);
    DerivedFunction {
        name: names.next().unwrap_or_default(),
        aliases: names.collect(),
        instructions: function.reached.len(),
        entries: uses.entries.len(),
        constraints: uses.constraints.len(),
        operand_fields: operand_fields.len(),
        opaque: opaque
            .map(|opaque| OpaqueInstruction {
                address: opaque.site.0,
                reason: printable(&opaque.reason.to_string()).into_owned(),
            })
            .collect(),
    }
}

fn text(report: &Derive) -> String {
    let mut functions = output::table(&[
        "function",
        "instructions",
        "entries",
        "constraints",
        "operand_fields",
        "opaque",
    ]);
    let mut opaque = BTreeSet::new();
    for function in &report.functions {
        functions.add_row([
            function.name.clone(),
            function.instructions.to_string(),
            function.entries.to_string(),
            function.constraints.to_string(),
            function.operand_fields.to_string(),
            function.opaque.len().to_string(),
        ]);
        let sites = function.opaque.iter();
        opaque.extend(sites.map(|opaque| (opaque.address, &opaque.reason)));
    }
    let kernel = &report.kernel;
    let mut text = format!(
        "{kernel}, {} operand fields\n\n{functions}\n",
        report.operand_fields
    );
    if !report.needs.is_empty() {
        let _ = writeln!(text, "\n{}", output::needs(&report.needs));
    }
    let _ = writeln!(text, "\nre-entry   {}", output::reentry(&report.reentry));
    for (address, reason) in opaque {
        let _ = write!(text, "\nopaque at {address:#x}: {reason}");
    }
    for address in &report.unreached {
        let _ = write!(
            text,
            "\nrefers to vvar, reached by no function: {address:#x}"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use elf_tools::image::Image;
    use elf_tools::relocation::{
        Constraint, Need, Opaque, OperandField, RightHandSide, Term, Width,
    };
    use elf_tools::symtab::name::Reference;
    use kernel_fixtures::fixture;

    use super::*;

    /// A report on a table in which the first instruction of `time`, and nothing else, depends on vvar.
    fn report_on_time() -> Derive {
        let image = Image::parse(fixture::find("bare").unwrap().image).unwrap();
        let mut old = Old::read(image).unwrap();
        let site = old.image.export("time").unwrap().address;
        let width = Width::I32;
        let operand_field = |place| OperandField { place, width };
        let constraint = |addend, operand_fields: &[u32]| Constraint {
            site,
            right_hand_side: RightHandSide::Address,
            need: 0,
            addend,
            terms: (operand_fields.iter())
                .map(|&operand_field| Term {
                    operand_field,
                    coefficient: 1,
                })
                .collect(),
        };
        let table = Relocations {
            needs: vec![Need {
                reference: Reference::parse("time.clock[].seq").unwrap(),
                size: 4,
                default: None,
            }],
            entries: Vec::new(),
            operand_fields: [2, 9, 20].map(|at| operand_field(site.offset(at))).to_vec(),
            constraints: vec![constraint(1, &[0, 2]), constraint(2, &[2])],
            opaque: vec![Opaque {
                site,
                reason: "it is hidden".into(),
            }],
        };
        let kernel = Kernel::new(&"fixture:bare".parse::<Spec>().unwrap().open().unwrap());
        old.set_table(table.clone());
        let reentry = elf_tools::reentry::derive(&old.image, &old.code).unwrap();
        report(kernel, &old, &table, &reentry, &[Svma(0x123)])
    }

    #[test]
    fn a_function_is_charged_with_what_it_reaches() {
        let report = report_on_time();
        let [time] = &report
            .functions
            .iter()
            .filter(|function| function.constraints > 0)
            .collect::<Vec<_>>()[..]
        else {
            panic!("one function reaches it");
        };
        assert_eq!(
            (&*time.name, &time.aliases[..]),
            ("__vdso_time", &["time".to_owned()][..])
        );
        // Two constraints share an operand field.
        assert_eq!(
            (time.constraints, time.operand_fields, time.entries),
            (2, 2, 0)
        );
        assert!(time.instructions > 5);
        assert_eq!(time.opaque[0].reason, "it is hidden");
        assert_eq!(
            (report.operand_fields, &report.unreached[..]),
            (3, &[0x123][..])
        );
        assert_eq!(
            (report.needs[0].constraints, report.needs[0].places),
            (2, 0)
        );
    }

    #[test]
    fn everything_is_shown() {
        let report = report_on_time();
        let shown = text(&report);
        for words in [
            "fixture:bare (",
            "3 operand fields",
            "__vdso_time",
            "time.clock[].seq",
            "opaque at 0x",
            ": it is hidden",
            "reached by no function: 0x123",
            "500 boundaries: ",
            " not recoverable",
        ] {
            assert!(shown.contains(words), "no `{words}`: {shown}");
        }
        let json = serde_json::to_value(&report).unwrap();
        let members: BTreeSet<&str> = json.as_object().unwrap().keys().map(|k| &**k).collect();
        let documented =
            "schema source build_id kernel tables operand_fields functions needs reentry unreached";
        assert_eq!(members, documented.split(' ').collect());
    }
}
