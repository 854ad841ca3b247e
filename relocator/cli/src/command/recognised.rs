//! What in a process was recognised as a vDSO, as `inspect` shows it.

use std::fmt::Write;
use std::ops::Range;

use crate::json::Mapping;
use crate::json::inspect::{LinkRecord, Mark, OldVdso, Pages, Recognised, Unit};
use crate::source::Spec;
use anyhow::Result;
use elf_tools::image::Image;
use elf_tools::{Avma, BuildId};
use relocator_process::apply::recognise::{KernelUnit, OldText, Own, Seen};
use relocator_process::apply::record::{FoundRecord, Record};
use relocator_process::targets::live::Running;

impl From<Range<Avma>> for Pages {
    fn from(range: Range<Avma>) -> Self {
        Self {
            address: range.start.0,
            size: range.end.0.saturating_sub(range.start.0),
        }
    }
}

/// Looks at a process.
pub(crate) fn look(pid: i32) -> Result<Recognised> {
    let own = Own::of(&Spec::Own.open()?)?;
    let seen = Seen::of(&Running::of(pid), &own)?;
    let old = seen.found.old.iter().zip(seen.placeholders);
    Ok(Recognised {
        kernel: seen.found.kernel.as_ref().map(unit),
        old: old
            .map(|(text, zeros)| self::old(text, zeros))
            .collect::<Result<_>>()?,
        misleading_names: seen.found.misleading_names,
    })
}

fn unit(unit: &KernelUnit) -> Unit {
    let mappings = unit.mappings.iter().map(|mapping| {
        let Pages { address, size } = mapping.range.clone().into();
        let name = mapping.name.to_owned();
        Mapping {
            name,
            address,
            size,
        }
    });
    Unit {
        mappings: mappings.collect(),
        missing: unit.missing.clone(),
        whole: unit.is_whole(),
        mark: unit.mark.map(|mark| Mark {
            old_vdso: mark.old_vdso.0,
            old_vvar: mark.old_vvar.0,
            new_vvar: mark.new_vvar.0,
        }),
    }
}

fn old(text: &OldText, zeros: Option<Range<Avma>>) -> Result<OldVdso> {
    let start = text.image.distance_from(text.mapping.start) as usize;
    let image = Image::parse(&text.bytes[start..]).ok();
    let build_id = image.as_ref().and_then(Image::build_id);
    Ok(OldVdso {
        address: text.image.0,
        size: text.size,
        build_id: build_id.map(BuildId::to_string),
        by_auxv: text.is_by_auxv,
        mapping: text.mapping.clone().into(),
        vvar_placeholder: zeros.map(Pages::from),
        link: link(text)?,
    })
}

fn link(text: &OldText) -> Result<Option<LinkRecord>> {
    let start = text.mapping.start;
    let Some(FoundRecord { record, at }) = Record::find(&text.bytes, start)? else {
        return Ok(None);
    };
    let Pages { address, size } = at.into();
    Ok(Some(LinkRecord {
        address,
        size,
        new_build_id: BuildId::new(&record.new).map_or_else(String::new, |id| id.to_string()),
        complete: record.is_complete(&text.bytes, start)?,
        functions: record.entries.len(),
        moved: record.moved.len(),
        overwritten: record.overwritten.iter().map(|run| run.bytes.len()).sum(),
    }))
}

impl Recognised {
    pub(crate) fn text(&self, text: &mut String) {
        match &self.kernel {
            Some(unit) => unit.text(text),
            None => {
                let _ = writeln!(text, "kernel's   not found");
            }
        }
        for old in &self.old {
            let by_auxv = if old.by_auxv { ", by auxv" } else { "" };
            let unknown = || "unknown".to_owned();
            let build_id = old.build_id.clone().unwrap_or_else(unknown);
            let (address, size) = (old.address, old.size);
            let _ = writeln!(
                text,
                "old vDSO   {address:#x} {size:#x} {build_id}{by_auxv}"
            );
            if let Some(Pages { address, size }) = &old.vvar_placeholder {
                let _ = writeln!(text, "old vvar   {address:#x} {size:#x}");
            }
            if let Some(link) = &old.link {
                let state = if link.complete { "" } else { ", not complete" };
                let (address, size, new) = (link.address, link.size, &link.new_build_id);
                let _ = writeln!(
                    text,
                    "linked     to {new}{state}, record {address:#x} {size:#x}"
                );
            }
        }
        for remark in &self.misleading_names {
            let _ = writeln!(text, "remark     {remark}");
        }
    }
}

impl Unit {
    fn text(&self, text: &mut String) {
        for mapping in &self.mappings {
            let (name, address, size) = (&mapping.name, mapping.address, mapping.size);
            let _ = writeln!(text, "kernel's   {address:#x} {size:#x} {name}");
        }
        if let Some(mark) = &self.mark {
            let (vdso, vvar) = (mark.old_vdso, mark.old_vvar);
            let _ = writeln!(
                text,
                "CRIU       marked: old vDSO at {vdso:#x}, old vvar at {vvar:#x}"
            );
        }
    }
}
