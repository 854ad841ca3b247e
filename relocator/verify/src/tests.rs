//! Images that are right, wrong, crashing and hanging, on the kernel that runs the tests.

use elf_tools::image::Image;
use elf_tools::reachability::Code;
use elf_tools::relocation::Relocations;

use super::address_space::AddressSpace;
use super::*;
use relocator::link::Old;

/// The running kernel without symbols: nothing can be relocated, everything is proxied.
pub(crate) fn running() -> Running {
    let image = AddressSpace::read().unwrap().live_vdso().unwrap();
    Running {
        image,
        symtab: None,
    }
}

fn options() -> VerifyOptions {
    VerifyOptions {
        rounds: 20,
        ..VerifyOptions::default()
    }
}

/// The running kernel's image with `code` in place of a function, which linking keeps since it
/// reads no vvar.
fn with_function(running: &Running, name: &str, code: &[u8]) -> Old {
    let mut bytes = running.image.bytes().to_vec();
    let entry = running.image.export(name).unwrap().address.index();
    bytes[entry..entry + code.len()].copy_from_slice(code);
    let image = Image::parse(&bytes).unwrap();
    let code = Code::of(&image).unwrap();
    Old::new(image, code, Some(Relocations::default()))
}

/// Verifies an image with `code` in place of a function and returns that function's outcome.
fn verify_function(name: &str, code: &[u8], options: &VerifyOptions) -> Result<FunctionOutcome> {
    let running = running();
    let outcome = run(
        &Prepared::of(with_function(&running, name, code), &running),
        options,
    )?;
    let (own, others): (Vec<_>, Vec<_>) = outcome
        .functions
        .into_iter()
        .partition(|f| f.name == name || f.aliases.iter().any(|alias| alias == name));
    assert!(
        others.iter().all(|other| other.mismatches == 0),
        "{others:#?}"
    );
    let [own] = own.try_into().expect("one function of that name");
    assert_eq!(own.strategy, Some(Strategy::Keep));
    Ok(own)
}

#[test]
fn every_function_agrees_through_proxies_and_system_calls() {
    let running = running();
    for policy in [Policy::Auto, Policy::Proxy, Policy::Syscall] {
        let outcome = verify(
            &running.image,
            &running,
            &VerifyOptions {
                policy,
                ..options()
            },
        )
        .unwrap();
        for function in &outcome.functions {
            assert_eq!(function.mismatches, 0, "{function:#?}");
            assert!(function.calls > 0, "{function:#?}");
        }
        assert!(outcome.calls() > 4000, "{}", outcome.calls());
    }
}

#[test]
fn a_constant_clock_is_found_wrong() {
    // movq $1, (%rsi); movq $2, 8(%rsi); xor %eax, %eax; ret
    let code = [
        0x48, 0xc7, 0x06, 1, 0, 0, 0, 0x48, 0xc7, 0x46, 8, 2, 0, 0, 0, 0x31, 0xc0, 0xc3,
    ];
    let outcome = verify_function("__vdso_clock_gettime", &code, &options()).unwrap();
    assert!(outcome.mismatches > 500, "{outcome:#?}");
    assert!(outcome.first_mismatch.unwrap().contains("clock -1"));
}

/// The system call always says what it does; a function that says so and does nothing must be found
/// out.
#[test]
fn functions_that_only_claim_to_succeed_are_found_wrong() {
    // xor %eax, %eax; ret
    for name in [
        "__vdso_gettimeofday",
        "__vdso_clock_getres",
        "__vdso_getcpu",
        "__vdso_time",
    ] {
        let outcome = verify_function(name, &[0x31, 0xc0, 0xc3], &options()).unwrap();
        assert!(outcome.mismatches > 0, "{outcome:#?}");
    }
    if running().image.export("__vdso_getrandom").is_some() {
        // mov %rsi, %rax; ret
        let outcome =
            verify_function("__vdso_getrandom", &[0x48, 0x89, 0xf0, 0xc3], &options()).unwrap();
        assert!(outcome.mismatches > 0, "{outcome:#?}");
    }
}

#[test]
fn a_crash_names_the_function() {
    let error = verify_function("__vdso_gettimeofday", &[0x0f, 0x0b], &options()).unwrap_err();
    let Error::Child { what } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(
        what,
        "was killed by SIGILL, in __vdso_gettimeofday, time and zone"
    );
}

#[test]
fn a_hang_is_ended_and_names_the_function() {
    let options = VerifyOptions {
        deadline: Duration::from_secs(3),
        ..options()
    };
    // jmp to itself
    let error = verify_function("__vdso_time", &[0xeb, 0xfe], &options).unwrap_err();
    let Error::Child { what } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(
        what,
        "did not finish within 3s, in __vdso_time, with a place for the result"
    );
}

#[test]
fn an_image_that_does_not_run_here_is_refused_as_the_running_one() {
    let running = running();
    let shifted = with_function(&running, "__vdso_time", &[0xc3]).image;
    // The same exports and identity: accepted.
    assert!(
        Prepared::new(
            (&running.image).into(),
            &Running {
                image: shifted,
                symtab: None
            }
        )
        .is_ok()
    );
    let mut bytes = running.image.bytes().to_vec();
    let build_id = running.image.build_id().unwrap().as_bytes();
    let at = bytes
        .windows(build_id.len())
        .position(|window| window == build_id)
        .unwrap();
    bytes[at] ^= 1;
    let other = Running {
        image: Image::parse(&bytes).unwrap(),
        symtab: None,
    };
    let error = Prepared::new((&running.image).into(), &other).unwrap_err();
    assert!(matches!(error, Error::Unlinkable { .. }), "{error}");
}

/// A fixture that is linked to another kernel's symbols reads other places, which must show.
#[test]
fn symbols_of_another_kernel_are_found_wrong() {
    use elf_tools::symtab::{self, Provenance};

    let fixture = kernel_fixtures::fixture::find("reordered").unwrap();
    let symbols = fixture.symtab.unwrap();
    let symtab = symtab::elf::read(symbols, Provenance::Exported).unwrap();
    let running = Running {
        symtab: Some(symtab),
        ..running()
    };
    let old = Image::parse(fixture.image).unwrap();
    let options = VerifyOptions {
        deadline: Duration::from_secs(3),
        ..options()
    };
    match verify(&old, &running, &options) {
        Ok(outcome) => {
            let relocated = |f: &&FunctionOutcome| f.strategy == Some(Strategy::Relocate);
            assert!(
                outcome.functions.iter().any(|f| relocated(&f)),
                "{outcome:#?}"
            );
            assert!(outcome.mismatches() > 0, "{outcome:#?}");
        }
        // A pointer into nowhere, or a sequence count that stays odd.
        Err(Error::Child { what }) => assert!(what.contains("in __vdso_"), "{what}"),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn outcomes_survive_json() {
    let strategy = Strategy::Relocate;
    let function = FunctionOutcome {
        like_home: 0,
        name: "f".to_owned(),
        aliases: vec!["g".to_owned()],
        strategy: strategy.into(),
        reason: "r".to_owned(),
        calls: 3,
        mismatches: 2,
        repeated: 1,
        like_native: 0,
        first_mismatch: Some("m".to_owned()),
    };
    let outcome = VerifyOutcome {
        functions: vec![function],
    };
    let json = serde_json::to_string(&outcome).unwrap();
    assert!(json.contains(r#""strategy":"relocate""#), "{json}");
    assert_eq!(
        serde_json::from_str::<VerifyOutcome>(&json).unwrap(),
        outcome
    );
}
