//! Drawing: scales, and the few shapes that plots are made of.

use super::markup::Markup;
use relocator_verify::Approach;

/// A drawing of that width and height, which says in words what it shows.
pub(super) fn drawing(
    page: &mut Markup,
    (width, height): (f64, f64),
    words: &str,
    content: impl FnOnce(&mut Markup),
) {
    let view = format!("0 0 {} {}", number(width), number(height));
    let attributes = [
        ("viewBox", view.as_str()),
        ("role", "img"),
        ("aria-label", words),
    ];
    page.within("svg", &attributes, content);
}

/// A coordinate.
pub(super) fn number(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

/// Text with its baseline at a point. Classes say how it looks and where its anchor is.
pub(super) fn label(page: &mut Markup, (x, y): (f64, f64), class: &str, text: &str) {
    let attributes = [("x", &*number(x)), ("y", &*number(y)), ("class", class)];
    page.leaf("text", &attributes, text);
}

/// A line.
pub(super) fn line(page: &mut Markup, from: (f64, f64), to: (f64, f64), class: &str) {
    let ends = [from.0, from.1, to.0, to.1].map(number);
    let [x1, y1, x2, y2] = ends.each_ref().map(String::as_str);
    let attributes = [("x1", x1), ("y1", y1), ("x2", x2), ("y2", y2)];
    page.empty("line", &[&attributes[..], &[("class", class)]].concat());
}

/// A filled rectangle, with words for whoever points at it.
pub(super) fn bar(
    page: &mut Markup,
    (x, y): (f64, f64),
    (width, height): (f64, f64),
    class: &str,
    words: &str,
) {
    let edges = [x, y, width, height].map(number);
    let [x, y, width, height] = edges.each_ref().map(String::as_str);
    let attributes = [
        ("x", x),
        ("y", y),
        ("width", width),
        ("height", height),
        ("class", class),
    ];
    page.within("rect", &attributes, |rect| rect.leaf("title", &[], words));
}

/// The sign of a strategy: shape and colour, since not everybody sees colours alike. Hollow if what it stands for is wrong.
pub(super) fn sign(
    page: &mut Markup,
    (x, y): (f64, f64),
    approach: Approach,
    hollow: bool,
    words: &str,
) {
    let points: &[(f64, f64)] = match approach {
        Approach::Relocate => &[],
        Approach::Proxy => &[(-4.0, -4.0), (4.0, -4.0), (4.0, 4.0), (-4.0, 4.0)],
        Approach::StepOut => &[(0.0, -5.5), (5.5, 0.0), (0.0, 5.5), (-5.5, 0.0)],
        Approach::Syscall => &[(0.0, -5.0), (5.0, 4.0), (-5.0, 4.0)],
        Approach::Criu => &[(0.0, 5.0), (5.0, -4.0), (-5.0, -4.0)],
        Approach::Nothing => &[
            (-2.5, -5.0),
            (2.5, -5.0),
            (5.0, 0.0),
            (2.5, 5.0),
            (-2.5, 5.0),
            (-5.0, 0.0),
        ],
        Approach::Native => &[(-1.0, -6.0), (1.0, -6.0), (1.0, 6.0), (-1.0, 6.0)],
    };
    let hollow = if hollow { " hollow" } else { "" };
    let class = format!("sign s-{approach}{hollow}");
    let title = |shape: &mut Markup| shape.leaf("title", &[], words);
    if points.is_empty() {
        let (x, y) = (number(x), number(y));
        let attributes = [("cx", &*x), ("cy", &*y), ("r", "4.5"), ("class", &class)];
        page.within("circle", &attributes, title);
        return;
    }
    let points = points
        .iter()
        .map(|(dx, dy)| format!("{},{}", number(x + dx), number(y + dy)));
    let points = points.collect::<Vec<_>>().join(" ");
    page.within("polygon", &[("points", &points), ("class", &class)], title);
}

/// Numbers on a line of which equal lengths are equal factors.
#[derive(Debug, Clone, Copy)]
pub(super) struct LogScale {
    least: f64,
    most: f64,
    from: f64,
    to: f64,
}

impl LogScale {
    /// A scale with room for all of these numbers, between two coordinates.
    pub(super) fn around(values: impl Iterator<Item = f64>, (from, to): (f64, f64)) -> Self {
        let (mut least, mut most) = (f64::INFINITY, 0.0_f64);
        for value in values.filter(|value| *value > 0.0) {
            least = least.min(value);
            most = most.max(value);
        }
        if most == 0.0 {
            (least, most) = (1.0, 1.0);
        }
        Self {
            least: least / 1.25,
            most: most * 1.25,
            from,
            to,
        }
    }

    /// Where a number is.
    pub(super) fn at(&self, value: f64) -> f64 {
        let part = (value.max(self.least) / self.least).ln() / (self.most / self.least).ln();
        self.from + part * (self.to - self.from)
    }

    /// Round numbers on the scale.
    pub(super) fn ticks(&self) -> Vec<f64> {
        let decades = (-4..=6).map(|exponent| 10_f64.powi(exponent));
        let steps = decades.flat_map(|decade| [1.0, 2.0, 5.0].map(|step| step * decade));
        steps
            .filter(|tick| (self.least..=self.most).contains(tick))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_factors_are_equally_long() {
        let scale = LogScale::around([1.0, 100.0].into_iter(), (0.0, 300.0));
        let (one, ten, hundred) = (scale.at(1.0), scale.at(10.0), scale.at(100.0));
        assert!((ten - one - (hundred - ten)).abs() < 1e-9);
        assert!(one > 0.0 && hundred < 300.0);
        assert_eq!(scale.ticks(), [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]);
        let nothing = LogScale::around(std::iter::empty(), (0.0, 1.0));
        assert!(nothing.at(1.0).is_finite() && nothing.at(0.0).is_finite());
    }
}
