//! Entering a time namespace of one's own, in which the monotonic and boot clocks are shifted.

use std::fs::{self, File};
use std::io;

use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{getegid, geteuid};

use super::system;

/// How far clocks are shifted: seconds and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Offsets {
    /// `CLOCK_MONOTONIC`: days, a few seconds, and a fraction, so that a lost carry shows.
    monotonic: (i64, i64),
    /// `CLOCK_BOOTTIME`; other than `monotonic`, so that a mix-up shows.
    boottime: (i64, i64),
}

impl Offsets {
    /// Those of a process that is verified.
    pub(super) const USUAL: Self = Self {
        monotonic: (86_400 + 7, 123_456_789),
        boottime: (2 * 86_400 + 11, 987_654_321),
    };

    /// Others: a restore shifts clocks by what they were ahead before.
    pub(super) const RESTORED: Self = Self {
        monotonic: (4 * 86_400 + 13, 876_543_219),
        boottime: (6 * 86_400 + 19, 345_678_912),
    };
}

/// nix has no name for it. `linux/sched.h`
const CLONE_NEWTIME: CloneFlags = CloneFlags::from_bits_retain(0x80);

/// The step that failed, and what the kernel said.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) step: &'static str,
    pub(super) source: io::Error,
}

impl Refused {
    fn at<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self {
            step,
            source: source.into(),
        }
    }
}

/// Moves this process, which must have one thread only, into a new time namespace with shifted
/// clocks.
///
/// `unshare` moves only children, but a process may join the namespace of its children to be. So no
/// further process is needed, and killing this one leaves nothing behind.
pub(super) fn enter(offsets: Offsets) -> Result<(), Refused> {
    let before = system::clock_gettime(nix::libc::CLOCK_MONOTONIC).1;
    if unshare(CLONE_NEWTIME).is_err() {
        unshare_unprivileged()?;
    }
    let Offsets {
        monotonic,
        boottime,
    } = offsets;
    let text = format!(
        "monotonic {} {}\nboottime {} {}\n",
        monotonic.0, monotonic.1, boottime.0, boottime.1
    );
    fs::write("/proc/self/timens_offsets", text).map_err(Refused::at("setting its offsets"))?;
    let namespace =
        File::open("/proc/self/ns/time_for_children").map_err(Refused::at("opening it"))?;
    setns(namespace, CLONE_NEWTIME).map_err(Refused::at("joining it"))?;
    let after = system::clock_gettime(nix::libc::CLOCK_MONOTONIC).1;
    if after.seconds.saturating_sub(before.seconds) < monotonic.0 {
        let source = io::Error::other("the monotonic clock was not shifted");
        return Err(Refused {
            step: "using it",
            source,
        });
    }
    Ok(())
}

/// Creates the namespace as the root of a user namespace, which needs no privilege where the system
/// allows it at all.
fn unshare_unprivileged() -> Result<(), Refused> {
    let (user, group) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER | CLONE_NEWTIME).map_err(Refused::at("creating it"))?;
    fs::write("/proc/self/setgroups", "deny").map_err(Refused::at("renouncing groups"))?;
    fs::write("/proc/self/uid_map", format!("0 {user} 1"))
        .map_err(Refused::at("mapping the user"))?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1"))
        .map_err(Refused::at("mapping the group"))
}
