//! Tables of constraints, through the whole linker: by hand, converted from entries, and executed.

mod body;
mod conversion;
mod detours;
mod execute;
mod functions;
