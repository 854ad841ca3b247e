//! The BTF of real kernels, changed as it is found in the world: kinds of types that nobody knows yet, types that are
//! missing, parts that are damaged.

use std::sync::Arc;

use elf_tools::layout::Layout;
use elf_tools::layout::btf::Btf;
use elf_tools::symtab::{Symtab, stock_symbols};
use libtest_mimic::{Arguments, Trial};
use relocator::link::Old;
use relocator_tests::running::in_words;
use relocator_tests::stock::{self, Kernel};
use relocator_tests::trials::{ensure, trial};

/// Bytes of the header of a type.
const TYPE: usize = 12;

/// `BTF_KIND_FUNC`, `FLOAT`, `DECL_TAG`, `FUNC_PROTO`: what no vvar needs.
const FUNC: u8 = 12;
const FUNC_PROTO: u8 = 13;
const FLOAT: u8 = 16;
const DECL_TAG: u8 = 17;

/// A little-endian blob whose strings follow its types.
#[derive(Clone)]
struct Blob(Vec<u8>);

impl Blob {
    fn of(kernel: &Kernel) -> Self {
        Self(kernel.btf.clone())
    }

    fn word(&self, at: usize) -> usize {
        u32::from_le_bytes(self.0[at..at + 4].try_into().unwrap()) as usize
    }

    fn put(&mut self, at: usize, word: usize) {
        self.0[at..at + 4].copy_from_slice(&(word as u32).to_le_bytes());
    }

    /// Where the types are.
    fn types(&self) -> std::ops::Range<usize> {
        let start = self.word(4) + self.word(8);
        start..start + self.word(12)
    }

    /// Where each type starts, by the sizes that the kernel's documentation has.
    fn starts(&self) -> Vec<usize> {
        let types = self.types();
        let mut starts = Vec::new();
        let mut at = types.start;
        while at < types.end {
            starts.push(at);
            let count = self.word(at + 4) & 0xffff;
            at += TYPE
                + match self.0[at + 7] & 0x1f {
                    1 | 14 | 17 => 4,
                    3 => 12,
                    4 | 5 | 15 | 19 => 12 * count,
                    6 | 13 => 8 * count,
                    _ => 0,
                };
        }
        starts
    }

    /// Gives all types of a kind another number.
    fn renumber(&mut self, from: u8, to: u8) -> usize {
        let mut renumbered = 0;
        for at in self.starts() {
            if self.0[at + 7] & 0x1f == from {
                self.0[at + 7] = self.0[at + 7] & 0x80 | to;
                renumbered += 1;
            }
        }
        renumbered
    }

    /// Adds a type of an unknown kind behind all others.
    fn append(&mut self, kind: u8, payload: &[u32]) {
        let end = self.types().end;
        let words = [0, u32::from(kind) << 24, 0];
        let record: Vec<u8> = words
            .iter()
            .chain(payload)
            .flat_map(|word| word.to_le_bytes())
            .collect();
        let strings = self.word(16);
        self.put(12, self.word(12) + record.len());
        self.put(16, strings + record.len());
        self.0.splice(end..end, record);
    }

    /// Changes a name, everywhere.
    fn rename(&mut self, name: &str) {
        let from = format!("\0{name}\0");
        let mut at = self.types().end;
        while let Some(found) = self.0[at..]
            .windows(from.len())
            .position(|bytes| bytes == from.as_bytes())
        {
            at += found + 1;
            self.0[at] = b'?';
        }
    }

    fn symbols(&self, kernel: &Kernel) -> Result<Symtab, String> {
        let btf = Btf::parse(&self.0).map_err(|error| error.to_string())?;
        stock_symbols::from_layout(&btf, &kernel.image).map_err(|error| error.to_string())
    }
}

/// Kinds that have got other numbers, so that they are unknown: of one size, of a size for each element, several.
fn kinds_that_are_unknown_cost_nothing(kernel: &Kernel) -> Result<(), String> {
    let expected = kernel.symtab()?;
    let types = Btf::parse(&kernel.btf)
        .map_err(|error| error.to_string())?
        .len();
    for kinds in [
        &[(FLOAT, 20)][..],
        &[(DECL_TAG, 31)],
        &[(FUNC, 40)],
        &[(FUNC_PROTO, 21)],
        &[(FLOAT, 20), (FUNC_PROTO, 127)],
    ] {
        let mut blob = Blob::of(kernel);
        let renumbered: usize = kinds
            .iter()
            .map(|&(from, to)| blob.renumber(from, to))
            .sum();
        let parsed = Btf::parse(&blob.0).map_err(|error| error.to_string())?;
        ensure(renumbered == 0 || parsed.len() == types, || {
            format!("{kinds:?}: {} of {types} types", parsed.len())
        })?;
        let symtab = blob.symbols(kernel)?;
        ensure(symtab == *expected, || format!("{kinds:?}: {symtab:#?}"))?;
    }
    // One that is larger than any that is tried. What is before it can be asked for.
    let mut blob = Blob::of(kernel);
    blob.append(99, &[7; 25]);
    let symtab = blob.symbols(kernel)?;
    let is_same =
        symtab.symbols() == expected.symbols() && symtab.mappings() == expected.mappings();
    ensure(is_same, || format!("behind all: {symtab:#?}"))?;
    // What cannot be told is whether there are the types of newer kernels.
    let is_old =
        Btf::parse(&kernel.btf).is_ok_and(|btf| matches!(btf.enumeration("vdso_pages"), Ok(None)));
    let is_said = symtab
        .gaps
        .iter()
        .any(|gap| gap.to_string().contains("kind 99"));
    ensure(is_said == is_old, || format!("{:?}", symtab.gaps))
}

/// What is left, the rest being proxied.
fn types_that_are_missing_cost_their_symbols(kernel: &Kernel) -> Result<(), String> {
    let expected = kernel.symtab()?;
    for (name, prefix) in [
        ("vdso_rng_data", "rng."),
        ("pvclock_vsyscall_time_info", "pvclock."),
        ("ms_hyperv_tsc_page", "hvclock."),
        ("vdso_clock_mode", "nothing"),
        ("vdso_pages", "nothing"),
    ] {
        let mut blob = Blob::of(kernel);
        blob.rename(name);
        let symtab = blob
            .symbols(kernel)
            .map_err(|error| format!("{name}: {error}"))?;
        for symbol in expected.symbols() {
            let is_page = symbol.name.ends_with(".page");
            let is_lost = symbol.name.starts_with(prefix) && !is_page;
            let found = symtab.get(&symbol.name);
            ensure(is_lost == found.is_none(), || {
                format!("{name}: {}", symbol.name)
            })?;
            let place = |symtab: &Symtab, symbol: &elf_tools::symtab::Symbol| {
                (
                    symtab.mappings()[symbol.mapping].address + symbol.offset,
                    symbol.size,
                )
            };
            ensure(
                found.is_none_or(|found| place(&symtab, found) == place(expected, symbol)),
                || format!("{name}: {} is elsewhere", symbol.name),
            )?;
        }
        let is_needed = expected
            .symbols()
            .iter()
            .any(|symbol| symbol.name.starts_with(prefix));
        let is_said = symtab.gaps.iter().any(|gap| gap.to_string().contains(name));
        // A page that code never touches is not missed.
        ensure(!is_said || is_needed || name == "vdso_clock_mode", || {
            format!("{:?}", symtab.gaps)
        })?;
        // What cannot be attributed is opaque and costs the functions that use it, not the others.
        let old = Old::derive(kernel.image.clone(), &symtab).map_err(|error| in_words(&error))?;
        let table = old.relocations.as_ref().ok_or("no table")?;
        let touches = kernel.old()?.relocations.as_ref().is_some_and(|whole| {
            whole
                .needs
                .iter()
                .any(|need| need.reference.to_string().contains(prefix))
        });
        ensure(touches != table.opaque.is_empty(), || {
            format!("{name}: {:?}", table.opaque)
        })?;
        ensure(!touches || is_said, || format!("{name}: {:?}", symtab.gaps))?;
    }
    for name in ["vdso_data", "vdso_time_data"] {
        let mut blob = Blob::of(kernel);
        blob.rename(name);
        ensure(
            blob.0 == kernel.btf || blob.symbols(kernel).is_err(),
            || format!("without {name}"),
        )?;
    }
    Ok(())
}

/// What is checked of a kernel.
type Check = fn(&Kernel) -> Result<(), String>;

/// All trials.
pub(crate) fn trials(arguments: &Arguments) -> Vec<Trial> {
    let kernels = stock::all(arguments.list);
    let checks: [(&str, Check); 2] = [
        (
            "kinds_that_are_unknown_cost_nothing",
            kinds_that_are_unknown_cost_nothing,
        ),
        (
            "types_that_are_missing_cost_their_symbols",
            types_that_are_missing_cost_their_symbols,
        ),
    ];
    let trials = kernels.iter().flat_map(|(version, kernel, possible)| {
        checks.iter().map(move |&(name, check)| {
            let kernel = Arc::clone(kernel);
            trial(format!("{version}::{name}"), possible, move || {
                check(&*kernel()?)
            })
        })
    });
    trials.collect()
}
