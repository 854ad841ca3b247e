//! Reading a stored re-entry table: `docs/abi.md`, section 4.4.

use std::ops::Range;

use object::elf;

use crate::arch::{self, Arch};
use crate::elf::{Section, View, string_at};
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
    Call, Clear, Context, Location, MAX_CALLS, NoRecipe, Recipe, Recovery, ReentryTable, Register,
    STRINGS, Source, TableFault,
};
use crate::symtab::name::MAX_LEN;
use crate::{Error, Result, Svma};

/// Reads the re-entry table in an object; `None` if it has none, or has that of a copy of the image
/// with other alternatives applied.
///
/// What [`crate::relocation::object::read`] checks of an object must have been checked.
pub(crate) fn read(view: &View<'_>, image: &Image, code: &Code) -> Result<Option<ReentryTable>> {
    let note = note::only(&view.notes()?, note::NT_REENTRY)?;
    let mut sections = view.sections.iter();
    let Some(note) = note else {
        return match sections.find(|section| is_ours(section)) {
            None => Ok(None),
            Some(section) => {
                let reason = "no note announces it";
                Err(Error::malformed(
                    format!("section {}", section.name),
                    section.offset,
                    reason,
                ))
            }
        };
    };
    let known = note::descriptor::<note::Reentry>(&note)?;
    if known.digest != digest(image, code) {
        return Ok(None);
    }
    Reader::new(view, arch::of_image(image)?, code)?
        .table(note.offset)
        .map(Some)
}

fn is_ours(section: &Section) -> bool {
    section.name.starts_with(ContextRecord::SECTION)
}

/// The sections of one table.
struct Reader<'a> {
    contexts: Records<'a>,
    calls: Vec<Call>,
    recipes: Records<'a>,
    steps: Records<'a>,
    strings: &'a [u8],
    checker: Checker<'a>,
}

/// The bytes of a section of records, and where they are in the object.
struct Records<'a> {
    bytes: &'a [u8],
    offset: u64,
}

impl<'a> Reader<'a> {
    fn new(view: &View<'a>, arch: &dyn Arch, code: &'a Code) -> Result<Self> {
        let context_section = only(view, ContextRecord::SECTION)?;
        let strings = view.sections.get(context_section.link);
        let strings =
            strings.filter(|strings| strings.kind == elf::SHT_STRTAB.0 && strings.name == STRINGS);
        let Some(strings) = strings else {
            let reason = format!(
                "it links to section {}, not to {STRINGS}",
                context_section.link
            );
            return Err(Error::malformed(
                format!("section {}", context_section.name),
                context_section.offset,
                reason,
            ));
        };
        Ok(Self {
            contexts: Records::of::<ContextRecord>(view)?,
            calls: calls(&Records::of::<CallRecord>(view)?)?,
            recipes: Records::of::<RecipeRecord>(view)?,
            steps: Records::of::<StepRecord>(view)?,
            strings: view.data(strings)?,
            checker: Checker::new(arch, code),
        })
    }

    fn table(mut self, offset: u64) -> Result<ReentryTable> {
        let recipes = self.recipes()?;
        let bytes = self.contexts.bytes;
        let mut contexts = Vec::with_capacity(bytes.len() / record::size::<ContextRecord>());
        for (index, record) in record::all::<ContextRecord>(bytes).enumerate() {
            let context = self
                .context(record)
                .and_then(|context| self.checker.context(&context).map(|()| context))
                .map_err(|fault| self.contexts.failed::<ContextRecord>(index, &fault))?;
            contexts.push(context);
        }
        self.checker
            .finish()
            .map_err(|fault| Error::malformed("re-entry table", offset, fault.to_string()))?;
        Ok(ReentryTable { recipes, contexts })
    }

    fn recipes(&mut self) -> Result<Vec<Recipe>> {
        let mut recipes =
            Vec::with_capacity(self.recipes.bytes.len() / record::size::<RecipeRecord>());
        let count = self.steps.bytes.len() / record::size::<StepRecord>();
        let mut next = 0;
        for (index, record) in record::all::<RecipeRecord>(self.recipes.bytes).enumerate() {
            let failed = |fault: TableFault| self.recipes.failed::<RecipeRecord>(index, &fault);
            let steps = range(record.first, record.count, count).map_err(failed)?;
            if steps.start != next {
                let start = steps.start;
                return Err(failed(TableFault::StepOrder { start, next }));
            }
            next = steps.end;
            let recipe = recipe(&self.steps, steps)?;
            self.checker.recipe(&recipe).map_err(failed)?;
            recipes.push(recipe);
        }
        match next == count {
            true => Ok(recipes),
            false => Err(self
                .steps
                .failed::<StepRecord>(next, &TableFault::StrayStep)),
        }
    }

    fn context(&self, record: ContextRecord) -> Result<Context, TableFault> {
        if record.flags & !(READS | LOST) != 0 {
            let flags = record.flags;
            return Err(TableFault::UnknownFlags { flags });
        }
        let count = u32::from(record.call_count);
        if count as usize > MAX_CALLS {
            let count = count as usize;
            return Err(TableFault::TooManyCalls { count });
        }
        let calls = range(record.calls, count, self.calls.len())?;
        if count == 0 && record.calls != 0 {
            let first = record.calls;
            return Err(TableFault::FirstOfNone { first });
        }
        Ok(Context {
            boundary: Svma(record.boundary.into()),
            function: Svma(record.function.into()),
            calls: self.calls[calls].to_vec(),
            reads: record.flags & READS != 0,
            recovery: match record.flags & LOST {
                0 => Recovery::Recipe(record.recovery),
                _ => Recovery::None(NoRecipe::Stored(self.reason(record.recovery)?)),
            },
        })
    }

    fn reason(&self, offset: u32) -> Result<String, TableFault> {
        let missing = TableFault::NoReason { offset };
        let Some(tail) = self.strings.get(offset as usize..) else {
            return Err(missing);
        };
        // Many contexts may have one reason: its end is not looked for any further.
        let bytes = string_at(&tail[..tail.len().min(MAX_LEN + 1)], 0).ok_or(missing)?;
        let reason = std::str::from_utf8(bytes);
        let reason = reason.map_err(|_| TableFault::ReasonNotUtf8 { offset })?;
        Ok(reason.to_owned())
    }
}

impl<'a> Records<'a> {
    /// The section of those records.
    fn of<R: Record>(view: &View<'a>) -> Result<Self> {
        let section = only(view, R::SECTION)?;
        let size = record::size::<R>() as u64;
        let reason = if section.kind != elf::SHT_PROGBITS.0 {
            format!("it has type {}", section.kind)
        } else if section.entry_size != size {
            format!("its entries have {} bytes, not {size}", section.entry_size)
        } else if !section.size.is_multiple_of(size) {
            format!("{} bytes are no whole number of entries", section.size)
        } else {
            return Ok(Self {
                bytes: view.data(section)?,
                offset: section.offset,
            });
        };
        let what = format!("section {}", R::SECTION);
        Err(Error::malformed(what, section.offset, reason))
    }

    fn failed<R: Record>(&self, index: usize, fault: &TableFault) -> Error {
        let offset = self.offset + (index * record::size::<R>()) as u64;
        let what = format!("entry {index} of {}", R::SECTION);
        Error::malformed(what, offset, fault.to_string())
    }
}

/// The section of that name.
fn only<'v>(view: &'v View<'_>, name: &str) -> Result<&'v Section> {
    let mut named = view.sections.iter().filter(|section| section.name == name);
    let Some(section) = named.next() else {
        let reason = "the note of a re-entry table announces it";
        return Err(Error::not_found(format!("section {name}"), reason));
    };
    match named.next() {
        None => Ok(section),
        Some(second) => Err(Error::malformed(
            format!("section {name}"),
            second.offset,
            "a second one of that name",
        )),
    }
}

/// `count` indices from `first` on, of `of` that there are.
fn range(first: u32, count: u32, of: usize) -> Result<Range<usize>, TableFault> {
    let start = first as usize;
    let end = start.checked_add(count as usize).filter(|&end| end <= of);
    end.map(|end| start..end)
        .ok_or(TableFault::NoEntries { first, count, of })
}

fn calls(stored: &Records<'_>) -> Result<Vec<Call>> {
    let mut calls = Vec::with_capacity(stored.bytes.len() / record::size::<CallRecord>());
    for (index, record) in record::all::<CallRecord>(stored.bytes).enumerate() {
        if record.rest != [0; 3] {
            return Err(stored.failed::<CallRecord>(index, &TableFault::CallRest));
        }
        calls.push(Call {
            at: Location::Memory {
                base: Register(record.base),
                offset: record.offset,
            },
            returns_to: Svma(record.returns_to.into()),
        });
    }
    Ok(calls)
}

fn recipe(stored: &Records<'_>, range: Range<usize>) -> Result<Recipe> {
    let mut recipe = Recipe::default();
    let bytes = &stored.bytes
        [range.start * record::size::<StepRecord>()..range.end * record::size::<StepRecord>()];
    for (index, record) in range.zip(record::all::<StepRecord>(bytes)) {
        step(record, &mut recipe).map_err(|fault| stored.failed::<StepRecord>(index, &fault))?;
    }
    Ok(recipe)
}

fn step(record: StepRecord, recipe: &mut Recipe) -> Result<(), TableFault> {
    if record.rest != 0 {
        return Err(TableFault::StepRest);
    }
    let base = Register(record.base);
    let location = match record.kind {
        FROM_REGISTER if record.offset != 0 => {
            let offset = record.offset;
            return Err(TableFault::OffsetInRegister { offset });
        }
        FROM_REGISTER => Location::Register(base),
        FROM_MEMORY => Location::Memory {
            base,
            offset: record.offset,
        },
        FROM_NOWHERE if (record.base, record.offset) != (0, 0) => {
            return Err(TableFault::PlaceOfConstant);
        }
        FROM_NOWHERE => Location::Nowhere,
        CLEAR => {
            if (record.base, record.image, record.constant, record.scale) != (0, 0, 0, 0) {
                return Err(TableFault::SourceOfClear);
            }
            recipe.clear.push(Clear {
                argument: Register(record.register),
                offset: record.offset,
                size: record.size,
            });
            return Ok(());
        }
        kind => return Err(TableFault::UnknownKind { kind }),
    };
    if !recipe.clear.is_empty() {
        return Err(TableFault::RegisterBehindClear);
    }
    let low = match record.size {
        0 => false,
        1 => true,
        size => return Err(TableFault::NotBoolean { size }),
    };
    let source = Source {
        location,
        image: record.image,
        constant: record.constant,
        scale: record.scale,
        low,
    };
    recipe.registers.push((Register(record.register), source));
    Ok(())
}
