//! Says which machine tests are built for, and compiles the program that has no shared library: where
//! tests run there need not be a compiler.

use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Its source.
const STATIC: &str = "tests/apply/static.c";

fn main() {
    let target = std::env::var("TARGET").unwrap_or_default();
    println!("cargo:rustc-env=RELOCATOR_TESTS_TARGET={target}");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={STATIC}");
    let directory = std::env::var_os("OUT_DIR").expect("cargo says where");
    let program = PathBuf::from(directory).join("static");
    if let Err(failure) = compile(&program) {
        // Tests say why they are ignored. A file that is not there makes cargo try again the next time.
        println!("cargo:rerun-if-changed=no-compiler");
        std::fs::write(&program, b"").expect("its own directory can be written");
        println!("cargo:rustc-env=RELOCATOR_TESTS_NO_STATIC={failure}");
    }
}

/// Compiles it, or says in one line why that cannot be.
fn compile(program: &PathBuf) -> Result<(), String> {
    let mut command = Command::new("cc");
    command.args(["-static", "-O2", "-s", "-o"]).arg(program);
    let compiled = command.arg(STATIC).stdin(Stdio::null()).output();
    let compiled =
        compiled.map_err(|error| format!("no static program can be made: cc: {error}"))?;
    if compiled.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&compiled.stderr);
    let last = said.lines().last().unwrap_or_default();
    Err(format!("no static program can be made: {last}"))
}
