//! Images and tables: what is read, linked and refused, without a kernel of the distribution.
//!
//! One binary, since each one is linked with everything that tests need.

#![cfg(target_arch = "x86_64")]

mod constraint_refusals;
mod constraints;
mod derive;
mod hostile;
mod nested;
mod old_tables;
mod pairs;
mod placing;
mod reentry;
mod refusals;
mod signal_frames;
mod slots;
mod stored_reentry;
mod two_linkers;
