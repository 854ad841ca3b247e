//! Which files somebody serves (FUSE): reading what is not there waits for an answer, and once it
//! was asked for, the kernel ends no such wait, not even that of a reader that is killed. So nobody
//! reads them.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::linux::fs::MetadataExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use elf_tools::Avma;
use nix::libc;
use nix::unistd::Pid;
use relocator::threads::Memory;

use super::ProcessMemory;
use super::mounts::Mount;
use crate::maps::{self, Device};

/// Reads what may not be in the memory of a process, unless it is of a file that may be served:
/// nobody waits for a server. A `userfaultfd` is another matter.
pub(crate) fn read_unserved(pid: Pid, at: Avma, bytes: &mut [u8]) -> bool {
    !is_served(pid, at) && ProcessMemory::of(pid).read(at, bytes)
}

/// Whether what is mapped at an address of a process is of a file that may be served. One of a
/// file system that cannot be told counts as served.
fn is_served(pid: Pid, at: Avma) -> bool {
    let device = maps::device_at(pid.as_raw(), at);
    device.is_none_or(|device| is_of_server(pid, device))
}

/// Whether a file may be served that a process sees.
pub(super) fn is_served_file(pid: Pid, path: &Path) -> bool {
    mount_of(path)
        .is_none_or(|mount| is_served_where(pid, |other| other.number == mount).unwrap_or(true))
}

/// The number of the mount that a file is on. Neither opening it so nor this asks its file system.
fn mount_of(path: &Path) -> Option<String> {
    let mut options = fs::OpenOptions::new();
    let file = options
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(path)
        .ok()?;
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).ok()?;
    let number = info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?;
    Some(number.trim().to_owned())
}

/// The device of memory that is shared and of no file.
pub(crate) fn shared_memory() -> Option<Device> {
    let name = nix::sys::memfd::MFdFlags::MFD_CLOEXEC;
    let file = nix::sys::memfd::memfd_create("device", name).ok()?;
    let device = fs::File::from(file).metadata().ok()?.st_dev();
    Some((libc::major(device), libc::minor(device)))
}

fn is_of_server(pid: Pid, device: Device) -> bool {
    if shared_memory() == Some(device) {
        return false;
    }
    let wanted = format!("{}:{}", device.0, device.1);
    is_served_where(pid, |mount| mount.device == wanted).unwrap_or(true)
}

/// Whether a mount is a file server's, as the process or this one sees it; `None` if neither does.
fn is_served_where(pid: Pid, is_it: impl Fn(&Mount<'_>) -> bool) -> Option<bool> {
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    let own = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    is_served_by(&mounts, &is_it).or_else(|| is_served_by(&own, &is_it))
}

/// The same by lines of `mountinfo`.
fn is_served_by(mounts: &str, is_it: impl Fn(&Mount<'_>) -> bool) -> Option<bool> {
    let found = Mount::all(mounts).find(is_it)?;
    Some(found.kind.starts_with("fuse") || found.kind == "virtiofs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_servers_are_told_by_their_devices() {
        const MOUNTS: &str = "\
            25 1 254:0 / / rw shared:1 - ext4 /dev/vda rw\n\
            30 25 0:45 / /mnt/a rw - fuse served rw\n\
            31 25 0:46 / /mnt/b rw - fuse.sshfs a:/ rw\n";
        let by_device = |device| is_served_by(MOUNTS, |mount| mount.device == device);
        assert_eq!(by_device("254:0"), Some(false));
        assert_eq!(by_device("0:45"), Some(true));
        assert_eq!(by_device("0:46"), Some(true));
        assert_eq!(by_device("0:47"), None);
    }

    #[test]
    fn this_program_and_shared_memory_are_not_served() {
        let own = Pid::this();
        let code = Avma(this_program_and_shared_memory_are_not_served as *const () as u64);
        assert!(!is_served(own, code));
        assert!(!is_served_file(own, Path::new("/proc/self/exe")));
        assert!(!is_of_server(own, shared_memory().unwrap()));
        // Nothing is mapped there.
        assert!(is_served(own, Avma(0)));
    }
}
