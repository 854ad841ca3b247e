//! A comparison as a page: one file with everything in it, which needs no script and nothing from elsewhere.
//!
//! | module | does |
//! |---|---|
//! | `markup` | elements, escaped and closed |
//! | `svg` | scales and shapes |
//! | `summary` | each strategy in a few numbers and a sentence |
//! | `flight`, `ratio`, `link` | the plots |
//! | `tables` | every number, with the place in the JSON that it is from |
//! | `prose` | how things were measured, and what that does not show |

mod flight;
mod link;
mod markup;
mod prose;
mod ratio;
mod summary;
mod svg;
mod tables;
#[cfg(test)]
mod tests;

use markup::Markup;

use relocator_verify::Approach;
use relocator_verify::compare::Ending;

use crate::json::compare::{Compare, Compared};

/// What may become of a thread, and what that means, in the order of bars and columns.
const OUTCOMES: [(Ending, &str); 6] = [
    (Ending::New, "says what the new kernel says"),
    (Ending::Old, "had its answer already"),
    (Ending::Wrong, "says something else"),
    (Ending::Crashed, "killed by a signal"),
    (Ending::Hung, "never returns"),
    (Ending::Stuck, "cannot be carried across; nothing written"),
];

/// The page.
pub(super) fn page(report: &Compare) -> String {
    let mut page = Markup::default();
    let heading = heading(report);
    let language = [("lang", "en"), ("xmlns", "http://www.w3.org/1999/xhtml")];
    page.within("html", &language, |html| {
        html.within("head", &[], |head| {
            head.empty("meta", &[("charset", "utf-8")]);
            let viewport = "width=device-width, initial-scale=1";
            head.empty("meta", &[("name", "viewport"), ("content", viewport)]);
            head.leaf("title", &[], &heading);
            head.style(include_str!("style.css"));
        });
        html.within("body", &[], |body| content(body, report, &heading));
    });
    format!("<!DOCTYPE html>\n{}", page.finish())
}

fn heading(report: &Compare) -> String {
    let version = report.new.kernel.as_deref().unwrap_or("unknown");
    format!("Old vDSOs on Linux {version}: strategies compared")
}

fn content(body: &mut Markup, report: &Compare, heading: &str) {
    let stock = stock(report);
    body.within("header", &[], |header| {
        header.leaf("p", &[("class", "kicker")], "relocator compare");
        header.leaf("h1", &[], heading);
        header.leaf("p", &[("class", "lead")], prose::QUESTION);
    });
    section(body, "In short", &prose::scope(&stock), |body| {
        summary::cards(body, report)
    });
    section(body, "Threads in flight", prose::FLIGHT, |body| {
        flight::legend(body);
        flight::plots(body, &stock);
    });
    section(body, "What a call costs", prose::RATIO, |body| {
        ratio::plot(body, &stock)
    });
    section(body, "What applying it costs", prose::LINK, |body| {
        link::plot(body, &stock)
    });
    section(body, "Every number", prose::TABLES, |body| {
        for (index, old) in report.olds.iter().enumerate() {
            tables::old(body, index, old);
        }
    });
    section(body, "What was compared", "", |body| {
        tables::kernels(body, report)
    });
    section(
        body,
        "How it was measured, and what that does not show",
        "",
        |body| {
            prose::method(body, report);
        },
    );
    body.within("footer", &[], |footer| {
        footer.words("Repeat it with ");
        footer.leaf("code", &[], &report.command);
        footer.words(&format!("  ·  ended {}", prose::date(report.ended)));
    });
}

fn section(body: &mut Markup, title: &str, lead: &str, content: impl FnOnce(&mut Markup)) {
    body.within("section", &[], |section| {
        section.leaf("h2", &[], title);
        if !lead.is_empty() {
            section.leaf("p", &[("class", "note")], lead);
        }
        content(section);
    });
}

/// What summaries and plots are about.
fn stock(report: &Compare) -> Vec<&Compared> {
    report.summarised().collect()
}

/// What an old kernel is called.
fn title(old: &Compared) -> String {
    let version = old.old.kernel.as_deref().unwrap_or("unknown version");
    format!("{} ({version})", old.old.source)
}

/// What a strategy does, for somebody who has not heard of it.
fn meaning(approach: Approach) -> &'static str {
    match approach {
        Approach::Relocate => {
            "The old code is linked to the new kernel's vvar. Threads inside go back to the entry."
        }
        Approach::Proxy => "Old entries jump to the new vDSO. Threads inside go back to the entry.",
        Approach::StepOut => {
            "Threads are stepped out of the old code on the old kernel; then as relocate."
        }
        Approach::Syscall => {
            "Old entries make the system call. Threads inside go back to the entry."
        }
        Approach::Criu => {
            "The jumps that CRIU writes: four functions, threads left as they are, a vvar of zeros."
        }
        Approach::Nothing => "Old code and threads are left as they are, on a vvar of zeros.",
        Approach::Native => "The new vDSO, called by a program that starts on the new kernel.",
    }
}
