//! Kernels, of the distribution, pretended, and the one that runs: what is derived from them, linked to them, and run.
//!
//! One binary, since each one is linked with everything that tests need. What this machine does not allow shows as
//! ignored, with the reason, which the standard harness can only decide when it is compiled.

mod derived;
mod derived_mutations;
mod emulated;
mod fixtures;
mod in_flight;
mod mutations;
mod processors;
mod symbols;
mod type_information;
mod unwinding;
mod ways_out;

use libtest_mimic::{Arguments, Trial};
use relocator_tests::trials::within;

/// Makes the trials of a module.
type Make = fn(&Arguments) -> Vec<Trial>;

const MODULES: [(&str, Make); 11] = [
    ("derived", derived::trials),
    ("derived_mutations", derived_mutations::trials),
    ("emulated", emulated::trials),
    ("fixtures", fixtures::trials),
    ("in_flight", in_flight::trials),
    ("mutations", mutations::trials),
    ("processors", processors::trials),
    ("symbols", symbols::trials),
    ("type_information", type_information::trials),
    ("unwinding", unwinding::trials),
    ("ways_out", ways_out::trials),
];

fn main() {
    let arguments = Arguments::from_args();
    let modules = MODULES.into_iter();
    let trials = modules.flat_map(|(name, make)| within(name, || make(&arguments)));
    let trials = trials.collect();
    libtest_mimic::run(&arguments, trials).exit();
}
