//! Why no thread was ever stopped at a boundary: which way does not lead there.

use std::collections::{BTreeMap, BTreeSet};

use elf_tools::Svma;
use elf_tools::disassembly::Flow;
use elf_tools::reachability::{Code, Function};

use super::outcome::Unreached;

/// The boundaries of a function that are not among the reached ones, each with the reason.
pub(super) fn unreached(
    code: &Code,
    function: &Function,
    reached: &BTreeSet<u64>,
) -> Vec<Unreached> {
    let routes = routes(code, function);
    let missing = code
        .reached(function)
        .map(|instruction| instruction.address);
    let missing = missing.filter(|address| !reached.contains(&address.0));
    let explain = |address: Svma| Unreached {
        address: address.0,
        reason: reason(address, &routes, reached),
    };
    missing.map(explain).collect()
}

/// How control may come to an instruction.
#[derive(Debug, Clone, Copy)]
struct Route {
    from: Svma,
    what: &'static str,
}

/// The ways to each instruction of a function.
fn routes(code: &Code, function: &Function) -> BTreeMap<u64, Vec<Route>> {
    let mut routes: BTreeMap<u64, Vec<Route>> = BTreeMap::new();
    for instruction in code.reached(function) {
        let from = instruction.address;
        let mut add = |to: Svma, what| routes.entry(to.0).or_default().push(Route { from, what });
        let next = instruction.end();
        match instruction.flow {
            Flow::Next => add(next, "never goes on"),
            Flow::Jump(to) => add(to, "never jumps"),
            Flow::Branch(to) => {
                add(to, "is never taken");
                add(next, "is always taken");
            }
            Flow::Call(to) => {
                add(to, "never calls");
                add(next, "never returns");
            }
            Flow::Indirect | Flow::Return | Flow::Stop => {}
        }
    }
    routes
}

/// The way that was not gone, from an instruction that was reached; if there is none next to it,
/// the nearest one behind.
fn reason(address: Svma, routes: &BTreeMap<u64, Vec<Route>>, reached: &BTreeSet<u64>) -> String {
    let mut seen = BTreeSet::from([address.0]);
    let mut layer = vec![address.0];
    while !layer.is_empty() {
        let before = |to: &u64| routes.get(to).cloned().unwrap_or_default();
        let all: Vec<Route> = layer.iter().flat_map(before).collect();
        let mut words: Vec<String> = all
            .iter()
            .filter(|route| reached.contains(&route.from.0))
            .map(|route| format!("{} {}", route.from, route.what))
            .collect();
        if !words.is_empty() {
            words.dedup();
            return words.join("; ");
        }
        layer = all
            .iter()
            .map(|route| route.from.0)
            .filter(|from| seen.insert(*from))
            .collect();
    }
    "nothing that was reached leads there".to_owned()
}

#[cfg(test)]
mod tests {
    use elf_tools::image::Image;
    use kernel_fixtures::fixture;

    use super::*;

    #[test]
    fn every_boundary_that_is_missing_has_a_reason() {
        let fixture = fixture::find("operands").unwrap();
        let image = Image::parse(fixture.image).unwrap();
        let code = Code::of(&image).unwrap();
        let entry = image.export("__vdso_clock_gettime").unwrap().address;
        let function = code.function(entry).unwrap();
        let all: BTreeSet<u64> = code.reached(function).map(|i| i.address.0).collect();
        assert_eq!(unreached(&code, function, &all), []);

        // A thread that turns back at the first branch has not taken one of its ways.
        let branch = code
            .reached(function)
            .filter(|i| i.address >= entry)
            .find(|i| matches!(i.flow, Flow::Branch(_)))
            .unwrap();
        let before = all.range(entry.0..=branch.address.0).copied().collect();
        let missing = unreached(&code, function, &before);
        assert_eq!(missing.len() + before.len(), all.len());
        let next = missing
            .iter()
            .find(|m| m.address == branch.end().0)
            .unwrap();
        assert_eq!(next.reason, format!("{} is always taken", branch.address));
        for missing in missing {
            let named = missing.reason.contains(&branch.address.to_string());
            assert!(named, "{missing:?}");
        }
    }
}
