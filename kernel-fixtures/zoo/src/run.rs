//! What the command does.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use kernel_source::Cache;
use relocator_process::running;
use relocator_verify::Running;

use crate::arguments::{Action, Arguments, Chosen, Until};
use crate::build::{Built, build};
use crate::compiler::Toolchain;
use crate::judge::judge;
use crate::kernel::Kernel;
use crate::report::{self, Entry};
use crate::variant::{self, Variant};

/// Does what was asked for; whether everything was as it should be.
pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    match &arguments.action {
        Action::List(chosen) => {
            for variant in variant::chosen(chosen) {
                println!("{variant}");
            }
            Ok(true)
        }
        Action::Run {
            chosen,
            until,
            markdown,
        } => judge_all(chosen, *until, markdown.as_deref()),
        Action::Build { name, output } => {
            let variant = variant::named(name).with_context(|| format!("there is no {name}"))?;
            let built = Workshop::new().build(&variant)?;
            fs::write(output.join("vdso64.so"), built.image)?;
            fs::write(output.join("vdso64.so.dbg"), built.debug)?;
            Ok(true)
        }
    }
}

fn judge_all(chosen: &Chosen, until: Until, markdown: Option<&Path>) -> Result<bool> {
    let variants = variant::chosen(chosen);
    if variants.is_empty() {
        bail!("there is no such vDSO");
    }
    let own = running::own()?;
    let running = Running {
        image: own.require_image()?.clone(),
        symtab: Some(own.require_symtab()?.clone()),
    };
    let mut workshop = Workshop::new();
    let mut entries = Vec::new();
    for variant in variants {
        let built = workshop.build(&variant);
        let judgement = built.and_then(|built| judge(&built, variant.change, &running, until));
        let entry = Entry { variant, judgement };
        println!("{}", entry.text());
        entries.push(entry);
    }
    println!(
        "\n{}\n\n{}",
        report::table(&entries),
        report::verdict(&entries)
    );
    if let Some(file) = markdown {
        let text = report::markdown(&entries);
        fs::write(file, text).with_context(|| file.display().to_string())?;
    }
    Ok(entries.iter().all(Entry::is_good))
}

/// Kernels and compilers that were unpacked before.
struct Workshop {
    cache: Cache,
    kernels: BTreeMap<&'static str, Kernel>,
    toolchains: BTreeMap<String, Toolchain>,
}

impl Workshop {
    fn new() -> Self {
        Self {
            cache: Cache::locate(),
            kernels: BTreeMap::new(),
            toolchains: BTreeMap::new(),
        }
    }

    fn build(&mut self, variant: &Variant) -> Result<Built> {
        let series = variant.series;
        if !self.kernels.contains_key(series) {
            let kernel = Kernel::fetch(&self.cache, series)?;
            self.kernels.insert(series, kernel);
        }
        let name = variant.compiler.to_string();
        if !self.toolchains.contains_key(&name) {
            let toolchain = variant.compiler.fetch(&self.cache)?;
            self.toolchains.insert(name.clone(), toolchain);
        }
        build(
            &self.kernels[series],
            &self.toolchains[&name],
            variant.change,
        )
    }
}
