//! The code that replaces a function's entry: a jump to the new vDSO, or a system call.
//!
//! Programs reach entry points by calls through libc's cached pointers, so at an entry the
//! arguments and the callee-saved registers are the caller's, and code may overwrite every other
//! register.
//!
//! The functions here write code for the processes that this program can change, which are of its
//! own architecture. The planner writes code for the architecture of the image.

use elf_tools::Avma;

use crate::arch::{self, Arch, NATIVE};

/// Bytes of an entry that change at once, by a single write. What no system call can stand in for
/// meanwhile has to be replaced by no more than these.
pub const AT_ONCE: usize = 8;

/// What a function can be replaced by if the new kernel has no such function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SystemCall {
    /// Its name.
    pub name: &'static str,
    /// Its number.
    pub number: u32,
}

impl SystemCall {
    /// The system call that does the same as the exported function `name`.
    pub(crate) fn of(arch: &dyn Arch, name: &str) -> Option<Self> {
        const NAMES: [&str; 6] = [
            "gettimeofday",
            "time",
            "clock_gettime",
            "clock_getres",
            "getcpu",
            "getrandom",
        ];
        let plain = name.strip_prefix("__vdso_").unwrap_or(name);
        let name = NAMES.into_iter().find(|name| *name == plain)?;
        let number = arch.system_call_number(name)?;
        Some(Self { name, number })
    }
}

/// The system call that does the same as the exported function `name`.
pub fn system_call(name: &str) -> Option<SystemCall> {
    SystemCall::of(NATIVE, name)
}

/// Whether the kernel or the processor knows a function of this name by its address, so that no
/// other code can stand in for it.
pub fn is_known_by_address(name: &str) -> bool {
    NATIVE.is_return_address(name) || NATIVE.is_kernel_recognised(name)
}

/// Code for an entry that fails with `ENOSYS`. Callers of functions that a kernel does not have, or
/// does not support, make the system call then.
pub fn unavailable() -> [u8; AT_ONCE] {
    NATIVE.fail(arch::ENOSYS)
}

/// The shortest jump that leads from `at` to `target`, with the registers of a caller.
pub fn jump(at: Avma, target: Avma) -> Vec<u8> {
    NATIVE.jump(at, target)
}

/// Code for an entry that makes a system call, whose arguments are where functions have theirs.
pub fn plain_system_call(call: SystemCall) -> [u8; AT_ONCE] {
    NATIVE.plain_system_call(call.number)
}

/// A function that makes the system call with the caller's arguments and returns what it returns.
///
/// That of `getrandom` fails with `ENOSYS` where the program asks for the size of its state, which
/// no system call answers.
pub fn system_call_stub(call: SystemCall) -> Vec<u8> {
    arch::system_call_stub(NATIVE, call)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_call_numbers_are_those_of_the_c_library() {
        let expected = [
            (
                "__vdso_gettimeofday",
                libc_number(nix::libc::SYS_gettimeofday),
            ),
            ("time", libc_number(nix::libc::SYS_time)),
            (
                "__vdso_clock_gettime",
                libc_number(nix::libc::SYS_clock_gettime),
            ),
            ("clock_getres", libc_number(nix::libc::SYS_clock_getres)),
            ("__vdso_getcpu", libc_number(nix::libc::SYS_getcpu)),
            ("getrandom", libc_number(nix::libc::SYS_getrandom)),
        ];
        for (name, number) in expected {
            assert_eq!(
                system_call(name).map(|call| call.number),
                Some(number),
                "{name}"
            );
        }
        assert_eq!(system_call("__vdso_sgx_enter_enclave"), None);
    }

    fn libc_number(number: nix::libc::c_long) -> u32 {
        u32::try_from(number).unwrap()
    }
}
