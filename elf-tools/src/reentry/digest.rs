//! What code a re-entry table was made from.

use crate::image::Image;
use crate::reachability::Code;

/// The CRC-32 (that of `.gnu_debuglink`) of all instructions that exported functions reach, by
/// address, each once.
///
/// Copies of one image differ where boot-time alternatives were applied, and so does what registers
/// hold and where instructions start. The build-id does not tell them apart.
pub(super) fn digest(image: &Image, code: &Code) -> u32 {
    let mut is_reached = vec![false; code.instructions().len()];
    for &index in code.functions().iter().flat_map(|f| &f.reached) {
        is_reached[index as usize] = true;
    }
    let mut hasher = crc32fast::Hasher::new();
    for (instruction, _) in
        (code.instructions().iter().zip(&is_reached)).filter(|reached| *reached.1)
    {
        let span = instruction.address.index()..instruction.end().index();
        hasher.update(image.bytes().get(span).unwrap_or_default());
    }
    hasher.finalize()
}
