//! The checker is compiled by the machine's C compiler, once for each C library that runs it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use kernel_source::Tree;

use crate::arch;

const SOURCE: &str = include_str!("checker.c");

/// How a program finds its C library in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Libc {
    /// glibc in that directory of the guest: the dynamic linker and the libraries beside it.
    Glibc(PathBuf),
    /// musl from that tree, linked statically.
    Musl(Tree),
}

/// Compiles the checker for a C library, as `output`.
///
/// For a glibc other than the machine's it is the same program with another dynamic linker: what it
/// uses is older than any glibc that the lab has.
pub(crate) fn compile(libc: &Libc, output: &Path) -> Result<()> {
    let source = output.with_extension("c");
    std::fs::write(&source, SOURCE).with_context(|| source.display().to_string())?;
    let mut command = Command::new("cc");
    command.args(["-O2", "-o"]).arg(output);
    match libc {
        Libc::Glibc(directory) => {
            let linker = directory.join(arch::DYNAMIC_LINKER_NAME);
            command
                .arg(&source)
                .arg(format!("-Wl,--dynamic-linker={}", linker.display()))
                .arg(format!("-Wl,-rpath={}", directory.display()))
                .arg("-pthread");
        }
        Libc::Musl(tree) => {
            let libraries = tree.root.join(arch::MUSL_LIBRARIES);
            let file = |name: &str| libraries.join(name);
            command
                .args([
                    "-nostdinc",
                    "-nostdlib",
                    "-static",
                    "-fno-stack-protector",
                    "-isystem",
                ])
                .arg(tree.root.join(arch::MUSL_HEADERS))
                .arg("-isystem")
                .arg(own_headers()?)
                .args([file("crt1.o"), file("crti.o"), source.clone()])
                .args([file("libc.a")])
                .arg("-lgcc")
                .arg(file("crtn.o"));
        }
    }
    let result = command.output();
    let result = result.context("the checker needs a C compiler: cc")?;
    if !result.status.success() {
        let said = String::from_utf8_lossy(&result.stderr);
        bail!("the checker does not compile: {said}");
    }
    Ok(())
}

/// The headers that a compiler brings itself, which are no C library's.
fn own_headers() -> Result<PathBuf> {
    let output = Command::new("cc").arg("-print-file-name=include").output();
    let output = output.context("the checker needs a C compiler: cc")?;
    Ok(PathBuf::from(
        String::from_utf8_lossy(&output.stdout).trim(),
    ))
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;
    use std::time::{Duration, Instant};

    use super::super::{Page, SIZE};
    use super::*;

    /// The checker finds nothing wrong where nothing is, and all of its threads move on.
    #[test]
    fn all_is_well_at_home() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("checker");
        let linker = Path::new(arch::DYNAMIC_LINKER).parent().unwrap();
        compile(&Libc::Glibc(linker.to_owned()), &program).unwrap();
        let page = directory.path().join("page");
        std::fs::write(&page, vec![0; SIZE]).unwrap();
        let mut child = Command::new(&program)
            .arg(&page)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let read = || Page::parse(&std::fs::read(&page).unwrap()).unwrap();
        let began = Instant::now();
        while !(read().is_ready && read().progress.iter().all(|&steps| steps > 0)) {
            assert!(began.elapsed() < Duration::from_secs(60), "{:?}", read());
            std::thread::sleep(Duration::from_millis(20));
        }
        let earlier = read();
        while read().since(&earlier).still != [0; 0] {
            assert!(began.elapsed() < Duration::from_secs(60), "{:?}", read());
            std::thread::sleep(Duration::from_millis(20));
        }
        let observed = read().since(&Page::default());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(read().messages, [""; 0]);
        assert_eq!(observed.all_wrong(), 0);
    }
}
