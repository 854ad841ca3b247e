//! Lines of `/proc/PID/mountinfo`, as `proc_pid_mountinfo(5)` has them.

/// A mount, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mount<'a> {
    /// Its number.
    pub(super) number: &'a str,
    /// Its device: `MAJOR:MINOR`, decimal.
    pub(super) device: &'a str,
    /// What of its file system is mounted.
    pub(super) root: &'a str,
    /// Where.
    pub(super) point: &'a str,
    /// The type of the file system.
    pub(super) kind: &'a str,
    /// Options of the file system.
    pub(super) options: &'a str,
}

impl<'a> Mount<'a> {
    /// All mounts of a list. A line that is not understood is none.
    pub(super) fn all(list: &'a str) -> impl Iterator<Item = Self> {
        list.lines().filter_map(Self::parse)
    }

    fn parse(line: &'a str) -> Option<Self> {
        let (mount, system) = line.split_once(" - ")?;
        let mut mount = mount.split(' ');
        let number = mount.next()?;
        // Behind the number is that of the parent.
        let (device, root, point) = (mount.nth(1)?, mount.next()?, mount.next()?);
        let mut system = system.split(' ');
        let kind = system.next()?;
        Some(Self {
            number,
            device,
            root,
            point,
            kind,
            options: system.nth(1).unwrap_or(""),
        })
    }
}
