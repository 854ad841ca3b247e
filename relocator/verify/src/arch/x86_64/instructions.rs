//! Instructions that a sweep writes or looks for.

/// A trap, as short as any instruction: it can be written at every boundary, and code can be filled
/// with it. `int3`
pub(crate) const TRAP: u8 = 0xcc;

/// How far behind a trap the program counter of a thread is that has met it.
pub(crate) const TRAPPED: i64 = 1;

/// `syscall`
pub(crate) const SYSTEM_CALL: [u8; 2] = [0x0f, 0x05];

/// `ret`
pub(super) const RETURN: u8 = 0xc3;

/// Whether code begins with a system call.
pub(crate) fn is_system_call(code: &[u8]) -> bool {
    code.starts_with(&SYSTEM_CALL)
}
