//! Subjects in containers: as container runtimes set them up, and as they have CRIU dump and restore
//! them.
//!
//! A container has namespaces of its own for processes, mounts, host names, IPC and networks. Its
//! root is a directory of the guest that becomes its `/` by `pivot_root`. The subject is its first
//! process and leads a session of its own. Programs and pages are bind mounts, which CRIU is told of
//! as external ones. Its network is empty: CRIU makes a new one, as for a runtime that sets up
//! networks itself.
//!
//! Two programs start a subject. The first one ([`begin`]) enters new namespaces and starts the
//! second one there ([`become_first`]), which changes the root and becomes the subject.

use std::convert::Infallible;
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::libc::CLONE_NEWTIME;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{chdir, pivot_root, sethostname, setsid};

use super::job::{Container, OWN, Subject};
use super::program::{self, Ran};

/// Where the roots of containers are.
const ROOTS: &str = "/containers";

/// What a container sees of the guest: directories, and what CRIU calls them.
const SHARED: [(&str, &str); 5] = [
    ("/opt", "programs"),
    ("/run/lab", "pages"),
    ("/lab", "lab"),
    ("/lib", "libraries"),
    ("/lib64", "linker"),
];

/// The namespaces that every container has, in the order in which a process can enter them: that of
/// mounts is last, since it changes the root.
const NAMESPACES: [&str; 5] = ["ipc", "uts", "net", "pid", "mnt"];

/// The devices of a container: name, major and minor number.
const DEVICES: [(&str, u64, u64); 3] = [("null", 1, 3), ("zero", 1, 5), ("urandom", 1, 9)];

/// How far the clocks of a container with a time namespace are ahead, in seconds: the monotonic
/// clock and that since boot. They are unlike each other, and unlike what a guest gets to.
const AHEAD: &str = "monotonic 100000 250000000\nboottime 400000 750000000\n";

/// What CRIU needs to know to dump a container.
pub(super) fn dump_arguments() -> Vec<String> {
    let shared = SHARED.map(|(place, name)| format!("mnt[{place}]:{name}"));
    let external = shared
        .into_iter()
        .flat_map(|mount| ["--external".to_owned(), mount]);
    common().chain(external).collect()
}

/// What CRIU needs to know to restore a container to this root.
pub(super) fn restore_arguments(root: &Path) -> Vec<String> {
    let shared = SHARED.map(|(place, name)| format!("mnt[{name}]:{place}"));
    let external = shared
        .into_iter()
        .flat_map(|mount| ["--external".to_owned(), mount]);
    let root = ["--root".to_owned(), root.display().to_string()];
    common().chain(root).chain(external).collect()
}

fn common() -> impl Iterator<Item = String> {
    let words = [
        "--manage-cgroups=ignore",
        "--empty-ns",
        "net",
        "--network-lock",
        "skip",
    ];
    words.into_iter().map(str::to_owned)
}

/// The root of a container: a directory for each mount, and devices.
fn root(image: &str) -> Result<PathBuf> {
    let root = Path::new(ROOTS).join(image);
    let places = SHARED.iter().map(|(place, _)| *place);
    for place in places.chain(["/proc", "/dev", "/tmp", "/etc"]) {
        fs::create_dir_all(below(&root, place))?;
    }
    for (name, major, minor) in DEVICES {
        let device = below(&root, "/dev").join(name);
        if !device.exists() {
            let mode = Mode::from_bits_truncate(0o666);
            mknod(&device, SFlag::S_IFCHR, mode, makedev(major, minor))
                .with_context(|| device.display().to_string())?;
        }
    }
    Ok(root)
}

/// An absolute path below a root.
fn below(root: &Path, place: &str) -> PathBuf {
    root.join(place.trim_start_matches('/'))
}

fn bind(from: impl AsRef<Path>, to: &Path, flags: MsFlags) -> Result<()> {
    let none = None::<&str>;
    mount(
        Some(from.as_ref()),
        to,
        none,
        flags | MsFlags::MS_BIND,
        none,
    )
    .with_context(|| format!("bind mount at {}", to.display()))
}

/// The root of a container that is to be restored. CRIU wants it to be a mount.
#[derive(Debug)]
pub(super) struct Root(PathBuf);

impl Root {
    /// Lays out a root.
    pub(super) fn lay_out(image: &str) -> Result<Self> {
        let root = root(image)?;
        bind(&root, &root, MsFlags::empty())?;
        Ok(Self(root))
    }

    /// Its path.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        // The container has a mount of its own.
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// Starts a subject in a container. The result is its process number outside.
pub(super) fn start(subject: &Subject) -> Result<i32> {
    let text = serde_json::to_string(subject)?;
    let ran = program::run(OWN, ["contain", "begin", &text], &[]);
    if !ran.is_success {
        bail!("container: {}", ran.failure);
    }
    let said = ran.stdout.trim();
    said.parse().with_context(|| format!("container: {said:?}"))
}

/// Makes sure that a container's first process has namespaces of its own.
pub(super) fn check(first: i32, container: Container) -> Result<()> {
    let time = (container == Container::Time).then_some("time");
    for name in NAMESPACES.into_iter().chain(time) {
        let of = |process: &str| {
            let path = format!("/proc/{process}/ns/{name}");
            fs::read_link(&path).context(path)
        };
        if of(&first.to_string())? == of("self")? {
            bail!("process {first} has the guest's own namespace: {name}");
        }
    }
    Ok(())
}

/// What the program of a container said before it became the subject.
fn said(image: &str) -> PathBuf {
    Path::new(ROOTS).join(format!("{image}.said"))
}

/// Why a subject in a container ended before it began, as far as it said so.
pub(super) fn why(image: &str) -> String {
    fs::read_to_string(said(image))
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// Enters new namespaces and starts their first process, whose number it prints. That process stays
/// when this one ends.
pub(crate) fn begin(text: &str) -> Result<u8> {
    let subject: Subject = serde_json::from_str(text).context("the subject")?;
    let root = root(&subject.image)?;
    let mut namespaces = CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWNET;
    if subject.container == Some(Container::Time) {
        namespaces |= CloneFlags::from_bits_retain(CLONE_NEWTIME);
    }
    unshare(namespaces).context("new namespaces")?;
    if subject.container == Some(Container::Time) {
        // For the children of this process, which has none yet.
        fs::write("/proc/self/timens_offsets", AHEAD).context("timens_offsets")?;
    }
    let log = File::create(said(&subject.image))?;
    let child = Command::new(OWN)
        .args(["contain", "first", text])
        .arg(root)
        .envs(subject.environment)
        // A user makes the standard library fork. A child that shares memory with its parent for a
        // while, as else, cannot be in another time namespace.
        .uid(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .context(OWN)?;
    println!("{}", child.id());
    Ok(0)
}

/// Makes a container of the namespaces that this process is the first one of, and becomes the
/// subject.
pub(crate) fn become_first(text: &str, root: &Path) -> Result<Infallible> {
    let subject: Subject = serde_json::from_str(text).context("the subject")?;
    setsid().context("a session")?;
    sethostname("container").context("host name")?;
    change_root(root)?;
    let (name, arguments) = subject.command.split_first().context("no program")?;
    let null = || File::options().read(true).write(true).open("/dev/null");
    let error = Command::new(name)
        .args(arguments)
        .args(&subject.pages)
        .stdin(null()?)
        .stdout(null()?)
        .stderr(null()?)
        .exec();
    Err(error).with_context(|| name.clone())
}

/// Makes a directory the root, with what the guest shares and a `/proc` of its own.
fn change_root(root: &Path) -> Result<()> {
    let none = None::<&str>;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(none, "/", none, private, none).context("private mounts")?;
    bind(root, root, MsFlags::empty())?;
    for (place, _) in SHARED {
        bind(place, &below(root, place), MsFlags::empty())?;
    }
    let proc = below(root, "/proc");
    mount(Some("proc"), &proc, Some("proc"), MsFlags::empty(), none).context("/proc")?;
    chdir(root)?;
    // The old root comes on top of the new one, where it is removed.
    pivot_root(".", ".").context("pivot_root")?;
    umount2(".", MntFlags::MNT_DETACH).context("the old root")?;
    chdir("/").context("/")
}

/// Runs a program as a process of a container, by the number of its first process outside.
pub(super) fn run_inside(
    first: i32,
    program: &str,
    arguments: &[String],
    environment: &[(&str, &str)],
) -> Ran {
    let number = first.to_string();
    let words = ["contain", "inside", &number, program];
    let words = words
        .into_iter()
        .chain(arguments.iter().map(String::as_str));
    program::run(OWN, words, environment)
}

/// Enters the namespaces of a container's first process and runs a program there. The result is its
/// status.
pub(crate) fn enter(first: i32, words: &[String]) -> Result<u8> {
    let (program, arguments) = words.split_first().context("no program")?;
    // All are opened before the root changes, and with it `/proc`.
    let open = |name: &str| File::open(format!("/proc/{first}/ns/{name}"));
    let namespaces = NAMESPACES.map(open);
    for namespace in namespaces {
        setns(namespace?, CloneFlags::empty()).context("namespaces of a container")?;
    }
    // Entering a namespace of processes is for children.
    let status = Command::new(program).args(arguments).status();
    let status = status.with_context(|| program.clone())?;
    Ok(status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_external_at_the_dump_is_so_at_the_restore() {
        let dump = dump_arguments().join(" ");
        let restore = restore_arguments(Path::new("/containers/a")).join(" ");
        for (place, name) in SHARED {
            assert!(
                dump.contains(&format!("--external mnt[{place}]:{name}")),
                "{dump}"
            );
            assert!(
                restore.contains(&format!("--external mnt[{name}]:{place}")),
                "{restore}"
            );
        }
        assert!(restore.contains("--root /containers/a"), "{restore}");
    }

    #[test]
    fn places_are_below_the_root() {
        assert_eq!(below(Path::new("/r"), "/run/lab"), Path::new("/r/run/lab"));
    }
}
