//! What apt says when it fails, made fit to be passed on.

use std::net::IpAddr;

/// The last error of apt, or else its last warning. Names and addresses of hosts are left out: they belong to the
/// machine's configuration, and messages end up in logs.
pub(super) fn last_error(stderr: &str) -> Option<String> {
    let last = |mark: &str| {
        let mut lines = stderr.lines().rev();
        lines.find_map(|line| line.trim().strip_prefix(mark))
    };
    // The line that only says that there were failures says less than the failure before it.
    let is_summary = |line: &&str| line.starts_with("Some index files failed");
    let warning = || {
        let mut lines = stderr.lines().rev();
        lines.find_map(|line| {
            line.trim()
                .strip_prefix("W: ")
                .filter(|line| !is_summary(line))
        })
    };
    let line = last("E: ")
        .filter(|line| !is_summary(line))
        .or_else(warning)?;
    Some(without_hosts(line))
}

/// Whether a message is about a connection rather than about what came through it.
pub(super) fn is_about_the_network(message: &str) -> bool {
    const SIGNS: [&str; 8] = [
        "could not resolve",
        "could not connect",
        "cannot initiate the connection",
        "unable to connect",
        "connection failed",
        "connection timed out",
        "temporary failure",
        "network is unreachable",
    ];
    let message = message.to_ascii_lowercase();
    SIGNS.iter().any(|sign| message.contains(sign))
}

/// Whether apt reported anything that it could not fetch.
pub(super) fn has_failures(stderr: &str) -> bool {
    stderr
        .lines()
        .any(|line| line.starts_with("E: ") || line.contains("Failed to fetch"))
}

fn without_hosts(line: &str) -> String {
    let words: Vec<String> = line.split_whitespace().map(without_host).collect();
    words.join(" ")
}

/// A word, unless it names a host: of a URI the file name is left, of the rest a mark.
fn without_host(word: &str) -> String {
    let core = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    if core.is_empty() {
        return word.to_owned();
    }
    let replacement = match core.split_once("://") {
        Some((_, rest)) => match rest.trim_end_matches('/').rsplit_once('/') {
            Some((_, file)) => file,
            None => "[archive]",
        },
        None if is_host(core) => "[host]",
        None => return word.to_owned(),
    };
    word.replacen(core, replacement, 1)
}

/// Whether a word is a host name with a dot in it, an address, or either with a port.
fn is_host(word: &str) -> bool {
    let (name, port) = match word.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (name, Some(port)),
        _ => (word, None),
    };
    let is_name = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let labels: Vec<&str> = name.split('.').collect();
    let is_domain = labels.len() > 1
        && labels.iter().all(|label| is_name(label))
        && labels.last().is_some_and(|last| {
            last.len() > 1 && last.bytes().all(|byte| byte.is_ascii_alphabetic())
        });
    let is_address = [word, name]
        .iter()
        .any(|text| text.parse::<IpAddr>().is_ok());
    is_address || is_domain || (port.is_some() && is_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_left_out() {
        for (message, expected) in [
            (
                "W: Failed to fetch http://archive.invalid/debian/dists/sid/InRelease  Could not resolve 'archive.invalid'\n\
                 W: Some index files failed to download. They have been ignored, or old ones used instead.\n",
                "Failed to fetch InRelease Could not resolve '[host]'",
            ),
            (
                "E: Failed to fetch http://a.invalid/pool/x_1.2-1_amd64.deb  Could not connect to proxy:3128 (192.0.2.7). - connect (111: Connection refused)",
                "Failed to fetch x_1.2-1_amd64.deb Could not connect to [host] ([host]). - connect (111: Connection refused)",
            ),
            (
                "E: The repository 'http://archive.invalid/debian nosuch Release' does not have a Release file.",
                "The repository 'debian nosuch Release' does not have a Release file.",
            ),
            (
                "E: Could not connect to archive.invalid:80 (2001:db8::1), connection timed out",
                "Could not connect to [host] ([host]), connection timed out",
            ),
            (
                "E: Version 6.12.94-1 of linux-image was not found.",
                "Version 6.12.94-1 of linux-image was not found.",
            ),
        ] {
            assert_eq!(last_error(message).as_deref(), Some(expected));
        }
        assert_eq!(last_error("\n"), None);
    }

    #[test]
    fn network_failures_are_told_from_others() {
        assert!(is_about_the_network(
            "Failed to fetch InRelease Could not resolve '[host]'"
        ));
        assert!(!is_about_the_network("Hash Sum mismatch"));
        assert!(has_failures(
            "W: Failed to fetch http://x  Could not resolve"
        ));
        assert!(!has_failures(
            "W: Download is performed unsandboxed as root\n"
        ));
    }
}
