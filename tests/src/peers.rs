//! What other tools say about the same BTF: `bpftool` and `pahole`, which share no code with this project.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use elf_tools::layout::Structure;
use elf_tools::symtab::Symtab;

/// Why a peer could not be asked, in words.
pub type Result<T> = std::result::Result<T, String>;

/// The types that `bpftool btf dump file BTF format raw` lists.
#[derive(Debug)]
pub struct Types(HashMap<u32, Type>);

/// One type in the words of bpftool.
#[derive(Debug, Default)]
struct Type {
    kind: String,
    name: String,
    /// Its properties, such as `size` and `type_id`.
    values: HashMap<String, u64>,
    /// Name, type and bit offset.
    members: Vec<(String, u32, u64)>,
}

/// An offset in a struct, with the size of what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Offset in bytes.
    pub offset: u64,
    /// Size in bytes.
    pub size: u64,
}

impl Types {
    /// Asks bpftool about the file of raw BTF at `btf`.
    pub fn from_bpftool(btf: &Path) -> Result<Self> {
        let arguments = ["btf", "dump", "file"]
            .map(OsStr::new)
            .into_iter()
            .chain([btf.as_os_str()]);
        let listing = run(
            "bpftool",
            arguments.chain(["format", "raw"].map(OsStr::new)),
        )?;
        let mut types = HashMap::new();
        let mut last = 0;
        for line in listing.lines() {
            if let Some((id, rest)) = line
                .strip_prefix('[')
                .and_then(|line| line.split_once("] "))
            {
                last = id
                    .parse::<u32>()
                    .map_err(|error| format!("{line}: {error}"))?;
                let (kind, rest) = rest.split_once(' ').unwrap_or((rest, ""));
                let (name, values) = properties(rest);
                types.insert(
                    last,
                    Type {
                        kind: kind.to_owned(),
                        name,
                        values,
                        members: Vec::new(),
                    },
                );
            } else if let Some(type_of) = types.get_mut(&last) {
                let (name, values) = properties(line.trim());
                if let (Some(&target), Some(&bits)) =
                    (values.get("type_id"), values.get("bits_offset"))
                {
                    type_of.members.push((name, target as u32, bits));
                }
            }
        }
        if types.is_empty() {
            Err("bpftool lists no types".to_owned())
        } else {
            Ok(Self(types))
        }
    }

    /// Names of all structs, in the order of their ids.
    pub fn structures(&self) -> Vec<&str> {
        let mut structs: Vec<_> = self
            .0
            .iter()
            .filter(|(_, t)| t.kind == "STRUCT" && t.name != "(anon)")
            .collect();
        structs.sort_by_key(|(id, _)| **id);
        structs
            .into_iter()
            .map(|(_, found)| found.name.as_str())
            .collect()
    }

    /// The struct `root` as a whole, or what `path` leads to. `[]` leads to an array's first element.
    pub fn place(&self, root: &str, path: &[&str]) -> Option<Place> {
        let id = *self
            .0
            .iter()
            .find(|(_, t)| t.kind == "STRUCT" && t.name == root)?
            .0;
        let (id, offset) = path.iter().try_fold((id, 0), |(id, offset), segment| {
            self.step(id, offset, segment)
        })?;
        Some(Place {
            offset,
            size: self.size(id)?,
        })
    }

    fn step(&self, id: u32, offset: u64, segment: &str) -> Option<(u32, u64)> {
        let found = &self.0[&self.plain(id)?];
        if segment == "[]" {
            return Some((*found.values.get("type_id")? as u32, offset))
                .filter(|_| found.kind == "ARRAY");
        }
        found
            .members
            .iter()
            .find_map(|(name, target, bits)| match name.as_str() {
                "(anon)" => self.step(*target, offset + bits / 8, segment),
                name if name == segment => Some((*target, offset + bits / 8)),
                _ => None,
            })
    }

    /// The type behind typedefs and qualifiers.
    fn plain(&self, mut id: u32) -> Option<u32> {
        loop {
            let found = self.0.get(&id)?;
            match found.kind.as_str() {
                "TYPEDEF" | "CONST" | "VOLATILE" | "RESTRICT" | "TYPE_TAG" => {
                    id = *found.values.get("type_id")? as u32
                }
                _ => return Some(id),
            }
        }
    }

    fn size(&self, id: u32) -> Option<u64> {
        let found = &self.0[&self.plain(id)?];
        match found.kind.as_str() {
            "ARRAY" => Some(
                self.size(*found.values.get("type_id")? as u32)? * found.values.get("nr_elems")?,
            ),
            "PTR" => Some(8),
            _ => found.values.get("size").copied(),
        }
    }

    /// Compares every symbol that is inside a struct with what bpftool says. Returns how many there were, and a line
    /// for each difference.
    pub fn compare(&self, symtab: &Symtab) -> (usize, Vec<String>) {
        let mut differences = Vec::new();
        let mut compared = 0;
        for symbol in symtab
            .symbols()
            .iter()
            .filter(|symbol| !symbol.name.ends_with(".page"))
        {
            compared += 1;
            let expected = self.expected(&symbol.name);
            let base = base(&symbol.name).and_then(|base| symtab.get(base));
            let found = base.map(|base| Place {
                offset: symbol.offset - base.offset,
                size: symbol.size,
            });
            if expected.is_none() || found != expected {
                differences.push(format!(
                    "{}: {found:?}, but bpftool says {expected:?}",
                    symbol.name
                ));
            }
        }
        (compared, differences)
    }

    /// The place of a canonical name, relative to its [`base`].
    fn expected(&self, name: &str) -> Option<Place> {
        let spaced = name.replace("[]", ".[]");
        let path: Vec<&str> = spaced.split('.').collect();
        match path[..] {
            ["rng", ref field @ ..] => self.place("vdso_rng_data", field),
            ["pvclock", field] => self.place("pvclock_vsyscall_time_info", &["pvti", field]),
            ["hvclock", field] => self.place("ms_hyperv_tsc_page", &[field]),
            [_, ref rest @ ..] if self.place("vdso_time_data", &["clock_data"]).is_some() => {
                let renamed = rest.iter().map(|&segment| match segment {
                    "clock" => "clock_data",
                    "aux_clock" => "aux_clock_data",
                    same => same,
                });
                self.place("vdso_time_data", &renamed.collect::<Vec<_>>())
            }
            // Two of the struct itself, which no struct of the kernel holds.
            [_, "clock"] => self.place("vdso_data", &[]).map(|place| Place {
                size: place.size * 2,
                ..place
            }),
            [_, "clock", "[]", ref rest @ ..] => self.place("vdso_data", rest),
            [_, ref rest @ ..] => self.place("vdso_data", rest),
            [] => None,
        }
    }
}

/// The symbol that stands where the struct that holds `name` starts.
fn base(name: &str) -> Option<&'static str> {
    match name.split('.').next()? {
        "time" => Some("time.clock"),
        "timens" => Some("timens.clock"),
        "rng" => Some("rng.generation"),
        "pvclock" => Some("pvclock.page"),
        "hvclock" => Some("hvclock.page"),
        _ => None,
    }
}

/// A name, quoted or `(anon)`, and then `key=value` pairs, of which the numbers are kept.
fn properties(text: &str) -> (String, HashMap<String, u64>) {
    let (name, rest) = match text.strip_prefix('\'') {
        Some(quoted) => quoted.split_once('\'').unwrap_or((quoted, "")),
        None => text.split_once(' ').unwrap_or((text, "")),
    };
    let numbers = rest
        .split_whitespace()
        .filter_map(|pair| pair.split_once('='));
    let numbers = numbers.filter_map(|(key, value)| Some((key.to_owned(), value.parse().ok()?)));
    (name.to_owned(), numbers.collect())
}

/// Compares the named members of `structure` with what `pahole` says about the same struct of `btf`. Bitfields are left
/// out, and members of anonymous structs and unions are compared as pahole shows them: with their offsets in the whole.
/// Returns how many members there were, and a line for each difference.
pub fn compare_with_pahole(btf: &Path, structure: &Structure) -> Result<(usize, Vec<String>)> {
    let arguments = ["-C", &structure.name].map(OsStr::new).into_iter();
    let listing = run("pahole", arguments.chain([btf.as_os_str()]))?;
    let mut differences = Vec::new();
    let mut compared = 0;
    for line in listing.lines().filter(|line| line.contains(';')) {
        let Some((declaration, comment)) = line.split_once(';') else {
            continue;
        };
        let mut numbers = comment
            .split_whitespace()
            .filter_map(|word| word.parse::<u64>().ok());
        let (Some(offset), Some(size)) = (numbers.next(), numbers.next()) else {
            continue;
        };
        let declaration = declaration.trim_end().trim_end_matches(']');
        // `type name[count]`, without the brackets; a `}` closes an anonymous member.
        let name = declaration
            .split('[')
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .last()
            .unwrap_or_default();
        let Some(member) = structure.member(name) else {
            if name != "}" {
                differences.push(format!("{}.{name}: only pahole knows it", structure.name));
            }
            continue;
        };
        compared += 1;
        if (member.offset, member.kind.size()) != (offset, size) {
            differences.push(format!(
                "{}.{name}: {:#x} bytes at {:#x}, but pahole says {size:#x} at {offset:#x}",
                structure.name,
                member.kind.size(),
                member.offset
            ));
        }
    }
    Ok((compared, differences))
}

fn run<'a>(program: &str, arguments: impl Iterator<Item = &'a OsStr>) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if !output.status.success() {
        return Err(format!(
            "{program}: {}",
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    String::from_utf8(output.stdout).map_err(|error| format!("{program}: {error}"))
}
