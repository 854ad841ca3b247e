//! Calls: a function with its arguments, and the system call that does the same.

use std::fmt;

use nix::libc;

use super::answer::Answer;
use super::stage::{FILL, OperandField, Stage};

/// Where results are in an operand field: `struct timespec`, `struct timeval`, what `time` stores,
/// the number of the CPU.
const FIRST: usize = 0x100;
/// `struct timezone`, the number of the node.
const SECOND: usize = 0x200;
/// The buffer of `getrandom`.
const BUFFER: usize = 0x400;

/// Bytes in the result at `FIRST`.
const TIME: usize = 16;

/// A call with its arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    /// `clock_gettime`, always with a place for the result: without one it faults.
    ClockGettime { id: i32 },
    /// `clock_getres`
    ClockGetres { id: i32, wanted: bool },
    /// `gettimeofday`
    Gettimeofday { time: bool, zone: bool },
    /// `time`
    Time { wanted: bool },
    /// `getcpu`
    Getcpu { cpu: bool, node: bool },
    /// `getrandom`
    Getrandom(Random),
}

/// A call of `getrandom`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Random {
    pub(super) length: usize,
    pub(super) flags: u32,
    /// Size of the state; `None` for no state.
    pub(super) state: Option<usize>,
    /// Whether it asks how to allocate a state.
    pub(super) query: bool,
}

impl Call {
    /// Arguments in the order of their declaration.
    pub(super) fn arguments(self, stage: &Stage, operand_field: OperandField) -> [u64; 6] {
        let operand_field = stage.operand_field(operand_field);
        let place = |offset: usize, wanted| match wanted {
            true => operand_field.offset(offset as i64).0,
            false => 0,
        };
        let id = |id: i32| u64::from(id.cast_unsigned());
        match self {
            Self::ClockGettime { id: clock } => [id(clock), place(FIRST, true), 0, 0, 0, 0],
            Self::ClockGetres { id: clock, wanted } => {
                [id(clock), place(FIRST, wanted), 0, 0, 0, 0]
            }
            Self::Gettimeofday { time, zone } => {
                [place(FIRST, time), place(SECOND, zone), 0, 0, 0, 0]
            }
            Self::Time { wanted } => [place(FIRST, wanted), 0, 0, 0, 0, 0],
            Self::Getcpu { cpu, node } => [place(FIRST, cpu), place(SECOND, node), 0, 0, 0, 0],
            Self::Getrandom(random) => {
                let state = match (random.query, random.state) {
                    (true, _) => (operand_field.offset(BUFFER as i64).0, u64::MAX),
                    (false, Some(size)) => (stage.state().0, size as u64),
                    (false, None) => (0, 0),
                };
                let buffer = place(BUFFER, !random.query);
                let (length, flags) = (random.length as u64, u64::from(random.flags));
                [buffer, length, flags, state.0, state.1, 0]
            }
        }
    }

    /// The number of the system call that does the same.
    pub(super) fn system_call(self) -> i64 {
        match self {
            Self::ClockGettime { .. } => libc::SYS_clock_gettime,
            Self::ClockGetres { .. } => libc::SYS_clock_getres,
            Self::Gettimeofday { .. } => libc::SYS_gettimeofday,
            Self::Time { .. } => libc::SYS_time,
            Self::Getcpu { .. } => libc::SYS_getcpu,
            Self::Getrandom(_) => libc::SYS_getrandom,
        }
    }

    /// Whether there is one: none tells how to allocate a state.
    pub(super) fn has_system_call(self) -> bool {
        !matches!(self, Self::Getrandom(Random { query: true, .. }))
    }

    /// What a query of parameters has written to an operand field: the size of a state. `struct
    /// vgetrandom_opaque_params`
    pub(super) fn state_size(operand_field: &[u8]) -> usize {
        let bytes = operand_field
            .get(BUFFER..BUFFER + 4)
            .and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u32::from_le_bytes) as usize
    }

    /// Whether it reads a clock that somebody may set meanwhile.
    pub(super) fn is_settable(self) -> bool {
        match self {
            Self::ClockGettime { id } => matches!(
                id,
                libc::CLOCK_REALTIME
                    | libc::CLOCK_REALTIME_COARSE
                    | libc::CLOCK_REALTIME_ALARM
                    | libc::CLOCK_TAI
            ),
            Self::Gettimeofday { .. } | Self::Time { .. } => true,
            Self::ClockGetres { .. } | Self::Getcpu { .. } | Self::Getrandom(_) => false,
        }
    }

    /// What it has answered: what it returned, and what an operand field holds.
    pub(super) fn answer(self, returned: u64, mut operand_field: Vec<u8>) -> Answer {
        let word = |operand_field: &[u8], at: usize| {
            let bytes: [u8; 8] = operand_field[at..at + 8].try_into().unwrap_or_default();
            i64::from_le_bytes(bytes)
        };
        let returned = returned.cast_signed();
        // All but `time`, `getcpu` and `getrandom` return an `int`.
        let short = i64::from(returned as i32);
        let mut moment = None;
        let mut take = |operand_field: &mut Vec<u8>| {
            moment = Some((word(operand_field, FIRST), word(operand_field, FIRST + 8)));
            operand_field[FIRST..FIRST + TIME].fill(0);
        };
        let code = match self {
            Self::ClockGettime { .. } => {
                if short == 0 {
                    take(&mut operand_field);
                }
                short
            }
            Self::Gettimeofday { time, .. } => {
                if short == 0 && time {
                    take(&mut operand_field);
                }
                short
            }
            Self::Time { wanted } => {
                if wanted && word(&operand_field, FIRST) == returned {
                    operand_field[FIRST..FIRST + 8].fill(0);
                }
                moment = Some((returned, 0));
                0
            }
            Self::ClockGetres { .. } => short,
            Self::Getcpu { .. } => returned,
            Self::Getrandom(_) => {
                let range = self.random_bytes().filter(|_| returned >= 0);
                if let Some(bytes) = range.and_then(|range| operand_field.get_mut(range))
                    && is_random(bytes)
                {
                    bytes.fill(0);
                }
                returned
            }
        };
        Answer {
            code,
            moment,
            rest: operand_field,
        }
    }

    /// Where in an operand field random bytes are written.
    pub(super) fn random_bytes(self) -> Option<std::ops::Range<usize>> {
        match self {
            Self::Getrandom(random) if !random.query => Some(BUFFER..BUFFER + random.length),
            _ => None,
        }
    }
}

/// As many bytes are not like those that were there before by accident: 2^-48.
const UNLIKELY: usize = 6;

/// Whether all of these bytes may be random ones: none are left as they were before.
fn is_random(bytes: &[u8]) -> bool {
    let unwritten = bytes.windows(UNLIKELY.min(bytes.len().max(1)));
    bytes.len() < UNLIKELY
        || unwritten
            .into_iter()
            .all(|run| run.iter().any(|&byte| byte != FILL))
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = |wanted: bool| if wanted { "place" } else { "null" };
        match *self {
            Self::ClockGettime { id } => write!(f, "clock {id}"),
            Self::ClockGetres { id, wanted } => write!(f, "clock {id}, {}", place(wanted)),
            Self::Gettimeofday { time, zone } => {
                write!(f, "time {}, zone {}", place(time), place(zone))
            }
            Self::Time { wanted } => f.write_str(place(wanted)),
            Self::Getcpu { cpu, node } => write!(f, "CPU {}, node {}", place(cpu), place(node)),
            Self::Getrandom(Random { query: true, .. }) => f.write_str("parameters"),
            Self::Getrandom(random) => {
                write!(f, "{} bytes, flags {:#x}", random.length, random.flags)?;
                match random.state {
                    Some(size) => write!(f, ", a state of {size} bytes"),
                    None => f.write_str(", no state"),
                }
            }
        }
    }
}
