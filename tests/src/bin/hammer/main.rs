//! Calls every function of its vDSO all the time, in many threads, while signals arrive, and holds every answer against
//! the system call. Other threads sleep in system calls that must not be cut short.
//!
//! A tester says by a page of shared memory which functions have to be right and when to end (`relocator_tests::bed::control`);
//! without one, all have to be right. It exits with 0 if nothing was wrong.

mod calls;
mod idle;
mod judge;
mod signals;
mod stacks;
mod system;
mod vdso;

use std::fs::{File, OpenOptions};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use calls::Caller;
use clap::Parser;
use judge::Judge;
use relocator_tests::bed::control::{self, Control, EVERYTHING};
use signals::Mailbox;
use stacks::{Begun, Stacks};
use vdso::Functions;

/// How often signals are sent and sleepers woken.
const BEAT: Duration = Duration::from_micros(500);

/// How many threads are sent a signal at a time.
const SHARE: usize = 4;

/// How many beats a thread sleeps that waits to be woken. Many threads sleep longer, so as not to take all of the processor.
fn night(threads: usize) -> usize {
    (2 * threads).max(40)
}

/// How long signals may be on their way at the end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Call every function of the vDSO all the time, and hold every answer against the system call.
#[derive(Parser)]
struct Arguments {
    /// Threads that call; 0 for the main thread alone.
    #[arg(long, default_value_t = 64)]
    threads: usize,
    /// Further threads that sleep in system calls.
    #[arg(long, default_value_t = 0)]
    idle: usize,
    /// Give all threads their stacks in one mapping of that size, in bytes.
    #[arg(long, value_name = "BYTES")]
    shared_stacks: Option<usize>,
    /// The page to talk by.
    #[arg(long)]
    control: Option<PathBuf>,
    /// End by itself.
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<f64>,
}

fn open_control(arguments: &Arguments) -> Result<Control, String> {
    let file: std::io::Result<File> = match &arguments.control {
        Some(path) => OpenOptions::new().read(true).write(true).open(path),
        None => tempfile::tempfile().and_then(|file| {
            file.set_len(control::SIZE as u64)?;
            Ok(file)
        }),
    };
    let control = file.and_then(|file| Control::map(&file));
    let control = control.map_err(|error| format!("the control page: {error}"))?;
    if arguments.control.is_none() {
        control.set_right(EVERYTHING);
    }
    Ok(control)
}

/// The threads that sleep, and how they are woken.
struct Sleepers {
    alarms: Vec<idle::Alarm>,
    beats: usize,
    latest: Duration,
}

impl Sleepers {
    /// They are never joined: some only wake when they are woken.
    fn begin(count: usize, control: Control, stacks: &mut Stacks) -> Result<Self, String> {
        let length = Duration::from_millis(50 + count as u64);
        let mut alarms = Vec::new();
        for number in 0..count {
            let (bed, alarm) = idle::make(number).map_err(|error| error.to_string())?;
            stacks.begin(move || idle::sleep(&bed, length, control))?;
            alarms.push(alarm);
        }
        Ok(Self {
            alarms,
            beats: 0,
            latest: idle::now(),
        })
    }

    /// Wakes some, so that each is woken now and then.
    fn beat(&mut self) {
        let now = idle::now();
        if now.saturating_sub(self.latest) < BEAT {
            return;
        }
        self.latest = now;
        let night = night(self.alarms.len());
        let share = self.beats % night;
        self.beats += 1;
        let due = self.alarms.iter_mut().skip(share).step_by(night);
        due.for_each(idle::Alarm::ring);
    }
}

/// What the main thread does besides.
struct Conductor {
    control: Control,
    mailboxes: &'static [Mailbox],
    sleepers: Sleepers,
    next: usize,
    end: Option<Instant>,
}

impl Conductor {
    /// Sends signals, and wakes threads that sleep.
    fn beat(&mut self) {
        for _ in 0..SHARE.min(self.mailboxes.len()) {
            self.mailboxes[self.next].send();
            self.next = (self.next + 1) % self.mailboxes.len();
        }
        self.sleepers.beat();
        if self.end.is_some_and(|end| Instant::now() >= end) {
            self.control.stop();
        }
    }
}

fn judge(control: Control, thread: usize) -> Judge {
    Judge {
        control,
        thread,
        place: "",
    }
}

/// Whether no more signals are sent.
static CLOSED: AtomicBool = AtomicBool::new(false);

/// One thread's life.
fn call(functions: Functions, mailbox: &'static Mailbox, judge: Judge, mut between: impl FnMut()) {
    let mut caller = Caller::new(functions, judge);
    signals::accept(judge, mailbox, judge.thread % 2 == 1);
    judge.control.begin();
    while !judge.control.is_stopped() {
        caller.round();
        between();
    }
}

/// What is on its way arrives while the thread is still there; whatever does not is lost.
fn await_signals(mailbox: &Mailbox) {
    let begun = Instant::now();
    while !(CLOSED.load(SeqCst) && mailbox.is_empty()) && begun.elapsed() < PATIENCE {
        thread::sleep(BEAT);
    }
}

fn run(arguments: &Arguments) -> Result<Control, String> {
    let control = open_control(arguments)?;
    let functions = Functions::find()?;
    signals::prepare(functions);
    let mailboxes = (0..arguments.threads.max(1)).map(|_| Mailbox::default());
    let mailboxes: &'static [Mailbox] = Vec::leak(mailboxes.collect());
    let mut stacks = Stacks::new(arguments.shared_stacks, arguments.threads + arguments.idle)?;
    // Threads that sleep outlive this function, and so does what wakes them.
    let conductor = Box::leak(Box::new(Conductor {
        control,
        mailboxes,
        sleepers: Sleepers::begin(arguments.idle, control, &mut stacks)?,
        next: 0,
        end: arguments
            .seconds
            .map(|seconds| Instant::now() + Duration::from_secs_f64(seconds)),
    }));
    let mut threads = Vec::new();
    for (number, mailbox) in mailboxes.iter().enumerate().take(arguments.threads) {
        let judge = judge(control, number);
        threads.push(stacks.begin(move || {
            call(functions, mailbox, judge, || {});
            await_signals(mailbox);
        })?);
    }
    signals::begin_alarms();
    if threads.is_empty() {
        call(functions, &mailboxes[0], judge(control, 0), || {
            conductor.beat()
        });
    } else {
        while control.counts().ready < (arguments.threads + arguments.idle) as u64 {
            thread::sleep(BEAT);
        }
        while !control.is_stopped() {
            thread::sleep(BEAT);
            conductor.beat();
        }
    }
    end(control, mailboxes, threads)?;
    Ok(control)
}

fn end(control: Control, mailboxes: &[Mailbox], threads: Vec<Begun>) -> Result<(), String> {
    CLOSED.store(true, SeqCst);
    if threads.is_empty() {
        mailboxes.iter().for_each(await_signals);
    }
    for thread in threads {
        thread.join()?;
    }
    for (number, mailbox) in mailboxes.iter().enumerate() {
        signals::check_empty(mailbox, control, number);
    }
    Ok(())
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let control = match run(&arguments) {
        Ok(control) => control,
        Err(reason) => {
            eprintln!("hammer: {reason}");
            return ExitCode::from(2);
        }
    };
    let counts = control.counts();
    if arguments.control.is_none() {
        println!("{counts:#?}");
    }
    match counts.failures {
        0 => ExitCode::SUCCESS,
        _ => {
            eprintln!("hammer: {}", counts.first.unwrap_or_default());
            ExitCode::FAILURE
        }
    }
}
