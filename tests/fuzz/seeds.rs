//! Writes the built-in fixtures into corpus directories, one a fuzz target.

use std::fs;
use std::path::Path;

fn main() -> std::io::Result<()> {
    let root = std::env::args().nth(1).expect("usage: seeds DIRECTORY");
    let put = |target: &str, name: &str, bytes: &[u8]| {
        let directory = Path::new(&root).join(target);
        fs::create_dir_all(&directory)?;
        fs::write(directory.join(name), bytes)
    };
    for fixture in kernel_fixtures::fixture::all() {
        put("image", fixture.name, &fixture.image)?;
        put("tables", fixture.name, &fixture.image)?;
        put("kernel", fixture.name, &fixture.image)?;
        if let Some(symtab) = &fixture.symtab {
            put("symtab", fixture.name, symtab)?;
        }
    }
    match fs::read("/sys/kernel/btf/vmlinux") {
        // The strings come last, so a truncated copy is a hostile table rather than a small one.
        Ok(btf) => put("btf", "vmlinux", &btf[..btf.len().min(1 << 20)]),
        Err(_) => Ok(()),
    }
}
