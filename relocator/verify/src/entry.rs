//! The functions of a vDSO as typed entry points.
//!
//! This is where linked code is entered. Everything above this module calls it through safe
//! methods; what that costs if the code is wrong is contained by the child process that all of it
//! runs in.

use std::ffi::{c_int, c_long, c_uint, c_void};
use std::{mem, ptr};

use elf_tools::Avma;

/// What `time` counts in.
pub(super) type Seconds = i64;

/// `struct timespec` and `struct timeval`: seconds, then nanoseconds or microseconds.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Time {
    pub(super) seconds: i64,
    pub(super) fraction: i64,
}

/// `struct timezone`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Timezone {
    pub(super) minutes_west: i32,
    pub(super) dst_time: i32,
}

/// `struct vgetrandom_opaque_params`: how to allocate the state of `getrandom`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct RandomParameters {
    pub(super) state_size: u32,
    pub(super) mmap_prot: u32,
    pub(super) mmap_flags: u32,
    reserved: [u32; 13],
}

/// Memory that `getrandom` is asked to fill, with a guard behind it.
#[derive(Debug, Clone)]
pub(super) struct RandomBuffer {
    bytes: Vec<u8>,
    length: usize,
    fill: u8,
}

impl RandomBuffer {
    const GUARD: usize = 64;

    /// `length` bytes to be filled, all `fill` before.
    pub(super) fn new(length: usize, fill: u8) -> Self {
        Self {
            bytes: vec![fill; length + Self::GUARD],
            length,
            fill,
        }
    }

    /// What was to be filled.
    pub(super) fn filled(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// Whether nothing was written behind it.
    pub(super) fn guard_is_intact(&self) -> bool {
        self.bytes[self.length..]
            .iter()
            .all(|&byte| byte == self.fill)
    }

    pub(super) fn writable(&mut self) -> (*mut u8, usize) {
        (self.bytes.as_mut_ptr(), self.length)
    }
}

/// Memory that holds the state of `getrandom`; null for none.
#[derive(Debug, Clone, Copy)]
pub(super) struct RandomState {
    pub(super) address: *mut c_void,
    pub(super) size: usize,
}

impl RandomState {
    pub(super) const NONE: Self = Self {
        address: ptr::null_mut(),
        size: 0,
    };
}

pub(super) type ClockFunction = unsafe extern "C" fn(c_int, *mut Time) -> c_int;
pub(super) type TimeOfDayFunction = unsafe extern "C" fn(*mut Time, *mut Timezone) -> c_int;
pub(super) type TimeFunction = unsafe extern "C" fn(*mut Seconds) -> Seconds;
pub(super) type CpuFunction = unsafe extern "C" fn(*mut c_uint, *mut c_uint, *mut c_void) -> c_long;
pub(super) type RandomFunction =
    unsafe extern "C" fn(*mut u8, usize, c_uint, *mut c_void, usize) -> isize;

/// `clock_gettime` or `clock_getres`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock(pub(super) ClockFunction);

impl Clock {
    #[inline]
    pub(super) fn call(self, id: i32) -> (i64, Time) {
        let mut time = Time::default();
        // SAFETY: `Entry::at` promises that this is such a function; it writes one timespec to
        // `time`.
        let result = unsafe { (self.0)(id, &raw mut time) };
        (i64::from(result), time)
    }

    pub(super) fn call_without_result(self, id: i32) -> i64 {
        // SAFETY: as above; this is only used for `clock_getres`, which accepts a null pointer.
        i64::from(unsafe { (self.0)(id, ptr::null_mut()) })
    }
}

/// `gettimeofday`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TimeOfDay(pub(super) TimeOfDayFunction);

impl TimeOfDay {
    /// Calls it with a pointer for each of `time` and `zone` that is wanted.
    #[inline]
    pub(super) fn call(self, time: Option<&mut Time>, zone: Option<&mut Timezone>) -> i64 {
        let time = time.map_or(ptr::null_mut(), ptr::from_mut);
        let zone = zone.map_or(ptr::null_mut(), ptr::from_mut);
        // SAFETY: `Entry::at` promises that this is such a function; it accepts null pointers.
        i64::from(unsafe { (self.0)(time, zone) })
    }
}

/// `time`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WallClock(pub(super) TimeFunction);

impl WallClock {
    #[inline]
    pub(super) fn call(self, stored: Option<&mut Seconds>) -> Seconds {
        // SAFETY: `Entry::at` promises that this is such a function; it accepts a null pointer.
        unsafe { (self.0)(stored.map_or(ptr::null_mut(), ptr::from_mut)) }
    }
}

/// `getcpu`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cpu(pub(super) CpuFunction);

impl Cpu {
    #[inline]
    pub(super) fn call(self, cpu: Option<&mut u32>, node: Option<&mut u32>) -> i64 {
        let cpu = cpu.map_or(ptr::null_mut(), ptr::from_mut);
        let node = node.map_or(ptr::null_mut(), ptr::from_mut);
        // SAFETY: `Entry::at` promises that this is such a function; it accepts null pointers and
        // ignores the third.
        unsafe { (self.0)(cpu, node, ptr::null_mut()) }
    }
}

/// `getrandom`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Random(pub(super) RandomFunction);

impl Random {
    pub(super) fn call(self, buffer: &mut RandomBuffer, flags: u32, state: RandomState) -> i64 {
        let (pointer, length) = buffer.writable();
        // SAFETY: `Entry::at` promises that this is such a function; it writes to `buffer` and to
        // its own state.
        unsafe { (self.0)(pointer, length, flags, state.address, state.size) as i64 }
    }

    /// Asks how to allocate its state.
    pub(super) fn parameters(self) -> (i64, RandomParameters) {
        let mut parameters = RandomParameters::default();
        let state = (&raw mut parameters).cast();
        // SAFETY: with no buffer and a state size of -1 it writes its parameters to where the state
        // would be.
        let result = unsafe { (self.0)(ptr::null_mut(), 0, 0, state, usize::MAX) };
        (result as i64, parameters)
    }
}

/// An exported function that can be compared with a system call.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Entry {
    /// `clock_gettime`
    ClockGettime(Clock),
    /// `clock_getres`
    ClockGetres(Clock),
    /// `gettimeofday`
    Gettimeofday(TimeOfDay),
    /// `time`
    Time(WallClock),
    /// `getcpu`
    Getcpu(Cpu),
    /// `getrandom`
    Getrandom(Random),
}

impl Entry {
    /// Whether a function of that name can be called and compared.
    pub(crate) fn is_known(name: &str) -> bool {
        relocator::proxy::system_call(name).is_some()
    }

    /// The function `name` at `address`; `None` if it cannot be compared with a system call.
    ///
    /// # Safety
    ///
    /// Executable code that implements the vDSO function of that name must be mapped at `address`
    /// for as long as the entry is used. If the code is wrong all the same, which is what verifying
    /// finds out, any memory of this process can be lost: only call this in a process that is there
    /// to be lost.
    pub(crate) unsafe fn at(name: &str, address: Avma) -> Option<Self> {
        let pointer = ptr::with_exposed_provenance::<c_void>(usize::try_from(address.0).ok()?);
        if pointer.is_null() {
            return None;
        }
        let plain = name.strip_prefix("__vdso_").unwrap_or(name);
        // A function pointer has the size of a data pointer, this one is not null, and the caller
        // promises what it leads to. Signatures are those of `lib/vdso` and of the kernel's
        // architectures.
        Some(match plain {
            "clock_gettime" => {
                // SAFETY: see above.
                let function = unsafe { mem::transmute::<*const c_void, ClockFunction>(pointer) };
                Self::ClockGettime(Clock(function))
            }
            "clock_getres" => {
                // SAFETY: see above.
                let function = unsafe { mem::transmute::<*const c_void, ClockFunction>(pointer) };
                Self::ClockGetres(Clock(function))
            }
            "gettimeofday" => {
                // SAFETY: see above.
                let function =
                    unsafe { mem::transmute::<*const c_void, TimeOfDayFunction>(pointer) };
                Self::Gettimeofday(TimeOfDay(function))
            }
            "time" => {
                // SAFETY: see above.
                let function = unsafe { mem::transmute::<*const c_void, TimeFunction>(pointer) };
                Self::Time(WallClock(function))
            }
            "getcpu" => {
                // SAFETY: see above.
                let function = unsafe { mem::transmute::<*const c_void, CpuFunction>(pointer) };
                Self::Getcpu(Cpu(function))
            }
            "getrandom" => {
                // SAFETY: see above.
                let function = unsafe { mem::transmute::<*const c_void, RandomFunction>(pointer) };
                Self::Getrandom(Random(function))
            }
            _ => return None,
        })
    }
}
