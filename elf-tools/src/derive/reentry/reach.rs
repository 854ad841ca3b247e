//! What a thread may still execute, and what it may have executed, from any instruction of a
//! function.

use std::collections::BTreeSet;

use rustc_hash::FxHashMap;

use super::memory::{Bytes, is_kernels};
use crate::derive::fixpoint::Analysis;

/// What instructions store, by index.
type Stored = FxHashMap<u32, Vec<Bytes>>;

/// The flow between the blocks of a function.
#[derive(Debug)]
pub(super) struct Reach {
    /// By block.
    blocks: Vec<Flow>,
}

#[derive(Debug)]
struct Flow {
    start: u32,
    length: usize,
    /// Blocks that may come next.
    next: Vec<usize>,
    before: Vec<usize>,
    /// Number of instructions from the start on before the last one that reads what the kernel
    /// keeps current, that one included.
    reads_until: usize,
    /// Whether a block that comes later may read.
    reads_later: bool,
}

impl Reach {
    pub(super) fn of(analysis: &Analysis) -> Self {
        let places: FxHashMap<(u32, u32), usize> = analysis
            .blocks
            .iter()
            .enumerate()
            .map(|(number, block)| ((block.context, block.start), number))
            .collect();
        let mut reading = vec![];
        for access in &analysis.findings.accesses {
            if !access.writes && is_kernels(&analysis.pool, access) {
                reading.push(access.at);
            }
        }
        reading.sort_unstable();
        let mut blocks: Vec<Flow> = analysis
            .blocks
            .iter()
            .map(|block| {
                let reads = |offset: &usize| {
                    let index = block.start + *offset as u32;
                    reading.binary_search(&index).is_ok()
                };
                let next = block.next.iter().filter_map(|place| places.get(place));
                Flow {
                    start: block.start,
                    length: block.states.len(),
                    next: next.copied().collect(),
                    before: Vec::new(),
                    reads_until: (0..block.states.len())
                        .rev()
                        .find(reads)
                        .map_or(0, |o| o + 1),
                    reads_later: false,
                }
            })
            .collect();
        for number in 0..blocks.len() {
            for next in blocks[number].next.clone() {
                blocks[next].before.push(number);
            }
        }
        let mut pending: Vec<usize> = (0..blocks.len())
            .filter(|&number| blocks[number].reads_until > 0)
            .collect();
        while let Some(number) = pending.pop() {
            for before in blocks[number].before.clone() {
                if !blocks[before].reads_later {
                    blocks[before].reads_later = true;
                    pending.push(before);
                }
            }
        }
        Self { blocks }
    }

    /// Whether anything may be read that the kernel keeps current, from the instruction at `offset`
    /// of a block on.
    pub(super) fn reads(&self, block: usize, offset: usize) -> bool {
        let flow = &self.blocks[block];
        flow.reads_later || offset < flow.reads_until
    }

    /// What has been stored whenever a block is entered; `None` for a block that nothing leads to.
    pub(super) fn certainly_before(&self, stored: &Stored) -> Vec<Option<BTreeSet<Bytes>>> {
        let mut before: Vec<Option<BTreeSet<Bytes>>> = vec![None; self.blocks.len()];
        if let Some(entry) = before.first_mut() {
            *entry = Some(BTreeSet::new());
        }
        let mut pending: Vec<usize> = (0..self.blocks.len().min(1)).collect();
        while let Some(number) = pending.pop() {
            let flow = &self.blocks[number];
            let mut known = before[number].clone().unwrap_or_default();
            for index in flow.start..flow.start + flow.length as u32 {
                known.extend(stored.get(&index).into_iter().flatten());
            }
            for &next in &flow.next {
                let met = match &before[next] {
                    None => known.clone(),
                    Some(other) => other.intersection(&known).copied().collect(),
                };
                if before[next].as_ref() != Some(&met) {
                    before[next] = Some(met);
                    pending.push(next);
                }
            }
        }
        before
    }

    /// Whether `wanted` has been stored before the instruction of that index on every way to it.
    pub(super) fn is_always_behind(
        &self,
        index: u32,
        wanted: &Bytes,
        stored: &Stored,
        before: &[Option<BTreeSet<Bytes>>],
    ) -> bool {
        let mut blocks = self
            .blocks
            .iter()
            .zip(before)
            .filter(|(flow, _)| (flow.start..flow.start + flow.length as u32).contains(&index));
        blocks.all(|(flow, before)| {
            let here = (flow.start..index).any(|earlier| {
                stored
                    .get(&earlier)
                    .is_some_and(|stored| stored.contains(wanted))
            });
            here || before.as_ref().is_none_or(|before| before.contains(wanted))
        })
    }

    /// Whether one of the instructions `set` may have been executed before the one at `offset` of a
    /// block, and none of `cleared` since.
    pub(super) fn after(&self, set: &[u32], cleared: &[u32], block: usize, offset: usize) -> bool {
        if set.is_empty() {
            return false;
        }
        let mut seen = vec![false; self.blocks.len()];
        let mut pending = vec![(block, offset)];
        while let Some((number, end)) = pending.pop() {
            let flow = &self.blocks[number];
            let met = (0..end).rev().map(|offset| flow.start + offset as u32);
            let met =
                met.filter_map(
                    |index| match (set.contains(&index), cleared.contains(&index)) {
                        (true, _) => Some(true),
                        (_, true) => Some(false),
                        _ => None,
                    },
                );
            match met.into_iter().next() {
                Some(true) => return true,
                Some(false) => continue,
                None => {}
            }
            for &before in &flow.before {
                if !std::mem::replace(&mut seen[before], true) {
                    pending.push((before, self.blocks[before].length));
                }
            }
        }
        false
    }
}
