//! How processes are left.

use std::thread;
use std::time::Duration;

use libtest_mimic::Trial;
use nix::libc;
use nix::unistd::Pid;
use relocator_process::step_out::{StepOutOptions, step_out};
use relocator_process::tracing::Seized;
use relocator_process::{Error, Refusal};
use relocator_tests::command::{relocator, run};
use serde_json::Value;

use crate::check;
use crate::process::{Victim, wait_until};
use crate::victim::{HAMMER, TICKING};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        check("all_are_outside_when_stopped", all_are_outside_when_stopped),
        check(
            "what_is_stopped_stays_stopped",
            what_is_stopped_stays_stopped,
        ),
        check("system_calls_are_left_alone", system_calls_are_left_alone),
        check(
            "nothing_is_left_by_a_tool_that_is_killed",
            nothing_is_left_by_a_tool_that_is_killed,
        ),
        check(
            "a_process_that_dies_is_an_answer",
            a_process_that_dies_is_an_answer,
        ),
        check(
            "timers_do_not_swallow_interruptions",
            timers_do_not_swallow_interruptions,
        ),
        check("the_command_says_what_it_did", the_command_says_what_it_did),
    ]
}

fn all_are_outside_when_stopped() {
    let (victim, threads) = Victim::hammer(HAMMER);
    let vdso = victim.vdso();
    let mut was_inside = 0;
    for _ in 0..100 {
        let outcome = step_out(victim.pid(), &StepOutOptions::default()).unwrap();
        assert!(outcome.stopped);
        assert_eq!(outcome.stuck, []);
        assert_eq!(outcome.threads, 1 + threads.len());
        was_inside += outcome.moved.len();
        for &thread in &threads {
            assert_eq!(
                (victim.state(thread), victim.status(thread, "TracerPid")),
                ('T', "0".to_owned())
            );
            assert!(!vdso.contains(&victim.pc(thread)));
        }
        victim.signal(libc::SIGCONT);
        thread::sleep(Duration::from_millis(1));
    }
    assert!(was_inside > 0);
    let seen = victim.finish();
    assert_eq!((seen.traps, seen.wrong), (0, 0));
}

/// The test above would not see a thread inside if the kernel did not say where threads are.
fn what_is_stopped_stays_stopped() {
    let (victim, threads) = Victim::hammer(HAMMER);
    let vdso = victim.vdso();
    let resume = StepOutOptions {
        resume: true,
        ..StepOutOptions::default()
    };
    let mut was_inside = 0;
    for _ in 0..30 {
        victim.signal(libc::SIGSTOP);
        wait_until(|| {
            victim
                .threads()
                .iter()
                .all(|&thread| victim.state(thread) == 'T')
        });
        let inside = || {
            threads
                .iter()
                .filter(|&&thread| vdso.contains(&victim.pc(thread)))
                .count()
        };
        was_inside += inside();
        let outcome = step_out(victim.pid(), &resume).unwrap();
        // A frame may hold a context that does not leave as long as the process is stopped.
        assert!(
            outcome.stuck.iter().all(|stuck| stuck.frame.is_some()),
            "{outcome:?}"
        );
        assert!(outcome.stopped);
        assert!(threads.iter().all(|&thread| victim.state(thread) == 'T'));
        assert_eq!(inside(), 0);
        victim.signal(libc::SIGCONT);
        thread::sleep(Duration::from_millis(1));
    }
    assert!(was_inside > 0);
    victim.finish();
}

fn system_calls_are_left_alone() {
    let (victim, _) = Victim::hammer(HAMMER);
    let main = victim.pid();
    wait_until(|| victim.state(main) == 'S');
    let before = victim.system_call(main);
    assert!(before.starts_with("0 "), "it reads: {before}");
    for resume in [true, false] {
        let options = StepOutOptions {
            resume,
            ..StepOutOptions::default()
        };
        step_out(main, &options).unwrap();
        victim.signal(libc::SIGCONT);
        wait_until(|| victim.state(main) == 'S');
        assert_eq!(victim.system_call(main), before);
    }
    assert_eq!(victim.finish().wrong, 0);
}

/// Killed at any time, it leaves the process as it was, or stopped.
fn nothing_is_left_by_a_tool_that_is_killed() {
    let (victim, threads) = Victim::hammer(HAMMER);
    let before = victim.masks(&threads);
    let pid = victim.pid().to_string();
    for time in 0..60 {
        let arguments = ["step-out", "--pid", &pid];
        let mut tool = relocator()
            .args(arguments)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        thread::sleep(Duration::from_micros(200 * time));
        tool.kill().unwrap();
        tool.wait().unwrap();
        victim.signal(libc::SIGCONT);
        assert_eq!(victim.masks(&threads), before);
        let traced = |&thread: &i32| victim.status(thread, "TracerPid") != "0";
        assert!(!threads.iter().any(traced));
    }
    wait_until(|| threads.iter().all(|&thread| victim.state(thread) != 'T'));
    let seen = victim.finish();
    assert_eq!((seen.traps, seen.wrong), (0, 0));
}

fn a_process_that_dies_is_an_answer() {
    let mut answers = 0;
    for time in 0..20 {
        let (mut victim, _) = Victim::hammer(HAMMER);
        let pid = victim.pid();
        let killer = thread::spawn(move || {
            thread::sleep(Duration::from_micros(500 * time));
            victim.kill();
            victim
        });
        let error = loop {
            let resume = StepOutOptions {
                resume: true,
                ..StepOutOptions::default()
            };
            if let Err(error) = step_out(pid, &resume) {
                break error;
            }
        };
        let is_meanwhile = error.refusal() == Some(&Refusal::Ended);
        let told = is_meanwhile
            || error.refusal() == Some(&Refusal::Zombie)
            || matches!(error, Error::NoSuchProcess { .. });
        assert!(
            told && error.to_string().contains(&pid.to_string()),
            "{error}"
        );
        answers += usize::from(is_meanwhile);
        killer.join().unwrap();
    }
    println!("{answers} of 20 ended while they were worked on");
}

/// A thread that is interrupted in the moment in which it takes a timer's signal stops for the
/// signal alone.
fn timers_do_not_swallow_interruptions() {
    let mut victim = Victim::start(TICKING);
    victim.numbers();
    let pid = Pid::from_raw(victim.pid());
    for _ in 0..5000 {
        let mut seized = Seized::stop(pid, Duration::from_secs(5)).unwrap();
        assert_eq!(seized.threads().len(), 1);
    }
    victim.kill();
}

fn the_command_says_what_it_did() {
    let (victim, _) = Victim::hammer(HAMMER);
    let pid = victim.pid().to_string();
    let json = |more: &[&str]| -> Value {
        let arguments = ["step-out", "--pid", &pid, "--json"];
        let printed = run(arguments.iter().chain(more)).success();
        serde_json::from_str(&printed).unwrap()
    };
    let report = json(&["--resume"]);
    assert_eq!(report["schema"], "relocator.step-out/1");
    assert_eq!(report["pid"], victim.pid());
    assert_eq!(report["stopped"], false);
    assert_eq!(report["vdsos"][0]["address"], victim.vdso().start);
    assert_eq!(report["threads"], victim.threads().len());
    assert_eq!(report["stuck"], serde_json::json!([]));
    assert_eq!(json(&[])["stopped"], true);
    assert_eq!(victim.state(victim.pid()), 'T');
    victim.signal(libc::SIGCONT);
    let text = run(["step-out", "--pid", &pid, "--resume"]).success();
    assert!(
        text.contains("is running: 4 threads, nothing is inside"),
        "{text}"
    );
    victim.finish();
}
