//! A process that is made up.

use std::ops::Range;

use elf_tools::Avma;
use elf_tools::image::Image;
use kernel_fixtures::fixture;

use super::super::{FoundVdsos, Own, recognise, vvar_placeholder};
use crate::Result;
use crate::targets::{Mapping, Protection};
use relocator::placement::PAGE;
use relocator::threads::Memory;

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

/// A process: what is mapped, and what it holds, unless it cannot be read.
#[derive(Clone, Default)]
pub(super) struct Pretend(pub(super) Vec<(Mapping, Option<Vec<u8>>)>);

impl Memory for Pretend {
    fn read(&self, at: Avma, bytes: &mut [u8]) -> bool {
        let found = self.0.iter().find(|part| part.0.range.contains(&at));
        let content = found.and_then(|(mapping, content)| {
            let start = (at.0 - mapping.range.start.0) as usize;
            content.as_ref()?.get(start..start + bytes.len())
        });
        content.is_some_and(|content| {
            bytes.copy_from_slice(content);
            true
        })
    }
}

impl Pretend {
    /// With the kernel's unit and a copy of `old` that the program was told of.
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
        self.map(at..at + pages * PAGE, READ, name, None);
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
        self.map(at..at + size, protection, name, content);
    }

    pub(super) fn map(
        &mut self,
        at: Range<u64>,
        protection: Protection,
        name: &str,
        content: Option<Vec<u8>>,
    ) {
        let mapping = Mapping {
            range: Avma(at.start)..Avma(at.end),
            protection,
            name: name.to_owned(),
        };
        self.0.push((mapping, content));
        self.0.sort_by_key(|part| part.0.range.start);
    }

    pub(super) fn part(&mut self, at: u64) -> &mut (Mapping, Option<Vec<u8>>) {
        let mut parts = self.0.iter_mut();
        parts.find(|part| part.0.range.start == Avma(at)).unwrap()
    }

    pub(super) fn mappings(&self) -> Vec<Mapping> {
        self.0.iter().map(|part| part.0.clone()).collect()
    }

    pub(super) fn recognise(&self, told: Option<u64>) -> Result<FoundVdsos> {
        recognise(&self.mappings(), told.map(Avma), self, &own())
    }

    pub(super) fn placeholder(&self, below: u64) -> Option<Range<u64>> {
        let found = vvar_placeholder(&self.mappings(), self, Avma(below))?;
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
    Own {
        image: Image::parse(&new()).unwrap(),
        mappings: vec![
            ("[vvar]".to_owned(), 4 * PAGE),
            ("[vvar_vclock]".to_owned(), 2 * PAGE),
            ("[vdso]".to_owned(), new().len() as u64),
        ],
    }
}
