//! What calls cost after linking: the running kernel's own vDSO, linked fixtures in both styles, a
//! proxy to the new vDSO, system calls, and linked vDSOs of the distribution's kernels, as far as
//! they have been fetched.
//!
//! Run with `cargo bench -p relocator-verify --bench calls`. A criterion group is a call, so its
//! reports put the ways side by side. Criterion finishes one before it begins the next, and a
//! machine is not equally fast all the time; so ratios are measured once more, in turns, and
//! printed at the end. Those are the ones to quote; `-- none` as arguments leaves out everything
//! else.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion};
use elf_tools::image::Image;
use kernel_fixtures::fixture;
use kernel_source::Cache;
use relocator::link::Old;
use relocator_cli::source::Spec;
use relocator_verify::compare::{InProcess, TimedCall, side_by_side};
use relocator_verify::{Approach, Running, VerifyOptions, verify};

/// Batches and calls in a batch of what is measured in turns; one each under `cargo test`, as
/// criterion does then.
fn turns() -> (u32, u32) {
    let measures = std::env::args().any(|argument| argument == "--bench");
    if measures { (301, 2000) } else { (1, 1) }
}

/// A name, the fixture that is linked, and how.
const WAYS: [(&str, &str, Approach); 5] = [
    ("native", "got", Approach::Native),
    ("got", "got", Approach::Relocate),
    ("operands", "operands", Approach::Relocate),
    ("proxy", "got", Approach::Proxy),
    ("system call", "got", Approach::Syscall),
];

struct Contestant {
    name: String,
    functions: InProcess,
}

fn running() -> Running {
    let source = relocator_process::running::own().expect("a kernel with a vDSO");
    Running {
        image: source.require_image().expect("a vDSO").clone(),
        symtab: source.require_symtab().ok().cloned(),
    }
}

fn contestant(
    (name, fixture, approach): (&'static str, &str, Approach),
    running: &Running,
) -> Contestant {
    let found = fixture::find(fixture).expect("a fixture");
    let image = Image::parse(found.image).expect("a good image");
    let outcome = verify(&image, running, &VerifyOptions::default()).expect("it links and runs");
    assert_eq!(outcome.mismatches(), 0, "{fixture} is wrong here");
    // SAFETY: the image is one of ours, and it was verified just now.
    let functions = unsafe { InProcess::map(&image, running, approach) }.expect("it links");
    Contestant {
        name: name.to_owned(),
        functions,
    }
}

/// The native functions, and linked kernels of the distribution.
fn stock(running: &Running) -> Vec<Contestant> {
    let kernels = Cache::locate().all_cached();
    let olds: Vec<(String, Old)> = kernels
        .into_iter()
        .map(|kernel| {
            let source = Spec::Kernel(kernel.version.clone())
                .open()
                .expect("a kernel");
            let image = source.require_image().expect("a vDSO").clone();
            let symtab = source.require_symtab().expect("a kernel with BTF");
            (
                kernel.version,
                Old::derive(image, symtab).expect("its own symbols"),
            )
        })
        .collect();
    // The newest has all functions, so that all are in the comparison.
    let native = olds
        .last()
        .map(|(_, old)| ("native".to_owned(), old, Approach::Native));
    let linked = olds
        .iter()
        .map(|(name, old)| (name.clone(), old, Approach::Relocate));
    let contestant = |(name, old, approach): (String, &Old, Approach)| {
        let outcome = verify(old, running, &VerifyOptions::default()).expect("it links and runs");
        assert_eq!(outcome.mismatches(), 0, "{name} is wrong here");
        // SAFETY: the image is a kernel's, and with its table it was verified just now.
        let functions = unsafe { InProcess::map(old, running, approach) }.expect("it links");
        Contestant { name, functions }
    };
    native.into_iter().chain(linked).map(contestant).collect()
}

fn groups(criterion: &mut Criterion, contestants: &[Contestant]) {
    for call in TimedCall::ALL {
        let mut group = criterion.benchmark_group(call.name());
        for Contestant { name, functions } in contestants {
            if functions.time(call, 1).is_none() {
                continue;
            }
            group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
                bencher.iter_custom(|iterations| repeat(functions, call, iterations));
            });
        }
        group.finish();
    }
}

/// Criterion counts in 64 bits.
fn repeat(functions: &InProcess, call: TimedCall, mut iterations: u64) -> Duration {
    let mut elapsed = Duration::ZERO;
    while iterations > 0 {
        let calls = u32::try_from(iterations).unwrap_or(u32::MAX);
        elapsed += functions.time(call, calls).expect("it was there before");
        iterations -= u64::from(calls);
    }
    elapsed
}

fn ratios(contestants: &[Contestant]) {
    let functions: Vec<&InProcess> = contestants
        .iter()
        .map(|contestant| &contestant.functions)
        .collect();
    let (batches, batch) = turns();
    println!(
        "\nIn turns, {batches} batches of {batch} calls: medians of the ratio to native, batch by batch"
    );
    print!("{:<32}{:>12}", "call", "native, ns");
    for contestant in contestants.iter().skip(1) {
        print!("{:>13}", contestant.name);
    }
    println!();
    for call in TimedCall::ALL {
        let timings = side_by_side(&functions, call, batches, batch);
        let native = timings
            .first()
            .and_then(Option::as_ref)
            .map(|timing| format!("{:.1}", timing.nanoseconds));
        print!("{:<32}{:>12}", call.name(), native.unwrap_or_default());
        for timing in timings.iter().skip(1) {
            let ratio = timing.as_ref().and_then(|timing| timing.ratio);
            print!(
                "{:>13}",
                ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.3}x"))
            );
        }
        println!();
    }
}

fn main() {
    let running = running();
    let contestants = WAYS.map(|approach| contestant(approach, &running));
    let mut criterion = Criterion::default().configure_from_args();
    groups(&mut criterion, &contestants);
    criterion.final_summary();
    ratios(&contestants);
    match stock(&running).as_slice() {
        [] => println!(
            "\nNo kernels of the distribution: none was fetched, as `relocator compare` would."
        ),
        stock => ratios(stock),
    }
}
