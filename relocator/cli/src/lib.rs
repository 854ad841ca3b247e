//! The `relocator` command: everything that opens files, looks up names, keeps a cache, and prints.
//!
//! | module | does |
//! |---|---|
//! | [`source`] | finds images, kernels and tables by name: the edge where files and processes are read |
//! | [`cache`] | derived tables that are kept for the next time |
//! | [`json`] | the versioned JSON that commands print |
//! | `command` | a module for each command |

pub mod cache;
mod command;
mod error;
pub mod json;
pub mod source;

pub use command::run;
pub use error::{Error, Result};
