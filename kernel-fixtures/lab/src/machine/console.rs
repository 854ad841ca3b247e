//! What a kernel's console says about its end.

/// Lines that an error shows of a console.
const LINES: usize = 12;

/// The line in which a kernel says that it panicked.
pub(crate) fn panic(console: &str) -> Option<String> {
    let line = console.lines().find(|line| line.contains("Kernel panic"))?;
    Some(line.trim().to_owned())
}

/// The last lines of a console.
pub(crate) fn end(console: &str) -> String {
    let lines: Vec<&str> = console.lines().map(str::trim_end).collect();
    let from = lines.len().saturating_sub(LINES);
    match lines[from..].is_empty() {
        true => "nothing at all".to_owned(),
        false => lines[from..].join("\n    "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_found() {
        let console =
            "[    1.7] x\r\n[    1.8] Kernel panic - not syncing: VFS: no root\r\n[ 1.9] y\r\n";
        let line = panic(console).unwrap();
        assert_eq!(line, "[    1.8] Kernel panic - not syncing: VFS: no root");
        assert_eq!(panic("all is well"), None);
    }

    #[test]
    fn the_end_is_short() {
        let console: String = (0..50).map(|line| format!("{line}\r\n")).collect();
        let end = end(&console);
        assert!(end.starts_with("38\n") && end.ends_with("49"), "{end}");
        assert_eq!(super::end(""), "nothing at all");
    }
}
