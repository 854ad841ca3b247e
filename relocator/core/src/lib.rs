//! A linker for vDSOs: it makes the code of an old kernel's vDSO run on the vvar of a new kernel.
//!
//! Bytes and tables in, bytes and a report out. Nothing here opens a file, looks at a process, reads the environment or
//! prints; so the same engine serves a live process, images at rest, a plugin, and tests.
//!
//! | module | does |
//! |---|---|
//! | [`source`] | a kernel as one source shows it: a vDSO image, a symbol table |
//! | [`tables`] | finds the tables of an old image: its own, given bytes, a store, or derived |
//! | [`placement`] | says where everything is, or will be, in the process |
//! | [`link`] | resolves needs, chooses and encodes values, moves what does not fit, overwrites entries |
//! | [`plan`] | decides how each function goes on: keep, relocate, proxy, system call |
//! | [`proxy`] | the instructions that replace a function's entry |
//! | [`criu`] | what CRIU writes to vDSOs |
//! | [`threads`] | carries threads across that were stopped inside the old image |
//!
//! What it needs from an image is read by `elf-tools`.

#![forbid(unsafe_code)]

mod arch;
pub mod criu;
mod error;
mod input;
pub mod link;
pub mod placement;
pub mod plan;
pub mod proxy;
mod reason;
pub mod source;
pub mod tables;
pub mod threads;

pub use error::{Error, Result, in_words};
