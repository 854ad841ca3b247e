//! States of `getrandom` in the memory of the process.
//!
//! A state has a key, and the generation of the kernel's random number generator at the time of the
//! key. Generations are small numbers, and another kernel's may be the same by accident; then two
//! processes that were restored from one image would go on with one key. So after a restore no
//! process may use a state as it is.
//!
//! A state has no name by which a tool could find it. But the vDSO asks for its memory to be
//! *droppable* (`MAP_DROPPABLE`, `dp` among the `VmFlags` of `/proc/PID/smaps`): memory that the
//! kernel may turn into zeros at any time. A state of zeros is stale, and the code that uses a
//! state expects that at every moment. Tools that do not know the flag lose it; then no tool can
//! find the states, and the function must make the system call.

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
