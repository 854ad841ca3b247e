//! The re-entry table of an image, from its code.
//!
//! The analysis that attributes operands (`fixpoint`) knows at each instruction what registers and
//! saved places hold. What of it is an initial value of a register is where a recipe looks for it;
//! call frame information has to agree. No symbols are needed: whatever is read from anywhere but
//! the stack and what arguments point to counts as the kernel's.
//!
//! | module | does |
//! |---|---|
//! | `prototype` | which arguments a function takes |
//! | `source` | states to places where initial values are |
//! | `cfi` | the comparison with call frame information |
//! | `memory` | what addresses mean |
//! | `effects` | what an activation leaves in memory |
//! | `reach` | what may still be executed from an instruction on, and what may have been before |

mod cfi;
mod effects;
mod memory;
mod prototype;
mod reach;
mod source;

use std::collections::BTreeMap;
use std::ops::Range;

use crate::arch::{self, Arch};
use crate::derive::fixpoint::{self, Analysis, Block, Keep};
use crate::derive::value::UnknownId;
use crate::image::Image;
use crate::reachability::{Code, Function};
use crate::reentry::{
    Call, Context, Location, NoRecipe, Recipe, Recovery, ReentryTable, Register, Source,
};
use crate::{Error, Result, Svma};

use cfi::{Active, Rules};
use effects::Effects;
use prototype::Argument;
use reach::Reach;
use source::Stopped;

/// Derives the re-entry table of `image` from its code.
///
/// Alternatives must be as they are in the process: they decide where boundaries are. Errors where
/// the image's architecture is not supported, and where its call frame information is malformed.
pub fn derive(image: &Image, code: &Code) -> Result<ReentryTable> {
    derive_at(image, code, &BTreeMap::new())
}

/// The code of an image after a linker has changed it.
#[derive(Debug, Clone, Copy)]
pub struct Relinked<'a> {
    /// The image's bytes as they are now, and what the linker has put behind them.
    pub bytes: &'a [u8],
    /// Where instructions are now that the linker has moved behind the image, and its jumps back
    /// from there: for each, the instruction of the image that a thread there is about to execute.
    pub moved: &'a [(Svma, Svma)],
}

/// Derives the re-entry table of `image` as it was linked. Its boundaries are those of the code
/// that is there now, moved instructions among them.
///
/// Constants that a linker changes can be part of what a recipe computes with, so the table of the
/// image itself is not right for it. Errors are those of [`derive()`].
pub fn derive_relinked(image: &Image, now: Relinked<'_>) -> Result<ReentryTable> {
    /// Longest instruction of any architecture, in bytes.
    const LONGEST: u64 = 15;
    let moved: BTreeMap<Svma, Svma> = now.moved.iter().copied().collect();
    let mut added: Vec<Range<u64>> = Vec::new();
    for start in moved.keys().map(|start| start.0) {
        let end = start.saturating_add(LONGEST).min(now.bytes.len() as u64);
        match added.last_mut() {
            Some(last) if start <= last.end => last.end = end,
            _ => added.push(start..end),
        }
    }
    let relinked = image.relinked(now.bytes, added);
    let relinked = relinked.ok_or_else(|| {
        let reason = "what was added to the image lies over its code";
        Error::malformed("linked image", now.bytes.len() as u64, reason)
    })?;
    let code = Code::of(&relinked)?;
    derive_at(&relinked, &code, &moved)
}

/// Derives a table. Call frame information knows nothing of instructions that were `moved`, only
/// where they were.
fn derive_at(image: &Image, code: &Code, moved: &BTreeMap<Svma, Svma>) -> Result<ReentryTable> {
    let arch = arch::of_image(image)?;
    let dataflow = arch.dataflow(image, code);
    let leaders = fixpoint::leaders(code);
    let rules = Rules::read(arch, image)?;
    let mut steps_left = fixpoint::MAX_STEPS;
    let mut collected = Collected::default();
    for function in code.functions() {
        if let Some(at) = function.indirect {
            collected.unknown(code, function, &NoRecipe::Indirect(at));
            continue;
        }
        let analysis = fixpoint::analyse(
            &*dataflow,
            code,
            &leaders,
            function,
            Keep::States,
            &mut steps_left,
        );
        if !analysis.complete || analysis.findings.stack_is_lost {
            collected.unknown(code, function, &NoRecipe::NotFollowed);
            continue;
        }
        let reach = Reach::of(&analysis);
        let recipes = Recipes {
            arch,
            image,
            code,
            function,
            rules: &rules,
            moved,
            arguments: arguments(arch, image, function),
            effects: Effects::of(arch, &analysis, &reach),
            reach,
            analysis: &analysis,
        };
        recipes.add_to(&mut collected);
    }
    Ok(collected.finish())
}

/// The arguments of a function: those of a name that is known, if it has one.
fn arguments(arch: &dyn Arch, image: &Image, function: &Function) -> Vec<(Register, Argument)> {
    let exports = image.exports_at(function.entry);
    let known = exports.map(|export| prototype::arguments(&export.name, arch.registers()));
    known
        .min_by_key(|arguments| arguments.len())
        .unwrap_or_default()
}

/// The table while it grows.
#[derive(Default)]
struct Collected {
    recipes: BTreeMap<Recipe, u32>,
    contexts: Vec<Context>,
}

impl Collected {
    fn add(&mut self, context: Context) {
        self.contexts.push(context);
    }

    fn recipe(&mut self, recipe: Recipe) -> Recovery {
        let next = self.recipes.len() as u32;
        Recovery::Recipe(*self.recipes.entry(recipe).or_insert(next))
    }

    /// A function of which nothing is known but its entry.
    fn unknown(&mut self, code: &Code, function: &Function, reason: &NoRecipe) {
        for instruction in code.reached(function) {
            let recovery = match instruction.address == function.entry {
                true => self.recipe(Recipe::default()),
                false => Recovery::None(reason.clone()),
            };
            self.add(Context {
                boundary: instruction.address,
                function: function.entry,
                calls: Vec::new(),
                reads: true,
                recovery,
            });
        }
    }

    fn finish(self) -> ReentryTable {
        let mut contexts = self.contexts;
        contexts.sort_unstable();
        contexts.dedup();
        let mut recipes: Vec<(Recipe, u32)> = self.recipes.into_iter().collect();
        recipes.sort_unstable_by_key(|recipe| recipe.1);
        let recipes = recipes.into_iter().map(|recipe| recipe.0).collect();
        ReentryTable { recipes, contexts }
    }
}

/// What the recipes of one function are made from.
struct Recipes<'a> {
    arch: &'static dyn Arch,
    image: &'a Image,
    code: &'a Code,
    function: &'a Function,
    rules: &'a Rules,
    moved: &'a BTreeMap<Svma, Svma>,
    arguments: Vec<(Register, Argument)>,
    effects: Effects,
    reach: Reach,
    analysis: &'a Analysis,
}

/// A call that has not returned: where its return address is, and what it returns to.
struct Frame {
    returns_at: (UnknownId, i64),
    returns_to: Option<Svma>,
    depth: u32,
}

impl Recipes<'_> {
    fn add_to(&self, collected: &mut Collected) {
        for (number, block) in self.analysis.blocks.iter().enumerate() {
            let frames = self.frames(block.context);
            for (offset, state) in block.states.iter().enumerate() {
                let index = block.start + offset as u32;
                let boundary = self.code.instructions()[index as usize].address;
                let stopped = Stopped {
                    arch: self.arch,
                    pool: &self.analysis.pool,
                    state,
                    is_system_call: self.is_system_call(boundary),
                };
                let (calls, recovery) = match &frames {
                    Some(frames) => self.recovery(boundary, &stopped, frames, (number, offset)),
                    None => Err(NoRecipe::ReturnAddressLost),
                }
                .map_or_else(
                    |reason| (Vec::new(), Recovery::None(reason)),
                    |(calls, recipe)| (calls, collected.recipe(recipe)),
                );
                collected.add(Context {
                    boundary,
                    function: self.function.entry,
                    calls,
                    reads: self.reach.reads(number, offset),
                    recovery,
                });
            }
        }
    }

    fn is_system_call(&self, boundary: Svma) -> bool {
        let code = self.image.bytes().get(boundary.index()..);
        code.is_some_and(|code| self.arch.is_system_call(code))
    }

    fn stack_pointer(&self) -> Register {
        self.arch.registers().stack_pointer
    }

    /// The calls of a context, innermost first; the last is the one that called the function.
    fn frames(&self, context: u32) -> Option<Vec<Frame>> {
        let stack_pointer = self.arch.number(self.stack_pointer());
        let mut frames = Vec::new();
        let mut next = Some(context);
        while let Some(context) = next {
            let known = self.analysis.contexts[context as usize];
            let entered = self.entered(context)?;
            let stopped = Stopped {
                arch: self.arch,
                pool: &self.analysis.pool,
                state: &entered.states[0],
                is_system_call: false,
            };
            let instructions = self.code.instructions();
            frames.push(Frame {
                returns_at: stopped.place(stopped.register(stack_pointer)?)?,
                returns_to: instructions
                    .get(known.returns_to as usize)
                    .map(|instruction| instruction.address),
                depth: known.depth,
            });
            next = (context != 0).then_some(known.caller);
        }
        Some(frames)
    }

    /// The block that a context begins with: the first that was found in it.
    fn entered(&self, context: u32) -> Option<&Block> {
        self.analysis
            .blocks
            .iter()
            .find(|block| block.context == context)
    }

    /// The calls and the recipe of a thread at a boundary.
    fn recovery(
        &self,
        boundary: Svma,
        stopped: &Stopped<'_>,
        frames: &[Frame],
        place: (usize, usize),
    ) -> Result<(Vec<Call>, Recipe), NoRecipe> {
        let (_, local) = frames.split_last().ok_or(NoRecipe::ReturnAddressLost)?;
        let call = |frame: &Frame| {
            let (base, offset) = frame.returns_at;
            Some(Call {
                at: stopped.stack_location(base, offset)?,
                returns_to: frame.returns_to?,
            })
        };
        let calls: Option<Vec<Call>> = local.iter().map(call).collect();
        let calls = calls.ok_or(NoRecipe::ReturnAddressLost)?;
        self.rules.check(
            self.moved.get(&boundary).copied().unwrap_or(boundary),
            stopped,
            &Active {
                returns_at: frames[0].returns_at,
                depth: frames[0].depth,
            },
        )?;
        Ok((calls, self.recipe(stopped, place)?))
    }

    fn recipe(&self, stopped: &Stopped<'_>, place: (usize, usize)) -> Result<Recipe, NoRecipe> {
        let mut recipe = Recipe::default();
        let stack = stopped.entry_stack().ok_or(NoRecipe::StackPointerLost)?;
        let in_place = Source {
            location: Location::Register(self.stack_pointer()),
            image: 0,
            constant: 0,
            scale: 1,
            low: false,
        };
        if stack != in_place {
            recipe.registers.push((self.stack_pointer(), stack));
        }
        let saved = self.arch.registers().callee_saved.iter();
        let saved = saved.map(|&register| (register, Argument::Whole));
        for (register, kind) in self.arguments.iter().copied().chain(saved) {
            let (number, is_low) = (self.arch.number(register), kind == Argument::Low);
            if stopped.is_in_place(number, is_low) {
                continue;
            }
            let source = stopped
                .initial(number, is_low)
                .ok_or(NoRecipe::RegisterLost(register))?;
            recipe.registers.push((register, source));
        }
        recipe.registers.sort_unstable_by_key(|entry| entry.0);
        recipe.clear = self.clear(stopped, place)?;
        Ok(recipe)
    }

    /// What the activation has to take back.
    fn clear(
        &self,
        stopped: &Stopped<'_>,
        (block, offset): (usize, usize),
    ) -> Result<Vec<crate::reentry::Clear>, NoRecipe> {
        let Some(mark) = &self.effects.mark else {
            let changed = self.reach.after(&self.effects.changes, &[], block, offset);
            return match changed {
                true => Err(NoRecipe::MemoryChanged),
                false => Ok(Vec::new()),
            };
        };
        if !self.reach.after(&mark.set, &mark.cleared, block, offset) {
            return Ok(Vec::new());
        }
        effects::can_clear(stopped, &mark.clear).map_err(NoRecipe::RegisterLost)?;
        Ok(mark.clear.clone())
    }
}
