//! The `relocator` command, which is built by another package.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;

/// Where cargo puts the command when it builds with the profile that this test was built with.
static BINARY: LazyLock<PathBuf> = LazyLock::new(|| {
    let directory = build(&["--bin", "relocator"]);
    directory.join(format!("relocator{}", std::env::consts::EXE_SUFFIX))
});

/// Where it puts the plugin of CRIU's.
static PLUGIN: LazyLock<PathBuf> =
    LazyLock::new(|| build(&["--lib"]).join("librelocator_plugin.so"));

/// The plugin of CRIU's.
pub fn plugin() -> &'static Path {
    &PLUGIN
}

/// A way to call the command. It keeps no tables: what one test derives is nothing that another one should find.
pub fn relocator() -> Command {
    let mut command = Command::new(&*BINARY);
    command
        .stdin(Stdio::null())
        .env(relocator_cli::cache::VARIABLE, "/dev/null");
    command
}

/// What the command does with these arguments and a cache of tables.
pub fn run_with_cache<A: AsRef<std::ffi::OsStr>>(
    cache: &Path,
    arguments: impl IntoIterator<Item = A>,
) -> Ran {
    let mut command = relocator();
    command.env(relocator_cli::cache::VARIABLE, cache);
    Ran::of(command.args(arguments).output())
}

/// What the command does with these arguments.
pub fn run<A: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = A>) -> Ran {
    Ran::of(relocator().args(arguments).output())
}

/// The same where nothing can be printed: the device is full.
pub fn run_without_room<A: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = A>) -> Ran {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full");
    let mut command = relocator();
    command
        .stdout(full.expect("Linux has one"))
        .stderr(Stdio::piped());
    let child = command.args(arguments).spawn();
    Ran::of(child.and_then(std::process::Child::wait_with_output))
}

/// What a command said, and how it ended.
#[derive(Debug)]
pub struct Ran {
    /// Exit status; `None` if a signal ended it.
    pub status: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Ran {
    fn of(output: std::io::Result<Output>) -> Self {
        let output = output.expect("the command can be run");
        Self {
            status: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("output is UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("messages are UTF-8"),
        }
    }

    /// Standard output of a command that has succeeded without a message.
    #[track_caller]
    pub fn success(self) -> String {
        assert_eq!(
            (self.status, self.stderr.as_str()),
            (Some(0), ""),
            "{self:?}"
        );
        self.stdout
    }

    /// The message of a command that has ended with that status and printed nothing else.
    #[track_caller]
    pub fn failure(self, status: i32) -> String {
        assert_eq!(
            (self.status, self.stdout.as_str()),
            (Some(status), ""),
            "{self:?}"
        );
        let message = self.stderr.trim_end().to_owned();
        assert!(
            message.starts_with("relocator: ") && !message.contains('\n'),
            "one line that says who is speaking: {message:?}"
        );
        message
    }
}

/// Builds something, since `cargo test` only builds commands of the package that is tested. Cargo finds nothing to do
/// where it is up to date; taking one that happens to be there would test yesterday's. Returns where it is.
fn build(what: &[&str]) -> PathBuf {
    let own = std::env::current_exe().expect("a test knows where it is");
    // TARGET/PROFILE/deps/NAME-HASH
    let profile = own.ancestors().nth(2).expect("tests are built by cargo");
    let target = profile.parent().expect("profiles have a directory");
    let name = match profile.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    let output = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--workspace"])
        .args(what)
        .args(["--profile", name, "--manifest-path"])
        .arg(workspace)
        .arg("--target-dir")
        .arg(target)
        .stdin(Stdio::null())
        .output()
        .expect("cargo can be run");
    assert!(
        output.status.success(),
        "{what:?} cannot be built: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    profile.to_owned()
}
