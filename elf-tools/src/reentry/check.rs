//! What has to hold of a re-entry table and the code that it is of: `docs/abi.md`, section 4.4.
//! Writers and readers ask for the same.

use std::collections::BTreeSet;

use crate::Svma;
use crate::arch::{Arch, Registers};
use crate::disassembly::Flow;
use crate::reachability::{Code, Function};
use crate::reentry::{
    Call, Clear, Context, Location, MAX_CALLS, MAX_CONTEXTS, Recipe, Recovery, Register, Source,
};
use crate::symtab::name::MAX_LEN;

/// Takes a table's recipes, and then its contexts, in the table's order. What is wrong is an error
/// in words.
pub(super) struct Checker<'a> {
    code: &'a Code,
    registers: &'static Registers,
    recipes: BTreeSet<Recipe>,
    last: Option<Key>,
    contexts: usize,
    /// For each function, and each of the instructions that it reaches: whether it has a context.
    seen: Vec<Vec<bool>>,
}

/// What tells contexts apart, and their order.
type Key = (Svma, Svma, Vec<Call>);

impl<'a> Checker<'a> {
    pub(super) fn new(arch: &dyn Arch, code: &'a Code) -> Self {
        let functions = code.functions().iter();
        Self {
            code,
            registers: arch.registers(),
            recipes: BTreeSet::new(),
            last: None,
            contexts: 0,
            seen: functions.map(|f| vec![false; f.reached.len()]).collect(),
        }
    }

    pub(super) fn recipe(&mut self, recipe: &Recipe) -> Result<(), String> {
        for (register, source) in &recipe.registers {
            check_register(*register)?;
            check_source(source).map_err(|reason| format!("{register}: {reason}"))?;
        }
        let ascends = |pair: &[(Register, Source)]| pair[0].0 < pair[1].0;
        if let Some(pair) = (recipe.registers.windows(2)).find(|pair| !ascends(pair)) {
            let (first, second) = (pair[0].0, pair[1].0);
            return Err(format!(
                "{second} comes behind {first}, and must come before it, once"
            ));
        }
        for clear in &recipe.clear {
            check_clear(clear, self.registers.arguments)?;
        }
        match self.recipes.insert(recipe.clone()) {
            true => Ok(()),
            false => Err("it is there twice".to_owned()),
        }
    }

    pub(super) fn context(&mut self, context: &Context) -> Result<(), String> {
        self.contexts += 1;
        if self.contexts > MAX_CONTEXTS {
            return Err(format!("there are more than {MAX_CONTEXTS}"));
        }
        self.check_place(context)?;
        self.check_calls(&context.calls)?;
        match &context.recovery {
            Recovery::Recipe(index) => {
                let count = self.recipes.len();
                if *index as usize >= count {
                    return Err(format!("recipe {index} of {count} does not exist"));
                }
            }
            Recovery::None(reason) => check_reason(&reason.to_string())?,
        }
        let key = (context.boundary, context.function, context.calls.clone());
        if self.last.as_ref().is_some_and(|last| *last >= key) {
            let before = self.last.as_ref().map_or(Svma(0), |last| last.0);
            return Err(format!(
                "it does not come behind the one before it, of {before}"
            ));
        }
        self.last = Some(key);
        Ok(())
    }

    /// Everything that functions reach must be there: what is missing would look as if no thread
    /// could be stopped at it.
    pub(super) fn finish(self) -> Result<(), String> {
        for (function, seen) in self.code.functions().iter().zip(&self.seen) {
            let missing = seen.iter().position(|&seen| !seen);
            if let Some(boundary) = missing.and_then(|at| self.address(function, at)) {
                let function = function.entry;
                return Err(format!(
                    "the function at {function} reaches {boundary}, which has no context"
                ));
            }
        }
        Ok(())
    }

    fn address(&self, function: &Function, position: usize) -> Option<Svma> {
        let instruction = *function.reached.get(position)? as usize;
        Some(self.code.instructions().get(instruction)?.address)
    }

    fn check_place(&mut self, context: &Context) -> Result<(), String> {
        let (boundary, entry) = (context.boundary, context.function);
        let Some(instruction) = self.code.index_of(boundary) else {
            return Err(format!("{boundary} is not the start of an instruction"));
        };
        let functions = self.code.functions();
        let Ok(number) = functions.binary_search_by_key(&entry, |function| function.entry) else {
            return Err(format!("no function begins at {entry}"));
        };
        let Ok(position) = functions[number].reached.binary_search(&instruction) else {
            return Err(format!("the function at {entry} does not reach it"));
        };
        self.seen[number][position] = true;
        Ok(())
    }

    fn check_calls(&self, calls: &[Call]) -> Result<(), String> {
        if calls.len() > MAX_CALLS {
            return Err(format!(
                "{} calls where {MAX_CALLS} are possible",
                calls.len()
            ));
        }
        for call in calls {
            let Location::Memory { base, .. } = call.at else {
                return Err("a return address is not in memory".to_owned());
            };
            check_register(base)?;
            if !self.follows_call(call.returns_to) {
                return Err(format!("{} does not follow a call", call.returns_to));
            }
        }
        Ok(())
    }

    fn follows_call(&self, address: Svma) -> bool {
        let index = self.code.index_of(address).map(|index| index as usize);
        let before = index.and_then(|index| self.code.instructions().get(index.checked_sub(1)?));
        before.is_some_and(|before| before.end() == address && matches!(before.flow, Flow::Call(_)))
    }
}

fn check_register(register: Register) -> Result<(), String> {
    match register.index() < Register::COUNT {
        true => Ok(()),
        false => Err(format!("{register} does not exist")),
    }
}

fn check_source(source: &Source) -> Result<(), String> {
    match source.location {
        Location::Register(base) | Location::Memory { base, .. } => check_register(base)?,
        Location::Nowhere => {}
    }
    match source.scale {
        0 => Err("it was multiplied by 0".to_owned()),
        _ => Ok(()),
    }
}

fn check_clear(clear: &Clear, arguments: &[Register]) -> Result<(), String> {
    if !arguments.contains(&clear.argument) {
        return Err(format!("{} is no argument", clear.argument));
    }
    match clear.size {
        1..=8 => Ok(()),
        size => Err(format!("{size} bytes are to be cleared, not 1 to 8")),
    }
}

fn check_reason(reason: &str) -> Result<(), String> {
    match reason.is_empty() || reason.len() > MAX_LEN || reason.contains('\0') {
        true => Err(format!(
            "a reason has 1 to {MAX_LEN} bytes, none of them 0: {reason:?}"
        )),
        false => Ok(()),
    }
}
