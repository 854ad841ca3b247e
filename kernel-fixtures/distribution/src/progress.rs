//! A bar for what apt is downloading.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// A bar on the terminal; without a terminal, nothing.
pub(super) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Starts a bar with a text in front.
    pub(super) fn start(text: String) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self {
                bar: ProgressBar::hidden(),
            };
        }
        let bar = ProgressBar::new(100);
        // The template is a constant; should it be refused, the bar merely looks different.
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {wide_bar} {pos:>3}%") {
            bar.set_style(style);
        }
        bar.set_message(text);
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { bar }
    }

    /// Takes over what a line of apt's says; other lines are ignored.
    pub(super) fn update(&self, line: &str) {
        if let Some(percent) = percent(line) {
            self.bar.set_position(percent);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// The percentage in a line `dlstatus:NUMBER:PERCENTAGE:TEXT`.
fn percent(line: &str) -> Option<u64> {
    let mut fields = line.strip_prefix("dlstatus:")?.split(':');
    let percent: f64 = fields.nth(1)?.parse().ok()?;
    // Casts of floating point numbers saturate.
    (0.0..=100.0).contains(&percent).then_some(percent as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_lines_are_read_and_others_ignored() {
        assert_eq!(
            percent("dlstatus:3:93.3333:Retrieving file 3 of 3"),
            Some(93)
        );
        for line in [
            "",
            "dlstatus:",
            "dlstatus:1:nan:x",
            "dlstatus:1:1e9:x",
            "Get:1 x",
        ] {
            assert_eq!(percent(line), None, "{line}");
        }
    }
}
