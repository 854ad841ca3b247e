//! Every pretend kernel emulated from every other one: pages of one layout, filled by hand, and the
//! image of the other one behind pages that are kept current from them.
//!
//! So what an image reads has passed through the emulator, and the right answer is known. How real
//! kernels fare on the running one's vvar is seen by `tests/tests/emulated.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use elf_tools::symtab::{Provenance, Symbol, Symtab, mapping_name};
use kernel_fixtures::fixture::{self, Fixture};
use relocator_verify::emulated::{ClockMode, Emulated, EmulatedKernel, Epoch, Error, Live, Unit};

use crate::pretend_kernel::clocks::{
    BILLION, COARSE, HIGH_RESOLUTION, base_sec, check_running, check_wall_clock, clock_of, cycles,
    fill, offset, redirect, since_base,
};
use crate::pretend_kernel::{Kernel, Vdso, code, symtab};

fn boot(fixture: &Fixture) -> Kernel {
    Kernel::boot(fixture, |image| image.bytes().to_vec())
}

fn find(name: &str) -> &'static Fixture {
    fixture::find(name).expect("a fixture")
}

/// A pretend kernel as the running one.
fn live(kernel: &Kernel) -> Live<'_> {
    // SAFETY: the kernel stays mapped as long as it is borrowed, and writes to its pages are
    // atomic.
    unsafe { Live::new(&kernel.symtab, kernel.mappings()) }
}

fn emulate(
    fixture: &Fixture,
    running: &Kernel,
    mode: ClockMode,
) -> Result<(Emulated, Vdso), Error> {
    let code = code(fixture, |image| image.bytes().to_vec());
    let kernel = EmulatedKernel {
        code: &code,
        symtab: &symtab(fixture),
    };
    let emulated = Emulated::map(&kernel, &live(running), None, mode)?;
    let vdso = Vdso::at(fixture, &emulated.mappings());
    Ok((emulated, vdso))
}

/// Every fixture, emulated from every fixture with a table, whose pages `prepare` fills.
fn on_every_pair<T>(prepare: impl Fn(&Kernel) -> T, check: impl Fn(&Kernel, &Emulated, &Vdso, T)) {
    for running in fixture::all().iter().filter(|f| f.symtab.is_some()) {
        for fixture in fixture::all() {
            let running = boot(running);
            let prepared = prepare(&running);
            let (emulated, vdso) = emulate(fixture, &running, ClockMode::Tsc)
                .unwrap_or_else(|error| panic!("{} on {}: {error}", fixture.name, running.name));
            check(&running, &emulated, &vdso, prepared);
        }
    }
}

/// Tells every clock of a page from all others by its seconds, and time from time by `step`.
fn step(kernel: &Kernel, page: &str, step: i64) {
    for id in 0..12 {
        let indices = [clock_of(id), id as u64];
        let seconds = (base_sec(id) + step) as u64;
        kernel.set64(&format!("{page}.clock[].basetime[].sec"), &indices, seconds);
    }
    for clock in [0, 1] {
        kernel.set32(
            &format!("{page}.clock[].seq"),
            &[clock],
            2 + 2 * step as u32,
        );
    }
}

pub(crate) fn every_kernel_reads_every_other_kernels_clocks() {
    on_every_pair(
        |running| fill(running, "time"),
        |_, _, vdso, last| {
            for id in HIGH_RESOLUTION {
                check_running(vdso, id, last, 0);
            }
            for id in COARSE {
                assert_eq!(since_base(vdso, id), 0, "{}: {id}", vdso.name);
            }
            check_wall_clock(vdso, last);
        },
    );
}

pub(crate) fn positions_of_a_time_namespace_are_kept() {
    let prepare = |running: &Kernel| {
        redirect(running);
        fill(running, "timens")
    };
    on_every_pair(prepare, |_, _, vdso, last| {
        for id in HIGH_RESOLUTION {
            check_running(vdso, id, last, offset(id));
        }
        for id in COARSE {
            assert_eq!(since_base(vdso, id), offset(id), "{}: {id}", vdso.name);
        }
        check_wall_clock(vdso, last);
    });
}

/// Every field whose value another boot must not share, where readers find it.
fn telling(emulated: &Emulated) -> Vec<(String, Option<u64>)> {
    let fields = ["seq", "cycle_last", "mult", "shift"].map(|name| format!("time.clock[].{name}"));
    let clocks = fields.into_iter().flat_map(|name| {
        let read = |clock: u64| emulated.get_content(&name, &[clock]);
        [(name.clone(), read(0)), (name.clone(), read(1))]
    });
    let globals = ["time.tz_minuteswest", "time.tz_dsttime", "time.hrtimer_res"];
    let globals = globals.map(|name| (name.to_owned(), emulated.get_content(name, &[])));
    clocks.chain(globals).collect()
}

pub(crate) fn another_boot_is_right_in_itself_and_shares_no_value() {
    let epoch = Epoch::default();
    for (page, redirects) in [("time", false), ("timens", true)] {
        let prepare = |running: &Kernel| {
            if redirects {
                redirect(running);
            }
            fill(running, page)
        };
        on_every_pair(prepare, |_, emulated, vdso, last| {
            let before = telling(emulated);
            emulated.reboot(&epoch).unwrap();
            for (before, after) in before.iter().zip(telling(emulated)) {
                assert!(
                    before.1.is_none() || *before != after,
                    "{}: {before:?}",
                    vdso.name
                );
            }
            let ahead = |id: i32| {
                let shifted = if redirects { offset(id) } else { 0 };
                epoch.ahead(id as u64) as i64 + shifted
            };
            for id in HIGH_RESOLUTION {
                check_running(vdso, id, last, ahead(id));
            }
            for id in COARSE {
                let expected = ahead(id) - epoch.earlier as i64;
                assert_eq!(since_base(vdso, id), expected, "{}: {id}", vdso.name);
            }
            let (mut time, mut zone) = ([0; 2], [0; 2]);
            vdso.gettimeofday(Some(&mut time), Some(&mut zone));
            assert_eq!(zone, [epoch.minutes_west, epoch.dst_time], "{}", vdso.name);
            emulated.rewrite();
            for id in HIGH_RESOLUTION {
                check_running(vdso, id, last, ahead(id) - epoch.ahead(id as u64) as i64);
            }
        });
    }
}

pub(crate) fn an_update_is_seen_after_a_refresh() {
    for (page, redirects) in [("time", false), ("timens", true)] {
        let prepare = |running: &Kernel| {
            if redirects {
                redirect(running);
            }
            fill(running, page)
        };
        on_every_pair(prepare, |running, emulated, vdso, last| {
            let offset = |id| if redirects { offset(id) } else { 0 };
            step(running, page, 1);
            check_running(vdso, 1, last, offset(1));
            emulated.refresh();
            for id in HIGH_RESOLUTION {
                check_running(vdso, id, last, BILLION + offset(id));
            }
            emulated.refresh();
            check_running(vdso, 1, last, BILLION + offset(1));
        });
    }
}

pub(crate) fn an_update_in_progress_is_waited_for() {
    let running = boot(find("got"));
    let last = fill(&running, "time");
    let (emulated, vdso) = emulate(find("shuffled"), &running, ClockMode::Tsc).unwrap();
    let updated = AtomicBool::new(false);
    running.set32("time.clock[].seq", &[0], 3);
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(2));
            updated.store(true, Ordering::SeqCst);
            step(&running, "time", 1);
        });
        emulated.refresh();
        assert!(updated.load(Ordering::SeqCst));
    });
    emulated.refresh();
    check_running(&vdso, 1, last, BILLION);
}

pub(crate) fn readers_wait_for_an_update_that_halts() {
    on_every_pair(
        |running| fill(running, "time"),
        |_, emulated, vdso, last| {
            let done = AtomicBool::new(false);
            let halted = emulated.halt();
            thread::scope(|scope| {
                let reader = scope.spawn(|| {
                    check_running(vdso, 1, last, 0);
                    check_running(vdso, 4, last, 0);
                    assert!(done.load(Ordering::SeqCst), "{} did not wait", vdso.name);
                });
                thread::sleep(Duration::from_micros(300));
                done.store(true, Ordering::SeqCst);
                drop(halted);
                reader.join().unwrap();
            });
        },
    );
}

/// Ends a loop in another thread, also if this one panics.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The running clock is stated in two ways in turns, and both say the same. A copy or a read that
/// mixes them does not.
pub(crate) fn concurrent_updates_are_never_seen_half_done() {
    for (running, fixture) in [
        ("got", "reordered"),
        ("reordered", "shuffled"),
        ("added", "got"),
    ] {
        let running = boot(find(running));
        let first = fill(&running, "time");
        while cycles() < first + APART {
            std::hint::spin_loop();
        }
        let (emulated, vdso) = emulate(find(fixture), &running, ClockMode::Tsc).unwrap();
        let emulated = Arc::new(emulated);
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let _stop = Stop(&stop);
            scope.spawn(|| restate(&running, first, &stop));
            // Copies that meet an update of the running kernel,
            for _ in 0..20_000 {
                emulated.rewrite();
                check_running(&vdso, 1, first, 0);
            }
            // and reads that meet one of the emulated kernel.
            let updater = emulated.keep_current(Duration::from_micros(20)).unwrap();
            while updater.updates() < 200 {
                check_running(&vdso, 1, first, 0);
            }
        });
    }
}

/// How many cycles the two statements are apart.
const APART: u64 = 10_000_000;

/// States the monotonic clock anew, over and over, in the way of the kernel.
fn restate(kernel: &Kernel, first: u64, stop: &AtomicBool) {
    use crate::pretend_kernel::clocks::{BASE_NSEC, SHIFT};
    use std::sync::atomic::fence;

    let mut sequence = 2;
    while !stop.load(Ordering::Relaxed) {
        let apart = if sequence % 4 == 0 { APART } else { 0 };
        kernel.set32("time.clock[].seq", &[0], sequence + 1);
        fence(Ordering::SeqCst);
        kernel.set64("time.clock[].cycle_last", &[0], first + apart);
        let now = BASE_NSEC + apart;
        let seconds = base_sec(1) as u64 + now / BILLION as u64;
        kernel.set64("time.clock[].basetime[].sec", &[0, 1], seconds);
        let shifted = (now % BILLION as u64) << SHIFT;
        kernel.set64("time.clock[].basetime[].nsec", &[0, 1], shifted);
        sequence += 2;
        kernel.set32("time.clock[].seq", &[0], sequence);
        // A reader that is interrupted by every update would never end.
        let until = cycles() + 30_000;
        while cycles() < until {
            std::hint::spin_loop();
        }
    }
}

/// What a hypervisor's page says the time-stamp counter `tsc` is, by the formulas of the kernel.
fn reading(emulated: &Emulated, mode: ClockMode, tsc: u64) -> u64 {
    let field = |name: &str| emulated.get(name, &[]).expect("fixtures have it");
    match mode {
        ClockMode::Tsc => tsc,
        ClockMode::Pvclock => {
            assert_eq!(
                (field("pvclock.version") % 2, field("pvclock.flags")),
                (0, 1)
            );
            let delta =
                u128::from(tsc - field("pvclock.tsc_timestamp")) << field("pvclock.tsc_shift");
            let scaled = (delta * u128::from(field("pvclock.tsc_to_system_mul"))) >> 32;
            field("pvclock.system_time") + scaled as u64
        }
        ClockMode::Hvclock => {
            assert_ne!(field("hvclock.tsc_sequence"), 0);
            let scaled = (u128::from(tsc) * u128::from(field("hvclock.tsc_scale"))) >> 64;
            (scaled as u64).wrapping_add(field("hvclock.tsc_offset"))
        }
    }
}

pub(crate) fn the_clock_pages_of_hypervisors_read_as_the_counter_some_cycles_ahead() {
    for fixture in fixture::all() {
        for mode in ClockMode::ALL {
            let running = boot(find("got"));
            let last = fill(&running, "time");
            let (emulated, _) = emulate(fixture, &running, mode).unwrap();
            for clock in [0, 1] {
                let get = |name: &str| emulated.get(&format!("time.clock[].{name}"), &[clock]);
                assert_eq!(get("clock_mode"), Some(u64::from(mode.number())));
                let ahead = get("cycle_last").unwrap() - last;
                assert_eq!(ahead > 0, mode != ClockMode::Tsc);
                for tsc in [last, last + 1, cycles(), 1 << 61] {
                    assert_eq!(reading(&emulated, mode, tsc), tsc + ahead, "{mode}");
                }
            }
        }
    }
}

/// A word of eight bytes in a mapping of an emulated kernel.
fn word(emulated: &Emulated, mapping: &str, offset: u64) -> u64 {
    let address = emulated.mapping(mapping).unwrap().0 + offset;
    // SAFETY: the emulated kernel is mapped, and its pages are written atomically.
    unsafe { AtomicU64::from_ptr(address as *mut u64) }.load(Ordering::Relaxed)
}

/// Where the state of the random number generator shares the time page, it goes where that page's
/// content goes.
pub(crate) fn the_random_state_is_found_in_and_out_of_a_time_namespace() {
    let state = |kernel: &Emulated| {
        let get = |name| kernel.get(name, &[]).unwrap();
        (get("rng.generation"), get("rng.is_ready"))
    };
    for redirects in [false, true] {
        let running = boot(find("got"));
        if redirects {
            redirect(&running);
        }
        fill(&running, if redirects { "timens" } else { "time" });
        running.set64("rng.generation", &[], 77);
        running.set32("rng.is_ready", &[], 1);
        // To and from a page of its own.
        let (emulated, _) = emulate(find("got"), &running, ClockMode::Tsc).unwrap();
        assert_eq!(state(&emulated), (77, 1));
        // To one page with the time.
        let (shared, _) = emulate(find("operands"), &running, ClockMode::Tsc).unwrap();
        let table = symtab(find("operands"));
        let offset = |name: &str| table.get(name).unwrap().offset;
        let distance = offset("timens.page") - offset("time.page");
        let (here, there) = (
            offset("rng.generation"),
            offset("rng.generation") + distance,
        );
        let found = [here, there].map(|at| word(&shared, mapping_name::VVAR, at));
        assert_eq!(found, if redirects { [0, 77] } else { [77, 0] });
        // And from there back to a page of its own.
        // SAFETY: what is emulated stays mapped longer than this.
        let live = unsafe { Live::new(&table, shared.mappings()) };
        let code = code(find("got"), |image| image.bytes().to_vec());
        let kernel = EmulatedKernel {
            code: &code,
            symtab: &symtab(find("got")),
        };
        let again = Emulated::map(&kernel, &live, None, ClockMode::Tsc).unwrap();
        assert_eq!(state(&again), (77, 1));
    }
}

pub(crate) fn a_running_kernel_without_the_state_is_not_seeded() {
    let running = boot(find("reordered"));
    fill(&running, "time");
    let (emulated, _) = emulate(find("got"), &running, ClockMode::Tsc).unwrap();
    assert_eq!(emulated.get("rng.is_ready", &[]), Some(0));
    assert_eq!(emulated.get("time.clock[].max_cycles", &[1]), Some(0));
}

/// The table of a fixture with one symbol changed, or dropped.
fn changed(fixture: &Fixture, name: &str, change: impl Fn(&mut Symbol) -> bool) -> Symtab {
    let table = symtab(fixture);
    let mappings = table.mappings().to_vec();
    let mut other = Symtab::new(Provenance::File, mappings).unwrap();
    for symbol in table.symbols() {
        let mut symbol = symbol.clone();
        if symbol.name != name || change(&mut symbol) {
            other.insert(symbol).unwrap();
        }
    }
    other
}

fn refusal(table: &Symtab, running: &Kernel, mode: ClockMode) -> Error {
    let kernel = EmulatedKernel {
        code: find("operands").image,
        symtab: table,
    };
    Emulated::map(&kernel, &live(running), None, mode).unwrap_err()
}

pub(crate) fn what_cannot_be_emulated_is_refused_by_name() {
    let fixture = find("operands");
    let running = boot(find("got"));
    fill(&running, "time");
    let dropped = |name: &str| changed(fixture, name, |_| false);
    for (name, mode) in [
        ("time.clock[].cycle_last", ClockMode::Tsc),
        ("pvclock.tsc_shift", ClockMode::Pvclock),
        ("hvclock.tsc_scale", ClockMode::Hvclock),
    ] {
        let error = refusal(&dropped(name), &running, mode);
        let (symbol, kernel) = (name.to_owned(), "emulated");
        assert_eq!(error, Error::Missing { symbol, kernel });
    }
    let other = changed(fixture, "time.clock[].mult", |symbol| {
        symbol.version = 2;
        true
    });
    let error = refusal(&other, &running, ClockMode::Tsc).to_string();
    let expected = "`time.clock[].mult` has semantic version 2 in the emulated kernel and 1 in the running one";
    assert_eq!(error, expected);
    let other = changed(fixture, "time.clock[].mult", |symbol| {
        symbol.offset += 1;
        true
    });
    let error = refusal(&other, &running, ClockMode::Tsc);
    assert!(matches!(error, Error::Access { .. }), "{error}");
    running.set32("time.clock[].clock_mode", &[0], 2);
    let error = refusal(&symtab(fixture), &running, ClockMode::Tsc);
    assert_eq!(error, Error::ClockMode { mode: 2 });
    redirect(&running);
    fill(&running, "timens");
    let error = refusal(&dropped("timens.clock[].seq"), &running, ClockMode::Tsc);
    assert!(matches!(error, Error::Missing { .. }), "{error}");
}

pub(crate) fn a_unit_is_a_kernels_mappings_at_its_own_distances() {
    for fixture in fixture::all() {
        let table = symtab(fixture);
        let unit = Unit::of(&table, fixture.image.len()).unwrap();
        let at = unit.mappings_at(elf_tools::Avma(0x10_0000));
        let base = |name: &str| at.iter().find(|mapping| mapping.0 == name).unwrap().1;
        for mapping in table.mappings() {
            let home = mapping.address as i64 - table.mappings()[0].address as i64;
            let first = base(&table.mappings()[0].name);
            assert_eq!(base(&mapping.name).distance_from(first), home);
        }
    }
    let table = symtab(find("operands"));
    let vdso = table.mapping(mapping_name::VDSO).unwrap();
    let mut mappings = table.mappings().to_vec();
    mappings.iter_mut().for_each(|mapping| {
        if mapping.name == mapping_name::VVAR {
            mapping.address = vdso.address + vdso.size;
        }
    });
    let behind = Symtab::new(Provenance::File, mappings).unwrap();
    assert!(Unit::of(&behind, vdso.size as usize).is_ok());
    let error = Unit::of(&behind, vdso.size as usize + 1).unwrap_err();
    assert!(error.to_string().contains("runs into [vvar]"), "{error}");
    let none = Symtab::new(Provenance::File, Vec::new()).unwrap();
    assert!(Unit::of(&none, 1).is_err());
}

/// The oracle would notice an emulator that is wrong: each field of the clock that is read, put in
/// a wrong place or holding a wrong value, changes what is read or keeps it from being read at all.
pub(crate) fn a_wrong_field_shows() {
    for name in [
        "cycle_last",
        "mult",
        "shift",
        "basetime[].sec",
        "basetime[].nsec",
    ] {
        for fixture in fixture::all() {
            let running = boot(find("got"));
            let last = fill(&running, "time");
            let (emulated, vdso) = emulate(fixture, &running, ClockMode::Tsc).unwrap();
            let name = format!("time.clock[].{name}");
            let was = emulated.get(&name, &[0, 1]).unwrap();
            assert!(emulated.set(&name, &[0, 1], was + 1 + (was >> 1)));
            thread::sleep(Duration::from_micros(50));
            let wrong = std::panic::catch_unwind(|| check_running(&vdso, 1, last, 0));
            assert!(wrong.is_err(), "{}: {name}", fixture.name);
            emulated.rewrite();
            check_running(&vdso, 1, last, 0);
        }
    }
}
