//! What a restore by CRIU alone makes of an old vDSO, and what breaks by it.
//!
//! CRIU compares the vDSO in the images with that of the kernel by size, by the offsets of the
//! functions that it knows, and by the size of the data before it; build-ids and code count for
//! nothing. Where all of that is the same, it puts the kernel's mappings in the place of the old
//! ones. Otherwise it overwrites the entries of the functions that it knows with jumps to the new
//! vDSO. It has the same list of functions from 3.17 to 4.3.

use std::ops::Range;

use elf_tools::image::Image;
use elf_tools::{Avma, Svma};
use relocator::criu::{JUMP, SYMBOLS};
use relocator::plan::{FunctionPlan, Strategy};

/// What CRIU does with an old vDSO.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlainRestore {
    /// It puts the kernel's mappings in its place.
    InPlace,
    /// It writes jumps.
    Jumps(Vec<Jump>),
}

/// A jump at an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jump {
    /// The function.
    pub function: &'static str,
    /// Its entry: as many bytes as a jump has are overwritten from there on.
    pub entry: Svma,
    /// Whether the new vDSO has that function. If not, the jump leads to just before it.
    pub has_target: bool,
}

/// Sizes in bytes of what the kernel maps: all data before the vDSO, and the vDSO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Of the data; `None` if there is none.
    pub data: Option<u64>,
    /// Of the vDSO.
    pub vdso: u64,
}

impl PlainRestore {
    /// What CRIU does with `old`, on a kernel whose vDSO is `new`.
    pub fn of(old: (&Image, Sizes), new: (&Image, Sizes)) -> Self {
        let offset = |image: &Image, name| image.export(name).map(|export| export.address);
        let mut symbols = SYMBOLS.into_iter();
        let is_same_size = old.1.vdso == new.1.vdso;
        let has_same_data = match (old.1.data, new.1.data) {
            (Some(old), Some(new)) => old == new,
            _ => true,
        };
        let fits = symbols.all(|name| offset(old.0, name) == offset(new.0, name));
        if is_same_size && has_same_data && fits {
            return Self::InPlace;
        }
        let jumps = SYMBOLS.into_iter().filter_map(|function| {
            Some(Jump {
                function,
                entry: offset(old.0, function)?,
                has_target: offset(new.0, function).is_some(),
            })
        });
        Self::Jumps(jumps.collect())
    }

    /// The jumps.
    pub fn jumps(&self) -> &[Jump] {
        match self {
            Self::InPlace => &[],
            Self::Jumps(jumps) => jumps,
        }
    }
}

impl Jump {
    /// Whether a thread is within what the jump overwrites, and not at its beginning.
    pub fn cuts(&self, place: Svma) -> bool {
        let end = Svma(self.entry.0 + JUMP as u64);
        self.entry < place && place < end
    }
}

/// What a restore by CRIU alone breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Breakage {
    /// A thread is within the bytes that a jump overwrites: it executes the middle of other
    /// instructions.
    InJump(Inside),
    /// A thread, or a context in a signal frame, goes on in old code, which reads zeros where the
    /// old kernel's data was.
    ReadsZeros(Inside),
    /// A thread goes on in code of a kernel that is another one, at the same offset.
    OtherCode(Inside),
    /// A thread is in the same code, while the time namespace that its data belongs to is another:
    /// it can return one wrong time.
    OtherNamespace(Inside),
    /// A function that CRIU does not know keeps its old code, and reads zeros for ever after.
    NotProxied {
        /// Its name.
        function: String,
    },
    /// The jump of a function leads to just before the new vDSO, which has none of that name.
    NoTarget {
        /// Its name.
        function: &'static str,
    },
    /// CRIU takes two vDSOs for one, and a function is elsewhere in the new one.
    Elsewhere {
        /// Its name.
        function: String,
    },
}

/// A context inside an old vDSO.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inside {
    /// Its thread.
    pub thread: i32,
    /// The signal frame that it is in, if a signal had interrupted it.
    pub frame: Option<Avma>,
    /// Where it goes on in the image.
    pub place: Svma,
}

impl Breakage {
    /// A word for machines, which stays as it is.
    pub fn code(&self) -> &'static str {
        match self {
            Self::InJump(_) => "in-jump",
            Self::ReadsZeros(_) => "reads-zeros",
            Self::OtherCode(_) => "other-code",
            Self::OtherNamespace(_) => "other-time-namespace",
            Self::NotProxied { .. } => "not-proxied",
            Self::NoTarget { .. } => "no-target",
            Self::Elsewhere { .. } => "elsewhere",
        }
    }

    /// The context that it is about, if it is about one.
    pub fn inside(&self) -> Option<&Inside> {
        match self {
            Self::InJump(inside)
            | Self::ReadsZeros(inside)
            | Self::OtherCode(inside)
            | Self::OtherNamespace(inside) => Some(inside),
            Self::NotProxied { .. } | Self::NoTarget { .. } | Self::Elsewhere { .. } => None,
        }
    }

    /// The function that it is about, if it is about one.
    pub fn function(&self) -> Option<&str> {
        match self {
            Self::NotProxied { function } | Self::Elsewhere { function } => Some(function),
            Self::NoTarget { function } => Some(function),
            _ => None,
        }
    }
}

/// What breaks for functions that CRIU does not know, or that have no target: those that a link
/// changes in any way read the kernel's data.
pub(crate) fn functions(jumps: &[Jump], plans: &[FunctionPlan]) -> Vec<Breakage> {
    let is_known = |plan: &FunctionPlan| {
        let mut names = plan.names.iter();
        names.any(|name| SYMBOLS.contains(&name.as_str()))
    };
    let reads = plans.iter().filter(|plan| plan.strategy != Strategy::Keep);
    let unknown = reads.filter(|plan| !is_known(plan));
    let unknown = unknown.map(|plan| Breakage::NotProxied {
        function: plan.name().to_owned(),
    });
    let lost = jumps.iter().filter(|jump| !jump.has_target);
    let lost = lost.map(|jump| Breakage::NoTarget {
        function: jump.function,
    });
    lost.chain(unknown).collect()
}

/// What breaks for callers where CRIU puts another vDSO in place.
pub(crate) fn elsewhere(old: &Image, new: &Image) -> Vec<Breakage> {
    let is_moved =
        |name: &str, at: Svma| new.export(name).is_none_or(|export| export.address != at);
    let exports = old.exports().iter();
    let moved = exports
        .filter(|export| export.name.starts_with("__") && is_moved(&export.name, export.address));
    let all = moved.map(|export| Breakage::Elsewhere {
        function: export.name.clone(),
    });
    all.collect()
}

/// The name of the exported function that a place is in, and how far behind its entry; `None` in
/// code that several functions share.
pub fn function_at(image: &Image, place: Svma) -> Option<(&str, u64)> {
    let mut inside = image.exports().iter().filter(|export| {
        let end = export.address.0.saturating_add(export.size);
        (export.address.0..end).contains(&place.0)
    });
    let first = inside.next()?;
    // Aliases are at the same address.
    let own = inside.find(|export| export.name.starts_with("__"));
    let named = own.filter(|own| own.address == first.address && !first.name.starts_with("__"));
    let export = named.unwrap_or(first);
    Some((&export.name, place.0 - export.address.0))
}

/// The range of an image that is at `range`, in which an address may be.
pub(crate) fn place_in(range: &Range<Avma>, at: Avma) -> Option<Svma> {
    range.contains(&at).then(|| Svma(at.0 - range.start.0))
}
