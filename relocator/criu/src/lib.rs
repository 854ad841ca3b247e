//! Images of a checkpoint by CRIU, at rest.
//!
//! A dump is a directory of small files, each with messages of one kind, and a few large ones with
//! the memory of processes. This crate reads them as [`Target`](relocator_process::targets::Target)s:
//! what surveys, recognises and plans for a live process does the same with one that is not running
//! yet, on the kernel that it is to be restored on.
//!
//! | module | does |
//! |---|---|
//! | [`images`] | a directory: its version, its tasks |
//! | [`task`] | one process: threads with registers, mappings, memory |
//! | `live` | the same of a process that runs, as a dump would have it |
//! | [`pages`] | memory by address, from the images and those of the dumps before |
//! | [`mapping`] | what CRIU says of a mapping |
//! | [`restored`] | the process as it will be after a restore: a target |
//! | [`plain`] | what a restore by CRIU alone breaks |
//! | [`capture`] | what a dump leaves beside the images for a restore on another kernel |
//! | [`check`](mod@check) | all of that, as an answer: yes or no, and why |
//!
//! It reads what CRIU 3.17.1 to 4.3 write, and never writes to it. A file is input: whatever it
//! says, the result is a value or an [`Error`] with the file and the offset. Messages are read one
//! at a time, memory page by page, so what a directory claims to have costs nothing.
//!
//! Nothing here prints or reads the environment.

#![forbid(unsafe_code)]

mod arch;
pub mod capture;
pub mod check;
mod directory;
mod error;
mod files;
mod image_file;
pub mod images;
mod live;
#[cfg(test)]
mod made;
pub mod mapping;
mod messages;
pub mod pages;
pub mod plain;
pub mod restored;
pub mod task;
#[cfg(test)]
mod tests;

pub use directory::Held;
pub use error::{Compression, Error, Fault, Result, Unsupported};
pub use images::Images;
