//! Victims, as the tests see them.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::ops::Range;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::libc::{self, c_int};
use procfs::process::{MMapPath, Process};

use crate::victim;

/// A victim, which ends when this is dropped.
pub(crate) struct Victim {
    child: Child,
    output: BufReader<ChildStdout>,
}

/// What a victim that hammers has seen.
pub(crate) struct Seen {
    /// Values that came with signals, by thread.
    pub(crate) values: Vec<Vec<u32>>,
    pub(crate) alarms: usize,
    pub(crate) traps: usize,
    pub(crate) wrong: usize,
}

impl Victim {
    pub(crate) fn start(what: &str) -> Self {
        let own = std::env::current_exe().unwrap();
        let mut child = Command::new(own)
            .args([victim::ARGUMENT, what])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output }
    }

    /// One that hammers, and its threads that do.
    pub(crate) fn hammer(what: &str) -> (Self, Vec<i32>) {
        let mut victim = Self::start(what);
        let threads = (0..victim::THREADS).map(|_| victim.numbers()[0] as i32);
        let threads = threads.collect();
        (victim, threads)
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// The numbers in the next line that it says.
    pub(crate) fn numbers(&mut self) -> Vec<u64> {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.split_whitespace()
            .map(|word| word.parse().unwrap())
            .collect()
    }

    /// Ends one that hammers, which must end well.
    pub(crate) fn finish(mut self) -> Seen {
        drop(self.child.stdin.take());
        let lines = (0..=victim::THREADS).map(|_| self.numbers());
        let mut lines: Vec<Vec<u64>> = lines.collect();
        let counts = lines.pop().unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}");
        let values = lines.into_iter();
        Seen {
            values: values
                .map(|values| values.into_iter().map(|value| value as u32).collect())
                .collect(),
            alarms: counts[0] as usize,
            traps: counts[1] as usize,
            wrong: counts[2] as usize,
        }
    }

    /// Ends one that has nothing to say, which must end well.
    pub(crate) fn end(mut self) {
        drop(self.child.stdin.take());
        let mut rest = Vec::new();
        self.output.read_to_end(&mut rest).unwrap();
        assert!(self.child.wait().unwrap().success());
    }

    /// The same one, which is told to end.
    pub(crate) fn without_input(mut self) -> Self {
        drop(self.child.stdin.take());
        self
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
    }

    pub(crate) fn signal(&self, signal: c_int) {
        // SAFETY: nothing but a signal is sent.
        assert_eq!(unsafe { libc::kill(self.pid(), signal) }, 0);
    }

    /// Where its vDSO is.
    pub(crate) fn vdso(&self) -> Range<u64> {
        let maps = Process::new(self.pid()).unwrap().maps().unwrap();
        let mut maps = maps.into_iter();
        let vdso = maps.find(|map| map.pathname == MMapPath::Vdso).unwrap();
        vdso.address.0..vdso.address.1
    }

    /// All threads.
    pub(crate) fn threads(&self) -> Vec<i32> {
        let tasks = Process::new(self.pid()).unwrap().tasks().unwrap();
        tasks.map(|task| task.unwrap().tid).collect()
    }

    /// The state of a thread, and the value of a line of its status.
    pub(crate) fn status(&self, thread: i32, line: &str) -> String {
        let status = fs::read_to_string(format!("/proc/{}/task/{thread}/status", self.pid()));
        let status = status.unwrap();
        let mut lines = status.lines().filter_map(|each| each.split_once(':'));
        let (_, value) = lines.find(|(name, _)| *name == line).unwrap();
        value.trim().to_owned()
    }

    /// What is to stay: signal masks, without what handlers that run block, and actions.
    pub(crate) fn masks(&self, threads: &[i32]) -> Vec<[u64; 3]> {
        let handled = 1 << (libc::SIGALRM - 1) | 1 << (victim::queued() - 1);
        let mask = |thread, line| u64::from_str_radix(&self.status(thread, line), 16).unwrap();
        let of = |&thread: &i32| {
            let [blocked, ignored, caught] =
                ["SigBlk", "SigIgn", "SigCgt"].map(|line| mask(thread, line));
            [blocked & !handled, ignored, caught]
        };
        threads.iter().map(of).collect()
    }

    pub(crate) fn state(&self, thread: i32) -> char {
        self.status(thread, "State").chars().next().unwrap()
    }

    /// What the kernel says about a thread that does not run: the system call, if it is in one, and
    /// the program counter.
    pub(crate) fn system_call(&self, thread: i32) -> String {
        fs::read_to_string(format!("/proc/{}/task/{thread}/syscall", self.pid())).unwrap()
    }

    pub(crate) fn pc(&self, thread: i32) -> u64 {
        let line = self.system_call(thread);
        let digits = line.split_whitespace().last().unwrap();
        let digits = digits
            .strip_prefix("0x")
            .unwrap_or_else(|| panic!("{line}"));
        u64::from_str_radix(digits, 16).unwrap()
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[track_caller]
pub(crate) fn wait_until(condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "it never happens"
        );
        thread::sleep(Duration::from_millis(1));
    }
}

/// Sends a signal with a value to a thread, and waits where too many are queued.
pub(crate) fn queue(process: i32, thread: i32, signal: c_int, value: u32) {
    // `siginfo_t` for a signal that is queued: number, errno, code, and from byte 16 on pid, uid
    // and the value.
    let mut info = [0u32; 32];
    info[0] = signal.cast_unsigned();
    info[2] = libc::SI_QUEUE.cast_unsigned();
    info[4] = std::process::id();
    info[6] = value;
    loop {
        let number = libc::SYS_rt_tgsigqueueinfo;
        // SAFETY: the kernel reads as many bytes as a `siginfo_t` has.
        match unsafe { libc::syscall(number, process, thread, signal, info.as_ptr()) } {
            0 => return,
            _ => assert_eq!(nix::errno::Errno::last(), nix::errno::Errno::EAGAIN),
        }
        thread::sleep(Duration::from_micros(100));
    }
}
