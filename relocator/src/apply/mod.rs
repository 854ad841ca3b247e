//! Linking a process, and undoing it.

pub mod recognise;
pub mod record;
