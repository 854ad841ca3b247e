//! The demonstration as text, for 100 columns.

use std::fmt::Write;

use relocator::plan::Strategy;

use crate::command::compare::grouped;
use crate::command::output;
use crate::json::demo::{Demo, Look};

/// The demonstration as text.
pub(super) fn text(story: &Demo) -> String {
    let mut text = head(story);
    let mut table = output::table(&[
        "",
        "system call",
        "old vDSO alone",
        "CRIU's jumps",
        "linked",
    ]);
    for call in &story.calls {
        let cells = [&call.alone, &call.jumps, &call.linked].map(cell);
        let [alone, jumps, linked] = cells;
        let system = call.linked.system.clone();
        table.add_row([call.call.to_owned(), system, alone, jumps, linked]);
    }
    let _ = writeln!(text, "{table}\n");
    let _ = writeln!(
        text,
        "linked and rolled back {} times while it ran, each time stopped for {:.1} ms: {}",
        story.cycles,
        story.stop_us / 1e3,
        fates(story)
    );
    text.push_str(&proof(story));
    text
}

fn head(story: &Demo) -> String {
    let (old, new, pid, threads) = (&story.old, &story.new, story.pid, story.threads);
    format!(
        "old vDSO  {old}\nkernel    {new}\n\
         process   {pid}, {threads} threads, as a restore leaves it: the old vDSO, and zeros for its vvar\n\n"
    )
}

/// How many functions came out in which way.
fn fates(story: &Demo) -> String {
    let describe = |strategy: Strategy| {
        let word = match strategy {
            Strategy::Keep => "kept",
            Strategy::Relocate => "relocated",
            Strategy::Proxy => "proxied",
            Strategy::Syscall => "replaced by system calls",
        };
        let number = story.number_of(strategy);
        (number > 0).then(|| format!("{number} {word}"))
    };
    let order = [
        Strategy::Relocate,
        Strategy::Keep,
        Strategy::Proxy,
        Strategy::Syscall,
    ];
    let fates: Vec<String> = order.into_iter().filter_map(describe).collect();
    format!("functions {}", fates.join(", "))
}

/// The three lines that say what was shown.
fn proof(story: &Demo) -> String {
    let verdict = match story.is_proved() {
        true => "proved",
        false => "NOT proved",
    };
    let before = format!(
        "{} of {}",
        grouped(story.before.wrong),
        grouped(story.before.compared)
    );
    let linked = format!(
        "{} of {}",
        grouped(story.linked.wrong),
        grouped(story.linked.compared)
    );
    let went_on = match story.linked.silent {
        0 => "all went on".to_owned(),
        silent => format!("{silent} HANG"),
    };
    format!(
        "\n{verdict}\n\
         1. right      with CRIU's jumps, {before} compared calls were wrong; linked, {linked}\n\
         2. in flight  {} times a thread was inside the old code when it was linked; {went_on}\n\
         3. undone     after {} of {} rollbacks, text and mappings were byte for byte as before\n",
        story.inside, story.restored, story.cycles
    )
}

/// Whether a call is right, what it said if not, and what it costs.
fn cell(look: &Look) -> String {
    let time = look.nanoseconds;
    match look.is_right {
        true => format!("right, {time:.0} ns"),
        false => format!("WRONG {}", look.value),
    }
}
