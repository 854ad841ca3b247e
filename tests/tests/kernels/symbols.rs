//! Real kernels: the vDSOs of distribution kernels on the running one, and the symbols that are derived from their BTF
//! against what `bpftool` and `pahole` read from it.
//!
//! Kernels are fetched when they are first needed; see `kernel_source` for where they are kept.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use elf_tools::layout::Layout;
use elf_tools::layout::btf::Btf;
use elf_tools::symtab::{Provenance, elf};
use kernel_source::{Cache, VERSIONS};
use libtest_mimic::{Arguments, Trial};
use relocator::plan::{Policy, Strategy};
use relocator_tests::peers::{Types, compare_with_pahole};
use relocator_tests::readelf::{nm, readelf};
use relocator_tests::running::{RUNNING, TIME_NAMESPACE, in_words};
use relocator_tests::stock::{self, Kernel, Shared};
use relocator_tests::table;
use relocator_tests::trials::{ensure, trial};
use relocator_verify::{FunctionOutcome, VerifyOptions, verify};

/// Everything that symbols of vvar are derived from, by the names of some kernel.
const STRUCTURES: [&str; 9] = [
    "vdso_data",
    "vdso_time_data",
    "vdso_clock",
    "vdso_timestamp",
    "timens_offset",
    "vdso_rng_data",
    "pvclock_vsyscall_time_info",
    "pvclock_vcpu_time_info",
    "ms_hyperv_tsc_page",
];

/// Functions that only work in the kernel's own vDSO, and stay if the new kernel has none to send them to.
fn is_left_alone(function: &FunctionOutcome) -> bool {
    let tied = function.name == "__vdso_sgx_enter_enclave"
        || function.name.starts_with("__vdso_futex_robust_list");
    tied && function.strategy == Some(Strategy::Keep) && function.reason.contains("by its place")
}

fn agrees(kernel: &Kernel, policy: Policy, time_namespace: bool) -> Result<(), String> {
    let options = VerifyOptions {
        policy,
        time_namespace,
        rounds: 20,
        ..VerifyOptions::default()
    };
    let running = RUNNING.as_ref().map_err(Clone::clone)?;
    let outcome = verify(&kernel.image, running, &options).map_err(|error| in_words(&error))?;
    let mut called = 0;
    for function in &outcome.functions {
        ensure(function.mismatches == 0, || format!("{function:#?}"))?;
        if is_left_alone(function) {
            continue;
        }
        let expected = match policy {
            Policy::Syscall if function.calls > 0 => Strategy::Syscall,
            _ => Strategy::Proxy,
        };
        let right = function.strategy == Some(expected);
        ensure(right, || format!("not {expected}: {function:#?}"))?;
        called += u32::from(function.calls > 0);
    }
    ensure(called >= 5, || {
        format!("only {called} functions are called")
    })
}

/// The BTF of a kernel as a file, for tools that read files.
fn btf_file(kernel: &Kernel) -> Result<tempfile::NamedTempFile, String> {
    let file = tempfile::NamedTempFile::new().map_err(|error| error.to_string())?;
    fs::write(file.path(), &kernel.btf).map_err(|error| error.to_string())?;
    Ok(file)
}

fn same(what: &str, least: usize, found: (usize, Vec<String>)) -> Result<(), String> {
    let (compared, differences) = found;
    ensure(differences.is_empty(), || differences.join("\n"))?;
    ensure(compared >= least, || {
        format!("{what}: only {compared} were compared")
    })
}

fn agrees_with_bpftool(kernel: &Kernel) -> Result<(), String> {
    let file = btf_file(kernel)?;
    let types = Types::from_bpftool(file.path())?;
    same("symbols", 40, types.compare(kernel.symtab()?))
}

fn agrees_with_pahole(kernel: &Kernel) -> Result<(), String> {
    let file = btf_file(kernel)?;
    let btf = Btf::parse(&kernel.btf).map_err(|error| error.to_string())?;
    let mut structures = 0;
    for name in STRUCTURES {
        if let Some(structure) = btf.structure(name).map_err(|error| error.to_string())? {
            same(name, 1, compare_with_pahole(file.path(), &structure)?)?;
            structures += 1;
        }
    }
    ensure(structures >= 5, || format!("only {structures} structures"))
}

/// The table as elf-tools writes it, for those who only have the file.
fn is_shown_by_others(kernel: &Kernel) -> Result<(), String> {
    let symtab = kernel.symtab()?;
    let bytes = elf::write(symtab).map_err(|error| error.to_string())?;
    let file = tempfile::NamedTempFile::new().map_err(|error| error.to_string())?;
    fs::write(file.path(), &bytes).map_err(|error| error.to_string())?;
    readelf(&["-aW"], file.path())?;
    nm(file.path())?;
    let read = elf::read(&bytes, Provenance::File).map_err(|error| error.to_string())?;
    let same = read.symbols() == symtab.symbols() && read.mappings() == symtab.mappings();
    ensure(same, || format!("{symtab:#?} became {read:#?}"))
}

/// Whether a tool is installed.
fn installed(tool: &str) -> Result<(), String> {
    let mut command = Command::new(tool);
    command.arg("--version").stdin(Stdio::null());
    let ran = command.output();
    ran.map(drop).map_err(|error| format!("{tool}: {error}"))
}

/// What is asked of the symbols of any kernel, distribution's or running.
fn symbol_trials(
    name: &str,
    possible: &Result<(), String>,
    kernel: &Shared,
    source: PathBuf,
) -> Vec<Trial> {
    let with = |check: fn(&Kernel) -> Result<(), String>| {
        let kernel = Arc::clone(kernel);
        move || check(&*kernel()?)
    };
    let peer = |tool| possible.clone().and_then(|()| installed(tool));
    let name = |what: &str| format!("{name}::{what}");
    vec![
        trial(
            name("symbols_are_those_of_bpftool"),
            &peer("bpftool"),
            with(agrees_with_bpftool),
        ),
        trial(
            name("structures_are_those_of_pahole"),
            &peer("pahole"),
            with(agrees_with_pahole),
        ),
        trial(
            name("table_is_shown_by_readelf_and_nm"),
            possible,
            with(is_shown_by_others),
        ),
        trial(name("table_survives_in_a_file"), possible, move || {
            table::survives(source.as_os_str())
        }),
    ]
}

/// What is asked of the vDSO of a kernel that is not running.
fn image_trials(version: &str, possible: &Result<(), String>, kernel: &Shared) -> Vec<Trial> {
    let here = possible
        .clone()
        .and_then(|()| RUNNING.as_ref().map(drop).map_err(Clone::clone));
    let shifted = possible.clone().and_then(|()| TIME_NAMESPACE.clone());
    let name = |what: &str| format!("{version}::{what}");
    let with = |policy, time_namespace| {
        let kernel = Arc::clone(kernel);
        move || agrees(&*kernel()?, policy, time_namespace)
    };
    vec![
        trial(name("runs_as_proxies"), &here, with(Policy::Auto, false)),
        trial(
            name("runs_as_proxies_in_a_time_namespace"),
            &shifted,
            with(Policy::Auto, true),
        ),
        trial(
            name("runs_as_system_calls"),
            &here,
            with(Policy::Syscall, false),
        ),
        trial(
            name("runs_as_system_calls_in_a_time_namespace"),
            &shifted,
            with(Policy::Syscall, true),
        ),
    ]
}

/// All of them.
pub(crate) fn trials(arguments: &Arguments) -> Vec<Trial> {
    let cache = Cache::locate();
    let mut trials = Vec::new();
    for version in VERSIONS {
        let (kernel, path) = stock::fetched(&cache, version, arguments.list);
        let possible = path.as_ref().map(drop).map_err(Clone::clone);
        let source = path.unwrap_or_default();
        trials.extend(image_trials(version, &possible, &kernel));
        trials.extend(symbol_trials(version, &possible, &kernel, source));
    }
    let possible = RUNNING.as_ref().map(drop).map_err(Clone::clone);
    let running = stock::shared(Kernel::running);
    trials.extend(symbol_trials("running", &possible, &running, "self".into()));
    trials
}
