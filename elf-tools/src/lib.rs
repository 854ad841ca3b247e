//! What a vDSO image or a kernel file says about itself, at rest.
//!
//! This crate reads bytes and never opens a process or a file: callers bring the bytes, whether they come from their
//! own memory, from another process, from a checkpoint or from a `vmlinuz`.
//!
//! The modules follow the way the data flows:
//!
//! | module | from | to |
//! |---|---|---|
//! | [`kernel`] | `vmlinux`, bzImage, arm64 `Image`, zboot | embedded vDSO images, BTF |
//! | [`image`] | the bytes of one vDSO | exports, identity, ABI note, alternatives |
//! | [`code`] | an image's text | instructions, and which function reaches which |
//! | [`layout`] | BTF or DWARF | struct layouts |
//! | [`symtab`] | an exported table, a table file, or a layout | every symbol of one kernel's vvar |
//! | [`reentry`] | an image's code and call frame information | how a thread that was stopped at a boundary gets back to the entry of its function |
//! | [`relocation`] | an image's relocation tables | every place in old code that depends on a symbol |
//!
//! The formats are specified in `docs/abi.md`. Malformed input is an [`Error`] that names the place, never a panic.

#![forbid(unsafe_code)]

mod address;
mod build_id;
mod elf;
mod elf_writer;
mod reason;
mod record;

pub mod arch;
pub mod derive;
pub mod disassembly;
mod error;
pub mod image;
pub mod kernel;
pub mod layout;
pub mod reachability;
pub mod reentry;
pub mod relocation;

pub mod symtab;

pub use address::{Avma, Svma};
pub use arch::Machine;
pub use build_id::{BuildId, ParseBuildIdError};
pub use elf::Class;
pub use error::{Error, Result};
