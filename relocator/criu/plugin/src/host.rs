//! What the plugin asks of CRIU. Each symbol is looked up when it is needed, and may be absent.

#![allow(unsafe_code, reason = "functions of CRIU's, by their names")]

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::path::PathBuf;

use nix::libc;

/// Who speaks, at the beginning of each line in CRIU's log.
const PREFIX: &str = "relocator_plugin: ";

/// How important a line is: CRIU's `LOG_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    Error = 1,
    Warning = 2,
    Info = 3,
}

/// `void print_on_level(unsigned int loglevel, const char *format, ...)`
type Print = unsafe extern "C" fn(c_uint, *const c_char, ...);

/// `int criu_get_image_dir(void)`
type ImageDirectory = unsafe extern "C" fn() -> c_int;

/// Writes a line into CRIU's log.
pub(crate) fn log(level: Level, line: &str) {
    let Some(print) = symbol(c"print_on_level") else {
        return;
    };
    // SAFETY: CRIU has had a function of that name and type since its first plugins.
    let print: Print = unsafe { std::mem::transmute::<*mut c_void, Print>(print) };
    let printable: String = line
        .chars()
        .map(|c| if c == '\0' { '?' } else { c })
        .collect();
    let Ok(line) = CString::new(format!("{PREFIX}{printable}\n")) else {
        return;
    };
    // SAFETY: the format takes one string that ends in zero, and CRIU keeps neither.
    unsafe { print(level as c_uint, c"%s".as_ptr(), line.as_ptr()) };
}

/// The directory of the images: a path that is good as long as CRIU has it open.
pub(crate) fn image_directory() -> Option<PathBuf> {
    let get = symbol(c"criu_get_image_dir")?;
    // SAFETY: CRIU has had a function of that name and type since its first plugins.
    let get: ImageDirectory = unsafe { std::mem::transmute::<*mut c_void, ImageDirectory>(get) };
    // SAFETY: it takes nothing, and returns a number.
    let directory = unsafe { get() };
    (directory >= 0).then(|| PathBuf::from(format!("/proc/self/fd/{directory}")))
}

fn symbol(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: the name ends in zero.
    let symbol = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    (!symbol.is_null()).then_some(symbol)
}
