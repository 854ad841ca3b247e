//! Where the fields of a symbol table are, in every element of the arrays that they are in.

use elf_tools::symtab::{Symbol, Symtab};

/// A place in a kernel's vvar.
#[derive(Debug, Clone, Copy)]
pub(super) struct FieldPlace<'a> {
    /// Name of the mapping.
    pub(super) mapping: &'a str,
    /// Offset in the mapping.
    pub(super) offset: u64,
    /// Size in bytes.
    pub(super) size: u64,
    /// Semantic version of the symbol.
    pub(super) version: u32,
}

/// A field of one element: a name, and the element of each array in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) indices: Vec<u64>,
}

impl Field {
    /// The field of that name in these elements.
    pub(super) fn new(name: impl Into<String>, indices: &[u64]) -> Self {
        Self {
            name: name.into(),
            indices: indices.to_vec(),
        }
    }

    /// Where it is; `None` if the table has no such field, or not so many elements.
    pub(super) fn place<'a>(&self, symtab: &'a Symtab) -> Option<FieldPlace<'a>> {
        let symbol = symtab.get(&self.name)?;
        let mut offset = symbol.offset;
        for (array, index) in arrays(&self.name).zip(&self.indices) {
            let (stride, count) = symtab.array(array)?;
            offset += (*index < count).then_some(stride * index)?;
        }
        Some(FieldPlace {
            mapping: &symtab.mappings()[symbol.mapping].name,
            offset,
            size: symbol.size,
            version: symbol.version,
        })
    }

    /// The array element that it is directly or indirectly in, and the rest of its name:
    /// `time.clock`, 1 and `basetime[].sec`.
    pub(super) fn element(&self) -> Option<(&str, u64, &str)> {
        let (array, rest) = self.name.split_once("[].")?;
        Some((array, *self.indices.first()?, rest))
    }
}

/// The arrays in a name, outermost first: `time.clock` and `time.clock[].basetime` for
/// `time.clock[].basetime[].sec`.
fn arrays(name: &str) -> impl Iterator<Item = &str> {
    name.match_indices("[]").map(|(at, _)| &name[..at])
}

/// Widest field that code accesses at once.
const WIDEST: u64 = 8;

/// Every field of a table in every element. Pages, objects, arrays and elements are no fields, nor
/// is what is wider than an access: nothing reads it as a value.
pub(super) fn fields(symtab: &Symtab) -> Vec<Field> {
    let is_field = |symbol: &&Symbol| {
        !symbol.name.ends_with("[]")
            && !symbol.name.ends_with(".page")
            && symbol.size <= WIDEST
            && symtab.get(&format!("{}[]", symbol.name)).is_none()
    };
    let symbols = symtab.symbols().iter().filter(is_field);
    symbols
        .flat_map(|symbol| elements(symtab, symbol))
        .collect()
}

fn elements(symtab: &Symtab, symbol: &Symbol) -> Vec<Field> {
    let counts =
        arrays(&symbol.name).map(|array| symtab.array(array).map_or(0, |(_, count)| count));
    let none = vec![Vec::new()];
    let indices = counts.fold(none, |indices: Vec<Vec<u64>>, count| {
        let with = |outer: &Vec<u64>| {
            let outer = outer.clone();
            (0..count).map(move |index| [&outer[..], &[index]].concat())
        };
        indices.iter().flat_map(with).collect()
    });
    let field = |indices: Vec<u64>| Field {
        name: symbol.name.clone(),
        indices,
    };
    indices.into_iter().map(field).collect()
}
