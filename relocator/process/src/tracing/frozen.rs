//! Whether a process is frozen: its control group lets it execute nothing, so that it does not stop
//! for a tracer either.
//!
//! `Documentation/admin-guide/cgroup-v2.rst` (`cgroup.events`, `cgroup.freeze`), and
//! `cgroup-v1/freezer-subsystem.rst` (`freezer.state`).

use std::fs;
use std::path::{Path, PathBuf};

use nix::unistd::Pid;

use super::mounts::Mount;

/// The control group that freezes a process, as a path of its file system, if one does.
pub(super) fn frozen_by(pid: Pid) -> Option<PathBuf> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let groups = groups.lines().filter_map(Group::parse);
    let mut directories = groups.filter_map(|group| group.directory(&mounts));
    directories.find(|directory| is_frozen(directory))
}

/// A group that a process is in, that can freeze it.
#[derive(Debug, PartialEq, Eq)]
struct Group<'a> {
    /// Of version 2.
    is_unified: bool,
    path: &'a str,
}

impl<'a> Group<'a> {
    /// A line of `/proc/PID/cgroup`: number, controllers, path.
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let is_unified = controllers.is_empty();
        let freezes = is_unified || controllers.split(',').any(|one| one == "freezer");
        freezes.then_some(Self { is_unified, path })
    }

    /// Its directory, by lines of `/proc/self/mountinfo`.
    fn directory(&self, mounts: &str) -> Option<PathBuf> {
        Mount::all(mounts).find_map(|mount| {
            let is_it = match self.is_unified {
                true => mount.kind == "cgroup2",
                false => {
                    mount.kind == "cgroup" && mount.options.split(',').any(|one| one == "freezer")
                }
            };
            let below = self.path.strip_prefix(mount.root.trim_end_matches('/'))?;
            is_it.then(|| Path::new(mount.point).join(below.trim_start_matches('/')))
        })
    }
}

/// Whether a group freezes what is in it, or one above it does.
fn is_frozen(directory: &Path) -> bool {
    let read = |name: &str| fs::read_to_string(directory.join(name)).unwrap_or_default();
    let is_frozen = |line: &str| line == "frozen 1";
    read("cgroup.events").lines().any(is_frozen)
        || read("cgroup.freeze").trim() == "1"
        || matches!(read("freezer.state").trim(), "FROZEN" | "FREEZING")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_that_freeze_are_found() {
        let parse = |line| Group::parse(line).map(|group| (group.is_unified, group.path));
        assert_eq!(parse("0::/a/b"), Some((true, "/a/b")));
        assert_eq!(parse("5:freezer:/c"), Some((false, "/c")));
        assert_eq!(parse("5:cpu,freezer:/c:d"), Some((false, "/c:d")));
        assert_eq!(parse("6:cpu,cpuacct:/"), None);
        assert_eq!(parse("odd"), None);
    }

    #[test]
    fn their_directories_are_where_they_are_mounted() {
        const MOUNTS: &str = "\
            30 25 0:25 / /sys/fs/cgroup/unified rw shared:8 - cgroup2 cgroup2 rw,nsdelegate\n\
            31 25 0:26 /x /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer\n";
        let directory = |is_unified, path| Group { is_unified, path }.directory(MOUNTS);
        let expected = |path: &str| Some(PathBuf::from(path));
        assert_eq!(directory(true, "/a"), expected("/sys/fs/cgroup/unified/a"));
        assert_eq!(directory(true, "/"), expected("/sys/fs/cgroup/unified/"));
        assert_eq!(
            directory(false, "/x/a"),
            expected("/sys/fs/cgroup/freezer/a")
        );
        assert_eq!(directory(false, "/y"), None);
    }
}
