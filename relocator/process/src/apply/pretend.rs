//! Pretended processes, with fixtures as vDSOs.

use std::ops::Range;

use elf_tools::Avma;
use elf_tools::image::Image;
use elf_tools::symtab::{self, Provenance};
use kernel_fixtures::fixture;

use super::recognise::{FoundVdsos, Own, recognise, vvar_placeholder};
use crate::Result;
use crate::targets::pretended::{Part, Pretended};
use crate::targets::{Protection, Target};
use relocator::placement::PAGE;
use relocator::source::{LiveMapping, Source};

/// Where the kernel's unit is.
pub(super) const UNIT: u64 = 0x3_0000;

/// Where the old vDSO is.
pub(super) const OLD: u64 = 0x7fff_f7f0_0000;

pub(super) const NONE: Protection = Protection {
    read: false,
    write: false,
    execute: false,
    shared: false,
};
pub(super) const READ: Protection = Protection { read: true, ..NONE };
pub(super) const CODE: Protection = Protection {
    execute: true,
    ..READ
};

impl Pretended {
    /// With the kernel's unit and a copy of `old`.
    pub(super) fn restored(old: &[u8]) -> Self {
        let mut process = Self::default();
        process.unit(UNIT);
        process.put(OLD - 2 * PAGE, READ, "", Some(vec![0; 2 * PAGE as usize]));
        process.put(OLD, CODE, "", Some(old.to_vec()));
        process
    }

    pub(super) fn unit(&mut self, at: u64) {
        self.hole(at, 4, "[vvar]");
        self.hole(at + 4 * PAGE, 2, "[vvar_vclock]");
        self.put(at + 6 * PAGE, CODE, "[vdso]", Some(new()));
    }

    pub(super) fn hole(&mut self, at: u64, pages: u64, name: &str) {
        self.map(Avma(at)..Avma(at + pages * PAGE), READ, name, None);
    }

    pub(super) fn put(
        &mut self,
        at: u64,
        protection: Protection,
        name: &str,
        content: Option<Vec<u8>>,
    ) {
        let size = content
            .as_ref()
            .map_or(PAGE, |content| content.len() as u64);
        self.map(Avma(at)..Avma(at + size), protection, name, content);
    }

    pub(super) fn part(&mut self, at: u64) -> &mut Part {
        let mut parts = self.parts.iter_mut();
        parts.find(|part| part.0.range.start == Avma(at)).unwrap()
    }

    pub(super) fn recognise(&self, auxv: Option<u64>) -> Result<FoundVdsos> {
        let target = Self {
            auxv: auxv.map(Avma),
            ..self.clone()
        };
        recognise(&target, &own())
    }

    pub(super) fn placeholder(&self, below: u64) -> Option<Range<u64>> {
        let found = vvar_placeholder(&self.mappings().unwrap(), self, Avma(below))?;
        Some(found.start.0..found.end.0)
    }
}

pub(super) fn pages(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.resize(bytes.len().next_multiple_of(PAGE as usize), 0);
    bytes
}

pub(super) fn image(name: &str) -> Vec<u8> {
    pages(fixture::find(name).unwrap().image)
}

/// The running kernel's vDSO.
pub(super) fn new() -> Vec<u8> {
    image("reordered")
}

pub(super) fn own() -> Own {
    Own::of(&kernel()).unwrap()
}

/// The running kernel, as if a process that is not pretended had its mappings where the old vDSO
/// would be.
pub(super) fn kernel() -> Source {
    let fixture = fixture::find("reordered").unwrap();
    let table = symtab::elf::read(fixture.symtab.unwrap(), Provenance::Exported).unwrap();
    let mut end = OLD;
    let mut mapping = |name: &str, size: u64| {
        let start = Avma(end);
        end += size;
        LiveMapping {
            name: name.to_owned(),
            start,
            size,
        }
    };
    let live = vec![
        mapping("[vvar]", 4 * PAGE),
        mapping("[vvar_vclock]", 2 * PAGE),
        mapping("[vdso]", new().len() as u64),
    ];
    Source {
        image: Some(Image::parse(&new()).unwrap()),
        symtab: Some(table),
        live,
        ..Source::named("pretended")
    }
}
