//! Programs that are not as most are, and what makes a process one that cannot be worked on.

use std::ffi::{OsStr, c_int, c_ulong};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::thread;
use std::time::Duration;

use nix::libc;

/// Whether this kernel executes programs of 32 bits, or why it does not.
pub static PROGRAMS_OF_32_BITS: LazyLock<Result<(), String>> = LazyLock::new(|| {
    let started = Other::of_32_bits();
    let failed = |error| format!("this kernel does not execute programs of 32 bits: {error}");
    started.map(drop).map_err(failed)
});

/// A process that ends when this is dropped.
#[derive(Debug)]
pub struct Other(Child);

impl Other {
    /// Of a program that reads nothing, and whose output nobody wants.
    pub fn start(program: impl AsRef<OsStr>) -> io::Result<Self> {
        Self::spawn(&mut Command::new(program))
    }

    /// The same with arguments.
    pub fn spawn(command: &mut Command) -> io::Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.spawn().map(Self)
    }

    /// One of 32 bits, if there can be one ([`PROGRAMS_OF_32_BITS`]).
    pub fn of_32_bits() -> io::Result<Self> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("program");
        fs::write(&path, program_of_32_bits())?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        let mut other = Self::start(&path)?;
        other.wait_for_program(&path)?;
        Ok(other)
    }

    /// The kernel lets the parent go on in the middle of `execve`, while the child still has its
    /// parent's memory.
    fn wait_for_program(&mut self, path: &Path) -> io::Result<()> {
        let shown = format!("/proc/{}/exe", self.pid());
        while fs::read_link(&shown)? != path {
            if let Some(status) = self.0.try_wait()? {
                return Err(io::Error::other(format!("it ended: {status}")));
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Its number.
    pub fn pid(&self) -> i32 {
        self.0.id().cast_signed()
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An executable of 32 bits that does nothing for ever: headers, and a jump to itself.
fn program_of_32_bits() -> Vec<u8> {
    const BASE: u32 = 0x0804_8000;
    const CODE: [u8; 2] = [0xeb, 0xfe];
    let (header, segment) = (52u32, 32u32);
    let size = header + segment + CODE.len() as u32;
    let halves = |low: u16, high: u16| u32::from(high) << 16 | u32::from(low);
    let mut words = vec![u32::from_le_bytes(*b"\x7fELF"), 0x0001_0101, 0, 0];
    // ET_EXEC, EM_386, version, entry, segments, sections, flags, sizes and counts.
    words.extend([halves(2, 3), 1, BASE + header + segment, header, 0, 0]);
    words.extend([halves(52, 32), halves(1, 0), 0]);
    // PT_LOAD of everything, readable and executable.
    words.extend([1, 0, BASE, BASE, size, size, 5, 0x1000]);
    let bytes = words.into_iter().flat_map(u32::to_le_bytes);
    bytes.chain(CODE).collect()
}

/// Has this thread's system calls be filtered (seccomp): all are allowed, but by a filter.
pub fn filter() {
    let mut allow = libc::sock_filter {
        code: (libc::BPF_RET | libc::BPF_K) as u16,
        jt: 0,
        jf: 0,
        k: libc::SECCOMP_RET_ALLOW,
    };
    let program = libc::sock_fprog {
        len: 1,
        filter: &raw mut allow,
    };
    control(libc::PR_SET_NO_NEW_PRIVS, 1, 0);
    control(
        libc::PR_SET_SECCOMP,
        c_ulong::from(libc::SECCOMP_MODE_FILTER),
        (&raw const program).addr() as c_ulong,
    );
}

/// `prctl` with an option that takes numbers, which must succeed.
#[allow(unsafe_code, reason = "there is no other way to these options")]
pub fn control(option: c_int, first: c_ulong, second: c_ulong) {
    // SAFETY: these options take numbers, and a filter that outlives the call.
    let result = unsafe { libc::prctl(option, first, second, 0, 0) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}
