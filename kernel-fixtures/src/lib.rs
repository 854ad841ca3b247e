//! Kernels to test on: relocation-capable ones of our own, and real ones from the distribution.

pub mod fixture;
pub mod synthetic;

pub mod distribution;
