//! The one architecture that there is.

mod counter;

/// The package with the emulator for this architecture.
pub(crate) const EMULATOR_PACKAGE: &str = "qemu-system-x86";

/// The emulator's program in that package.
pub(crate) const EMULATOR: &str = "usr/bin/qemu-system-x86_64";

/// Where the distribution keeps libraries, below a root.
pub(crate) const LIBRARY_DIRECTORIES: [&str; 4] = [
    "usr/lib/x86_64-linux-gnu",
    "lib/x86_64-linux-gnu",
    "usr/lib/x86_64-linux-gnu/pulseaudio",
    "usr/lib/x86_64-linux-gnu/samba",
];

/// The emulator's modules and firmware, below a root.
pub(crate) const EMULATOR_MODULES: &str = "usr/lib/x86_64-linux-gnu/qemu";

/// Where the emulator looks for firmware, below a root.
pub(crate) const FIRMWARE_DIRECTORIES: [&str; 3] =
    ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"];

/// glibc's dynamic linker: the name that programs ask for, as an absolute path.
pub(crate) const DYNAMIC_LINKER: &str = "/lib64/ld-linux-x86-64.so.2";

/// The file name of glibc's dynamic linker.
pub(crate) const DYNAMIC_LINKER_NAME: &str = "ld-linux-x86-64.so.2";

/// Where musl's package for development keeps headers and libraries, below a root.
pub(crate) const MUSL_HEADERS: &str = "usr/include/x86_64-linux-musl";

/// See [`MUSL_HEADERS`].
pub(crate) const MUSL_LIBRARIES: &str = "usr/lib/x86_64-linux-musl";

/// What the kernel is told about consoles: the first serial line is its own.
pub(crate) const CONSOLE: &str = "ttyS0";

/// The second serial line, which belongs to the guest program.
pub(crate) const CHANNEL: &str = "/dev/ttyS1";

/// What the machine has besides processors and memory: no display, nothing unasked for.
pub(crate) const MACHINE: [&str; 6] = [
    "-nodefaults",
    "-vga",
    "none",
    "-display",
    "none",
    "-no-reboot",
];

/// What kernels are told so that an emulator may be slow: see
/// [`Settings`](crate::machine::Settings).
pub(crate) fn kernel_arguments() -> String {
    let khz = counter::khz();
    format!("no_timer_check tsc=reliable tsc_early_khz={khz}")
}
