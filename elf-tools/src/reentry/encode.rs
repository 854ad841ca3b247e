//! Writing a re-entry table: `docs/abi.md`, section 4.4.

use std::collections::BTreeMap;

use object::elf;

use crate::elf_writer::{self, Content, NewSection, add_name, table_section};
use crate::image::{Image, note};
use crate::reachability::Code;
use crate::record;
use crate::reentry::check::Checker;
use crate::reentry::digest::digest;
use crate::reentry::record::{
    CLEAR, CallRecord, ContextRecord, FROM_MEMORY, FROM_NOWHERE, FROM_REGISTER, LOST, READS,
    RecipeRecord, Record, StepRecord,
};
use crate::reentry::{
    Call, Clear, Context, Location, Recipe, Recovery, ReentryTable, Register, STRINGS, Source,
    TableFault,
};
use crate::{Error, Result, Svma, arch};

/// A re-entry table as it is stored.
pub(crate) struct Stored {
    digest: u32,
    contexts: Vec<u8>,
    calls: Vec<u8>,
    recipes: Vec<u8>,
    steps: Vec<u8>,
    strings: Vec<u8>,
}

impl Stored {
    /// Refuses a table that a reader would have to refuse: one that is not of this image, or that
    /// contradicts itself.
    pub(crate) fn encode(table: &ReentryTable, image: &Image, code: &Code) -> Result<Self> {
        let mut checker = Checker::new(arch::of_image(image)?, code);
        let mut steps = Vec::new();
        let mut recipes = Vec::new();
        for (index, recipe) in table.recipes.iter().enumerate() {
            let failed = |fault| refused(format!("recipe {index}"), &fault);
            checker.recipe(recipe).map_err(failed)?;
            recipes.extend(record::stored(add_steps(&mut steps, recipe)?));
        }
        let mut contexts = Contexts::default();
        for context in &table.contexts {
            let failed = |fault| refused(format!("context of {}", context.boundary), &fault);
            checker.context(context).map_err(failed)?;
            contexts.add(context)?;
        }
        let failed = |fault| refused("re-entry table".to_owned(), &fault);
        checker.finish().map_err(failed)?;
        Ok(Self {
            digest: digest(image, code),
            contexts: contexts.records,
            calls: contexts.calls,
            recipes,
            steps,
            strings: contexts.strings,
        })
    }

    /// Adds the note that announces the table.
    pub(crate) fn announce(&self, notes: &mut Vec<u8>) {
        let descriptor = record::stored(note::Reentry {
            abi: note::Abi::CURRENT,
            digest: self.digest,
        });
        elf_writer::add_note(notes, note::OWNER, note::NT_REENTRY, &descriptor);
    }

    /// The table as sections from index `first` on.
    pub(crate) fn into_sections(self, first: u32) -> [NewSection<'static>; 5] {
        let strings = NewSection {
            content: Content::New(self.strings),
            ..table_section(STRINGS, elf::SHT_STRTAB.0)
        };
        [
            NewSection {
                link: first + 4,
                ..section::<ContextRecord>(self.contexts)
            },
            section::<CallRecord>(self.calls),
            section::<RecipeRecord>(self.recipes),
            section::<StepRecord>(self.steps),
            strings,
        ]
    }
}

fn section<R: Record>(content: Vec<u8>) -> NewSection<'static> {
    NewSection {
        content: Content::New(content),
        align: 8,
        entry_size: record::size::<R>() as u64,
        ..table_section(R::SECTION, elf::SHT_PROGBITS.0)
    }
}

fn add_steps(steps: &mut Vec<u8>, recipe: &Recipe) -> Result<RecipeRecord> {
    let first = number(steps.len() / record::size::<StepRecord>())?;
    for (register, source) in &recipe.registers {
        steps.extend(record::stored(put_back(*register, source)));
    }
    for clear in &recipe.clear {
        steps.extend(record::stored(set_to_zero(clear)));
    }
    let count = number(recipe.registers.len() + recipe.clear.len())?;
    Ok(RecipeRecord { first, count })
}

fn put_back(register: Register, source: &Source) -> StepRecord {
    let (kind, base, offset) = match source.location {
        Location::Register(base) => (FROM_REGISTER, base, 0),
        Location::Memory { base, offset } => (FROM_MEMORY, base, offset),
        Location::Nowhere => (FROM_NOWHERE, Register(0), 0),
    };
    StepRecord {
        kind,
        register: register.0,
        base: base.0,
        size: source.low.into(),
        rest: 0,
        offset,
        image: source.image,
        constant: source.constant,
        scale: source.scale,
    }
}

fn set_to_zero(clear: &Clear) -> StepRecord {
    StepRecord {
        kind: CLEAR,
        register: clear.argument.0,
        base: 0,
        size: clear.size,
        rest: 0,
        offset: clear.offset,
        image: 0,
        constant: 0,
        scale: 0,
    }
}

/// Contexts while they are written. What several have in common is stored once.
struct Contexts<'a> {
    records: Vec<u8>,
    calls: Vec<u8>,
    /// Index of the first call of each list.
    lists: BTreeMap<&'a [Call], u32>,
    strings: Vec<u8>,
    reasons: BTreeMap<String, u32>,
}

impl Default for Contexts<'_> {
    fn default() -> Self {
        Self {
            records: Vec::new(),
            calls: Vec::new(),
            lists: BTreeMap::new(),
            // The empty name.
            strings: vec![0],
            reasons: BTreeMap::new(),
        }
    }
}

impl<'a> Contexts<'a> {
    fn add(&mut self, context: &'a Context) -> Result<()> {
        let (recovery, lost) = match &context.recovery {
            Recovery::Recipe(index) => (*index, 0),
            Recovery::None(reason) => (self.reason(reason.to_string()), LOST),
        };
        let record = ContextRecord {
            boundary: address(context.boundary)?,
            function: address(context.function)?,
            calls: self.calls(&context.calls)?,
            call_count: context.calls.len() as u16,
            flags: lost | if context.reads { READS } else { 0 },
            recovery,
        };
        self.records.extend(record::stored(record));
        Ok(())
    }

    fn calls(&mut self, calls: &'a [Call]) -> Result<u32> {
        if calls.is_empty() {
            return Ok(0);
        }
        if let Some(&first) = self.lists.get(calls) {
            return Ok(first);
        }
        let first = number(self.calls.len() / record::size::<CallRecord>())?;
        for call in calls {
            let Location::Memory { base, offset } = call.at else {
                let what = format!("call that returns to {}", call.returns_to);
                return Err(refused(what, &TableFault::CallNotInMemory));
            };
            let record = CallRecord {
                offset,
                returns_to: address(call.returns_to)?,
                base: base.0,
                rest: [0; 3],
            };
            self.calls.extend(record::stored(record));
        }
        self.lists.insert(calls, first);
        Ok(first)
    }

    fn reason(&mut self, reason: String) -> u32 {
        let strings = &mut self.strings;
        let known = self.reasons.entry(reason);
        *known.or_insert_with_key(|reason| add_name(strings, reason))
    }
}

fn address(address: Svma) -> Result<u32> {
    let refused = |_| refused(format!("address {address}"), &TableFault::TooLarge);
    u32::try_from(address.0).map_err(refused)
}

fn number(count: usize) -> Result<u32> {
    u32::try_from(count).map_err(|_| refused("re-entry table".to_owned(), &TableFault::TooLarge))
}

/// An error about a table that was not read from anywhere.
fn refused(what: String, fault: &TableFault) -> Error {
    Error::unsupported(what, fault.to_string())
}
