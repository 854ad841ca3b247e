//! What tests that cross crates share.

pub mod bed;
pub mod command;
pub mod constraints;
pub mod criu;
pub mod damage;
pub mod elfutils;
pub mod kernel;
pub mod odd;
pub mod opened;
pub mod peers;
pub mod pretend;
pub mod readelf;
pub mod reentry;
pub mod running;
pub mod stock;
pub mod table;
pub mod tool;
pub mod trials;
pub mod unwinding;
