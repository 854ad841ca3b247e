//! A process as it looks from outside.

use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use elf_tools::Avma;
use relocator_tests::trials::ensure;

/// One mapping: a line of `/proc/PID/maps`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) range: Range<Avma>,
    /// Such as `r-xp`.
    pub(crate) protection: String,
    pub(crate) name: String,
}

/// All mappings, lowest first.
pub(crate) fn mappings(pid: i32) -> Result<Vec<Mapping>, String> {
    let path = format!("/proc/{pid}/maps");
    let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    let parsed = text.lines().map(|line| {
        let strange = || format!("{path}: {line}");
        let mut fields = line.split_whitespace();
        let (start, end) = fields
            .next()
            .and_then(|range| range.split_once('-'))
            .ok_or_else(strange)?;
        let address = |digits| {
            let number = u64::from_str_radix(digits, 16);
            number.map(Avma).map_err(|_| strange())
        };
        Ok(Mapping {
            range: address(start)?..address(end)?,
            protection: fields.next().ok_or_else(strange)?.to_owned(),
            name: fields.skip(3).collect::<Vec<_>>().join(" "),
        })
    });
    parsed.collect()
}

/// The mapping of that name.
pub(crate) fn named(all: &[Mapping], name: &str) -> Result<Range<Avma>, String> {
    let found = all.iter().find(|mapping| mapping.name == name);
    let found = found.ok_or_else(|| format!("there is no {name}"))?;
    Ok(found.range.clone())
}

/// The mapping that has an address.
pub(crate) fn at(all: &[Mapping], address: Avma) -> Result<Range<Avma>, String> {
    let found = all.iter().find(|mapping| mapping.range.contains(&address));
    let found = found.ok_or_else(|| format!("nothing is at {address}"))?;
    Ok(found.range.clone())
}

/// Memory as a debugger reads it.
pub(crate) fn memory(pid: i32, range: &Range<Avma>) -> Result<Vec<u8>, String> {
    let mut bytes = vec![0; (range.end.0 - range.start.0) as usize];
    let path = format!("/proc/{pid}/mem");
    let file = File::open(&path).map_err(|error| format!("{path}: {error}"))?;
    let read = file.read_exact_at(&mut bytes, range.start.0);
    read.map_err(|error| format!("memory at {range:?}: {error}"))?;
    Ok(bytes)
}

/// Its mappings, and what those hold that can be executed and have no file, or are the kernel's
/// vDSO.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) mappings: Vec<Mapping>,
    code: Vec<Vec<u8>>,
}

impl Snapshot {
    /// Of a process that maps nothing by itself in the meantime.
    pub(crate) fn of(pid: i32) -> Result<Self, String> {
        let mappings = mappings(pid)?;
        let is_code =
            |mapping: &&Mapping| mapping.protection.contains('x') && !mapping.name.starts_with('/');
        // That of the kernel's is never mapped where others are.
        let code = mappings
            .iter()
            .filter(is_code)
            .filter(|mapping| mapping.name != "[vsyscall]")
            .map(|mapping| memory(pid, &mapping.range));
        let code = code.collect::<Result<_, _>>()?;
        Ok(Self { mappings, code })
    }

    /// Fails unless another one is the same.
    pub(crate) fn is(&self, other: &Self) -> Result<(), String> {
        let only = |one: &[Mapping], other: &[Mapping]| {
            let only = one.iter().filter(|mapping| !other.contains(mapping));
            only.cloned().collect::<Vec<_>>()
        };
        ensure(self.mappings == other.mappings, || {
            let gone = only(&self.mappings, &other.mappings);
            let new = only(&other.mappings, &self.mappings);
            format!("mappings differ: {gone:x?} became {new:x?}")
        })?;
        ensure(self.code == other.code, || "code differs".to_owned())
    }
}
