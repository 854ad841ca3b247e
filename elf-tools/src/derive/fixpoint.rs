//! Following the flow of one function until nothing new is found.
//!
//! Callees are analysed once for each place that they are called from, as if they were inlined:
//! callers keep registers alive across calls to local functions that the calling convention does
//! not protect. So a node is a block and a context, which is the chain of calls that leads to it.

use std::collections::BTreeSet;

use rustc_hash::FxHashMap;

use super::held::Kept;
use super::machine::{Findings, Known, Learned, Machine, Spill, State};
use super::pool::{Merge, Pool};
use super::value::Unknown;
use crate::arch::Dataflow;
use crate::disassembly::Flow;
use crate::reachability::{Code, Function};
use crate::relocation::OpaqueReason;

/// Deepest chain of calls inside an image. Stock images have 2.
pub(crate) const MAX_DEPTH: u32 = 8;
/// Most instructions that are applied for one image. Stock images take some 20,000.
pub(crate) const MAX_STEPS: u32 = 1_000_000;

/// What is known of one function.
#[derive(Debug)]
pub(crate) struct Analysis {
    pub(crate) pool: Pool,
    pub(crate) findings: Findings,
    /// Whether every way through the function could be followed to its end.
    pub(crate) complete: bool,
    /// Its blocks at the fixpoint, if they were asked for.
    pub(crate) blocks: Vec<Block>,
    /// The chains of calls that blocks refer to. The first is the function itself.
    pub(crate) contexts: Vec<Context>,
}

/// A chain of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Context {
    /// Index of the chain without the last call.
    pub(crate) caller: u32,
    /// Index of the instruction that the last call returns to.
    pub(crate) returns_to: u32,
    /// Number of calls in it.
    pub(crate) depth: u32,
}

/// Instructions that follow each other, with what is known before each of them.
#[derive(Debug, Default)]
pub(crate) struct Block {
    pub(crate) context: u32,
    /// Index of the first instruction.
    pub(crate) start: u32,
    /// By instruction.
    pub(crate) states: Vec<State>,
    /// Contexts and first instructions of the blocks that may come next.
    pub(crate) next: Vec<(u32, u32)>,
}

/// Whether the states of the fixpoint are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    Findings,
    States,
}

#[derive(Debug)]
struct Node {
    context: u32,
    /// Index of the first instruction.
    start: u32,
    state: State,
}

/// A way to a block.
#[derive(Debug, Clone, Copy)]
struct Edge {
    context: u32,
    /// Index of the first instruction.
    start: u32,
    /// What holds if this way is taken.
    known: Option<Known>,
}

/// Where control goes after a block, as instruction indices.
enum Exit {
    To(Vec<Edge>),
    /// The flow cannot be followed: at this instruction, for this reason.
    Lost(OpaqueReason),
}

/// Whether each instruction begins a block: something jumps to it, or returns to it.
pub(crate) fn leaders(code: &Code) -> Vec<bool> {
    let mut leaders = vec![false; code.instructions().len()];
    for (index, instruction) in code.instructions().iter().enumerate() {
        let target = match instruction.flow {
            Flow::Branch(target) | Flow::Jump(target) | Flow::Call(target) => target,
            _ => continue,
        };
        if let Some(target) = code.index_of(target) {
            leaders[target as usize] = true;
        }
        if let Some(next) = leaders.get_mut(index + 1) {
            *next = true;
        }
    }
    leaders
}

/// Analyses a function whose flow the code tells.
pub(crate) fn analyse(
    dataflow: &dyn Dataflow,
    code: &Code,
    leaders: &[bool],
    function: &Function,
    keep: Keep,
    steps_left: &mut u32,
) -> Analysis {
    let mut solver = Solver {
        dataflow,
        code,
        leaders,
        pool: Pool::default(),
        findings: Findings::default(),
        contexts: vec![Context {
            caller: u32::MAX,
            returns_to: u32::MAX,
            depth: 0,
        }],
        nodes: Vec::new(),
        by_place: FxHashMap::default(),
        pending: BTreeSet::new(),
        steps_left,
        complete: true,
        recording: None,
    };
    let mut blocks = Vec::new();
    if let Some(entry) = code.index_of(function.entry) {
        blocks = solver.run(entry, keep);
    }
    Analysis {
        pool: solver.pool,
        findings: solver.findings,
        complete: solver.complete,
        blocks,
        contexts: solver.contexts,
    }
}

struct Solver<'a> {
    dataflow: &'a dyn Dataflow,
    code: &'a Code,
    leaders: &'a [bool],
    pool: Pool,
    findings: Findings,
    contexts: Vec<Context>,
    nodes: Vec<Node>,
    by_place: FxHashMap<(u32, u32), u32>,
    /// Nodes to be visited, deepest context first so that a callee is done before its caller goes
    /// on.
    pending: BTreeSet<(u32, u32, u32)>,
    /// How many more instructions may be applied.
    steps_left: &'a mut u32,
    /// Whether no way was lost so far.
    complete: bool,
    /// States before the instructions of the block that is applied, if they are wanted.
    recording: Option<Vec<State>>,
}

impl Solver<'_> {
    fn run(&mut self, entry: u32, keep: Keep) -> Vec<Block> {
        let state = self.dataflow.entry_state(&mut self.pool);
        let edge = Edge {
            context: 0,
            start: entry,
            known: None,
        };
        self.flow(edge, state);
        while let Some((_, _, node)) = self.pending.pop_first() {
            let (state, exit) = self.block(node);
            if let Exit::To(places) = exit {
                for edge in places {
                    self.flow(edge, state.clone());
                }
            }
        }
        let blocks = self.conclude(keep);
        if *self.steps_left == 0 {
            self.findings = Findings::default();
            self.complete = false;
            self.lost(entry, OpaqueReason::TooComplex);
        }
        blocks
    }

    fn lost(&mut self, at: u32, reason: OpaqueReason) {
        self.findings.opaque.entry(at).or_insert(reason);
    }

    /// Visits every block once more, now that all states are known, and keeps only what is found
    /// then.
    fn conclude(&mut self, keep: Keep) -> Vec<Block> {
        let lost = std::mem::take(&mut self.findings).opaque;
        for (at, reason) in lost {
            if matches!(reason, OpaqueReason::TooManyAddresses) {
                self.lost(at, reason);
            }
        }
        let mut blocks = Vec::new();
        for node in 0..self.nodes.len() as u32 {
            let Node { context, start, .. } = self.nodes[node as usize];
            self.recording = (keep == Keep::States).then(Vec::new);
            let next = match self.block(node).1 {
                Exit::To(edges) => edges.iter().map(|e| (e.context, e.start)).collect(),
                Exit::Lost(reason) => {
                    self.lost(start, reason);
                    self.complete = false;
                    Vec::new()
                }
            };
            blocks.extend(self.recording.take().map(|states| Block {
                context,
                start,
                states,
                next,
            }));
        }
        let hidden = self.pool.hidden_constants(&self.findings.used);
        self.findings.pinned.extend(hidden);
        blocks
    }

    /// Applies the instructions of a block; the state after it, and where control goes.
    fn block(&mut self, node: u32) -> (State, Exit) {
        let Node {
            context,
            start,
            ref state,
        } = self.nodes[node as usize];
        let mut machine = Machine {
            pool: &mut self.pool,
            state: state.clone(),
            findings: &mut self.findings,
            at: start,
            flags: self.dataflow.flags(),
        };
        loop {
            let index = machine.at;
            *self.steps_left = self.steps_left.saturating_sub(1);
            if let Some(states) = &mut self.recording {
                states.push(machine.state.clone());
            }
            self.dataflow.apply(index, &mut machine);
            let instruction = &self.code.instructions()[index as usize];
            let next = index + 1;
            let index_of = |target| self.code.index_of(target);
            let edge = |start: u32, known: Option<Known>| Edge {
                context,
                start,
                known,
            };
            let exit = match instruction.flow {
                Flow::Next if self.leaders.get(next as usize) == Some(&false) => {
                    machine.at = next;
                    if *self.steps_left > 0 {
                        continue;
                    }
                    None
                }
                Flow::Next => Some(vec![edge(next, None)]),
                Flow::Jump(target) => index_of(target).map(|target| vec![edge(target, None)]),
                Flow::Branch(target) => {
                    let learned = match index > start {
                        true => self.dataflow.learned(index, &machine.state, machine.pool),
                        false => Learned::default(),
                    };
                    let not_taken = edge(next, learned.not_taken);
                    index_of(target).map(|target| vec![not_taken, edge(target, learned.taken)])
                }
                Flow::Call(target) => {
                    let mut state = machine.state;
                    let target = index_of(target);
                    let exit = match (target, self.called(context, next)) {
                        (Some(target), Some(inside)) => {
                            state.enter(self.contexts[inside as usize].depth);
                            Exit::To(vec![Edge {
                                context: inside,
                                start: target,
                                known: None,
                            }])
                        }
                        (None, _) => Exit::Lost(OpaqueReason::ControlLeaves),
                        (_, None) => Exit::Lost(OpaqueReason::NestedTooDeeply),
                    };
                    return (state, exit);
                }
                Flow::Return => {
                    let mut state = self.dataflow.returned(machine, context == 0);
                    let Context {
                        caller,
                        returns_to,
                        depth,
                    } = self.contexts[context as usize];
                    state.leave(depth);
                    let exit = (context != 0).then_some(Edge {
                        context: caller,
                        start: returns_to,
                        known: None,
                    });
                    return (state, Exit::To(exit.into_iter().collect()));
                }
                Flow::Stop => Some(Vec::new()),
                Flow::Indirect => None,
            };
            let exit = exit.filter(|places| {
                let end = self.code.instructions().len() as u32;
                places.iter().all(|edge| edge.start < end)
            });
            let exit = exit.map_or(Exit::Lost(OpaqueReason::ControlLeaves), Exit::To);
            return (machine.state, exit);
        }
    }

    /// The context of a call from `context` that returns to `returns_to`.
    fn called(&mut self, context: u32, returns_to: u32) -> Option<u32> {
        let depth = self.contexts[context as usize].depth + 1;
        let called = Context {
            caller: context,
            returns_to,
            depth,
        };
        if depth > MAX_DEPTH {
            return None;
        }
        let known = self.contexts.iter().position(|known| *known == called);
        Some(known.unwrap_or_else(|| {
            self.contexts.push(called);
            self.contexts.len() - 1
        }) as u32)
    }

    /// Control reaches a block in this state.
    fn flow(&mut self, edge: Edge, mut state: State) {
        let Edge {
            context,
            start,
            known,
        } = edge;
        if let Some(known) = known
            && let Err(at) = state.known.binary_search(&known)
        {
            state.known.insert(at, known);
        }
        let depth = u32::MAX - self.contexts[context as usize].depth;
        let Some(&node) = self.by_place.get(&(context, start)) else {
            let node = self.nodes.len() as u32;
            self.by_place.insert((context, start), node);
            self.nodes.push(Node {
                context,
                start,
                state,
            });
            self.pending.insert((depth, start, node));
            return;
        };
        if self.join(node, &state) {
            self.pending.insert((depth, start, node));
        }
    }

    /// Adds a state to a node's; whether that was new.
    fn join(&mut self, node: u32, state: &State) -> bool {
        let start = self.nodes[node as usize].start;
        let old = self.nodes[node as usize].state.clone();
        let mut new = old.clone();
        for (location, register) in new.registers.iter_mut().enumerate() {
            *register = self.join_set(
                node,
                start,
                location as u64,
                *register,
                state.registers[location],
            );
        }
        for (calls, other) in new.untouched.iter_mut().zip(&state.untouched) {
            *calls = calls.common(*other);
        }
        self.join_stack(node, start, &mut new.stack, &state.stack);
        new.known.retain(|known| state.known.contains(known));
        let changed = new != old;
        self.nodes[node as usize].state = new;
        changed
    }

    /// A place that is saved on one way only is forgotten, unless it may hold an address: code that
    /// saves and restores under the same condition would get it back.
    fn join_stack(&mut self, node: u32, start: u32, new: &mut Vec<Spill>, other: &[Spill]) {
        let location = |spill: &Spill| {
            (1 << 63) | (u64::from(spill.base) << 40) ^ (spill.offset as u64 & 0xff_ffff_ffff)
        };
        for spill in other {
            let missing = !new.iter().any(|known| known.is_at(spill));
            if missing && self.pool.has_address(spill.set) {
                let at = new.partition_point(|known| {
                    (known.base, known.offset) < (spill.base, spill.offset)
                });
                let unknown = self.pool.of_unknown(Unknown::Merged(node, location(spill)));
                let (set, kept) = (unknown, Kept::default());
                new.insert(
                    at,
                    Spill {
                        set,
                        kept,
                        ..*spill
                    },
                );
            }
        }
        new.retain_mut(|spill| {
            let (set, kept) = match other.iter().find(|known| known.is_at(spill)) {
                Some(known) => (known.set, known.kept),
                None if self.pool.has_address(spill.set) => {
                    let unknown = Unknown::Merged(node, location(spill));
                    (self.pool.of_unknown(unknown), Kept::default())
                }
                None => return false,
            };
            spill.kept = spill.kept.common(kept);
            spill.set = self.join_set(node, start, location(spill), spill.set, set);
            true
        });
    }

    fn join_set(&mut self, node: u32, start: u32, location: u64, left: u32, right: u32) -> u32 {
        let place = Unknown::Merged(node, location);
        match self.pool.merged(left, right, place) {
            Merge::Set(set) => set,
            Merge::TooMany => {
                if self.pool.has_address(left) || self.pool.has_address(right) {
                    self.lost(start, OpaqueReason::TooManyAddresses);
                }
                self.pool.forgotten([left, right], place)
            }
        }
    }
}
