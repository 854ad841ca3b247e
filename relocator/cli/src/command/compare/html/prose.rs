//! How things were measured, and what that does not show.

use super::markup::Markup;
use super::title;
use crate::json::compare::{Compare, Compared};

pub(super) const QUESTION: &str = "A process that was checkpointed on an old kernel goes on calling its old vDSO on a new \
    one, whose data pages look different. These are the approaches to deal with that, by what they get wrong first, and by what \
    they cost second.";

pub(super) const FLIGHT: &str = "A real thread is stopped at every instruction of the old vDSO that it can be brought to, \
    on an emulation of its own kernel. Then the running kernel takes the old one's place, and the thread goes on. Each bar \
    is all boundaries at which a thread was stopped; the thick one for a thread that was stopped there, the thin one for the \
    worst of all that was tried, handlers of signals included.";

pub(super) const RATIO: &str = "Time of a call as a ratio to the same call of the new kernel's own vDSO; the median over \
    the old kernels, and a line from the least to the most. Hollow where the result is wrong.";

pub(super) const LINK: &str = "Time to make the bytes of the mapping from what is in memory, and how many of them are no \
    longer what they were.";

pub(super) const TABLES: &str = "Ratios are to the native call; an exclamation mark says that what was timed returns something \
    wrong. A dash is what was not measured; the reason is below the table.";

/// What the summary is about.
pub(super) fn scope(olds: &[&Compared]) -> String {
    let names: Vec<String> = olds.iter().map(|old| title(old)).collect();
    let swept = olds
        .iter()
        .filter(|old| old.rows.iter().any(|row| row.in_flight.is_some()));
    format!(
        "Over {}. Threads were stopped in flight in {} of {}.",
        names.join(", "),
        swept.count(),
        names.len()
    )
}

/// How each number was measured.
pub(super) fn method(page: &mut Markup, report: &Compare) {
    let place = match report.time_namespace {
        true => "in a time namespace of its own, with shifted clocks",
        false => "without a time namespace of its own",
    };
    let points = [
        format!(
            "Calls: a child process ({place}) maps the image and makes each call between two system calls that do the same, {} \
             times for each combination of arguments. A result outside of what they allow is wrong. Where the new kernel's own \
             vDSO differs from its system call in the same approach, that is no mistake.",
            report.rounds
        ),
        format!(
            "Ratios: {} batches of {} calls of each implementation in turns, so that whatever else the machine does meets them \
             alike; the ratio is taken within each turn, and the median is reported.",
            report.batches, report.batch
        ),
        format!(
            "Link time: the median of {} links in memory, from parsed tables. Reading them, and finding them where an image \
             carries none, is not part of it. For CRIU it is the time to write the four jumps.",
            report.links
        ),
        "Bytes written: bytes of the old image's mapping that differ from the old image, and all that is appended. Boundaries \
         moved: instructions that are elsewhere, or overwritten behind an entry that was replaced, so that a thread cannot go \
         on there."
            .to_owned(),
        format!("In flight: {}", namespaces(report)),
        "criu and nothing are run as they would run: the old image where the old kernel had it, pages of zeros for its vvar. \
         CRIU does not do this where it takes both vDSOs for the same."
            .to_owned(),
        "step-out does not help threads that were interrupted by a signal inside: their registers are in signal frames, which \
         stay as they are. What it costs to step is not measured."
            .to_owned(),
        "syscall cannot answer everything: getrandom's question how its state is to be allocated has no system call. It fails as \
         where a kernel does not support it, and in flight that counts as wrong."
            .to_owned(),
        "The sample is one machine, one processor and the kernels in the table. Tens of thousands of calls show the presence of \
         errors, not their absence; memory that other threads of a process change meanwhile is not tried."
            .to_owned(),
    ];
    page.within("ul", &[("class", "method")], |list| {
        for point in &points {
            list.leaf("li", &[], point);
        }
    });
}

fn namespaces(report: &Compare) -> String {
    let rows = report.olds.iter().flat_map(|old| &old.rows);
    let mut flights = rows.filter_map(|row| row.in_flight.as_ref());
    match flights.next() {
        None => "not measured; the reasons are below the tables.".to_owned(),
        Some(flight) => {
            let combinations = flight.namespaces.iter().map(ToString::to_string);
            format!(
                "time namespaces {} (before and after); a restore makes a new one. The old kernel is another boot, so that no \
                 value of it is one of the new kernel's. `relocator verify OLD --in-flight` has every failure.",
                combinations.collect::<Vec<_>>().join(", ")
            )
        }
    }
}

/// A day and a time in UTC, from seconds since 1970.
pub(super) fn date(seconds: u64) -> String {
    let (mut days, time) = (seconds / 86_400, seconds % 86_400);
    let mut year = 1970;
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let length = |year| if is_leap(year) { 366 } else { 365 };
    while days >= length(year) {
        days -= length(year);
        year += 1;
    }
    let february = if is_leap(year) { 29 } else { 28 };
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in months {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let (hour, minute) = (time / 3600, time / 60 % 60);
    format!(
        "{year}-{month:02}-{:02} {hour:02}:{minute:02} UTC",
        days + 1
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_399, "2000-02-28 23:59 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (1_798_761_599, "2026-12-31 23:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00 UTC"),
        ] {
            assert_eq!(date(seconds), text);
        }
    }
}
