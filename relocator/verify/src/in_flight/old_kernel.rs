//! The old kernel's pages on a stage.

#![allow(
    unsafe_code,
    reason = "the running kernel's vvar is only reached by its address"
)]

use crate::emulated::{ClockMode, Emulated, EmulatedKernel, Live};
use elf_tools::symtab::Symtab;

use super::stage::Stage;
use crate::address_space::AddressSpace;
use crate::{Error, Result};

/// What the pages of an old kernel are made from.
#[derive(Debug, Clone, Copy)]
pub(super) struct OldKernel<'a> {
    /// Its vDSO.
    pub(super) code: &'a [u8],
    /// Its symbols.
    pub(super) symtab: &'a Symtab,
    /// Those of the running kernel. The caller has checked that it is the one that runs.
    pub(super) running: &'a Symtab,
}

impl OldKernel<'_> {
    /// Fills the pages of a stage, whose clocks count with `mode`, from this process's own vvar: in
    /// a time namespace if this process is in one.
    pub(super) fn pages(&self, stage: &mut Stage, mode: ClockMode) -> Result<Emulated> {
        let pages = stage.layout().pages.clone();
        stage.put(pages.start, &vec![0; pages.len()]);
        let mappings = AddressSpace::read()?.mappings();
        // SAFETY: `running` has the symbols of the kernel that runs, these are its own mappings in
        // this process, and nothing unmaps them.
        let live = unsafe { Live::new(self.running, mappings) };
        let kernel = EmulatedKernel {
            code: self.code,
            symtab: self.symtab,
        };
        let emulated = Emulated::on(&kernel, &live, stage.another_view()?, mode);
        emulated.map_err(refused)
    }
}

pub(super) fn refused(error: crate::emulated::Error) -> Error {
    Error::Unlinkable {
        what: "to a kernel that is emulated".to_owned(),
        reason: error.to_string(),
    }
}
