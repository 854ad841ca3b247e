//! What a vDSO image or a kernel file says about itself, at rest.
//!
//! This crate reads bytes and never opens a process or a file: callers bring the bytes, whether
//! they come from their own memory, from another process, from a checkpoint or from a `vmlinuz`.
//!
//! The modules follow the way the data flows:
//!
//! | module | from | to |
//! |---|---|---|
//! | [`kernel`] | `vmlinux`, bzImage, arm64 `Image`, zboot | embedded vDSO images, BTF |
//! | [`image`] | the bytes of one vDSO | exports, identity, ABI note, alternatives |
//! | [`disassembly`], [`reachability`] | an image's text | instructions, and functions |
//! | [`layout`] | BTF or DWARF | struct layouts |
//! | [`processor`] | instructions | what a processor must have to execute them |
//! | [`symtab`] | a table, or a layout and an image | all symbols of one kernel's vvar |
//! | [`reentry`] | an image's code and call frame information | ways back to the entry |
//! | [`relocation`] | an image's relocation tables | the places that depend on symbols |
//! | [`derive`](mod@derive) | an image's code, and symbols | the same, where tables are absent |
//! | [`digest`] | an object with a table | whether it is as its writer left it |
//! | [`arch`] | | what the others have to know about an instruction set |
//!
//! `docs/abi.md` specifies the formats. Malformed input is an [`Error`] that names the place, never
//! a panic.

#![forbid(unsafe_code)]

mod address;
mod build_id;
pub mod digest;
mod elf;
mod elf_writer;
mod foreign;
mod printable;
mod reason;
mod record;

pub mod arch;
pub mod derive;
pub mod disassembly;
mod error;
pub mod image;
pub mod kernel;
pub mod layout;
pub mod processor;
pub mod reachability;
pub mod reentry;
pub mod relocation;

pub mod symtab;

pub use address::{Avma, Svma};
pub use arch::Machine;
pub use build_id::{BuildId, ParseBuildIdError};
pub use elf::Class;
pub use error::{Error, Result};
pub use printable::{is_obeyed, printable};
