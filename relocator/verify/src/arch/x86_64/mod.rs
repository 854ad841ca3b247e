//! x86-64.

mod clock_mode;
mod instructions;
mod landing_pads;
pub(crate) mod registers;
mod signals;

pub use clock_mode::ClockMode;
pub(crate) use clock_mode::PageUpdate;
pub(crate) use instructions::{SYSTEM_CALL, TRAP, TRAPPED, is_system_call};
pub(crate) use landing_pads::{LandingPad, landing_pad_code};
pub(crate) use signals::SignalAction;
