//! What has to hold of a re-entry table and the code that it is of: `docs/abi.md`, section 4.4.
//! Writers and readers ask for the same.

use std::collections::BTreeSet;

use crate::Svma;
use crate::arch::{Arch, Registers};
use crate::disassembly::Flow;
use crate::reachability::{Code, Function};
use crate::reentry::{
    Call, Clear, Context, Location, MAX_CALLS, MAX_CONTEXTS, Recipe, Recovery, Register, Source,
    TableFault,
};
use crate::symtab::name::MAX_LEN;

/// Takes a table's recipes, and then its contexts, in the table's order.
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

    pub(super) fn recipe(&mut self, recipe: &Recipe) -> Result<(), TableFault> {
        for (register, source) in &recipe.registers {
            check_register(*register)?;
            check_source(source).map_err(|fault| TableFault::Source {
                register: *register,
                fault: Box::new(fault),
            })?;
        }
        let ascends = |pair: &[(Register, Source)]| pair[0].0 < pair[1].0;
        if let Some(pair) = (recipe.registers.windows(2)).find(|pair| !ascends(pair)) {
            let (first, second) = (pair[0].0, pair[1].0);
            return Err(TableFault::RegisterOrder { first, second });
        }
        for clear in &recipe.clear {
            check_clear(clear, self.registers.arguments)?;
        }
        match self.recipes.insert(recipe.clone()) {
            true => Ok(()),
            false => Err(TableFault::Twice),
        }
    }

    pub(super) fn context(&mut self, context: &Context) -> Result<(), TableFault> {
        self.contexts += 1;
        if self.contexts > MAX_CONTEXTS {
            return Err(TableFault::TooManyContexts);
        }
        self.check_place(context)?;
        self.check_calls(&context.calls)?;
        match &context.recovery {
            Recovery::Recipe(index) => {
                let (index, count) = (*index, self.recipes.len());
                if index as usize >= count {
                    return Err(TableFault::NoRecipe { index, count });
                }
            }
            Recovery::None(reason) => check_reason(&reason.to_string())?,
        }
        let key = (context.boundary, context.function, context.calls.clone());
        if self.last.as_ref().is_some_and(|last| *last >= key) {
            let before = self.last.as_ref().map_or(Svma(0), |last| last.0);
            return Err(TableFault::ContextOrder { before });
        }
        self.last = Some(key);
        Ok(())
    }

    /// Everything that functions reach must be there: what is missing would look as if no thread
    /// could be stopped at it.
    pub(super) fn finish(self) -> Result<(), TableFault> {
        for (function, seen) in self.code.functions().iter().zip(&self.seen) {
            let missing = seen.iter().position(|&seen| !seen);
            if let Some(boundary) = missing.and_then(|at| self.address(function, at)) {
                let function = function.entry;
                return Err(TableFault::NoContext { function, boundary });
            }
        }
        Ok(())
    }

    fn address(&self, function: &Function, position: usize) -> Option<Svma> {
        let instruction = *function.reached.get(position)? as usize;
        Some(self.code.instructions().get(instruction)?.address)
    }

    fn check_place(&mut self, context: &Context) -> Result<(), TableFault> {
        let (boundary, entry) = (context.boundary, context.function);
        let Some(instruction) = self.code.index_of(boundary) else {
            return Err(TableFault::NotBoundary { boundary });
        };
        let functions = self.code.functions();
        let Ok(number) = functions.binary_search_by_key(&entry, |function| function.entry) else {
            return Err(TableFault::NoFunction { entry });
        };
        let Ok(position) = functions[number].reached.binary_search(&instruction) else {
            return Err(TableFault::NotReached { entry });
        };
        self.seen[number][position] = true;
        Ok(())
    }

    fn check_calls(&self, calls: &[Call]) -> Result<(), TableFault> {
        if calls.len() > MAX_CALLS {
            let count = calls.len();
            return Err(TableFault::TooManyCalls { count });
        }
        for call in calls {
            let Location::Memory { base, .. } = call.at else {
                return Err(TableFault::ReturnNotInMemory);
            };
            check_register(base)?;
            if !self.follows_call(call.returns_to) {
                let address = call.returns_to;
                return Err(TableFault::NotBehindCall { address });
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

fn check_register(register: Register) -> Result<(), TableFault> {
    match register.index() < Register::COUNT {
        true => Ok(()),
        false => Err(TableFault::NoRegister { register }),
    }
}

fn check_source(source: &Source) -> Result<(), TableFault> {
    match source.location {
        Location::Register(base) | Location::Memory { base, .. } => check_register(base)?,
        Location::Nowhere => {}
    }
    match source.scale {
        0 => Err(TableFault::ZeroScale),
        _ => Ok(()),
    }
}

fn check_clear(clear: &Clear, arguments: &[Register]) -> Result<(), TableFault> {
    if !arguments.contains(&clear.argument) {
        let register = clear.argument;
        return Err(TableFault::NoArgument { register });
    }
    match clear.size {
        1..=8 => Ok(()),
        size => Err(TableFault::ClearSize { size }),
    }
}

fn check_reason(reason: &str) -> Result<(), TableFault> {
    match reason.is_empty() || reason.len() > MAX_LEN || reason.contains('\0') {
        true => Err(TableFault::ReasonNotStorable {
            reason: reason.to_owned(),
        }),
        false => Ok(()),
    }
}
