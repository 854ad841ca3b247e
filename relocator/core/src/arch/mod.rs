//! What the linker knows of architectures.

use elf_tools::{Class, Machine};

/// The images that the linker can link, in words.
pub(crate) const SUPPORTED: &str = "64-bit x86-64";

/// Functions whose address the kernel or the hardware knows: signal trampolines and the 32-bit
/// system call pad. They stay where they are.
pub(crate) fn is_return_address(name: &str) -> bool {
    matches!(
        name,
        "__kernel_sigreturn" | "__kernel_rt_sigreturn" | "__kernel_vsyscall"
    )
}

/// Functions that the kernel treats specially by their place in its own vDSO:
/// `docs/architecture.md`.
pub(crate) fn is_kernel_recognised(name: &str) -> bool {
    name == "__vdso_sgx_enter_enclave"
        || (name.starts_with("__vdso_futex_robust_list") && name.ends_with("_try_unlock"))
}

/// Whether the linker can link such images.
pub(crate) fn is_supported(machine: Machine, class: Class) -> bool {
    (machine, class) == (Machine::X86_64, Class::Elf64)
}
