//! The plot of what calls cost: ratios to the native ones.

use super::markup::Markup;
use super::svg::{LogScale, drawing, label, line, sign};
use crate::json::compare::Compared;
use crate::json::compare::Spread;
use relocator_verify::Approach;
use relocator_verify::compare::{TimedCall, Timing};

const WIDTH: f64 = 860.0;
const LEFT: f64 = 320.0;
const RIGHT: f64 = 800.0;
const LANE: f64 = 15.0;
const GAP: f64 = 12.0;
const TOP: f64 = 26.0;

/// One call in one way, over all old kernels.
struct Lane {
    approach: Approach,
    ratios: Spread,
    wrong: usize,
    olds: usize,
}

/// One drawing for all old kernels: medians, and lines from the least to the most.
pub(super) fn plot(page: &mut Markup, olds: &[&Compared]) {
    let calls = TimedCall::ALL.map(|call| (call, lanes(olds, call)));
    let all = || calls.iter().flat_map(|(_, lanes)| lanes);
    let values = all().flat_map(|lane| [lane.ratios.least, lane.ratios.most, 1.0]);
    let scale = LogScale::around(values, (LEFT, RIGHT));
    let rows = calls.iter().filter(|(_, lanes)| !lanes.is_empty()).count();
    let height = TOP + all().count() as f64 * LANE + rows as f64 * GAP;
    drawing(
        page,
        (WIDTH, height),
        "Calls as ratios to the native ones",
        |svg| {
            axis(svg, &scale, height);
            let mut y = TOP;
            for (call, lanes) in calls.iter().filter(|(_, lanes)| !lanes.is_empty()) {
                label(svg, (0.0, y + 11.0), "call", call.name());
                for lane in lanes {
                    self::lane(svg, &scale, y + 7.0, lane, call.name());
                    y += LANE;
                }
                y += GAP;
            }
        },
    );
}

fn lanes(olds: &[&Compared], call: TimedCall) -> Vec<Lane> {
    let of = |approach| {
        let rows = olds.iter().flat_map(|old| &old.rows);
        let rows = rows.filter(|row| row.approach == approach);
        let timings: Vec<&Timing> = rows.filter_map(|row| row.timing(call.name())).collect();
        Some(Lane {
            approach,
            ratios: Spread::of(timings.iter().filter_map(|timing| timing.ratio).collect())?,
            wrong: timings.iter().filter(|timing| timing.wrong).count(),
            olds: timings.len(),
        })
    };
    let approaches = Approach::ALL
        .into_iter()
        .filter(|&approach| approach != Approach::Native);
    approaches.filter_map(of).collect()
}

fn axis(svg: &mut Markup, scale: &LogScale, height: f64) {
    for tick in scale.ticks() {
        let x = scale.at(tick);
        let class = if tick == 1.0 { "one" } else { "grid-line" };
        line(svg, (x, TOP - 8.0), (x, height), class);
        label(svg, (x, TOP - 13.0), "middle tick", &format!("{tick}×"));
    }
}

fn lane(svg: &mut Markup, scale: &LogScale, y: f64, lane: &Lane, call: &str) {
    let Lane {
        approach,
        ratios,
        wrong,
        olds,
    } = lane;
    let Spread {
        least,
        median,
        most,
    } = *ratios;
    label(
        svg,
        (LEFT - 14.0, y + 4.0),
        "end name",
        &approach.to_string(),
    );
    let class = format!("range s-{approach}");
    line(svg, (scale.at(least), y), (scale.at(most), y), &class);
    let mut words = format!("{call}, {approach}: {median:.2} of native ({least:.2} to {most:.2})");
    if *wrong > 0 {
        words.push_str(&format!("; wrong on {wrong} of {olds}"));
    }
    sign(svg, (scale.at(median), y), *approach, *wrong > 0, &words);
    let value = match wrong {
        0 => format!("{median:.2}"),
        _ => format!("{median:.2}, and wrong"),
    };
    let class = if *wrong > 0 { "value bad" } else { "value" };
    label(svg, (scale.at(most) + 9.0, y + 4.0), class, &value);
}
