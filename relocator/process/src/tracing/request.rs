//! `ptrace` and `waitpid` as the kernel has them.
//!
//! nix has no name for the extended state and for signal masks, and no number for real-time
//! signals, which stop threads of other processes as well.

#![allow(
    unsafe_code,
    reason = "requests that have no safe interface; each buffer is borrowed for the call"
)]

use std::ffi::{c_int, c_uint, c_void};
use std::io::{Error, Result};
use std::mem::MaybeUninit;
use std::ptr;

use nix::libc;
use nix::unistd::Pid;

use crate::arch::{self, RawRegisters};

/// Bytes in a signal mask of the kernel.
const MASK_SIZE: usize = 8;

/// A request whose data is a number or nothing.
pub(super) fn plain(request: c_uint, pid: Pid, data: usize) -> Result<()> {
    let nothing = ptr::null_mut::<c_void>();
    let data = ptr::without_provenance_mut::<c_void>(data);
    // SAFETY: callers only make requests that take the data as a number.
    check(unsafe { libc::ptrace(request, pid.as_raw(), nothing, data) })
}

/// All general registers.
pub(super) fn registers(pid: Pid) -> Result<RawRegisters> {
    let mut registers = MaybeUninit::<RawRegisters>::uninit();
    let nothing = ptr::null_mut::<c_void>();
    let request = arch::GET_REGISTERS;
    // SAFETY: the kernel writes the whole structure, or nothing and says so.
    check(unsafe { libc::ptrace(request, pid.as_raw(), nothing, registers.as_mut_ptr()) })?;
    // SAFETY: it has succeeded.
    Ok(unsafe { registers.assume_init() })
}

/// Puts all general registers.
pub(super) fn set_registers(pid: Pid, registers: &RawRegisters) -> Result<()> {
    let nothing = ptr::null_mut::<c_void>();
    let request = arch::SET_REGISTERS;
    let data = ptr::from_ref(registers);
    // SAFETY: the kernel reads the structure.
    check(unsafe { libc::ptrace(request, pid.as_raw(), nothing, data) })
}

/// Reads the extended state into `bytes`; how many it has.
pub(super) fn extended_state(pid: Pid, bytes: &mut [u8]) -> Result<usize> {
    transfer(libc::PTRACE_GETREGSET, pid, bytes.as_mut_ptr(), bytes.len())
}

/// Puts an extended state, which must be whole.
pub(super) fn set_extended_state(pid: Pid, bytes: &[u8]) -> Result<()> {
    let start = bytes.as_ptr().cast_mut();
    transfer(libc::PTRACE_SETREGSET, pid, start, bytes.len()).map(drop)
}

/// Reads or writes `length` bytes at `start`, which callers have borrowed for it.
fn transfer(request: c_uint, pid: Pid, start: *mut u8, length: usize) -> Result<usize> {
    let mut vector = libc::iovec {
        iov_base: start.cast(),
        iov_len: length,
    };
    let kind = ptr::without_provenance_mut::<c_void>(arch::EXTENDED_STATE);
    // SAFETY: the kernel reads or writes what the vector describes, as the caller of this function
    // may.
    check(unsafe { libc::ptrace(request, pid.as_raw(), kind, &raw mut vector) })?;
    Ok(vector.iov_len)
}

/// The signals that a thread has blocked, one bit each, bit 0 for signal 1.
pub(super) fn signal_mask(pid: Pid) -> Result<u64> {
    let mut mask = 0u64;
    let size = ptr::without_provenance_mut::<c_void>(MASK_SIZE);
    let request = libc::PTRACE_GETSIGMASK;
    // SAFETY: the kernel writes as many bytes as it was told.
    check(unsafe { libc::ptrace(request, pid.as_raw(), size, &raw mut mask) })?;
    Ok(mask)
}

/// Puts the signals that a thread has blocked.
pub(super) fn set_signal_mask(pid: Pid, mask: u64) -> Result<()> {
    let size = ptr::without_provenance_mut::<c_void>(MASK_SIZE);
    let request = libc::PTRACE_SETSIGMASK;
    let mut mask = mask;
    // SAFETY: the kernel reads as many bytes as it was told.
    check(unsafe { libc::ptrace(request, pid.as_raw(), size, &raw mut mask) })
}

/// Eight bytes of memory.
pub(super) fn peek(pid: Pid, at: u64) -> Result<u64> {
    let mut word = 0u64;
    let at = ptr::without_provenance_mut::<c_void>(at as usize);
    let request = libc::PTRACE_PEEKDATA;
    let number = libc::SYS_ptrace;
    // SAFETY: the kernel itself, unlike libc's function, writes the word to where the data points.
    check(unsafe { libc::syscall(number, request, pid.as_raw(), at, &raw mut word) })?;
    Ok(word)
}

/// Writes eight bytes of memory.
pub(super) fn poke(pid: Pid, at: u64, word: u64) -> Result<()> {
    let at = ptr::without_provenance_mut::<c_void>(at as usize);
    let data = ptr::without_provenance_mut::<c_void>(word as usize);
    // SAFETY: the kernel takes the data as a number.
    check(unsafe { libc::ptrace(libc::PTRACE_POKEDATA, pid.as_raw(), at, data) })
}

/// Where a thread has its `struct rseq`; `None` where the kernel does not say.
pub(super) fn rseq(pid: Pid) -> Option<u64> {
    const GET_RSEQ_CONFIGURATION: c_uint = 0x420f;
    // `struct ptrace_rseq_configuration`: address, size, signature, flags, padding.
    let mut configuration = [0u64; 3];
    let size = size_of_val(&configuration);
    let size = ptr::without_provenance_mut::<c_void>(size);
    let data = configuration.as_mut_ptr();
    // SAFETY: the kernel writes as many bytes as it was told.
    check(unsafe { libc::ptrace(GET_RSEQ_CONFIGURATION, pid.as_raw(), size, data) }).ok()?;
    Some(configuration[0])
}

/// How system calls of a thread are dispatched to its program (`struct ptrace_sud_config`).
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct Dispatch {
    /// 1 if they are.
    pub(super) mode: u64,
    /// Where a byte says whether they are at the moment.
    pub(super) selector: u64,
    /// Code that makes system calls in any case.
    pub(super) start: u64,
    pub(super) size: u64,
}

/// How system calls of a thread are dispatched; `None` where the kernel does not say (before 6.4).
pub(super) fn dispatch(pid: Pid) -> Option<Dispatch> {
    const GET_SYSCALL_USER_DISPATCH_CONFIG: c_uint = 0x4211;
    let mut dispatch = Dispatch::default();
    let size = ptr::without_provenance_mut::<c_void>(size_of::<Dispatch>());
    let request = GET_SYSCALL_USER_DISPATCH_CONFIG;
    // SAFETY: the kernel writes as many bytes as it was told.
    check(unsafe { libc::ptrace(request, pid.as_raw(), size, &raw mut dispatch) }).ok()?;
    Some(dispatch)
}

/// `si_code` of the signal that a thread was stopped by.
pub(super) fn signal_code(pid: Pid) -> Result<c_int> {
    let mut info = MaybeUninit::<libc::siginfo_t>::uninit();
    let nothing = ptr::null_mut::<c_void>();
    let request = libc::PTRACE_GETSIGINFO;
    // SAFETY: the kernel writes the whole structure, or nothing and says so.
    check(unsafe { libc::ptrace(request, pid.as_raw(), nothing, info.as_mut_ptr()) })?;
    // SAFETY: it has succeeded.
    Ok(unsafe { info.assume_init() }.si_code)
}

/// The status of a thread that has changed its state, or `None`. Threads that are no processes are
/// found as well.
///
/// A signal that is about to be delivered is left where it is: taking notice of it takes it from
/// the thread until it is resumed with it, and if this process ended meanwhile, it would be lost.
pub(super) fn changed(pid: Pid) -> Result<Option<c_int>> {
    let Some(stopped_by) = noticed(pid)? else {
        return Ok(None);
    };
    if (1..libc::SIGRTMAX() + 1).contains(&stopped_by) && stopped_by != libc::SIGTRAP {
        return Ok(Some(libc::W_STOPCODE(stopped_by)));
    }
    let mut status = 0;
    let options = libc::WNOHANG | libc::__WALL;
    // SAFETY: the kernel writes one number.
    let changed = unsafe { libc::waitpid(pid.as_raw(), &raw mut status, options) };
    interrupted(changed.into(), (changed != 0).then_some(status))
}

/// What has stopped a thread that has changed its state: the number of a signal, with more bits
/// where it is none. 0 if it has ended.
fn noticed(pid: Pid) -> Result<Option<c_int>> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let options = libc::WNOHANG | libc::WNOWAIT | libc::WSTOPPED | libc::WEXITED | libc::__WALL;
    let id = pid.as_raw().cast_unsigned();
    // SAFETY: the kernel writes the whole structure, or nothing.
    let said = unsafe { libc::waitid(libc::P_PID, id, info.as_mut_ptr(), options) };
    // SAFETY: zeros are a valid value, and the kernel has written a valid one if any.
    let info = unsafe { info.assume_init() };
    // SAFETY: this is what a child has that has changed, or zeros.
    let of = unsafe { info.si_pid() };
    // SAFETY: as before.
    let status = unsafe { info.si_status() };
    let stopped_by = match info.si_code {
        libc::CLD_TRAPPED | libc::CLD_STOPPED => status,
        _ => 0,
    };
    interrupted(said.into(), (of != 0).then_some(stopped_by))
}

/// The value, unless a call has failed. One that a signal of this process's has interrupted has
/// found nothing.
fn interrupted(result: libc::c_long, value: Option<c_int>) -> Result<Option<c_int>> {
    match check(result) {
        Ok(()) => Ok(value),
        Err(error) if error.kind() == std::io::ErrorKind::Interrupted => Ok(None),
        Err(error) => Err(error),
    }
}

/// `KCMP_VM` of `linux/kcmp.h`.
const MEMORY: c_int = 1;

/// Whether two processes have one memory.
pub(super) fn shares_memory(one: Pid, other: Pid) -> Result<bool> {
    // SAFETY: the kernel compares, and takes nothing but numbers.
    match unsafe { libc::syscall(libc::SYS_kcmp, one.as_raw(), other.as_raw(), MEMORY, 0, 0) } {
        -1 => Err(Error::last_os_error()),
        order => Ok(order == 0),
    }
}

fn check(result: libc::c_long) -> Result<()> {
    match result {
        -1 => Err(Error::last_os_error()),
        _ => Ok(()),
    }
}
