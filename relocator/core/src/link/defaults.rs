//! Memory for the values that a new kernel does not have.
//!
//! Old code may reach a field of an array's element by any index, with the new kernel's stride. So
//! the linker writes a default once for every combination of indices, at the distances that the new
//! kernel's arrays have, and points the code to element 0 of that copy.

use elf_tools::Avma;
use elf_tools::symtab::Symtab;

use crate::reason::Unresolved;

/// Most memory that one default may take. Two clocks of 232 bytes take 240.
const MAX_SPAN: u64 = 64 << 10;

/// Copies of defaults, to be mapped behind the image.
pub(super) struct Defaults {
    base: Avma,
    offset: usize,
    bytes: Vec<u8>,
    /// What was laid out before: name, value and where. References to several elements of one array
    /// share a copy.
    placed: Vec<(String, Vec<u8>, Avma)>,
}

impl Defaults {
    /// Memory behind an image of `size` bytes at `image`.
    pub(super) fn behind(image: Avma, size: usize) -> Self {
        let offset = size.next_multiple_of(64);
        Self {
            base: image.offset(offset as i64),
            offset,
            bytes: Vec::new(),
            placed: Vec::new(),
        }
    }

    /// Lays out `value` for the symbol `name` and returns the address of its element 0.
    pub(super) fn place(
        &mut self,
        name: &str,
        value: &[u8],
        symtab: &Symtab,
    ) -> Result<Avma, Unresolved> {
        let is_same = |known: &&(String, Vec<u8>, Avma)| known.0 == name && known.1 == value;
        if let Some(&(_, _, address)) = self.placed.iter().find(is_same) {
            return Ok(address);
        }
        let dimensions = dimensions(name, symtab)?;
        let mut span = value.len() as u64;
        let mut copies = 1u64;
        for &(stride, count) in &dimensions {
            span = stride
                .checked_mul(count - 1)
                .and_then(|extent| span.checked_add(extent))
                .unwrap_or(u64::MAX);
            copies = copies.saturating_mul(count);
        }
        if span > MAX_SPAN || copies > MAX_SPAN {
            return Err(Unresolved::DefaultTooLarge {
                name: name.to_owned(),
                size: span,
                most: MAX_SPAN,
            });
        }
        let start = self.bytes.len().next_multiple_of(16);
        self.bytes.resize(start + span as usize, 0);
        fill(&mut self.bytes[start..], value, &dimensions);
        let address = self.base.offset(start as i64);
        self.placed.push((name.to_owned(), value.to_vec(), address));
        Ok(address)
    }

    /// Appends the copies, if any, to the image's bytes.
    pub(super) fn append_to(self, image: &mut Vec<u8>) {
        if !self.bytes.is_empty() {
            image.resize(self.offset, 0);
            image.extend(self.bytes);
        }
    }
}

/// Stride and count of every array in `name`, outermost first.
fn dimensions(name: &str, symtab: &Symtab) -> Result<Vec<(u64, u64)>, Unresolved> {
    let ends = name.match_indices("[]").map(|(at, _)| at);
    let array = |end: usize| {
        let array = &name[..end];
        let found = symtab.array(array);
        found.ok_or_else(|| Unresolved::DefaultWithoutArray(array.to_owned()))
    };
    ends.map(array).collect()
}

fn fill(bytes: &mut [u8], value: &[u8], dimensions: &[(u64, u64)]) {
    match dimensions.split_first() {
        None => bytes[..value.len()].copy_from_slice(value),
        Some((&(stride, count), inner)) => {
            for index in 0..count {
                fill(&mut bytes[(index * stride) as usize..], value, inner);
            }
        }
    }
}
