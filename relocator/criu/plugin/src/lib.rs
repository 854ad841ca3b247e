//! A plugin of CRIU's: it links processes while CRIU restores them, and leaves what that takes beside
//! the images when CRIU dumps.
//!
//! | module | does |
//! |---|---|
//! | `descriptor` | what CRIU looks for in a plugin, and what it calls |
//! | `host` | what the plugin asks of CRIU: its log, its image directory |
//! | `options` | what the environment says |
//! | `restore` | links a process that CRIU has restored |
//!
//! CRIU runs a plugin in its own process, so a mistake here is one of CRIU's:
//!
//! - Nothing panics across the border. A panic becomes a line in CRIU's log.
//! - Every function that CRIU calls returns what leaves CRIU's own result in place. A hook says
//!   `-ENOTSUP`, after which CRIU asks the next plugin.
//! - The plugin needs no symbol of CRIU's to be loaded: a file in the plugin directory that cannot be
//!   loaded keeps CRIU from restoring anything. It looks up what it can use.
//! - It prints to CRIU's log only, and changes nothing in CRIU's process.

mod descriptor;
mod host;
mod options;
mod restore;
