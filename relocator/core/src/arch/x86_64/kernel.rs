//! What the kernel has decided for the architecture: numbers, sizes, names.

/// The page size.
pub const PAGE: u64 = 0x1000;

/// The end of what programs are given unless they ask for more, less the last page: a system call
/// there would return to an address that is none.
pub const END: u64 = (1 << 47) - PAGE;

/// The number of a system call; from the kernel's `syscall_64.tbl`.
pub(super) fn system_call_number(name: &str) -> Option<u32> {
    Some(match name {
        "gettimeofday" => 96,
        "time" => 201,
        "clock_gettime" => 228,
        "clock_getres" => 229,
        "getcpu" => 309,
        "getrandom" => 318,
        _ => return None,
    })
}

/// Signal trampolines and the 32-bit system call pad.
pub(super) fn is_return_address(name: &str) -> bool {
    matches!(
        name,
        "__kernel_sigreturn" | "__kernel_rt_sigreturn" | "__kernel_vsyscall"
    )
}

/// The kernel fixes up faults in one of them, and compares the program counter with the others:
/// `docs/derivation.md`.
pub(super) fn is_kernel_recognised(name: &str) -> bool {
    name == "__vdso_sgx_enter_enclave"
        || (name.starts_with("__vdso_futex_robust_list") && name.ends_with("_try_unlock"))
}
