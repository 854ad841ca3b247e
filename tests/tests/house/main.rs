//! The walls of the house: what no crate may know, and what no folder may name. `docs/architecture.md` says why.

mod dependencies;
mod sources;
