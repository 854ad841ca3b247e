//! Linking a process, and undoing it.

pub mod record;
