//! A report as a page: one file, without scripts.

use std::fmt::Write as _;

use super::Report;
use super::text::{fates, wrong_calls};
use crate::tally::Tally;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:76em;padding:0 1em}\
table{border-collapse:collapse;margin:1em 0}th,td{border:1px solid #bbb;padding:.3em .7em;text-align:left;\
vertical-align:top}th{background:#f2f2f2}.good{background:#e3f4e3}.bad{background:#fbe3e0}.none{color:#777}";

/// A report as a page.
pub(crate) fn page(report: &Report) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <title>Checkpoints on real kernels</title>\n<style>{STYLE}</style>\n\
         <h1>Checkpoints on real kernels</h1>\n<p>{}; {} s.</p>\n<ul>\n",
        escape(&report.machines),
        report.seconds.round()
    );
    for (what, version) in &report.packages {
        // Writing to a string does not fail.
        let _ = writeln!(page, "<li>{}: {}</li>", escape(what), escape(version));
    }
    page.push_str("</ul>\n");
    matrix(report, &mut page);
    chains(report, &mut page);
    if !report.ignored.is_empty() {
        page.push_str("<h2>Ignored</h2>\n<ul>\n");
        for ignored in &report.ignored {
            let _ = writeln!(page, "<li>{}</li>", escape(ignored));
        }
        page.push_str("</ul>\n");
    }
    page.push_str("</html>\n");
    page
}

fn matrix(report: &Report, page: &mut String) {
    if report.rows.is_empty() {
        return;
    }
    page.push_str(
        "<h2>Pairs</h2>\n<p>Each image was restored twice: by CRIU alone, and by CRIU and the \
         relocator.</p>\n<table>\n<tr><th>dumped on<th>restored on<th>checker<th>CRIU<th>CRIU alone\
         <th>wrong calls<th>with relocator<th>wrong calls</tr>\n",
    );
    for row in &report.rows {
        let fault = if row.fault { " (fault 127)" } else { "" };
        let _ = writeln!(
            page,
            "<tr><td>{}<td>{}{fault}<td>{}<td>{}{}{}</tr>",
            escape(&row.from),
            escape(&row.to),
            escape(&row.kind.to_string()),
            escape(&row.kind.criu),
            cells(&row.plain, row.ignored.as_deref()),
            cells(&row.linked, row.ignored.as_deref()),
        );
    }
    page.push_str("</table>\n");
}

fn cells(tally: &Tally, ignored: Option<&str>) -> String {
    if tally.tried == 0 {
        let reason = escape(ignored.unwrap_or("nothing was restored"));
        return format!("<td class=\"none\" colspan=\"2\">{reason}");
    }
    let class = if tally.is_good() { "good" } else { "bad" };
    let title = escape(&tally.reasons.join("\n"));
    format!(
        "<td class=\"{class}\" title=\"{title}\">{}<td class=\"{class}\">{}",
        escape(&fates(tally)),
        escape(&wrong_calls(tally))
    )
}

fn chains(report: &Report, page: &mut String) {
    if report.chains.is_empty() {
        return;
    }
    page.push_str("<h2>Chains</h2>\n<table>\n<tr><th>chain<th>checker<th>CRIU<th>arrived<th>on each kernel</tr>\n");
    for chain in &report.chains {
        let class = if chain.is_good() { "good" } else { "bad" };
        let hops: Vec<String> = chain.hops.iter().map(|hop| escape(&fates(hop))).collect();
        let _ = writeln!(
            page,
            "<tr><td>{}<td>{}<td>{}<td class=\"{class}\">{}/{}<td>{}</tr>",
            escape(&chain.kernels.join(" > ")),
            escape(&chain.kind.to_string()),
            escape(&chain.kind.criu),
            chain.arrived,
            chain.began,
            hops.join("<br>"),
        );
    }
    page.push_str("</table>\n");
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::tests::example;

    #[test]
    fn what_programs_say_is_no_markup() {
        let page = super::page(&example());
        assert!(page.contains("SIGSEGV &lt;1&gt;") && !page.contains("SIGSEGV <1>"));
        assert!(
            page.contains("<td class=\"good\" title=\"\">5/5 right"),
            "{page}"
        );
        assert!(page.contains("colspan=\"2\">CRIU: it does not know"));
    }
}
