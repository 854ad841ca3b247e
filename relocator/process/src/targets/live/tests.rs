use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use elf_tools::Avma;
use nix::libc;

use super::worker::Worker;
use super::*;
use relocator::placement::PAGE;
use relocator::threads::Write;

const PATIENCE: Duration = Duration::from_secs(20);

/// A process that ends when this is dropped.
struct Sleeper(Child);

impl Sleeper {
    fn start(seconds: &str) -> Self {
        let child = Command::new("sleep")
            .arg(seconds)
            .stdin(Stdio::null())
            .spawn();
        let sleeper = Self(child.unwrap());
        // It is to be asleep, not to begin to be.
        while !sleeper.is_asleep() {
            std::thread::sleep(Duration::from_millis(1));
        }
        sleeper
    }

    fn pid(&self) -> i32 {
        self.0.id().cast_signed()
    }

    fn is_asleep(&self) -> bool {
        let call = std::fs::read_to_string(format!("/proc/{}/syscall", self.pid()));
        let sleeps = [libc::SYS_nanosleep, libc::SYS_clock_nanosleep];
        call.is_ok_and(|line| {
            sleeps
                .iter()
                .any(|number| line.starts_with(&format!("{number} ")))
        })
    }

    fn stop(&self) -> Live {
        Live::stop(self.pid(), PATIENCE).unwrap()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Free pages below a mapping that has some.
fn hole(mappings: &[Mapping], pages: u64) -> Avma {
    let pairs = mappings.windows(2);
    let mut gaps = pairs.map(|pair| (pair[0].range.end.0, pair[1].range.start.0));
    let gap = gaps.find(|gap| gap.1 - gap.0 > (pages + 2) * PAGE);
    Avma(gap.unwrap().1 - (pages + 1) * PAGE)
}

fn lines(live: &Live) -> Vec<String> {
    let mappings = live.mappings().unwrap();
    let mappings = mappings.iter();
    mappings
        .map(|mapping| {
            format!(
                "{:?} {} {}",
                mapping.range, mapping.protection, mapping.name
            )
        })
        .collect()
}

fn bytes(live: &Live, at: Avma, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    assert!(live.read(at, &mut bytes));
    bytes
}

/// Zeros, and code in the place of the second page of them, which is then changed.
fn some_steps(at: Avma) -> Vec<Step> {
    let code = Avma(at.0 + PAGE);
    vec![
        Step::Placeholder(at..Avma(at.0 + 3 * PAGE)),
        Step::Replace {
            at: code,
            bytes: vec![0xc3; PAGE as usize],
        },
        Step::Write(Write {
            at: Avma(code.0 + 16),
            bytes: vec![0x90; 8],
        }),
        Step::Unmap(at..code),
    ]
}

#[test]
fn steps_are_carried_out_in_a_process_that_sleeps_on() {
    let started = Instant::now();
    let mut sleeper = Sleeper::start("1.5");
    let mut live = sleeper.stop();
    let before = live.threads().unwrap();
    let at = hole(&live.mappings().unwrap(), 3);
    live.carry_out(&some_steps(at)).unwrap();
    let code = bytes(&live, Avma(at.0 + PAGE), PAGE as usize);
    let changed = |index| (16..24).contains(&index);
    let expected = |index| if changed(index) { 0x90 } else { 0xc3 };
    assert!((0..code.len()).all(|index| code[index] == expected(index)));
    assert!(!live.read(at, &mut [0]));
    assert_eq!(bytes(&live, Avma(at.0 + 2 * PAGE), 8), [0; 8]);
    assert_eq!(live.threads().unwrap(), before);
    drop(live);
    // Its system call goes on where it was: it neither fails nor begins anew.
    std::thread::sleep(Duration::from_millis(300));
    drop(sleeper.stop());
    assert!(sleeper.0.wait().unwrap().success());
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(1500), "{took:?}");
}

#[test]
fn what_was_done_before_a_failure_is_undone() {
    let sleeper = Sleeper::start("60");
    let mut live = sleeper.stop();
    let mappings = live.mappings().unwrap();
    let at = hole(&mappings, 3);
    let stack = mappings.iter().find(|mapping| mapping.name == "[stack]");
    let stack = stack.unwrap().range.clone();
    let threads = live.threads().unwrap();
    let lines_before = lines(&live);
    let moved = Thread {
        registers: relocator::threads::Registers {
            pc: Avma(0x1234),
            ..threads[0].registers
        },
        ..threads[0]
    };
    let top = Avma(stack.end.0 - 64);
    let data = bytes(&live, top, 64);
    for fault in [
        Step::Placeholder(stack.clone()),
        Step::Unmap(stack.clone()),
        Step::Replace {
            at: stack.start,
            bytes: vec![0; PAGE as usize],
        },
        Step::Move {
            from: at..Avma(at.0 + PAGE),
            to: stack.start,
        },
        Step::Registers(vec![Thread {
            id: 1,
            ..threads[0]
        }]),
    ] {
        let mut steps = vec![
            Step::Registers(vec![moved]),
            Step::Write(Write {
                at: top,
                bytes: vec![0xff; 64],
            }),
        ];
        steps.extend(some_steps(at));
        steps.push(fault);
        live.carry_out(&steps).unwrap_err();
        assert_eq!(live.threads().unwrap(), threads);
        assert_eq!(lines(&live), lines_before);
        assert_eq!(bytes(&live, top, 64), data);
    }
}

#[test]
fn only_threads_that_have_stopped_are_changed() {
    let sleeper = Sleeper::start("60");
    let mut live = sleeper.stop();
    let other = Thread {
        id: 1,
        ..live.threads().unwrap()[0]
    };
    let error = live.carry_out(&[Step::Registers(vec![other])]).unwrap_err();
    assert_eq!(error.refusal(), Some(&Refusal::NotStopped));
}

/// Takes the only thread of a process to make calls by code at an address, and makes one.
fn calls(sleeper: &Sleeper, code: Avma, number: i64) -> Refusal {
    let mut live = sleeper.stop();
    let tracee = live.tracees().remove(0);
    let mut worker = Worker::take(tracee, code).unwrap();
    let error = worker.call(number, &[]).unwrap_err();
    drop(worker);
    error.refusal().unwrap().clone()
}

#[test]
fn a_call_that_is_not_made_or_does_not_end_is_an_error() {
    let sleeper = Sleeper::start("60");
    let mappings = Running::of(sleeper.pid()).mappings().unwrap();
    let data = mappings.iter().find(|mapping| mapping.name == "[stack]");
    // Nothing can be executed there.
    let data = data.unwrap().range.start;
    let said = calls(&sleeper, data, libc::SYS_getpid);
    let stop = crate::tracing::Stop::Signal(libc::SIGSEGV);
    assert_eq!(said, Refusal::UnexpectedStop { stop });
    let code = mappings.iter().find(|mapping| mapping.is_private_code());
    let code = injected_call::at_end_of(code.unwrap().range.end);
    let said = calls(&sleeper, code, libc::SYS_pause);
    assert!(matches!(said, Refusal::CallDoesNotEnd { .. }), "{said:?}");
    // It sleeps on.
    let state = || Process::new(sleeper.pid()).unwrap().stat().unwrap().state;
    let started = Instant::now();
    while state() != 'S' && started.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(state(), 'S');
}

#[test]
fn a_process_that_dies_is_no_panic() {
    let mut sleeper = Sleeper::start("60");
    let mut live = sleeper.stop();
    let at = hole(&live.mappings().unwrap(), 3);
    sleeper.0.kill().unwrap();
    live.carry_out(&some_steps(at)).unwrap_err();
    sleeper.0.wait().unwrap();
    live.threads().unwrap_err();
}

#[test]
fn a_process_that_was_stopped_stays_so() {
    let sleeper = Sleeper::start("60");
    let pid = Pid::from_raw(sleeper.pid());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    let mut live = sleeper.stop();
    let at = hole(&live.mappings().unwrap(), 3);
    live.carry_out(&some_steps(at)).unwrap();
    drop(live);
    let state = || Process::new(pid.as_raw()).unwrap().stat().unwrap().state;
    let started = Instant::now();
    while state() != 'T' && started.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(state(), 'T');
}

#[test]
fn a_process_that_runs_shows_what_it_has() {
    let sleeper = Sleeper::start("60");
    let running = Running::of(sleeper.pid());
    let mappings = running.mappings().unwrap();
    assert!(!running.has_changed());
    let vdso = mappings.iter().find(|mapping| mapping.name == "[vdso]");
    assert_eq!(running.auxv_vdso(), vdso.map(|vdso| vdso.range.start));
    let [Whereabouts { thread, pc }] = running.whereabouts().unwrap()[..] else {
        panic!("it has one thread");
    };
    assert_eq!(thread, sleeper.pid());
    // Stopped, it is found in the same place.
    let live = sleeper.stop();
    assert_eq!(live.mappings().unwrap(), mappings);
    let stopped = live.whereabouts().unwrap();
    assert_eq!(stopped, [Whereabouts { thread, pc }]);
}

#[test]
fn a_process_that_has_ended_has_no_mappings() {
    let sleeper = Sleeper::start("60");
    let pid = sleeper.pid();
    drop(sleeper);
    let error = Running::of(pid).mappings().unwrap_err();
    assert!(is_gone(&error), "{error}");
}
