//! Kernels to test on: relocation-capable vDSOs of our own, built from source with the crate.

#![forbid(unsafe_code)]

pub mod fixture;
pub mod synthetic;
