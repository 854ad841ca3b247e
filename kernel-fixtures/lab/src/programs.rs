//! Programs of this workspace that guests run, built and made small.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// The workspace that the lab was built in.
pub(crate) fn workspace() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.ancestors().nth(2).unwrap_or(own).to_owned()
}

/// Where cargo builds, by where this program is: `TARGET/PROFILE/kernel-lab`.
pub(crate) fn target_directory() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let above = own
        .ancestors()
        .find(|directory| directory.join("CACHEDIR.TAG").is_file());
    Ok(above.map_or_else(|| workspace().join("target"), Path::to_owned))
}

/// Cargo, building in the workspace of the lab.
pub(crate) fn cargo(action: &str) -> Result<Command> {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.arg(action).arg("--quiet").arg("--manifest-path");
    command.arg(workspace().join("Cargo.toml"));
    command.arg("--target-dir").arg(target_directory()?);
    command.stdin(Stdio::null());
    Ok(command)
}

/// Builds the command that links, with optimisations: the file.
pub(crate) fn relocator() -> Result<PathBuf> {
    optimised("relocator-cli", &["--bin", "relocator"], "relocator")
}

/// Builds the plugin of CRIU's, with optimisations: the file.
pub(crate) fn plugin() -> Result<PathBuf> {
    optimised("relocator-plugin", &["--lib"], "librelocator_plugin.so")
}

fn optimised(package: &str, what: &[&str], file: &str) -> Result<PathBuf> {
    let mut command = cargo("build")?;
    command.args(["--release", "--package", package]).args(what);
    let status = command.status().context("cargo")?;
    if !status.success() {
        bail!("{package} cannot be built: {status}");
    }
    Ok(target_directory()?.join("release").join(file))
}

/// The content of a program without what only a debugger needs, which is most of it.
pub(crate) fn small(program: &Path) -> Result<Vec<u8>> {
    let directory = crate::scratch::directory()?;
    let copy = directory.path().join("program");
    let stripped = Command::new("strip")
        .args(["--strip-debug", "-o"])
        .args([&copy, program])
        .stderr(Stdio::null())
        .status();
    // Without the tool the program is merely larger.
    let source = match stripped.is_ok_and(|status| status.success()) {
        true => copy,
        false => program.to_owned(),
    };
    std::fs::read(&source).with_context(|| source.display().to_string())
}
