//! The one architecture that there is.
//!
//! Flags are those of the kernel's own `Makefile`, `arch/x86/Makefile` and
//! `arch/x86/entry/vdso/Makefile`, as far as they reach the 64-bit vDSO.

use crate::compiler::Family;

/// The kernel's directory for the architecture.
pub(crate) const DIRECTORY: &str = "arch/x86";

/// The flavour of the distribution's configuration, as in the name of its file.
pub(crate) const CONFIGURATION: &str = "amd64_none_cloud-amd64";

/// Where the distribution's compilers keep their programs and libraries, by parts of names.
pub(crate) const TRIPLET: &str = "x86_64-linux-gnu";

/// glibc's dynamic linker.
pub(crate) const DYNAMIC_LINKER: &str = "ld-linux-x86-64.so.2";

/// Header files with numbers of system calls: below the generated directories, from which table,
/// for which ABIs, with which further arguments.
pub(crate) const SYSTEM_CALLS: [(&str, &str, &str, &[&str]); 5] = [
    ("uapi/asm/unistd_32.h", "syscall_32.tbl", "i386", &[]),
    ("uapi/asm/unistd_64.h", "syscall_64.tbl", "common,64", &[]),
    (
        "uapi/asm/unistd_x32.h",
        "syscall_64.tbl",
        "common,x32",
        &["--offset", "__X32_SYSCALL_BIT"],
    ),
    (
        "asm/unistd_32_ia32.h",
        "syscall_32.tbl",
        "i386",
        &["--prefix", "ia32_"],
    ),
    (
        "asm/unistd_64_x32.h",
        "syscall_64.tbl",
        "x32",
        &["--prefix", "x32_"],
    ),
];

/// Where the files of the vDSO are, in newer kernels and in older ones.
pub(crate) const VDSO: [&str; 2] = ["arch/x86/entry/vdso/vdso64", "arch/x86/entry/vdso"];

/// The linker script of the vDSO, in newer kernels and in older ones.
pub(crate) const LINKER_SCRIPTS: [&str; 2] = ["vdso64.lds.S", "vdso.lds.S"];

/// A file of the vDSO, and the option without which it is left out.
pub(crate) struct Part {
    pub(crate) file: &'static str,
    pub(crate) option: Option<&'static str>,
}

const fn always(file: &'static str) -> Part {
    Part { file, option: None }
}

const fn with(option: &'static str, file: &'static str) -> Part {
    Part {
        file,
        option: Some(option),
    }
}

/// All that a vDSO may consist of. A kernel does not have all of them.
pub(crate) const PARTS: [Part; 8] = [
    always("note.S"),
    always("vdso-note.S"),
    always("vclock_gettime.c"),
    always("vgetcpu.c"),
    with("VDSO_GETRANDOM", "vgetrandom.c"),
    with("VDSO_GETRANDOM", "vgetrandom-chacha.S"),
    with("X86_SGX", "vsgx.S"),
    with("FUTEX_ROBUST_UNLOCK", "vfutex.c"),
];

/// What C files are compiled with, whatever the kernel.
pub(crate) const FLAGS: [&str; 30] = [
    "-std=gnu11",
    "-fshort-wchar",
    "-funsigned-char",
    "-fno-common",
    "-fno-strict-aliasing",
    "-fno-delete-null-pointer-checks",
    "-fno-strict-overflow",
    "-fno-stack-check",
    "-mno-sse",
    "-mno-mmx",
    "-mno-sse2",
    "-mno-avx",
    "-mno-80387",
    "-mno-red-zone",
    "-mtune=generic",
    "-m64",
    "-mcmodel=small",
    "-fPIC",
    "-fcf-protection=none",
    "-fno-stack-protector",
    "-fno-omit-frame-pointer",
    "-foptimize-sibling-calls",
    "-fasynchronous-unwind-tables",
    "-DDISABLE_BRANCH_PROFILING",
    "-DBUILD_VDSO",
    "-DBUILD_VDSO64",
    "-D__DISABLE_EXPORTS",
    "-g",
    // The debug information of a whole kernel has all types as well.
    "-fno-eliminate-unused-debug-types",
    "-w",
];

/// What compilers of one family get besides.
pub(crate) fn family_flags(family: Family) -> &'static [&'static str] {
    match family {
        Family::Gcc => &[
            "-mno-fp-ret-in-387",
            "-mpreferred-stack-boundary=3",
            "-mskip-rax-setup",
            "-fno-allow-store-data-races",
            "-fconserve-stack",
            "-falign-jumps=1",
            "-falign-loops=1",
        ],
        Family::Clang => &["-mstack-alignment=8", "-Qunused-arguments"],
    }
}

/// `RETPOLINE_VDSO_CFLAGS`
pub(crate) fn retpoline_flags(family: Family) -> &'static [&'static str] {
    match family {
        Family::Gcc => &[
            "-mindirect-branch=thunk-inline",
            "-mindirect-branch-register",
        ],
        Family::Clang => &["-mretpoline"],
    }
}

/// What assembler files are compiled with.
pub(crate) const ASSEMBLER_FLAGS: [&str; 5] = [
    "-D__ASSEMBLY__",
    "-D__ASSEMBLER__",
    "-DBUILD_VDSO",
    "-DBUILD_VDSO64",
    "-m64",
];

/// What the linker is called with.
pub(crate) const LINKER_FLAGS: [&str; 14] = [
    "-shared",
    "--hash-style=both",
    "--build-id=sha1",
    "--no-undefined",
    "--eh-frame-hdr",
    "-Bsymbolic",
    "-z",
    "noexecstack",
    "-m",
    "elf_x86_64",
    "-soname",
    "linux-vdso.so.1",
    "-z",
    "max-page-size=4096",
];

/// What LLVM's linker is called with besides.
pub(crate) const LLVM_LINKER_FLAGS: [&str; 2] = ["-m", "elf_x86_64"];

/// Sizes of records that newer kernels state where code adds one (`asm-offsets.h`): `struct
/// alt_instr`, packed, and `struct exception_table_entry`, `struct bug_entry`, `struct jump_entry`.
pub(crate) const RECORD_SIZES: &str = "\
#define ALT_INSTR_SIZE 14
#define EXTABLE_SIZE 12
#define BUG_ENTRY_SIZE 16
#define JUMP_ENTRY_SIZE 16
";
