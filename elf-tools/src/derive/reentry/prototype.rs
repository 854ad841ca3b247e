//! What arguments functions take: the prototypes of `lib/vdso` and of the architectures' `vdso`
//! folders in the kernel. Which registers they are in is for [`crate::arch`] to know.

use crate::arch::Registers;
use crate::reentry::Register;

/// An argument that must be there again when a function starts over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Argument {
    /// What the upper half of the register holds matters.
    Whole,
    /// It has 32 bits.
    Low,
}

use Argument::{Low, Whole};

/// `(clockid_t, struct timespec *)`
const CLOCK: &[Argument] = &[Low, Whole];
/// `(struct timeval *, struct timezone *)`
const TIME_OF_DAY: &[Argument] = &[Whole, Whole];
/// `(time_t *)`
const TIME: &[Argument] = &[Whole];
/// `(unsigned *, unsigned *, struct getcpu_cache *)`: the last has not been used since Linux
/// 2.6.24.
const CPU: &[Argument] = &[Whole, Whole];
/// `(void *, size_t, unsigned, void *, size_t)`
const RANDOM: &[Argument] = &[Whole, Whole, Low, Whole, Whole];
/// `(u32 *lock, u32 tid, u64 *pending)`
const TRY_UNLOCK: &[Argument] = &[Whole, Low, Whole];

/// The arguments of the exported function `name`: registers, and what of them matters. Of a
/// function that is not known all registers that could be arguments count.
pub(super) fn arguments(name: &str, registers: &Registers) -> Vec<(Register, Argument)> {
    let known = match name.strip_prefix("__vdso_").unwrap_or(name) {
        "clock_gettime" | "clock_getres" => CLOCK,
        "gettimeofday" => TIME_OF_DAY,
        "time" => TIME,
        "getcpu" => CPU,
        "getrandom" => RANDOM,
        "futex_robust_list32_try_unlock" | "futex_robust_list64_try_unlock" => TRY_UNLOCK,
        _ => return registers.arguments.iter().map(|&of| (of, Whole)).collect(),
    };
    let registers = registers.arguments.iter().copied();
    registers.zip(known.iter().copied()).collect()
}
