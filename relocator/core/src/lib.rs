//! A linker for vDSOs: it makes the code of an old kernel's vDSO run on the vvar of a new kernel.
//!
//! A process that was checkpointed on one kernel and restored on another still calls its old vDSO,
//! whose code reads the old kernel's data pages. This crate links the old code to the new pages. It
//! takes bytes and tables and returns bytes and a report. It opens no file, looks at no process and
//! prints nothing, so one engine serves live processes, images at rest, a plugin, and tests.
//!
//! ```
//! use elf_tools::Avma;
//! use elf_tools::image::Image;
//! use elf_tools::symtab::{Provenance, elf};
//! use kernel_fixtures::fixture;
//! use relocator::{New, Old, Placement, Policy, Strategy, link};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // The vDSO of one kernel, and what another one maps.
//! let (old, new) = (fixture::find("operands").unwrap(), fixture::find("got").unwrap());
//! let old = Old::read(Image::parse(old.image)?)?;
//! let image = Image::parse(new.image)?;
//! let symtab = elf::read(new.symtab.unwrap(), Provenance::File)?;
//!
//! // Where the old vDSO is in the process; the new kernel's mappings go directly below it.
//! let place = Avma(0x7f00_0000_0000);
//! let placement = Placement::below(place, Some(&symtab), Some(&image))?;
//!
//! let new = New { symtab: Some(&symtab), image: Some(&image), processor: None };
//! let linked = link(&old, &new, &placement, Policy::Auto)?;
//!
//! for function in &linked.functions {
//!     println!("{}: {} ({})", function.name(), function.strategy, function.reason);
//! }
//! let mut functions = linked.functions.iter();
//! let clock = functions.find(|function| function.name() == "__vdso_clock_gettime").unwrap();
//! assert_eq!(clock.strategy, Strategy::Relocate);
//! // `linked.bytes` belongs at `place`.
//! assert!(linked.bytes.len() >= old.image.bytes().len());
//! # Ok(())
//! # }
//! ```
//!
//! - **You give** an old image with its relocation table ([`tables`] finds or derives one), the new
//!   kernel's symbols and vDSO, and the place of everything in the process.
//! - **You get** the bytes that belong in the old image's place, how each function goes on and why,
//!   and, for each thread that was stopped inside, what carries it across ([`threads`]). A function
//!   that the linker cannot relocate jumps to the new vDSO or makes the system call; where neither
//!   is possible, you get an [`Error`] and no bytes.
//! - **You guarantee** that the table is the image's, that the image has the alternatives of its
//!   processor applied, that the mappings will be where the placement says, and that no thread runs
//!   while you write.
//! - **It is not suitable for** shared objects other than vDSOs, for images of architectures
//!   without a folder in `arch`, or for kernels that give symbols another meaning without raising
//!   their semantic version.
//!
//! | module | does |
//! |---|---|
//! | [`source`] | a kernel as one source shows it: a vDSO image, a symbol table |
//! | [`tables`] | finds the tables of an old image: its own, given bytes, a store, or derived |
//! | [`placement`] | says where everything is, or will be, in the process |
//! | [`link`](mod@link) | resolves needs, chooses and encodes values, moves what is out of range, overwrites entries |
//! | [`plan`] | decides how each function goes on: keep, relocate, proxy, system call |
//! | [`proxy`] | the code that replaces a function's entry |
//! | [`criu`] | what CRIU writes to vDSOs |
//! | [`threads`] | carries threads across that were stopped inside the old image |
//! | [`unwind`] | call frame information, by which unwinders find callers |
//!
//! `elf-tools` reads what it needs from an image.

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
pub mod unwind;

pub use error::{Error, InstructionFault, Result, in_words};
pub use input::{New, Old};
pub use link::{LinkedImage, link};
pub use placement::Placement;
pub use plan::{Policy, Strategy};
