//! What a child process needs from the operating system and no safe interface has.

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use nix::libc;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

/// Descriptors that stay open in the child besides its pipe: the standard ones.
const STANDARD: RawFd = 3;

/// Makes a child end with its parent, leave no core file, and hold none of the parent's files.
///
/// The last is for the parent's sake: locks and pipes of other threads would be held for as long as
/// the child lives.
pub(super) fn isolate(keep: &impl AsRawFd) -> io::Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    let none = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the structure is read, and lives until the call returns.
    if unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let keep = keep.as_raw_fd();
    close(STANDARD, keep - 1);
    close(STANDARD.max(keep + 1), RawFd::MAX);
    Ok(())
}

/// What ends a process whose processor time is used up.
pub(super) const TIME_IS_UP: Signal = Signal::SIGPROF;

/// Ends this process when it has used so much processor time, of all its threads and of the kernel
/// for them.
pub(super) fn limit_processor_time(limit: Duration) -> io::Result<()> {
    let once = libc::itimerval {
        it_interval: libc::timeval {
            tv_sec: 0,
            tv_usec: 0,
        },
        it_value: libc::timeval {
            tv_sec: limit.as_secs() as libc::time_t,
            tv_usec: limit.subsec_micros().into(),
        },
    };
    // SAFETY: the structure is read, and lives until the call returns; nothing is written.
    match unsafe { libc::setitimer(libc::ITIMER_PROF, &raw const once, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Closes a range of descriptors. Kernels before 5.9 cannot; they keep them, which costs others
/// some waiting.
fn close(first: RawFd, last: RawFd) {
    if first <= last {
        // SAFETY: the child never uses what it inherited; values that own these descriptors are
        // never dropped in it.
        unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    }
}

/// Ends the child without running what was registered by and for the parent.
pub(super) fn exit() -> ! {
    exit_with(0)
}

/// The same with a status.
pub(super) fn exit_with(status: c_int) -> ! {
    // SAFETY: always possible.
    unsafe { libc::_exit(status) }
}

/// Waits until there is something to read, or the end of it; `false` if not within `patience`.
pub(super) fn readable(pipe: &impl AsRawFd, patience: Duration) -> io::Result<bool> {
    let mut poll = libc::pollfd {
        fd: pipe.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // Rounded up, or the last millisecond before a deadline would be spent spinning.
    let patience = patience.as_micros().div_ceil(1000);
    let patience = c_int::try_from(patience).unwrap_or(c_int::MAX);
    // SAFETY: the kernel reads and writes one structure.
    match unsafe { libc::poll(&raw mut poll, 1, patience) } {
        -1 => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => Ok(false),
            error => Err(error),
        },
        count => Ok(count > 0),
    }
}
