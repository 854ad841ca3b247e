//! The kernel release, from the banner that every kernel prints when it boots.

use memchr::memmem;

/// What the banner starts with; the release follows.
const BANNER: &[u8] = b"Linux version ";

/// `__NEW_UTS_LEN`: the longest release that `uname` can report.
const MAX_LENGTH: usize = 64;

/// Finds the release in a kernel.
///
/// Kernels hold the same words in format strings and messages too, so only a banner with a number
/// counts.
pub(super) fn find(kernel: &[u8]) -> Option<String> {
    memmem::find_iter(kernel, BANNER)
        .find_map(|position| leading(kernel.get(position.checked_add(BANNER.len())?..)?))
}

/// The release that bytes start with, up to the space that ends it.
pub(super) fn leading(bytes: &[u8]) -> Option<String> {
    let window = bytes.get(..bytes.len().min(MAX_LENGTH + 1))?;
    let end = window.iter().position(|&byte| byte == b' ')?;
    let release = std::str::from_utf8(window.get(..end)?).ok()?;
    let (major, rest) = release.split_once('.')?;
    let numeric = !major.is_empty() && major.bytes().all(|byte| byte.is_ascii_digit());
    let plausible = rest.starts_with(|first: char| first.is_ascii_digit())
        && release.bytes().all(|byte| byte.is_ascii_graphic());
    (numeric && plausible).then(|| release.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn format_strings_are_passed_over() {
        let kernel = b"..Linux version %s (%s)\n\0Linux version 6.12.94+deb13-cloud-amd64 (debian@";
        assert_eq!(find(kernel).as_deref(), Some("6.12.94+deb13-cloud-amd64"));
    }

    #[test]
    fn what_is_no_release_is_not_reported() {
        for text in [
            "",
            "6.1",
            "6. x",
            ".1 x",
            "6.\u{1}1 ",
            "version 6.1 ",
            &"6.1".repeat(40),
        ] {
            assert_eq!(leading(text.as_bytes()), None, "{text:?}");
        }
    }
}
