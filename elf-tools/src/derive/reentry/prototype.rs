//! What arguments functions take: the prototypes of `lib/vdso` and `arch/x86/entry/vdso` in the kernel.

use crate::reentry::Register;

/// An argument that must be there again when a function begins anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Argument {
    pub(super) register: Register,
    /// Whether it has 32 bits: what the upper half of the register holds does not matter.
    pub(super) is_low: bool,
}

const fn whole(register: Register) -> Argument {
    Argument {
        register,
        is_low: false,
    }
}

const fn low(register: Register) -> Argument {
    Argument {
        register,
        is_low: true,
    }
}

const R8: Register = Register(8);
const R9: Register = Register(9);

/// `(clockid_t, struct timespec *)`
const CLOCK: &[Argument] = &[low(Register::RDI), whole(Register::RSI)];
/// `(struct timeval *, struct timezone *)`
const TIME_OF_DAY: &[Argument] = &[whole(Register::RDI), whole(Register::RSI)];
/// `(time_t *)`
const TIME: &[Argument] = &[whole(Register::RDI)];
/// `(unsigned *, unsigned *, struct getcpu_cache *)`: the last has not been used since Linux 2.6.24.
const CPU: &[Argument] = &[whole(Register::RDI), whole(Register::RSI)];
/// `(void *, size_t, unsigned, void *, size_t)`
const RANDOM: &[Argument] = &[
    whole(Register::RDI),
    whole(Register::RSI),
    low(Register::RDX),
    whole(Register::RCX),
    whole(R8),
];
/// `(u32 *lock, u32 tid, u64 *pending)`
const TRY_UNLOCK: &[Argument] = &[
    whole(Register::RDI),
    low(Register::RSI),
    whole(Register::RDX),
];
/// Whatever the calling convention passes in registers.
const ANY: &[Argument] = &[
    whole(Register::RDI),
    whole(Register::RSI),
    whole(Register::RDX),
    whole(Register::RCX),
    whole(R8),
    whole(R9),
];

/// The arguments of the exported function `name`. Of one that is not known all registers that could be one count.
pub(super) fn arguments(name: &str) -> &'static [Argument] {
    match name.strip_prefix("__vdso_").unwrap_or(name) {
        "clock_gettime" | "clock_getres" => CLOCK,
        "gettimeofday" => TIME_OF_DAY,
        "time" => TIME,
        "getcpu" => CPU,
        "getrandom" => RANDOM,
        "futex_robust_list32_try_unlock" | "futex_robust_list64_try_unlock" => TRY_UNLOCK,
        _ => ANY,
    }
}
