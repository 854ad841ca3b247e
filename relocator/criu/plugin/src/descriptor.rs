//! What CRIU looks for in a plugin (`CR_PLUGIN_DESC`), and what it calls.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::panic::{self, AssertUnwindSafe};

use nix::libc;

use crate::host::{self, Level};
use crate::options::Options;
use crate::restore;

/// The version of the interface: 0.2.0, as in all of CRIU's versions since 2.0.
const VERSION: c_uint = 2 << 8;

/// As many hooks as the oldest CRIU knows that has the last one that is used here: CRIU refuses a
/// plugin with more than it knows.
const HOOKS: usize = RESUME_DEVICES_LATE + 1;

/// `CR_PLUGIN_HOOK__RESUME_DEVICES_LATE`: called for each restored process, whose threads have all
/// stopped at their first instruction.
const RESUME_DEVICES_LATE: usize = 9;

/// `CR_PLUGIN_STAGE__*`: what CRIU is about to do.
const DUMP: c_int = 0;

/// What a hook returns that leaves the next plugin its turn.
const NOT_SUPPORTED: c_int = -libc::ENOTSUP;

/// A plugin, as CRIU knows it (`cr_plugin_desc_t`).
#[repr(C)]
pub(crate) struct Descriptor {
    name: *const c_char,
    init: extern "C" fn(c_int) -> c_int,
    exit: extern "C" fn(c_int, c_int),
    version: c_uint,
    max_hooks: c_uint,
    hooks: [Option<extern "C" fn(c_int) -> c_int>; HOOKS],
}

// SAFETY: it is constant, and its only pointer leads to a constant string.
unsafe impl Sync for Descriptor {}

const NAME: &CStr = c"relocator_plugin";

/// What CRIU finds by `dlsym`.
#[allow(unsafe_code, reason = "the name is CRIU's")]
// SAFETY: nothing else in this library has that name.
#[unsafe(export_name = "CR_PLUGIN_DESC")]
pub(crate) static DESCRIPTOR: Descriptor = Descriptor {
    name: NAME.as_ptr(),
    init,
    exit,
    version: VERSION,
    max_hooks: HOOKS as c_uint,
    hooks: {
        let mut hooks: [Option<extern "C" fn(c_int) -> c_int>; HOOKS] = [None; HOOKS];
        hooks[RESUME_DEVICES_LATE] = Some(resume_devices_late);
        hooks
    },
};

const _: () =
    assert!(size_of::<Option<extern "C" fn(c_int) -> c_int>>() == size_of::<*const c_void>());

/// Called when CRIU has loaded the plugin. What cannot be done here keeps CRIU from nothing.
extern "C" fn init(_stage: c_int) -> c_int {
    // A message of Rust's own about a panic would go to CRIU's standard error.
    panic::set_hook(Box::new(|_| {}));
    0
}

/// Called when CRIU is done with it.
extern "C" fn exit(stage: c_int, result: c_int) {
    if stage == DUMP && result == 0 {
        guarded(capture);
    }
    // This library may be unloaded.
    drop(panic::take_hook());
}

/// Called for each process, by its number in CRIU's own PID namespace, or for none in particular (-1)
/// by some versions.
extern "C" fn resume_devices_late(pid: c_int) -> c_int {
    if pid > 0 {
        guarded(|| link(pid));
    }
    NOT_SUPPORTED
}

/// Does something of which CRIU must not notice when it goes wrong.
fn guarded(work: impl FnOnce()) {
    let Err(panic) = panic::catch_unwind(AssertUnwindSafe(work)) else {
        return;
    };
    let message = panic.downcast_ref::<String>().map(String::as_str);
    let message = message.or_else(|| panic.downcast_ref::<&str>().copied());
    let message = message.unwrap_or("no message");
    host::log(Level::Error, &format!("gave up: internal error: {message}"));
}

fn link(pid: c_int) {
    let options = Options::from_environment();
    if options.is_off {
        return host::log(
            Level::Info,
            &format!("process {pid}: left to CRIU: switched off"),
        );
    }
    match restore::link(pid, &options) {
        Ok(done) => host::log(Level::Info, &format!("process {pid}: {done}")),
        Err(reason) => {
            host::log(
                Level::Warning,
                &format!("process {pid}: left to CRIU: {reason}"),
            );
        }
    }
}

fn capture() {
    let options = Options::from_environment();
    if options.is_off {
        return;
    }
    match restore::capture(&options) {
        Ok(done) => host::log(Level::Info, &done),
        Err(reason) => host::log(Level::Warning, &format!("nothing captured: {reason}")),
    }
}
