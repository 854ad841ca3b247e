//! Processes that cannot be linked are told so, with the reason and what to do, and are left as
//! they are. So are processes with nothing to link; and processes that never rest survive, whatever
//! the answer is.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::thread;
use std::time::Duration;

use kernel_source::Cache;
use libtest_mimic::Trial;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use relocator::threads::Memory;
use relocator_cli::source::Spec;
use relocator_process::tracing::{ProcessMemory, Tracee};
use relocator_tests::bed::{Bed, OldVdso, Restored, old_vdso};
use relocator_tests::command;
use relocator_tests::odd::{Other, PROGRAMS_OF_32_BITS};
use relocator_tests::opened::opened;
use relocator_tests::running::in_words;
use relocator_tests::trials::{ensure, trial};

use crate::linker::Linker;
use crate::look::maps;
use crate::odd::{
    self, COMPILED, EXECUTING, FILTERED, FORKING, NOBODYS, PLAIN, RESTORING, SPAWNING, STARTING,
    STRICT, UNDUMPABLE, VFORKED,
};
use crate::tool::{PANICKED, Tool};

/// The old kernel, and one that it is not.
const OLD: &str = "6.1";
const OTHER: &str = "5.10";

/// The old vDSO, which takes longer to find than anything else.
static OLD_VDSO: LazyLock<Result<OldVdso, String>> =
    LazyLock::new(|| old_vdso(&Spec::Kernel(OLD.to_owned())));

/// How often processes that never rest, and those that are killed, are worked on, unless [`RUNS`]
/// says otherwise.
const USUAL: u64 = 100;

/// The environment variable that says how often.
const RUNS: &str = "RELOCATOR_RUNS";

fn runs() -> u64 {
    let said = std::env::var(RUNS).ok();
    let said = said.and_then(|text| text.parse().ok());
    said.filter(|&runs| runs > 0).unwrap_or(USUAL)
}

/// A number that no process has: it is above the largest that Linux gives.
const NO_PROCESS: i32 = (1 << 22) + 1;

/// The thread of the kernel that begins all others.
const KERNEL_THREAD: i32 = 2;

pub(crate) fn trials(listing: bool) -> Vec<Trial> {
    let fetch = |version: &str| Cache::locate().fetch(version).map(drop);
    let fetched = match listing {
        true => Ok(()),
        false => fetch(OLD).and_then(|()| fetch(OTHER)),
    };
    let fetched = fetched.map_err(|error| in_words(&error));
    let possible = &fetched;
    let test = |name: &str, run: fn() -> Result<(), String>| {
        trial(format!("refused::{name}"), possible, run)
    };
    let mut trials = vec![
        test("seccomp_filter", || {
            resting(FILTERED, "seccomp filters the system calls of its thread")
        }),
        test("seccomp_strict", || {
            resting(STRICT, "seccomp filters the system calls of its thread")
        }),
        test("undumpable", || resting(NOBODYS, "is not dumpable")),
        test("undumpable_of_root", || {
            resting(UNDUMPABLE, "is not dumpable")
        }),
        test("vfork_parent", vfork_parent),
        test("vfork_child", vfork_child),
        test("traced", traced),
        test("in_restorer", || {
            resting(RESTORING, "is still being restored (its thread ")?;
            resting(RESTORING, "in CRIU's `post-resume` script")
        }),
        test("in_other_code_without_file", in_other_code_without_file),
        test("no_process", no_process),
        test("itself", itself),
        test("ended", ended),
        test("without_old_vdso", without_old_vdso),
        test("unnamed_old_vdso", unnamed_old_vdso),
        test("another_old_vdso", another_old_vdso),
        test("killed_meanwhile", killed_meanwhile),
    ];
    let kernel = fetched.clone().and_then(|()| has_kernel_thread());
    trials.push(trial("refused::kernel_thread", &kernel, kernel_thread));
    let programs = fetched.clone().and_then(|()| PROGRAMS_OF_32_BITS.clone());
    trials.push(trial("refused::of_32_bits", &programs, of_32_bits));
    for what in [SPAWNING, FORKING, STARTING, EXECUTING] {
        let name = format!("refused::never_resting_{what}");
        trials.push(trial(name, possible, move || never_resting(what)));
    }
    trials
}

/// A process that is one of [`odd`]'s, on a bed, and the number that it has said.
pub(crate) struct Odd {
    pub(crate) restored: Restored,
    said: i32,
}

impl Odd {
    pub(crate) fn start(what: &str) -> Result<Self, String> {
        Self::with(OLD_VDSO.clone()?, what)
    }

    /// The same with another old vDSO.
    pub(crate) fn with(old: OldVdso, what: &str) -> Result<Self, String> {
        let own = std::env::current_exe().map_err(|error| in_words(&error))?;
        let mut command = Command::new(own);
        command.args([odd::ARGUMENT, what]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let bed = Bed::new(old);
        let mut restored = bed.launch(command)?;
        let mut said = 0;
        if what != EXECUTING {
            let output = restored.child.stdout.take().ok_or("it has no output")?;
            let mut line = String::new();
            let read = BufReader::new(output).read_line(&mut line);
            read.map_err(|error| in_words(&error))?;
            let number = line.trim().parse();
            said = number.map_err(|_| format!("it has said {line:?}"))?;
        }
        Ok(Self { restored, said })
    }

    /// One that was started in another way.
    pub(crate) fn of(restored: Restored) -> Self {
        Self { restored, said: 0 }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.restored.pid()
    }

    pub(crate) fn snapshot(&self) -> Result<Snapshot, String> {
        // It sleeps when it has said its number, but not at once.
        thread::sleep(Duration::from_millis(50));
        Snapshot::of(self.pid())
    }
}

/// All that must be as it was.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    maps: String,
    /// What is executable in it.
    code: Vec<Vec<u8>>,
    /// Each thread's system call with its arguments, stack pointer and program counter.
    threads: Vec<String>,
    /// Signals that each blocks, its tracer, and whether it is stopped.
    status: Vec<String>,
}

impl Snapshot {
    pub(crate) fn of(pid: i32) -> Result<Self, String> {
        let maps = maps(pid)?;
        let memory = ProcessMemory::of(Pid::from_raw(pid));
        let code = maps.lines().filter(|line| line.contains(" r-xp "));
        let code = code.filter_map(|line| {
            let (start, rest) = line.split_once('-')?;
            let number = |digits| u64::from_str_radix(digits, 16).ok();
            let start = number(start)?;
            let end = number(rest.split(' ').next()?)?;
            let mut bytes = vec![0; (end - start) as usize];
            memory
                .read(elf_tools::Avma(start), &mut bytes)
                .then_some(bytes)
        });
        let code = code.collect();
        let path = format!("/proc/{pid}/task");
        let entries = std::fs::read_dir(&path).map_err(|error| format!("{path}: {error}"))?;
        let mut tasks: Vec<_> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect();
        tasks.sort();
        let read = |name: &str| -> Vec<String> {
            let texts = tasks
                .iter()
                .map(|task| std::fs::read_to_string(task.join(name)));
            texts.map(Result::unwrap_or_default).collect()
        };
        let constant = |text: String| {
            let is_it = |line: &&str| {
                let names = ["SigBlk:", "SigPnd:", "TracerPid:", "State:"];
                names.iter().any(|name| line.starts_with(name))
            };
            text.lines().filter(is_it).collect::<Vec<_>>().join(" ")
        };
        Ok(Self {
            threads: read("syscall"),
            status: read("status").into_iter().map(constant).collect(),
            maps,
            code,
        })
    }
}

/// What `apply` says about a process, and its status.
fn apply(pid: i32, old: Option<&str>) -> command::Ran {
    let mut arguments = vec!["apply".to_owned(), "--pid".to_owned(), pid.to_string()];
    arguments.extend(["--deadline".to_owned(), "2".to_owned()]);
    if let Some(version) = old {
        arguments.extend(["--old".to_owned(), format!("kernel:{version}")]);
    }
    command::run(arguments)
}

/// `apply` has to fail with these words, and with that status.
fn refuses(pid: i32, old: Option<&str>, status: i32, words: &str) -> Result<(), String> {
    let ran = apply(pid, old);
    let is_one_line = ran.stderr.trim_end().lines().count() == 1;
    let is_clear = ran.stderr.starts_with("relocator: ") && ran.stderr.contains(words);
    let is_right = ran.status == Some(status) && ran.stdout.is_empty();
    ensure(is_one_line && is_clear && is_right, || {
        format!("expected status {status} and {words:?}: {ran:?}")
    })
}

/// A process that is refused with these words, and is as it was afterwards.
fn untouched(pid: i32, old: Option<&str>, status: i32, words: &str) -> Result<(), String> {
    let before = Snapshot::of(pid)?;
    refuses(pid, old, status, words)?;
    let after = Snapshot::of(pid)?;
    ensure(before == after, || {
        let code = before.code == after.code;
        format!(
            "it was {:?} {:?} {}, and is {:?} {:?} {}; same code: {code}",
            before.threads, before.status, before.maps, after.threads, after.status, after.maps
        )
    })
}

fn resting(what: &str, words: &str) -> Result<(), String> {
    let odd = Odd::start(what)?;
    odd.snapshot()?;
    untouched(odd.pid(), Some(OLD), 1, words)
}

fn vfork_parent() -> Result<(), String> {
    let odd = Odd::start(VFORKED)?;
    odd.snapshot()?;
    let words = format!("shares its memory with process {}", odd.said);
    untouched(odd.pid(), Some(OLD), 1, &words)?;
    let _ = kill(Pid::from_raw(odd.said), Signal::SIGKILL);
    Ok(())
}

fn vfork_child() -> Result<(), String> {
    let odd = Odd::start(VFORKED)?;
    odd.snapshot()?;
    let words = format!("shares its memory with process {}", odd.pid());
    let refused = untouched(odd.said, Some(OLD), 1, &words);
    let _ = kill(Pid::from_raw(odd.said), Signal::SIGKILL);
    refused
}

fn traced() -> Result<(), String> {
    let odd = Odd::start(PLAIN)?;
    odd.snapshot()?;
    let tracee = Tracee::seize(Pid::from_raw(odd.pid())).map_err(|error| in_words(&error))?;
    untouched(odd.pid(), Some(OLD), 1, "is already traced")?;
    drop(tracee);
    // Nothing else was in the way.
    let ran = apply(odd.pid(), Some(OLD));
    ensure(ran.status == Some(0), || format!("{ran:?}"))
}

fn of_32_bits() -> Result<(), String> {
    let other = Other::of_32_bits().map_err(|error| in_words(&error))?;
    thread::sleep(Duration::from_millis(50));
    let before = maps(other.pid())?;
    refuses(other.pid(), Some(OLD), 1, "is not a 64-bit process")?;
    ensure(before == maps(other.pid())?, || {
        "its mappings have changed".to_owned()
    })
}

fn no_process() -> Result<(), String> {
    refuses(NO_PROCESS, None, 2, "no such process")
}

/// Whether the first thread of the kernel is what it is in no PID namespace but the first.
fn has_kernel_thread() -> Result<(), String> {
    let path = format!("/proc/{KERNEL_THREAD}/comm");
    let name = fs::read_to_string(path).unwrap_or_default();
    ensure(name.trim() == "kthreadd", || {
        "this PID namespace has no threads of the kernel".to_owned()
    })
}

fn kernel_thread() -> Result<(), String> {
    refuses(KERNEL_THREAD, None, 1, "is a thread of the kernel")
}

/// A shell becomes the command, so that its number is the command's.
fn itself() -> Result<(), String> {
    let program = command::relocator().get_program().to_owned();
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "exec \"$0\" apply --pid $$"])
        .arg(program);
    let output = shell.output().map_err(|error| in_words(&error))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let is_clear = said.starts_with("relocator: process ") && said.contains("is this one");
    ensure(output.status.code() == Some(1) && is_clear, || {
        format!("{output:?}")
    })
}

/// It has ended, and nobody has taken notice.
fn ended() -> Result<(), String> {
    let odd = Odd::start(PLAIN)?;
    kill(Pid::from_raw(odd.pid()), Signal::SIGKILL).map_err(|error| in_words(&error))?;
    thread::sleep(Duration::from_millis(100));
    refuses(odd.pid(), Some(OLD), 1, "has ended")
}

fn without_old_vdso() -> Result<(), String> {
    let mut command = Command::new("sleep");
    let other = Other::spawn(command.arg("600")).map_err(|error| in_words(&error))?;
    thread::sleep(Duration::from_millis(100));
    let before = Snapshot::of(other.pid())?;
    let ran = apply(other.pid(), None);
    ensure(ran.status == Some(0) && ran.stderr.is_empty(), || {
        format!("{ran:?}")
    })?;
    ensure(
        ran.stdout.contains("has no old vDSO; nothing to do"),
        || format!("{ran:?}"),
    )?;
    ensure(before == Snapshot::of(other.pid())?, || {
        "it has changed".to_owned()
    })
}

/// What CRIU has overwritten is nowhere but in the image that is named.
fn unnamed_old_vdso() -> Result<(), String> {
    let odd = Odd::start(PLAIN)?;
    odd.snapshot()?;
    untouched(odd.pid(), None, 1, "--old kernel:VERSION")
}

/// The refusal has both build-ids, and where each of them is.
fn another_old_vdso() -> Result<(), String> {
    let odd = Odd::start(PLAIN)?;
    odd.snapshot()?;
    let build_id = |version: &str| {
        let source = opened(&Spec::Kernel(version.to_owned()))?;
        let build_id = source.build_id().ok_or("it has no build-id")?;
        Ok::<_, String>(build_id.to_string())
    };
    let words = format!(
        "it has the vDSO build-id {} at {}; kernel:{OTHER} has {}",
        build_id(OLD)?,
        odd.restored.text.start,
        build_id(OTHER)?
    );
    untouched(odd.pid(), Some(OTHER), 1, &words)
}

/// Code of a compiler is no restorer.
fn in_other_code_without_file() -> Result<(), String> {
    let odd = Odd::start(COMPILED)?;
    odd.snapshot()?;
    let ran = apply(odd.pid(), Some(OLD));
    ensure(ran.status == Some(0), || format!("{ran:?}"))
}

/// The process is killed at a moment of the tool's that is another one each time.
fn killed_meanwhile() -> Result<(), String> {
    let linker = Linker::new(&Spec::Kernel(OLD.to_owned()))?;
    // Fewer moments are farther from each other.
    let distance = 3 * USUAL.div_ceil(runs());
    for run in 0..runs() {
        let odd = Odd::start(PLAIN)?;
        let pid = odd.pid();
        let mut tool = Tool::fork(|| linker.apply(pid).map(|outcome| format!("{outcome:?}")))?;
        let mut early = None;
        for _ in 0..distance * run {
            if let Err(ended) = tool.next()? {
                early = Some(ended);
                break;
            }
        }
        let killed = kill(Pid::from_raw(pid), Signal::SIGKILL);
        killed.map_err(|error| in_words(&error))?;
        let said = match early {
            Some(ended) => ended,
            None => tool.finish()?,
        };
        let is_clear = said.status == 0
            || ["has ended", "is ending"]
                .iter()
                .any(|it| said.said.contains(it));
        ensure(said.status != PANICKED && is_clear, || {
            format!("run {run}: {said:?}")
        })?;
    }
    Ok(())
}

/// Each run succeeds or says why not, and the process goes on.
fn never_resting(what: &str) -> Result<(), String> {
    let linker = Linker::with_patience(&Spec::Kernel(OLD.to_owned()), Duration::from_secs(1))?;
    let mut odd = Odd::start(what)?;
    let pid = odd.pid();
    let mut successes = 0;
    for run in 0..runs() {
        thread::sleep(Duration::from_micros(131 * (run % 10)));
        let applying = run % 2 == 0;
        let tool = Tool::fork(|| {
            let outcome = match applying {
                true => linker.apply(pid),
                false => linker.roll_back(pid),
            };
            outcome.map(|outcome| format!("{:?}", outcome.state))
        })?;
        let ended = tool.finish()?;
        let is_clear = ended.status == 0 || !ended.said.is_empty();
        ensure(ended.status != PANICKED && is_clear, || {
            format!("run {run}: {ended:?}")
        })?;
        successes += u32::from(ended.status == 0);
        if ended.status != 0 {
            eprintln!("{what}, run {run}: {}", ended.said);
        }
        let gone = odd.restored.child.try_wait();
        let gone = gone.map_err(|error| in_words(&error))?;
        ensure(gone.is_none(), || format!("run {run}: {gone:?}, {ended:?}"))?;
    }
    eprintln!("{what}: {successes} of {} succeeded", runs());
    ensure(successes > 0, || "none has succeeded".to_owned())
}
