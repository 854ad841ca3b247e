//! The plot of what becomes of threads in flight: a bar for each strategy, for each old kernel.

use super::markup::Markup;
use super::svg::{bar, drawing, label, line};
use super::{OUTCOMES, title};
use crate::command::compare::table::grouped;
use crate::json::compare::Compared;
use relocator_verify::compare::{Counts, Flight, Row};

const WIDTH: f64 = 520.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 372.0;
const ROW: f64 = 30.0;
const TOP: f64 = 8.0;

/// One drawing for each old kernel whose threads were stopped.
pub(super) fn plots(page: &mut Markup, olds: &[&Compared]) {
    let swept = olds.iter().filter(|old| flights(old).next().is_some());
    page.within("div", &[("class", "grid")], |grid| {
        for old in swept {
            grid.within("figure", &[], |figure| {
                figure.leaf("h3", &[], &title(old));
                plot(figure, old);
            });
        }
    });
}

/// The colours.
pub(super) fn legend(page: &mut Markup) {
    page.within("p", &[("class", "legend")], |legend| {
        for (ending, meaning) in OUTCOMES {
            legend.within("span", &[("class", "key")], |key| {
                key.leaf("i", &[("class", &format!("swatch b-{ending}"))], "");
                key.leaf("b", &[], &ending.to_string());
                key.words(&format!(" {meaning}"));
            });
        }
    });
}

fn flights(old: &Compared) -> impl Iterator<Item = (&Row, &Flight)> {
    let rows = old.rows.iter();
    rows.filter_map(|row| Some((row, row.in_flight.as_ref()?)))
}

fn plot(page: &mut Markup, old: &Compared) {
    let count = flights(old).count() as f64;
    let size = (WIDTH, TOP + count * ROW);
    let words = format!("Threads in flight, {}", title(old));
    drawing(page, size, &words, |svg| {
        for (number, (row, flight)) in flights(old).enumerate() {
            let y = TOP + number as f64 * ROW;
            label(
                svg,
                (LEFT - 8.0, y + 12.0),
                "end name",
                &row.approach.to_string(),
            );
            let direct = flight.direct().copied().unwrap_or_default();
            stack(svg, (y, 13.0), &direct, "stopped there");
            stack(
                svg,
                (y + 15.0, 5.0),
                &flight.worst,
                "worst of all, signal handlers included",
            );
            failures(svg, y + 11.0, &direct, &flight.worst);
        }
        line(
            svg,
            (LEFT, TOP - 4.0),
            (LEFT, TOP + count * ROW - 6.0),
            "axis",
        );
    });
}

/// Boundaries as parts of a bar.
fn stack(svg: &mut Markup, (y, height): (f64, f64), counts: &Counts, what: &str) {
    let all = counts.total().max(1) as f64;
    let mut x = LEFT;
    for (ending, _) in OUTCOMES {
        let count = counts.of(ending);
        let width = (RIGHT - LEFT) * count as f64 / all;
        if count > 0 {
            let words = format!(
                "{what}: {} of {} {ending}",
                grouped(count),
                grouped(counts.total())
            );
            bar(svg, (x, y), (width, height), &format!("b-{ending}"), &words);
        }
        x += width;
    }
}

/// The number that matters most, next to the bar.
fn failures(svg: &mut Markup, y: f64, direct: &Counts, worst: &Counts) {
    let text = match (direct.failures(), worst.failures()) {
        (0, 0) => "none fails".to_owned(),
        (direct, all) if direct == all => format!("{} fail", grouped(all)),
        (0, all) => format!("{} fail, in handlers", grouped(all)),
        (direct, all) => format!("{} fail, {} in all", grouped(direct), grouped(all)),
    };
    let class = if worst.failures() == 0 { "good" } else { "bad" };
    label(svg, (RIGHT + 8.0, y), class, &text);
}
