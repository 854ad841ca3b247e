//! Kernels to test on: relocation-capable ones of our own, and real ones from the distribution.

#![forbid(unsafe_code)]

pub mod distribution;
pub mod fixture;
pub mod synthetic;
