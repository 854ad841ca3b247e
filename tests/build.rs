//! Says which machine tests are built for, and compiles the programs of tests that are in C and C++: where
//! tests run there need not be a compiler.

use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A program.
struct Program {
    name: &'static str,
    source: &'static str,
    flags: &'static [&'static str],
    /// What it is linked with.
    libraries: &'static [&'static str],
    /// The variable that says why there is none.
    failure: &'static str,
}

const PROGRAMS: [Program; 3] = [
    Program {
        name: "static",
        source: "tests/apply/static.c",
        flags: &["-static", "-O2", "-s"],
        libraries: &[],
        failure: "RELOCATOR_TESTS_NO_STATIC",
    },
    // It pushes words that the compiler does not know of. Cleanups are for unwinders to find.
    Program {
        name: "unwinder",
        source: "tests/apply/unwinder.c",
        flags: &[
            "-O1",
            "-fexceptions",
            "-fno-omit-frame-pointer",
            "-mno-red-zone",
            "-pthread",
        ],
        libraries: &[],
        failure: "RELOCATOR_TESTS_NO_UNWINDER",
    },
    // Signal handlers throw, so any instruction may. Where it runs there need not be a C++ library.
    Program {
        name: "thrown",
        source: "tests/apply/thrown.cc",
        flags: &[
            "-O1",
            "-fexceptions",
            "-fnon-call-exceptions",
            "-fasynchronous-unwind-tables",
        ],
        libraries: &["-Wl,-Bstatic", "-lstdc++", "-Wl,-Bdynamic", "-lm"],
        failure: "RELOCATOR_TESTS_NO_THROWN",
    },
];

fn main() {
    let target = std::env::var("TARGET").unwrap_or_default();
    println!("cargo:rustc-env=RELOCATOR_TESTS_TARGET={target}");
    println!("cargo:rerun-if-changed=build.rs");
    let directory = std::env::var_os("OUT_DIR").expect("cargo says where");
    for program in PROGRAMS {
        println!("cargo:rerun-if-changed={}", program.source);
        let path = PathBuf::from(&directory).join(program.name);
        if let Err(failure) = compile(&program, &path) {
            // Tests say why they are ignored. A file that is not there makes cargo try again the
            // next time.
            println!("cargo:rerun-if-changed=no-compiler");
            std::fs::write(&path, b"").expect("its own directory can be written");
            println!("cargo:rustc-env={}={failure}", program.failure);
        }
    }
}

/// Compiles a program, or says in one line why that cannot be.
fn compile(program: &Program, path: &PathBuf) -> Result<(), String> {
    let mut command = Command::new("cc");
    command.args(program.flags).arg("-o").arg(path);
    command.arg(program.source).args(program.libraries);
    let compiled = command.stdin(Stdio::null()).output();
    let failed = format!("no {} program can be made", program.name);
    let compiled = compiled.map_err(|error| format!("{failed}: cc: {error}"))?;
    if compiled.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&compiled.stderr);
    let last = said.lines().last().unwrap_or_default();
    Err(format!("{failed}: {last}"))
}
