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
    STRINGS, Source,
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
                .map_err(|reason| self.contexts.failed::<ContextRecord>(index, reason))?;
            contexts.push(context);
        }
        self.checker
            .finish()
            .map_err(|reason| Error::malformed("re-entry table", offset, reason))?;
        Ok(ReentryTable { recipes, contexts })
    }

    fn recipes(&mut self) -> Result<Vec<Recipe>> {
        let mut recipes =
            Vec::with_capacity(self.recipes.bytes.len() / record::size::<RecipeRecord>());
        let count = self.steps.bytes.len() / record::size::<StepRecord>();
        let mut next = 0;
        for (index, record) in record::all::<RecipeRecord>(self.recipes.bytes).enumerate() {
            let failed = |reason| self.recipes.failed::<RecipeRecord>(index, reason);
            let steps = range(record.first, record.count, count).map_err(failed)?;
            if steps.start != next {
                let reason = format!("it begins with step {}, and {next} is next", steps.start);
                return Err(failed(reason));
            }
            next = steps.end;
            let recipe = recipe(&self.steps, steps)?;
            self.checker.recipe(&recipe).map_err(failed)?;
            recipes.push(recipe);
        }
        match next == count {
            true => Ok(recipes),
            false => {
                let reason = "no recipe has it".to_owned();
                Err(self.steps.failed::<StepRecord>(next, reason))
            }
        }
    }

    fn context(&self, record: ContextRecord) -> Result<Context, String> {
        if record.flags & !(READS | LOST) != 0 {
            return Err(format!("unknown flags {:#x}", record.flags));
        }
        let count = u32::from(record.call_count);
        if count as usize > MAX_CALLS {
            return Err(format!("{count} calls where {MAX_CALLS} are possible"));
        }
        let calls = range(record.calls, count, self.calls.len())?;
        if count == 0 && record.calls != 0 {
            return Err(format!("call {} is the first of none", record.calls));
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

    fn reason(&self, offset: u32) -> Result<String, String> {
        let missing = || format!("no reason of at most {MAX_LEN} bytes is at {offset:#x}");
        let tail = (self.strings.get(offset as usize..)).ok_or_else(missing)?;
        // Many contexts may have one reason: its end is not looked for any further.
        let bytes = string_at(&tail[..tail.len().min(MAX_LEN + 1)], 0).ok_or_else(missing)?;
        let reason = std::str::from_utf8(bytes);
        let reason = reason.map_err(|_| format!("the reason at {offset:#x} is not UTF-8"))?;
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

    fn failed<R: Record>(&self, index: usize, reason: String) -> Error {
        let offset = self.offset + (index * record::size::<R>()) as u64;
        Error::malformed(format!("entry {index} of {}", R::SECTION), offset, reason)
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
fn range(first: u32, count: u32, of: usize) -> Result<Range<usize>, String> {
    let start = first as usize;
    let end = start.checked_add(count as usize).filter(|&end| end <= of);
    end.map(|end| start..end)
        .ok_or_else(|| format!("{count} entries from {first} on, where there are {of}"))
}

fn calls(stored: &Records<'_>) -> Result<Vec<Call>> {
    let mut calls = Vec::with_capacity(stored.bytes.len() / record::size::<CallRecord>());
    for (index, record) in record::all::<CallRecord>(stored.bytes).enumerate() {
        if record.rest != [0; 3] {
            let reason = "its last three bytes are not 0".to_owned();
            return Err(stored.failed::<CallRecord>(index, reason));
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
        step(record, &mut recipe).map_err(|reason| stored.failed::<StepRecord>(index, reason))?;
    }
    Ok(recipe)
}

fn step(record: StepRecord, recipe: &mut Recipe) -> Result<(), String> {
    if record.rest != 0 {
        return Err("bytes 4 to 7 are not 0".to_owned());
    }
    let base = Register(record.base);
    let location = match record.kind {
        FROM_REGISTER if record.offset != 0 => {
            return Err(format!("an offset of {} in a register", record.offset));
        }
        FROM_REGISTER => Location::Register(base),
        FROM_MEMORY => Location::Memory {
            base,
            offset: record.offset,
        },
        FROM_NOWHERE if (record.base, record.offset) != (0, 0) => {
            return Err("a constant is looked for somewhere".to_owned());
        }
        FROM_NOWHERE => Location::Nowhere,
        CLEAR => {
            if (record.base, record.image, record.constant, record.scale) != (0, 0, 0, 0) {
                return Err("it has a source, and it only clears".to_owned());
            }
            recipe.clear.push(Clear {
                argument: Register(record.register),
                offset: record.offset,
                size: record.size,
            });
            return Ok(());
        }
        kind => return Err(format!("kind {kind} is not known")),
    };
    if !recipe.clear.is_empty() {
        return Err("a register is put back behind what is cleared".to_owned());
    }
    let low = match record.size {
        0 => false,
        1 => true,
        size => return Err(format!("{size} where only 0 and 1 are possible")),
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
