//! The plot of what it costs to make the bytes.

use super::markup::Markup;
use super::svg::{LogScale, drawing, label, line, sign};
use super::title;
use crate::json::compare::Compared;
use relocator_verify::compare::{Cost, Row};

const WIDTH: f64 = 860.0;
const LEFT: f64 = 320.0;
const RIGHT: f64 = 740.0;
const LANE: f64 = 15.0;
const GAP: f64 = 12.0;
const TOP: f64 = 26.0;

/// One drawing for all old kernels.
pub(super) fn plot(page: &mut Markup, olds: &[&Compared]) {
    let all = || olds.iter().flat_map(|old| costs(old));
    let scale = LogScale::around(all().map(|(_, cost)| cost.link_us), (LEFT, RIGHT));
    let height = TOP + all().count() as f64 * LANE + olds.len() as f64 * GAP;
    drawing(page, (WIDTH, height), "Time to link in memory", |svg| {
        for tick in scale.ticks() {
            let x = scale.at(tick);
            line(svg, (x, TOP - 8.0), (x, height), "grid-line");
            label(svg, (x, TOP - 13.0), "middle tick", &format!("{tick} µs"));
        }
        let mut y = TOP;
        for old in olds {
            label(svg, (0.0, y + 11.0), "call", &title(old));
            for (row, cost) in costs(old) {
                let value = format!("{:.1} µs, {} bytes", cost.link_us, cost.bytes_written);
                let words = format!("{}, {}: {value}", title(old), row.approach);
                let (x, middle) = (scale.at(cost.link_us), y + 7.0);
                label(
                    svg,
                    (LEFT - 14.0, middle + 4.0),
                    "end name",
                    &row.approach.to_string(),
                );
                sign(svg, (x, middle), row.approach, false, &words);
                label(svg, (x + 9.0, middle + 4.0), "value", &value);
                y += LANE;
            }
            y += GAP;
        }
    });
}

/// Of the ways that make bytes of their own.
fn costs(old: &Compared) -> impl Iterator<Item = (&Row, Cost)> {
    let rows = old.rows.iter().filter(|row| row.code_of.is_none());
    let costs = rows.filter_map(|row| Some((row, row.cost?)));
    costs.filter(|(_, cost)| cost.link_us > 0.0)
}
