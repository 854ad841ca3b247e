//! What the running kernel has mapped.

use std::ops::Range;

use elf_tools::Avma;
use elf_tools::symtab::mapping_name;

use super::{KernelMapping, KernelUnit, Own};
use crate::targets::{Mapping, Protection};
use relocator::criu::Mark;
use relocator::threads::Memory;

/// Every name that the kernel gives to such mappings.
const NAMES: [&str; 3] = [
    mapping_name::VVAR,
    mapping_name::VVAR_VCLOCK,
    mapping_name::VDSO,
];

/// How the kernel maps what it keeps current.
const DATA: Protection = Protection {
    read: true,
    write: false,
    execute: false,
    shared: false,
};

/// Finds the kernel's unit. What has a name of a part of it and is none adds to the misleading
/// names.
pub(super) fn find(
    mappings: &[Mapping],
    memory: &dyn Memory,
    own: &Own,
    misleading_names: &mut Vec<String>,
) -> Option<KernelUnit> {
    misleading_names.extend(mappings.iter().filter_map(similar_name));
    let (vdso, mark) = vdso(mappings, memory, own, misleading_names)?;
    let mut unit = KernelUnit {
        mappings: Vec::with_capacity(own.mappings.len()),
        missing: Vec::new(),
        mark,
    };
    for (name, start, size) in before(own, vdso.start) {
        match data(name, start, size, mappings, misleading_names) {
            Some(range) => unit.mappings.push(KernelMapping { name, range }),
            None => unit.missing.push(name),
        }
    }
    let name = mapping_name::VDSO;
    unit.mappings.push(KernelMapping { name, range: vdso });
    remark(&unit, misleading_names);
    Some(unit)
}

/// A remark about a name that has one of the kernel's in it: a file's, or one that a program gave.
fn similar_name(mapping: &Mapping) -> Option<String> {
    let name = &mapping.name;
    let is_similar = !NAMES.contains(&name.as_str()) && NAMES.iter().any(|own| name.contains(own));
    is_similar.then(|| {
        let start = mapping.range.start;
        format!("what is called `{name}` at {start} is not mapped by the kernel")
    })
}

/// Remarks about a unit that is not as the kernel maps it.
fn remark(unit: &KernelUnit, misleading_names: &mut Vec<String>) {
    for name in &unit.missing {
        misleading_names.push(format!("the kernel's {name} was not found"));
    }
    if unit.missing.is_empty() && !unit.is_whole() {
        let parts = unit.mappings.iter();
        let parts = parts.map(|part| format!("{} at {}", part.name, part.range.start));
        let parts = parts.collect::<Vec<_>>().join(", ");
        misleading_names.push(format!(
            "the kernel's mappings are not at its own distances: {parts}"
        ));
    }
}

/// The mappings that the kernel puts before a vDSO: name, where each has to be, and size.
fn before(own: &Own, vdso: Avma) -> Vec<(&'static str, Avma, u64)> {
    let mut end = vdso;
    let mut parts = Vec::with_capacity(own.mappings.len());
    for (name, size) in own.mappings.iter().rev() {
        let known = NAMES.into_iter().find(|known| known == name);
        let Some(name) = known.filter(|name| *name != mapping_name::VDSO) else {
            continue;
        };
        end = Avma(end.0.wrapping_sub(*size));
        parts.push((name, end, *size));
    }
    parts.reverse();
    parts
}

/// The kernel's vDSO, and CRIU's mark in it.
fn vdso(
    mappings: &[Mapping],
    memory: &dyn Memory,
    own: &Own,
    misleading_names: &mut Vec<String>,
) -> Option<(Range<Avma>, Option<Mark>)> {
    let mut best: Option<(u8, &Mapping, Option<Mark>)> = None;
    for mapping in mappings {
        let is_named = mapping.name == mapping_name::VDSO;
        // It is no file's, which somebody might have to bring.
        if mapping.name.starts_with('/') {
            continue;
        }
        if !is_named && (!mapping.protection.execute || mapping.size() != own.vdso_size()) {
            continue;
        }
        let mark = match compare(mapping, memory, own) {
            Ok(mark) => mark,
            Err(difference) if is_named => {
                let start = mapping.range.start;
                misleading_names.push(format!("the [vdso] at {start} {difference}"));
                continue;
            }
            Err(_) => continue,
        };
        let is_in_place = is_behind_data(mapping, mappings, own);
        // A copy of the same bytes may be an old vDSO from this very kernel. Its name tells it, or
        // else its place.
        let rank = u8::from(is_named) * 2 + u8::from(is_in_place);
        if rank > 0 && best.is_none_or(|best| rank > best.0) {
            best = Some((rank, mapping, mark));
        }
    }
    let (_, mapping, mark) = best?;
    if mapping.name != mapping_name::VDSO {
        let (start, name) = (mapping.range.start, &mapping.name);
        misleading_names.push(format!("the kernel's vDSO at {start} is called `{name}`"));
    }
    Some((mapping.range.clone(), mark))
}

/// Whether a vDSO directly follows the kernel's data, at the kernel's own distances.
fn is_behind_data(vdso: &Mapping, mappings: &[Mapping], own: &Own) -> bool {
    let parts = before(own, vdso.range.start);
    let is_there = |(name, start, size): &(&str, Avma, u64)| {
        let mut all = mappings.iter();
        all.any(|mapping| mapping.range.start == *start && is_data(mapping, name, *size))
    };
    !parts.is_empty() && parts.iter().all(is_there)
}

/// Why a mapping is not the running kernel's vDSO.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum NotKernels {
    #[error("has {size:#x} bytes, and that of the running kernel has {expected:#x}")]
    Size { size: u64, expected: u64 },
    #[error("is shared with other processes, which the kernel's never is")]
    Shared,
    #[error("cannot be read")]
    Unreadable,
    #[error("is not that of the running kernel: {count} bytes differ, the first at {first:#x}")]
    Bytes { count: usize, first: usize },
}

/// Holds a mapping against the running kernel's vDSO: CRIU's mark if that is all that differs, or
/// what else does.
fn compare(mapping: &Mapping, memory: &dyn Memory, own: &Own) -> Result<Option<Mark>, NotKernels> {
    let expected = own.image.bytes();
    if mapping.size() != own.vdso_size() {
        let (size, expected) = (mapping.size(), own.vdso_size());
        return Err(NotKernels::Size { size, expected });
    }
    if mapping.protection.shared {
        return Err(NotKernels::Shared);
    }
    let mut bytes = vec![0; expected.len()];
    if !memory.read(mapping.range.start, &mut bytes) {
        return Err(NotKernels::Unreadable);
    }
    let mark = Mark::read(&bytes);
    if let (Some(_), Some(header)) = (mark, expected.get(..Mark::SIZE)) {
        bytes[..Mark::SIZE].copy_from_slice(header);
    }
    let mut differing = (0..bytes.len()).filter(|&at| bytes[at] != expected[at]);
    match differing.next() {
        None => Ok(mark),
        Some(first) => Err(NotKernels::Bytes {
            count: 1 + differing.count(),
            first,
        }),
    }
}

/// The kernel's data mapping of that name: the one that is where it has to be, or else the only
/// one.
fn data(
    name: &str,
    start: Avma,
    size: u64,
    mappings: &[Mapping],
    misleading_names: &mut Vec<String>,
) -> Option<Range<Avma>> {
    let named = mappings.iter().filter(|mapping| mapping.name == name);
    let (right, wrong): (Vec<_>, Vec<_>) = named.partition(|mapping| is_data(mapping, name, size));
    for mapping in wrong {
        let (at, protection, found) = (mapping.range.start, mapping.protection, mapping.size());
        misleading_names.push(format!(
            "the {name} at {at} is not the kernel's: {found:#x} bytes, {protection}, and not {size:#x}, {DATA}"
        ));
    }
    let in_place = right.iter().find(|mapping| mapping.range.start == start);
    if right.len() > 1 {
        let count = right.len();
        misleading_names.push(format!("{count} mappings are called {name}"));
    }
    let chosen = match (in_place, right.as_slice()) {
        (Some(mapping), _) => mapping,
        (None, [only]) => only,
        (None, _) => return None,
    };
    Some(chosen.range.clone())
}

fn is_data(mapping: &Mapping, name: &str, size: u64) -> bool {
    mapping.name == name && mapping.size() == size && mapping.protection == DATA
}
