//! States of `getrandom` that are kept in memory of the process.
//!
//! A state has a key, and the generation of the kernel's random number generator that the key was made with. Generations are
//! small numbers, and another kernel's may be the same by accident; then two processes that were restored from one image
//! would go on with one key. So after a restore no state may be used again as it is.
//!
//! A state has no name that it could be found by. But the vDSO asks for its memory to be *droppable*
//! (`MAP_DROPPABLE`, `dp` among the `VmFlags` of `/proc/PID/smaps`): memory that the kernel may turn into zeros at any time.
//! A state of zeros is stale, and whoever uses one expects that to happen. What is true of a checkpoint is true of every
//! moment. Where the flag has got lost, as it does with tools that do not know it, nobody can find the states, and the
//! function must make the system call.

use std::ops::Range;

use elf_tools::Avma;

use super::Write;

/// What makes every state in these droppable mappings stale.
pub fn stale(droppable: &[Range<Avma>]) -> Vec<Write> {
    let zeros = |range: &Range<Avma>| Write {
        at: range.start,
        bytes: vec![0; range.end.0.saturating_sub(range.start.0) as usize],
    };
    droppable.iter().map(zeros).collect()
}
