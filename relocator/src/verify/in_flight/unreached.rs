//! Why no thread was ever stopped at a boundary: which way does not lead there.

use std::collections::{BTreeMap, BTreeSet};

use elf_tools::Svma;
use elf_tools::code::{Code, Flow, Function};

use super::outcome::Unreached;

/// The boundaries of a function that are not among the reached ones, each with the reason.
pub(super) fn unreached(
    code: &Code,
    function: &Function,
    reached: &BTreeSet<u64>,
) -> Vec<Unreached> {
    let ways = ways(code, function);
    let missing = code
        .reached(function)
        .map(|instruction| instruction.address);
    let missing = missing.filter(|address| !reached.contains(&address.0));
    let explain = |address: Svma| Unreached {
        address: address.0,
        reason: reason(address, &ways, reached),
    };
    missing.map(explain).collect()
}

/// How control may come to an instruction.
#[derive(Debug, Clone, Copy)]
struct Way {
    from: Svma,
    what: &'static str,
}

/// The ways to each instruction of a function.
fn ways(code: &Code, function: &Function) -> BTreeMap<u64, Vec<Way>> {
    let mut ways: BTreeMap<u64, Vec<Way>> = BTreeMap::new();
    for instruction in code.reached(function) {
        let from = instruction.address;
        let mut add = |to: Svma, what| ways.entry(to.0).or_default().push(Way { from, what });
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
    ways
}

/// The way that was not gone, from an instruction that was reached; if there is none next to it, the nearest one behind.
fn reason(address: Svma, ways: &BTreeMap<u64, Vec<Way>>, reached: &BTreeSet<u64>) -> String {
    let mut seen = BTreeSet::from([address.0]);
    let mut layer = vec![address.0];
    while !layer.is_empty() {
        let before = |to: &u64| ways.get(to).cloned().unwrap_or_default();
        let all: Vec<Way> = layer.iter().flat_map(before).collect();
        let mut words: Vec<String> = all
            .iter()
            .filter(|way| reached.contains(&way.from.0))
            .map(|way| format!("{} {}", way.from, way.what))
            .collect();
        if !words.is_empty() {
            words.dedup();
            return words.join("; ");
        }
        layer = all
            .iter()
            .map(|way| way.from.0)
            .filter(|from| seen.insert(*from))
            .collect();
    }
    "nothing that was reached leads there".to_owned()
}
