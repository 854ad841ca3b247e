//! `getrandom`.
//!
//! Random bytes cannot be compared with others. What can be compared is what is returned; and that
//! every byte was written, none behind them, and never the same twice.

use std::num::NonZeroUsize;

use nix::libc;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};

use super::{Checker, Difference, Settable, equal};
use crate::entry::{Random, RandomBuffer, RandomParameters, RandomState};
use crate::system;

const LENGTHS: [usize; 8] = [0, 1, 7, 32, 33, 256, 1000, 4097];

/// The last is no flag.
const FLAGS: [u32; 5] = [
    0,
    libc::GRND_NONBLOCK,
    libc::GRND_RANDOM,
    libc::GRND_INSECURE,
    0x4000_0000,
];

/// Fewest outputs from which it is told whether a byte is ever written. A byte is like what was
/// there before in one of 256, so in all of 16 with a probability of 2^-128.
const LEAST_ROUNDS: u32 = 16;

/// From this length on, two outputs or an output of zeros do not repeat by accident: 2^-256.
const UNREPEATABLE: usize = 32;

/// Queries the parameters, then every length and flag, with and without a state.
pub(super) fn getrandom(checker: &mut Checker<'_>, function: Random) {
    checker.case("parameters of the state");
    let mut parameters = None;
    let is_stub = checker.function.is_stub;
    checker.once(Settable::No, || {
        query(function, is_stub).map(|found| parameters = found)
    });
    let allocated = parameters.map(|parameters| {
        checker.case("allocation of a state");
        allocate(&parameters)
    });
    let mut states = vec![("no state", RandomState::NONE)];
    match allocated {
        Some(Ok(state)) => states.push(("a state", state)),
        Some(Err(difference)) => checker.mismatch(&difference),
        None => {}
    }
    for (kind, state) in states {
        for length in LENGTHS {
            for flags in FLAGS {
                checker.case(format!("{length} bytes, flags {flags:#x}, {kind}"));
                fill(checker, function, length, flags, state);
            }
        }
    }
}

/// Asks how to allocate a state. A system call cannot tell, and there is none then.
fn query(function: Random, is_stub: bool) -> Result<Option<RandomParameters>, Difference> {
    let (code, parameters) = function.parameters();
    // Where the running kernel supports no state either, its own vDSO says so in the same way.
    if code == -i64::from(libc::ENOSYS) {
        return Ok(None);
    }
    if is_stub || code != 0 {
        return Err(Difference::Parameters { code });
    }
    let size = parameters.state_size;
    if size == 0 || size > 4096 {
        return Err(Difference::StateSize { size });
    }
    Ok(Some(parameters))
}

/// Maps a state as the function asks for it. It stays until the process ends.
fn allocate(parameters: &RandomParameters) -> Result<RandomState, Difference> {
    let page = NonZeroUsize::MIN.saturating_add(4095);
    let protection = ProtFlags::from_bits_retain(parameters.mmap_prot.cast_signed());
    let flags = MapFlags::from_bits_retain(parameters.mmap_flags.cast_signed());
    if flags.intersects(MapFlags::MAP_FIXED | MapFlags::MAP_FIXED_NOREPLACE) {
        let flags = parameters.mmap_flags;
        return Err(Difference::StateFlags { flags });
    }
    // SAFETY: the kernel chooses the place, so no other memory is affected.
    let state = unsafe { mmap_anonymous(None, page, protection, flags) };
    let state = state.map_err(|errno| Difference::StateNotMapped { errno })?;
    Ok(RandomState {
        address: state.as_ptr(),
        size: parameters.state_size as usize,
    })
}

fn fill(
    checker: &mut Checker<'_>,
    function: Random,
    length: usize,
    flags: u32,
    state: RandomState,
) {
    let mut written = vec![false; length];
    let mut previous: Option<RandomBuffer> = None;
    let mut succeeded = true;
    for round in 0..checker.function.rounds.max(LEAST_ROUNDS) {
        let pattern = if round % 2 == 0 { 0xa5 } else { 0x5a };
        let expected = system::getrandom(&mut RandomBuffer::new(length, pattern), flags);
        succeeded = expected >= 0;
        let mut buffer = RandomBuffer::new(length, pattern);
        checker.once(Settable::No, || {
            let found = function.call(&mut buffer, flags, state);
            equal("the result", &found, &expected)?;
            inspect(&buffer, previous.as_ref(), expected)
        });
        for (written, &byte) in written.iter_mut().zip(buffer.filled()) {
            *written |= byte != pattern;
        }
        previous = Some(buffer);
    }
    if let Some(at) = written.iter().position(|written| *written != succeeded) {
        checker.mismatch(&match succeeded {
            true => Difference::NeverWritten { at },
            false => Difference::WrittenInFailure { at },
        });
    }
}

fn inspect(
    buffer: &RandomBuffer,
    previous: Option<&RandomBuffer>,
    expected: i64,
) -> Result<(), Difference> {
    if !buffer.guard_is_intact() {
        return Err(Difference::BehindBuffer);
    }
    if expected < 0 || buffer.filled().len() < UNREPEATABLE {
        return Ok(());
    }
    if previous.is_some_and(|previous| previous.filled() == buffer.filled()) {
        return Err(Difference::Repeated);
    }
    match buffer
        .filled()
        .chunk_by(|first, second| first == second)
        .map(<[u8]>::len)
        .max()
    {
        Some(run) if run >= UNREPEATABLE => Err(Difference::EqualBytes { run }),
        _ => Ok(()),
    }
}
