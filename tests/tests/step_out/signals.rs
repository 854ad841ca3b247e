//! Signals arrive while threads leave.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use elf_tools::Avma;
use libtest_mimic::Trial;
use nix::libc;
use relocator_process::step_out::{StepOutOptions, StepOutOutcome, StuckReason, step_out};
use relocator_tests::command::run;

use crate::check;
use crate::process::{Victim, queue};
use crate::victim::{self, BLOCKED, FROZEN, HAMMER, IGNORING};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        check("signals_arrive_once_and_in_order", || {
            arrive(100, 5000, Duration::from_micros(100))
        }),
        check("signals_arrive_once_and_in_order_with_steps", || {
            arrive(0, 200, Duration::from_millis(5))
        }),
        check("masks_and_actions_stay", masks_and_actions_stay),
        check(
            "a_context_in_a_frame_is_reported",
            a_context_in_a_frame_is_reported,
        ),
    ]
}

/// What is let go on, and what is stepped if that does not do.
fn resume(runs: u32) -> StepOutOptions {
    StepOutOptions {
        resume: true,
        deadline: Duration::from_secs(20),
        runs,
    }
}

/// How often a process is worked on at least.
const ROUNDS: usize = 100;

/// Sends a number of signals to each thread, with pauses in between.
fn arrive(runs: u32, signals: u32, pause: Duration) {
    let (victim, threads) = Victim::hammer(HAMMER);
    let pid = victim.pid();
    let done = Arc::new(AtomicBool::new(false));
    let sender = thread::spawn({
        let done = Arc::clone(&done);
        move || {
            for value in 1..=signals {
                for &thread in &threads {
                    queue(pid, thread, victim::queued(), value);
                }
                thread::sleep(pause);
            }
            done.store(true, SeqCst);
        }
    });
    let mut outcomes = Vec::new();
    while outcomes.len() < ROUNDS || !done.load(SeqCst) {
        let outcome = step_out(pid, &resume(runs)).unwrap();
        assert_eq!(outcome.stuck, []);
        outcomes.push(outcome);
    }
    sender.join().unwrap();
    let seen = victim.finish();
    let sent: Vec<u32> = (1..=signals).collect();
    for values in seen.values {
        assert_eq!(values, sent);
    }
    assert!(seen.alarms > 0);
    assert_eq!((seen.traps, seen.wrong), (0, 0));
    let moved = outcomes.iter().flat_map(|outcome| &outcome.moved);
    let (count, steps) = moved.fold((0, 0), |(count, steps), moved| {
        (count + 1, steps + moved.steps)
    });
    assert!(count > 0, "nobody was inside in {} rounds", outcomes.len());
    assert!(runs > 0 || steps > 0, "nobody was stepped");
    let attempts: u32 = outcomes.iter().map(|outcome| outcome.attempts).sum();
    println!(
        "{} rounds, {attempts} attempts, {count} moved, {steps} steps",
        outcomes.len()
    );
}

/// How often a thread is looked for inside at most.
const MOST_ROUNDS: usize = 5000;

/// A thread that blocks the signal that steps make, and a process that ignores it, are let run
/// only.
fn masks_and_actions_stay() {
    for what in [BLOCKED, IGNORING] {
        let (victim, threads) = Victim::hammer(what);
        let before = victim.masks(&threads);
        let only_steps = StepOutOptions {
            deadline: Duration::from_millis(50),
            ..resume(0)
        };
        let mut refused = 0;
        let mut rounds = 0;
        while rounds < 20 || refused == 0 && rounds < MOST_ROUNDS {
            rounds += 1;
            // Where there is one processor, the threads do not move before this one waits.
            thread::sleep(Duration::from_millis(1));
            let stepped = step_out(victim.pid(), &only_steps).unwrap();
            let trap = |outcome: &StepOutOutcome| {
                let stuck = outcome.stuck.iter();
                stuck
                    .filter(|stuck| {
                        matches!(
                            stuck.reason,
                            StuckReason::TrapBlocked | StuckReason::TrapIgnored
                        )
                    })
                    .count()
            };
            refused += trap(&stepped);
            assert_eq!(step_out(victim.pid(), &resume(1000)).unwrap().stuck, []);
            assert_eq!(victim.masks(&threads), before);
        }
        assert!(
            refused > 0,
            "{what}: nobody was found inside in {rounds} rounds"
        );
        let seen = victim.finish();
        assert_eq!((seen.traps, seen.wrong), (0, 0));
    }
}

fn a_context_in_a_frame_is_reported() {
    let mut victim = Victim::start(FROZEN);
    let numbers = victim.numbers();
    let pid = victim.pid();
    let soon = StepOutOptions {
        deadline: Duration::from_millis(200),
        ..resume(100)
    };
    let outcome = step_out(pid, &soon).unwrap();
    let [stuck] = &outcome.stuck[..] else {
        panic!("{outcome:?}");
    };
    assert_eq!(stuck.place.address, Avma(numbers[0]));
    assert_eq!(stuck.place.image.0, numbers[0] - victim.vdso().start);
    assert_eq!(stuck.frame, Some(Avma(numbers[1])));
    assert!(victim.threads().contains(&stuck.thread) && stuck.thread != pid);
    assert!(!outcome.stopped);

    let ran = run(["step-out", "--deadline", "1", "--pid", &pid.to_string()]);
    assert_eq!(ran.status, Some(1), "{ran:?}");
    let told = format!("INSIDE, in the frame at {}", Avma(numbers[1]));
    assert!(ran.stdout.contains(&told), "{ran:?}");
    assert_eq!(victim.state(pid), 'T');
    victim.signal(libc::SIGCONT);
    victim.end();
}
