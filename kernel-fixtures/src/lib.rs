//! Kernels to test on: relocation-capable ones of our own, real ones from the distribution, and either of them emulated in
//! a process.

#![deny(unsafe_code)]

pub mod distribution;
pub mod emulated;
pub mod fixture;
pub mod memory;
pub mod synthetic;
