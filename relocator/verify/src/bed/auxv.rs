//! The auxiliary vector of a program that has not begun yet.

use std::io;
use std::ops::Range;

use elf_tools::Avma;
use nix::libc;
use procfs::process::Process;

use super::remote::Remote;
use super::{Error, Result};

/// More arguments, variables and entries than any program has that is tested.
const MOST_WORDS: usize = 1 << 20;

/// Makes the vector on the stack, and the kernel's copy of it, name another vDSO. The result says
/// whether the kernel's copy could be changed.
pub(super) fn name_vdso(remote: &mut Remote<'_>, vdso: Avma) -> Result<Result<()>> {
    let vector = find(remote)?;
    let mut at = vector.start;
    loop {
        match word(remote, at)? {
            libc::AT_NULL => return Err(Error::missing("a vDSO in the auxiliary vector")),
            libc::AT_SYSINFO_EHDR => break,
            _ => at = at.offset(16),
        }
    }
    remote.write(at.offset(8), &vdso.0.to_le_bytes())?;
    Ok(change_copy(remote, &vector))
}

/// `struct prctl_mm_map` of `linux/prctl.h`, which CRIU uses as well: it asks for no capability,
/// but has to hold everything that is not to be changed.
const MM_MAP_WORDS: usize = 13;

/// Below the stack pointer and what programs may use below it.
const SCRATCH: i64 = -4096;

/// Has the kernel copy the vector again.
fn change_copy(remote: &mut Remote<'_>, vector: &Range<Avma>) -> Result<()> {
    let stat = Process::new(remote.pid()).and_then(|process| process.stat());
    let failed = |error| Error::system("the program's /proc/PID/stat")(io::Error::other(error));
    let stat = stat.map_err(failed)?;
    let known = |field: Option<u64>| {
        field.ok_or_else(|| Error::missing("where its data is, in /proc/PID/stat"))
    };
    let brk = remote.call("asking for the end of its data", libc::SYS_brk, [0; 6])?;
    let size = vector.end.0 - vector.start.0;
    let words: [u64; MM_MAP_WORDS] = [
        stat.startcode,
        stat.endcode,
        known(stat.start_data)?,
        known(stat.end_data)?,
        known(stat.start_brk)?,
        brk,
        stat.startstack,
        known(stat.arg_start)?,
        known(stat.arg_end)?,
        known(stat.env_start)?,
        known(stat.env_end)?,
        vector.start.0,
        // The upper half is a file descriptor, and -1 is none.
        size | u64::from(u32::MAX) << 32,
    ];
    let scratch = remote.stack_pointer().offset(SCRATCH);
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let before = remote.read(scratch, bytes.len())?;
    remote.write(scratch, &bytes)?;
    let arguments = [
        libc::PR_SET_MM as u64,
        libc::PR_SET_MM_MAP as u64,
        scratch.0,
        bytes.len() as u64,
        0,
        0,
    ];
    let changed = remote.call("changing /proc/PID/auxv", libc::SYS_prctl, arguments);
    remote.write(scratch, &before)?;
    changed.map(drop)
}

/// Where it is: behind the arguments and the environment, each of which ends with a null pointer.
fn find(remote: &Remote<'_>) -> Result<Range<Avma>> {
    let stack = remote.stack_pointer();
    let arguments = word(remote, stack)?;
    let behind = arguments
        .checked_mul(8)
        .and_then(|size| size.checked_add(16));
    let behind = behind.ok_or_else(|| Error::missing("the number of arguments on the stack"))?;
    let environment = stack.offset(behind.cast_signed());
    let start = skip(remote, environment, 8)?;
    Ok(start..skip(remote, start, 16)?)
}

/// Behind the first entry that begins with a zero.
fn skip(remote: &Remote<'_>, mut at: Avma, entry: i64) -> Result<Avma> {
    for _ in 0..MOST_WORDS {
        let is_last = word(remote, at)? == 0;
        at = at.offset(entry);
        if is_last {
            return Ok(at);
        }
    }
    Err(Error::missing("the end of the environment on the stack"))
}

fn word(remote: &Remote<'_>, at: Avma) -> Result<u64> {
    let bytes = remote.read(at, 8)?;
    Ok(bytes
        .iter()
        .rev()
        .fold(0, |word, &byte| word << 8 | u64::from(byte)))
}
