//! Linking a process, and undoing it.

pub mod place;
pub mod recognise;
pub mod record;
