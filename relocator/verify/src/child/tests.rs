use super::*;

const CONDITIONS: Conditions = Conditions {
    time_namespace: false,
    deadline: Duration::from_secs(20),
    processor_time: None,
};

fn failure(conditions: Conditions, work: impl FnOnce(&mut Progress) -> Result<u32>) -> String {
    match run(conditions, work) {
        Err(Error::Child { what }) => what,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_result_comes_back() {
    let result = run(CONDITIONS, |progress| {
        progress.at("something");
        Ok(vec!["one".to_owned(); 10_000])
    });
    assert_eq!(result.unwrap().len(), 10_000);
}

#[test]
fn an_error_and_a_panic_come_back_in_words() {
    let io = |_: &mut Progress| Err(Error::io("a place")(std::io::Error::other("a reason")));
    assert_eq!(failure(CONDITIONS, io), "failed: a place: a reason");
    assert_eq!(
        failure(CONDITIONS, |_| panic!("expected in this test")),
        "panicked"
    );
}

#[test]
fn a_crash_names_the_signal_and_the_place() {
    let what = failure(CONDITIONS, |progress| {
        progress.at("here");
        let _ = kill(Pid::this(), Signal::SIGUSR2);
        Ok(0)
    });
    assert_eq!(what, "was killed by SIGUSR2, in here");
}

#[test]
fn a_hang_is_ended() {
    let conditions = Conditions {
        deadline: Duration::from_millis(200),
        ..CONDITIONS
    };
    let started = Instant::now();
    let what = failure(conditions, |progress| {
        progress.at("a loop");
        loop {
            std::hint::spin_loop();
        }
    });
    assert_eq!(what, "did not finish within 200ms, in a loop");
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_child_that_spins_is_ended_and_one_that_waits_is_not() {
    let conditions = Conditions {
        processor_time: Some(Duration::from_millis(100)),
        ..CONDITIONS
    };
    let what = failure(conditions, |progress| {
        progress.at("a loop");
        loop {
            std::hint::spin_loop();
        }
    });
    assert_eq!(
        what,
        "did not finish within 100ms of processor time, in a loop"
    );
    let waited = run(conditions, |_| {
        std::thread::sleep(Duration::from_millis(300));
        Ok(7)
    });
    assert_eq!(waited.unwrap(), 7);
}

#[test]
fn silence_and_garbage_are_not_taken_for_a_result() {
    assert_eq!(
        failure(CONDITIONS, |_| process::exit()),
        "exited with status 0 and no result, before it began"
    );
    let what = failure(CONDITIONS, |progress| {
        progress.at("there");
        let _ = progress.pipe.write_all(b"{\"Done\": \"seven\"}\n");
        Ok(1)
    });
    assert_eq!(what, "sent something that is no message, in there");
}

/// Another child that was forked while the pipe was open must not keep its reader waiting.
#[test]
fn children_of_concurrent_threads_do_not_wait_for_each_other() {
    let slow = std::thread::spawn(|| {
        run(CONDITIONS, |_| {
            std::thread::sleep(Duration::from_secs(2));
            Ok(())
        })
    });
    let started = Instant::now();
    for _ in 0..20 {
        run(CONDITIONS, |_| Ok(())).unwrap();
    }
    assert!(
        started.elapsed() < Duration::from_millis(1500),
        "{:?}",
        started.elapsed()
    );
    slow.join().unwrap().unwrap();
}
