//! Where the command keeps derived tables, and vDSOs, for the next time.

use std::path::PathBuf;

use relocator_process::kept::TableDirectory;

/// The environment variable that says where the cache is.
pub const VARIABLE: &str = "RELOCATOR_TABLES";

/// The usual cache: the directory in `RELOCATOR_TABLES`, else `relocator` in the user's cache
/// directory. `None` for a user without one.
pub fn locate() -> Option<TableDirectory> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let of_user = || {
        let home = || Some(PathBuf::from(variable("HOME")?).join(".cache"));
        let caches = variable("XDG_CACHE_HOME").map(PathBuf::from);
        caches.or_else(home).map(|caches| caches.join("relocator"))
    };
    let root = variable(VARIABLE).map(PathBuf::from).or_else(of_user);
    root.map(TableDirectory::at)
}
