//! apt, in a state directory of its own.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use super::archive::{Archives, Group};
use super::package::{self, Package, Request};
use super::progress::Progress;
use super::sources::{self, Source};
use super::{FetchError, file_name, message};

/// The architecture whose kernels are fetched, whatever the machine is.
pub(super) const ARCHITECTURE: &str = "amd64";

/// Unsets what the machine's configuration hooks into apt, all of it for the machine's own state.
const CONFIGURATION: &str = "\
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear APT::Update::Post-Invoke-Stats;
";

/// Options for all calls. Lists other than those of packages are left out; waiting for the network is bounded; the
/// progress goes to the standard output, where nothing else does.
const OPTIONS: [&str; 10] = [
    "Dir::Etc::sourceparts=/dev/null",
    "Dir::State::status=/dev/null",
    "Acquire::Languages=none",
    "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
    "Acquire::IndexTargets::deb::CNF::DefaultEnabled=false",
    "Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false",
    "Acquire::http::Timeout=30",
    "Acquire::https::Timeout=30",
    "Acquire::Retries=2",
    "APT::Status-Fd=1",
];

/// How long bringing lists up to date may take, all of them together.
const UPDATE: Duration = Duration::from_secs(120);

/// For how long lists count as up to date. Asking again for a kernel that there is not is quick.
const FRESH: Duration = Duration::from_secs(3600);

/// The file whose age is that of the lists.
const UPDATED: &str = "updated";

/// The package sources in the machine's own configuration.
pub(super) fn machine_sources() -> Result<Vec<Source>, FetchError> {
    // Asked for as shell assignments, since that is the form in which apt gives whole paths.
    let mut command = Command::new("apt-config");
    command.args([
        "shell",
        "LIST",
        "Dir::Etc::sourcelist/f",
        "PARTS",
        "Dir::Etc::sourceparts/d",
    ]);
    let output = run(&mut command)?;
    let assignment = |name: &str, default: &str| {
        let quoted = output
            .stdout
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        PathBuf::from(quoted.map_or(default, |path| path.trim_matches('\'')))
    };
    let list = assignment("LIST", "/etc/apt/sources.list");
    let parts = assignment("PARTS", "/etc/apt/sources.list.d");
    Ok(sources::read(&list, &parts))
}

/// apt with a state directory of its own. Callers hold its lock.
pub(super) struct Apt {
    directory: PathBuf,
}

impl Apt {
    /// Creates the state directory where it is not there yet.
    pub(super) fn set_up(directory: PathBuf) -> Result<Self, FetchError> {
        let apt = Self { directory };
        for directory in ["lists/partial", "cache/archives/partial", "download"] {
            let path = apt.directory.join(directory);
            fs::create_dir_all(&path).map_err(FetchError::io(&path))?;
        }
        apt.write("apt.conf", CONFIGURATION)?;
        Ok(apt)
    }

    /// Finds the package of a kernel in the suites of a group, after bringing their lists up to date.
    pub(super) fn find(
        &self,
        archives: &Archives,
        group: &Group,
        request: &Request,
    ) -> Result<Package, FetchError> {
        let failed = self.update(archives, group, &format!("Linux {}", request.text()))?;
        if failed.is_none() && self.is_absent(request) {
            return Err(none(request, group));
        }
        if let Some(package) = package::choose(request, self.packages(request)?) {
            return Ok(package);
        }
        // Failures of single lists do not matter as long as the kernel is in another.
        match failed {
            None => {
                self.write(&absent(request), "")?;
                Err(none(request, group))
            }
            Some(update) => Err(update.error("update its package lists")),
        }
    }

    /// Whether the lists as they are were searched for a kernel in vain. Reading them takes seconds.
    fn is_absent(&self, request: &Request) -> bool {
        let modified = |name: &str| {
            let file = fs::metadata(self.directory.join(name));
            file.and_then(|file| file.modified()).ok()
        };
        let searched = modified(&absent(request));
        searched.is_some() && searched >= modified(UPDATED)
    }

    /// Whether the lists of these sources were brought up to date a moment ago.
    fn is_fresh(&self, sources: &str) -> bool {
        let known = fs::read_to_string(self.directory.join("archive.sources"));
        let updated = fs::metadata(self.directory.join(UPDATED)).and_then(|file| file.modified());
        let age = updated.ok().and_then(|updated| updated.elapsed().ok());
        known.is_ok_and(|known| known == sources) && age.is_some_and(|age| age < FRESH)
    }

    /// Downloads packages with everything that they depend on, as if nothing were installed. A
    /// package can be given as `NAME`, `NAME/SUITE` or `NAME=VERSION`.
    pub(super) fn download_closure(
        &self,
        archives: &Archives,
        group: &Group,
        packages: &[&str],
    ) -> Result<Vec<PathBuf>, FetchError> {
        let archive = self.directory.join("cache/archives");
        let failed = self.update(archives, group, group.name())?;
        let progress = Progress::start(packages.join(" "));
        let mut command = self.command("apt-get");
        command
            .args(["-qq", "--yes", "--download-only"])
            .args(["--no-install-recommends", "install", "--"])
            .args(packages);
        let result = run_with(&mut command, None, |line| progress.update(line))?;
        drop(progress);
        if !result.status.success() {
            // Without its lists apt only says that there is no such package.
            let failed = failed.as_ref().unwrap_or(&result);
            return Err(failed.error(&format!("download {}", packages.join(" "))));
        }
        let is_package = |file: &PathBuf| file.extension().is_some_and(|kind| kind == "deb");
        Ok(files(&archive)?.into_iter().filter(is_package).collect())
    }

    /// Downloads one package of that version alone.
    pub(super) fn download_exact(
        &self,
        archives: &Archives,
        group: &Group,
        name: &str,
        version: &str,
    ) -> Result<PathBuf, FetchError> {
        self.update(archives, group, name)?;
        let mut command = self.command("apt-cache");
        command.args(["show", "--all-versions", "--", name]);
        let descriptions = run(&mut command)?;
        let packages = package::parse_descriptions(&descriptions.stdout);
        let package = packages.iter().find(|package| package.version == version);
        let package = package.ok_or_else(|| FetchError::NoSuchPackage {
            version: format!("{name} {version}"),
            suites: group.suites(),
        })?;
        self.download(package)
    }

    /// Brings the lists of the suites of a group up to date, unless they are. The result is what
    /// went wrong, if some of them are missing now.
    fn update(
        &self,
        archives: &Archives,
        group: &Group,
        of: &str,
    ) -> Result<Option<Output>, FetchError> {
        let sources = archives.sources(group);
        if self.is_fresh(&sources) {
            return Ok(None);
        }
        self.write("archive.sources", &sources)?;
        let progress = Progress::start(format!("package lists for {of}"));
        let mut command = self.command("apt-get");
        let update = command.args(["-qq", "update"]);
        let update = run_with(update, Some(UPDATE), |line| progress.update(line))?;
        drop(progress);
        if !update.status.success() || message::has_failures(&update.stderr) {
            return Ok(Some(update));
        }
        self.write(UPDATED, "")?;
        Ok(None)
    }

    /// Downloads a package, or what is missing of it.
    pub(super) fn download(&self, package: &Package) -> Result<PathBuf, FetchError> {
        let directory = self.directory.join("download");
        clean(&directory, package)?;
        let progress = Progress::start(format!("{} {}", package.name, package.version));
        let wanted = format!("{}={}", package.name, package.version);
        let mut command = self.command("apt-get");
        command
            .current_dir(&directory)
            .args(["-qq", "download", "--", &wanted]);
        let result = run_with(&mut command, None, |line| progress.update(line))?;
        drop(progress);
        if !result.status.success() {
            return Err(result.error(&format!("download {wanted}")));
        }
        let files = files(&directory)?;
        let deb = files.into_iter().find(|file| is_of(file, package));
        deb.ok_or_else(|| result.error(&format!("download {wanted}")))
    }

    /// The packages in the lists that could be what was asked for.
    fn packages(&self, request: &Request) -> Result<Vec<Package>, FetchError> {
        let names = run(self.command("apt-cache").args(["pkgnames", "linux-"]))?;
        if !names.status.success() {
            return Err(names.error("read its package lists"));
        }
        let names: Vec<&str> = names
            .stdout
            .lines()
            .filter(|name| request.could_be(name))
            .collect();
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let mut command = self.command("apt-cache");
        command.args(["show", "--all-versions", "--"]).args(names);
        let descriptions = run(&mut command)?;
        if !descriptions.status.success() {
            return Err(descriptions.error("read its package lists"));
        }
        Ok(package::parse_descriptions(&descriptions.stdout))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("-c").arg(self.directory.join("apt.conf"));
        for (option, path) in [
            ("Dir::State", ""),
            ("Dir::State::lists", "lists"),
            ("Dir::Cache", "cache"),
            ("Dir::Etc::sourcelist", "archive.sources"),
        ] {
            let mut value = OsString::from(format!("{option}="));
            value.push(self.directory.join(path));
            command.args([OsStr::new("-o"), &value]);
        }
        for option in OPTIONS {
            command.args(["-o", option]);
        }
        for option in ["APT::Architecture", "APT::Architectures"] {
            command.arg("-o").arg(format!("{option}={ARCHITECTURE}"));
        }
        command
    }

    fn write(&self, name: &str, text: &str) -> Result<(), FetchError> {
        let path = self.directory.join(name);
        fs::write(&path, text).map_err(FetchError::io(&path))
    }
}

/// Leaves an unfinished download of that package, and nothing else.
///
/// apt continues an unfinished download and checks it when it is complete. A file that is complete already it takes
/// as it is, unchecked; so one that was left behind is not kept.
fn clean(directory: &Path, package: &Package) -> Result<(), FetchError> {
    for file in files(directory)? {
        let size = fs::metadata(&file).map_err(FetchError::io(&file))?.len();
        if !is_of(&file, package) || size >= package.size {
            fs::remove_file(&file).map_err(FetchError::io(&file))?;
        }
    }
    Ok(())
}

fn files(directory: &Path) -> Result<Vec<PathBuf>, FetchError> {
    let entries = fs::read_dir(directory).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let entries = entries.map_err(FetchError::io(directory))?;
    Ok(entries.iter().map(fs::DirEntry::path).collect())
}

/// Whether a file has the name that apt gives to a package.
fn is_of(file: &Path, package: &Package) -> bool {
    let version = package.version.replace(':', "%3a");
    file_name(file).starts_with(&format!("{}_{version}_", package.name))
}

/// The file that says that a kernel is not in the lists.
fn absent(request: &Request) -> String {
    format!("absent-{}", request.text())
}

/// That a group of suites does not have a kernel.
fn none(request: &Request, group: &Group) -> FetchError {
    FetchError::NoSuchPackage {
        version: request.text().to_owned(),
        suites: group.suites(),
    }
}

/// What a program that has ended left.
struct Output {
    status: ExitStatus,
    stdout: String,
    stderr: String,
}

impl Output {
    /// The error that the program's last words amount to.
    fn error(&self, action: &str) -> FetchError {
        let reason = message::last_error(&self.stderr).unwrap_or_else(|| self.status.to_string());
        if message::is_about_the_network(&reason) {
            return FetchError::Network { reason };
        }
        let action = action.to_owned();
        FetchError::Apt { action, reason }
    }
}

fn run(command: &mut Command) -> Result<Output, FetchError> {
    let mut stdout = String::new();
    let output = run_with(command, None, |line| {
        stdout.push_str(line);
        stdout.push('\n');
    })?;
    Ok(Output { stdout, ..output })
}

/// Runs a program and passes on the lines that it prints, as it prints them.
///
/// Should this process be killed, the pipe breaks, and apt ends soon after.
fn run_with(
    command: &mut Command,
    limit: Option<Duration>,
    mut line: impl FnMut(&str),
) -> Result<Output, FetchError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |source| FetchError::MissingProgram { program, source };
    // Messages are read, so they have to be in the language they are known in.
    command.env("LC_ALL", "C").env_remove("LANGUAGE");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return Err(failed(error)),
    };
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (ended, end) = mpsc::channel::<()>();
    let mut is_late = false;
    let stderr = std::thread::scope(|scope| {
        if let Some(limit) = limit {
            let (child, is_late) = (&mut child, &mut is_late);
            scope.spawn(move || {
                if end.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                    *is_late = true;
                    // It may have ended by itself at this moment.
                    let _ = child.kill();
                }
            });
        }
        // Both pipes have to be emptied at the same time, or the program may wait for the other one for ever.
        let errors = scope.spawn(move || {
            let mut bytes = Vec::new();
            // What was read before a failure is still worth showing.
            let _ = stderr.map(|mut stderr| stderr.read_to_end(&mut bytes));
            String::from_utf8_lossy(&bytes).into_owned()
        });
        for text in stdout
            .into_iter()
            .flat_map(|stdout| BufReader::new(stdout).split(b'\n'))
        {
            match text {
                Ok(text) => line(&String::from_utf8_lossy(&text)),
                Err(_) => break,
            }
        }
        drop(ended);
        errors.join().unwrap_or_default()
    });
    if let Some(limit) = limit.filter(|_| is_late) {
        let reason = format!("it did not answer in full within {limit:?}");
        return Err(FetchError::Network { reason });
    }
    let status = child.wait().map_err(failed)?;
    let stdout = String::new();
    Ok(Output {
        status,
        stdout,
        stderr,
    })
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn only_an_unfinished_download_of_the_package_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let package = Package {
            name: "linux-image-x".to_owned(),
            version: "1:6.12-1".to_owned(),
            size: 10,
            sha256: None,
        };
        let unfinished = "linux-image-x_1%3a6.12-1_amd64.deb";
        for (name, size) in [
            (unfinished, 9),
            ("linux-image-x_6.11-1_amd64.deb", 9),
            ("other.deb", 1),
        ] {
            fs::write(directory.path().join(name), vec![0; size]).unwrap();
        }
        clean(directory.path(), &package).unwrap();
        assert_eq!(
            files(directory.path()).unwrap(),
            [directory.path().join(unfinished)]
        );
        fs::write(directory.path().join(unfinished), [0; 10]).unwrap();
        clean(directory.path(), &package).unwrap();
        assert!(
            files(directory.path()).unwrap().is_empty(),
            "apt would not check it"
        );
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = run(&mut Command::new("no-such-program-here"))
            .err()
            .unwrap();
        assert!(
            error
                .to_string()
                .contains("cannot run no-such-program-here"),
            "{error}"
        );
    }

    #[test]
    fn a_program_that_takes_too_long_is_ended() {
        let limit = Some(Duration::from_millis(10));
        let mut command = Command::new("sleep");
        let result = run_with(command.arg("600"), limit, |_| {});
        let error = result.err().unwrap().to_string();
        assert!(error.contains("within 10ms"), "{error}");
    }

    #[test]
    fn lists_are_fresh_for_a_while_and_for_their_own_sources() {
        let directory = tempfile::tempdir().unwrap();
        let apt = Apt::set_up(directory.path().to_owned()).unwrap();
        assert!(!apt.is_fresh("sources"));
        apt.write("archive.sources", "sources").unwrap();
        assert!(!apt.is_fresh("sources"));
        apt.write(UPDATED, "").unwrap();
        assert!(apt.is_fresh("sources"));
        assert!(!apt.is_fresh("others"));
        let updated = fs::File::open(directory.path().join(UPDATED)).unwrap();
        updated.set_modified(SystemTime::now() - 2 * FRESH).unwrap();
        assert!(!apt.is_fresh("sources"));
    }

    #[test]
    fn a_search_in_vain_holds_until_lists_are_newer() {
        let directory = tempfile::tempdir().unwrap();
        let apt = Apt::set_up(directory.path().to_owned()).unwrap();
        let request = Request::parse("6.18.99").unwrap();
        let touch = |name: &str, age: u64| {
            apt.write(name, "").unwrap();
            let file = fs::File::open(directory.path().join(name)).unwrap();
            let time = SystemTime::now() - Duration::from_secs(age);
            file.set_modified(time).unwrap();
        };
        touch(UPDATED, 20);
        assert!(!apt.is_absent(&request));
        touch(&absent(&request), 10);
        assert!(apt.is_absent(&request));
        assert!(!apt.is_absent(&Request::parse("6.18.98").unwrap()));
        touch(UPDATED, 5);
        assert!(!apt.is_absent(&request));
    }

    #[test]
    fn both_outputs_of_a_program_are_read() {
        let mut lines = Vec::new();
        let mut command = Command::new("sh");
        command.args(["-c", "echo one; echo 'E: three' >&2; echo two; exit 3"]);
        let limit = Some(Duration::from_secs(60));
        let output = run_with(&mut command, limit, |line| lines.push(line.to_owned())).unwrap();
        assert_eq!(lines, ["one", "two"]);
        assert_eq!(output.status.code(), Some(3));
        let error = output.error("count").to_string();
        assert_eq!(error, "apt could not count: three");
    }
}
