//! Each strategy in a few numbers and a sentence.

use super::markup::Markup;
use super::meaning;
use super::svg::{drawing, sign};
use super::tables::figure;
use crate::command::compare::table::grouped;
use crate::json::compare::Compare;
use crate::json::compare::Summary;
use relocator_verify::Approach;

/// A card for each strategy.
pub(super) fn cards(page: &mut Markup, report: &Compare) {
    page.within("div", &[("class", "cards")], |cards| {
        let summaries = report.summary.iter().enumerate();
        for (index, summary) in
            summaries.filter(|(_, summary)| summary.approach != Approach::Native)
        {
            cards.within("article", &[("class", "card")], |card| {
                self::card(card, index, summary)
            });
        }
    });
}

fn card(card: &mut Markup, index: usize, summary: &Summary) {
    let name = summary.approach.to_string();
    card.within("h3", &[], |heading| {
        drawing(heading, (14.0, 14.0), &name, |svg| {
            sign(svg, (7.0, 7.0), summary.approach, false, &name);
        });
        heading.words(&name);
    });
    card.leaf("p", &[("class", "meaning")], meaning(summary.approach));
    card.within("dl", &[], |figures| {
        let at = |field: &str| format!("/summary/{index}/{field}");
        let mut entry = |what: &str, write: &dyn Fn(&mut Markup)| {
            figures.within("div", &[], |pair| {
                pair.leaf("dt", &[], what);
                pair.within("dd", &[], write);
            });
        };
        entry("boundaries that fail", &|dd| in_flight(dd, summary));
        entry("calls that are wrong", &|dd| {
            if summary.calls == 0 {
                dd.words(if summary.approach == Approach::StepOut {
                    "as relocate"
                } else {
                    "not measured"
                });
                return;
            }
            figure(
                dd,
                &at("mismatches"),
                summary.mismatches,
                &grouped(summary.mismatches),
            );
            dd.words(" of ");
            figure(dd, &at("calls"), summary.calls, &grouped(summary.calls));
        });
        entry("functions covered", &|dd| {
            figure(
                dd,
                &at("covered"),
                summary.covered,
                &summary.covered.to_string(),
            );
            dd.words(" of ");
            figure(
                dd,
                &at("functions"),
                summary.functions,
                &summary.functions.to_string(),
            );
        });
        if let Some(ratios) = summary.ratios {
            entry("time of a right call, native is 1", &|dd| {
                figure(
                    dd,
                    &at("ratios/median"),
                    ratios.median,
                    &format!("{:.2}", ratios.median),
                );
            });
        }
    });
    card.leaf("p", &[("class", "sentence")], &summary.sentence);
}

fn in_flight(dd: &mut Markup, summary: &Summary) {
    match summary.swept {
        0 => dd.words("not measured"),
        _ => {
            let (all, failures) = (summary.in_flight.total(), summary.in_flight.failures());
            let class = if failures == 0 { "good" } else { "bad" };
            dd.leaf("span", &[("class", class)], &grouped(failures));
            dd.words(&format!(" of {}", grouped(all)));
        }
    }
}
