//! The functions of the vDSO that the auxiliary vector names, found without libc's help.

#![allow(unsafe_code, reason = "functions that are called by their address")]

use std::ffi::c_void;
use std::{mem, ptr};

use elf_tools::image::Image;
use elf_tools::{Avma, Svma};
use nix::libc;
use procfs::process::Process;
use relocator_tests::bed::control::Function;

/// `struct timespec` and `struct timeval`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Time {
    pub(crate) seconds: i64,
    pub(crate) fraction: i64,
}

/// `struct timezone`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Zone {
    minutes_west: i32,
    dst_time: i32,
}

impl Zone {
    /// No time zone.
    pub(crate) const UNWRITTEN: Self = Self {
        minutes_west: i32::MIN,
        dst_time: i32::MIN,
    };
}

/// `struct vgetrandom_opaque_params`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Parameters {
    size: u32,
    protection: u32,
    flags: u32,
    reserved: [u32; 13],
}

/// Memory for the state of `getrandom`, one for each thread; none where the function keeps none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct State {
    address: *mut c_void,
    size: usize,
}

impl State {
    pub(crate) const NONE: Self = Self {
        address: ptr::null_mut(),
        size: 0,
    };
}

pub(crate) type ClockFunction = unsafe extern "C" fn(i32, *mut Time) -> i32;
type DayFunction = unsafe extern "C" fn(*mut Time, *mut Zone) -> i32;
type TimeFunction = unsafe extern "C" fn(*mut i64) -> i64;
type CpuFunction = unsafe extern "C" fn(*mut u32, *mut u32, *mut c_void) -> i64;
type RandomFunction = unsafe extern "C" fn(*mut u8, usize, u32, *mut c_void, usize) -> isize;

/// What the vDSO has; every kernel's has the first five but `clock_getres`, which came with 5.3.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Functions {
    pub(crate) gettime: Clock,
    pub(crate) getres: Option<Clock>,
    day: DayFunction,
    time: TimeFunction,
    cpu: CpuFunction,
    random: Option<RandomFunction>,
}

/// `clock_gettime` or `clock_getres`, the vDSO's or libc's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock(pub(crate) ClockFunction);

impl Clock {
    /// As libc calls it.
    pub(crate) const LIBC: Self = Self(libc_gettime);

    #[inline]
    pub(crate) fn call(self, id: i32) -> (i64, Time) {
        let mut time = Time::default();
        // SAFETY: one timespec is written.
        let code = unsafe { (self.0)(id, &raw mut time) };
        (code.into(), time)
    }

    /// Only for `clock_getres`.
    pub(crate) fn without_result(self, id: i32) -> i64 {
        // SAFETY: it accepts a null pointer.
        unsafe { (self.0)(id, ptr::null_mut()) }.into()
    }
}

/// libc's function with the result of the vDSO's.
extern "C" fn libc_gettime(id: i32, time: *mut Time) -> i32 {
    // SAFETY: the caller gives a place for one timespec.
    match unsafe { libc::clock_gettime(id, time.cast()) } {
        -1 => -nix::errno::Errno::last_raw(),
        code => code,
    }
}

impl Functions {
    /// Reads the vDSO that the auxiliary vector names.
    pub(crate) fn find() -> Result<Self, String> {
        // SAFETY: it only looks the vector up.
        let base = Avma(unsafe { libc::getauxval(libc::AT_SYSINFO_EHDR) });
        let image = Image::parse(&memory(base)?).map_err(|error| error.to_string())?;
        let find = |function: Function| {
            let export = image.export(function.symbol());
            export.map(|export| export.address.at(base))
        };
        let need = |function| find(function).ok_or_else(|| format!("no {}", function.symbol()));
        // SAFETY: each is the function of that name, whose signature the kernel's headers have.
        let clock = |at| Clock(unsafe { function::<ClockFunction>(at) });
        Ok(Self {
            gettime: clock(need(Function::ClockGettime)?),
            getres: find(Function::ClockGetres).map(clock),
            // SAFETY: as above.
            day: unsafe { function(need(Function::Gettimeofday)?) },
            // SAFETY: as above.
            time: unsafe { function(need(Function::Time)?) },
            // SAFETY: as above.
            cpu: unsafe { function(need(Function::Getcpu)?) },
            // SAFETY: as above.
            random: find(Function::Getrandom).map(|at| unsafe { function(at) }),
        })
    }

    pub(crate) fn gettimeofday(&self, time: Option<&mut Time>, zone: Option<&mut Zone>) -> i32 {
        // SAFETY: it accepts null pointers.
        unsafe { (self.day)(pointer(time), pointer(zone)) }
    }

    pub(crate) fn time(&self, stored: Option<&mut i64>) -> i64 {
        // SAFETY: it accepts a null pointer.
        unsafe { (self.time)(pointer(stored)) }
    }

    pub(crate) fn getcpu(&self, cpu: Option<&mut u32>, node: Option<&mut u32>) -> i64 {
        // SAFETY: it accepts null pointers, and makes nothing of the third.
        unsafe { (self.cpu)(pointer(cpu), pointer(node), ptr::null_mut()) }
    }

    /// The result of `getrandom`; `None` where the vDSO has none.
    pub(crate) fn getrandom(&self, bytes: &mut [u8], state: State) -> Option<isize> {
        let function = self.random?;
        // SAFETY: it writes to `bytes`, and to a state of the size that it has asked for.
        Some(unsafe {
            function(
                bytes.as_mut_ptr(),
                bytes.len(),
                0,
                state.address,
                state.size,
            )
        })
    }

    /// A state for this thread, mapped as the function asks for it.
    pub(crate) fn state(&self) -> State {
        let Some(function) = self.random else {
            return State::NONE;
        };
        let mut parameters = Parameters::default();
        let place = (&raw mut parameters).cast();
        // SAFETY: with no buffer and that size it writes its parameters to where the state would be.
        let code = unsafe { function(ptr::null_mut(), 0, 0, place, usize::MAX) };
        if code != 0 {
            return State::NONE;
        }
        // A kernel that does not know `MAP_DROPPABLE` has the memory mapped as usual.
        let usual = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let mapped = [parameters.flags.cast_signed(), usual]
            .into_iter()
            .find_map(|flags| {
                let protection = parameters.protection.cast_signed();
                // SAFETY: the kernel chooses the place.
                let at = unsafe { libc::mmap(ptr::null_mut(), 4096, protection, flags, -1, 0) };
                (at != libc::MAP_FAILED).then_some(at)
            });
        mapped.map_or(State::NONE, |address| State {
            address,
            size: parameters.size as usize,
        })
    }
}

fn pointer<T>(place: Option<&mut T>) -> *mut T {
    place.map_or(ptr::null_mut(), ptr::from_mut)
}

/// # Safety
///
/// There must be such a function, and `F` must be the type of a function.
unsafe fn function<F: Copy>(at: Avma) -> F {
    assert_eq!(size_of::<F>(), size_of::<u64>());
    // SAFETY: a function pointer has the size of an address, and the caller promises what it leads to.
    unsafe { mem::transmute_copy(&at.0) }
}

/// What the mapping at `base` holds.
fn memory(base: Avma) -> Result<Vec<u8>, String> {
    let maps = Process::myself().and_then(|process| process.maps());
    let maps = maps.map_err(|error| error.to_string())?;
    let mut maps = maps.into_iter();
    let map = maps.find(|map| map.address.0 == base.0);
    let map = map.ok_or_else(|| format!("nothing is mapped at {base}"))?;
    let size = Svma(map.address.1 - map.address.0).index();
    let start = ptr::with_exposed_provenance::<u8>(base.0 as usize);
    // SAFETY: the mapping is readable and stays; linking may change bytes of it, so they are copied at once.
    Ok(unsafe { std::slice::from_raw_parts(start, size) }.to_vec())
}
