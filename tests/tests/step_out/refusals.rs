//! Processes that cannot be worked on.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

use libtest_mimic::Trial;
use nix::unistd::{Pid, gettid};
use relocator::step_out::{Options, step_out};
use relocator::tracing::Tracee;
use relocator_tests::command::run;

use crate::check;
use crate::process::{Victim, wait_until};
use crate::victim::HAMMER;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        check("a_process_that_is_none_is_refused", none),
        check("a_process_that_has_ended_is_refused", ended),
        check("a_process_that_is_traced_is_refused", traced),
        check("a_thread_is_refused", thread),
        check("a_32_bit_process_is_refused", of_32_bits),
    ]
}

#[track_caller]
fn assert_refused(pid: i32, reason: &str) {
    let error = step_out(pid, &Options::default()).unwrap_err().to_string();
    assert!(error.contains(reason), "{error}");
    assert!(error.starts_with(&format!("process {pid} ")), "{error}");
    // For another process, this one is no longer "this one".
    if pid != Pid::this().as_raw() {
        let told = run(["step-out", "--pid", &pid.to_string()]).failure(2);
        assert_eq!(told, format!("relocator: {error}"));
    }
}

fn none() {
    assert_refused(Pid::this().as_raw(), "is this one");
    assert_refused(i32::MAX, "does not exist");
    let kernel = fs::read_dir("/proc").unwrap().find_map(|entry| {
        let name = entry.ok()?.file_name().into_string().ok()?;
        let status = fs::read_to_string(format!("/proc/{name}/status")).ok()?;
        status
            .contains("Kthread:\t1")
            .then(|| name.parse().unwrap())
    });
    if let Some(kernel) = kernel {
        assert_refused(kernel, "is a thread of the kernel");
    }
    for bad in ["0", "-1", "x"] {
        assert_eq!(run(["step-out", &format!("--pid={bad}")]).status, Some(2));
    }
}

/// A child that ends when this is dropped.
pub(crate) struct Other(Child);

impl Other {
    pub(crate) fn start(program: impl AsRef<std::ffi::OsStr>) -> std::io::Result<Self> {
        let mut command = Command::new(program);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.spawn().map(Self)
    }

    pub(crate) fn pid(&self) -> i32 {
        self.0.id() as i32
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn ended() {
    let other = Other::start("true").unwrap();
    let stat = || fs::read_to_string(format!("/proc/{}/stat", other.pid())).unwrap();
    wait_until(|| stat().contains(") Z "));
    assert_refused(
        other.pid(),
        "has ended, and its parent has not taken notice",
    );
}

fn traced() {
    let (victim, _) = Victim::hammer(HAMMER);
    let tracee = Tracee::seize(Pid::from_raw(victim.pid())).unwrap();
    assert_refused(victim.pid(), &format!("is traced already, by {}", gettid()));
    drop(tracee);
    victim.finish();
}

fn thread() {
    let (victim, threads) = Victim::hammer(HAMMER);
    assert_refused(
        threads[0],
        &format!("is a thread of process {}", victim.pid()),
    );
    victim.finish();
}

/// An executable of 32 bits that does nothing for ever: headers, and a jump to itself.
pub(crate) fn program_of_32_bits() -> Vec<u8> {
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

fn of_32_bits() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("program");
    fs::write(&path, program_of_32_bits()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    match Other::start(&path) {
        Ok(other) => assert_refused(other.pid(), "is no 64-bit one"),
        // The kernel does not execute such programs.
        Err(error) => println!("not run: {error}"),
    }
}
