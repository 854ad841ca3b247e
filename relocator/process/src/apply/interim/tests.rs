//! Functions of every kind are linked, rolled back, and left by a killed tool after each step. At
//! each moment each of them does what it may.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use elf_tools::Avma;
use elf_tools::image::Image;
use elf_tools::symtab::{self, Provenance, Symtab};
use iced_x86::{Decoder, DecoderOptions, Mnemonic, OpKind};
use kernel_fixtures::{fixture, synthetic};
use relocator::placement::{END, PAGE};
use relocator::proxy;
use relocator::source::{LiveMapping, Source};
use relocator::tables;
use relocator::threads::{Memory, Write};

mod frames;

use super::at_once;
use crate::apply::outcome::ApplyState;
use crate::apply::place::Limits;
use crate::apply::pretend::{self, OLD, READ, UNIT};
use crate::apply::tests::{PROGRAM, STACK, STATES, flat, options, steps, thread};
use crate::apply::{RunningKernel, Work, apply_to, rollback_of};
use crate::targets::Protection;
use crate::targets::pretended::Pretended;

/// Behind a landing pad, more than eight bytes of a jump; it is the kernel's own that works.
const SGX: &str = "__vdso_sgx_enter_enclave";
/// The same in eight bytes, with the next function behind them.
const UNLOCK: &str = "__vdso_futex_robust_list64_try_unlock";
const NEXT_UNLOCK: &str = "__vdso_futex_robust_list32_try_unlock";
/// The same, too short for any jump.
const TINY_UNLOCK: &str = "__vdso_futex_robust_list_try_unlock";
/// Shorter than eight bytes, with a system call.
const TIME: &str = "__vdso_time";
/// A jump to it, which is another entry.
const CLOCK: &str = "__vdso_clock_gettime";
/// A system call stands in for it, of which call frame information would be wrong at its entry.
const FRAMED: &str = "__vdso_gettimeofday";
/// Unknown to this program: it reads the kernel's data.
const NOVEL: &str = "__vdso_novel";
/// Unknown to this program, and shorter than eight bytes.
const BRIEF: &str = "__vdso_brief";
/// Unknown to this program: it reads what only the old kernel has. What it reads instead is behind
/// the image, and no code may ever be there.
const CAPPED: &str = "__vdso_capped";
/// A system call stands in for it, but not in eight bytes: its entry jumps to code behind the image.
const RANDOM: &str = "__vdso_getrandom";
/// Unknown to this program: it reads nothing.
const CONSTANT: &str = "__vdso_constant";

/// The old kernel's code; `{time}` is where the time page is from the image, and the field is
/// `seq`, behind 0x80 bytes.
const CODE: &str = "
function __vdso_sgx_enter_enclave
    .globl sgx_enter_enclave
    .type sgx_enter_enclave,@function
sgx_enter_enclave:
    endbr64
    push rbx
    mov ebx, 2
    mov rax, rdi
    cpuid
    pop rbx
    ret
end sgx_enter_enclave
end __vdso_sgx_enter_enclave
function __vdso_futex_robust_list64_try_unlock
    mov eax, esi
    xor ecx, ecx
    xchg [rdi], ecx
    nop
    ret
end __vdso_futex_robust_list64_try_unlock
    .globl __vdso_futex_robust_list32_try_unlock
    .type __vdso_futex_robust_list32_try_unlock,@function
__vdso_futex_robust_list32_try_unlock:
    mov eax, esi
    xor edx, edx
    xchg [rdi], edx
    mov eax, edx
    ret
end __vdso_futex_robust_list32_try_unlock
function __vdso_futex_robust_list_try_unlock
    xor eax, eax
    ret
end __vdso_futex_robust_list_try_unlock
function __vdso_time
    mov eax, [rip + image {time} + 0x80]
    ret
end __vdso_time
    .globl __vdso_brief
    .type __vdso_brief,@function
__vdso_brief:
    mov eax, [rip + image {time} + 0x80]
    ret
end __vdso_brief
function __vdso_clock_gettime
    lea rdx, [rip + image {time} + 0x80]
    mov eax, [rdx]
    test edi, edi
    jne 1f
    ret
1:  mov eax, 228
    syscall
    ret
end __vdso_clock_gettime
function __vdso_gettimeofday
    .cfi_startproc
    push rbx
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset rbx, 0
    mov ebx, [rip + image {time} + 0x80]
    mov eax, ebx
    pop rbx
    .cfi_adjust_cfa_offset -8
    .cfi_restore rbx
    ret
    .cfi_endproc
end __vdso_gettimeofday
function __vdso_novel
    endbr64
    mov eax, [rip + image {time} + 0x80]
    lea eax, [rax + 1]
    ret
end __vdso_novel
function __vdso_getrandom
    lea rdx, [rip + image {time} + 0x80]
    mov eax, [rdx]
    mov eax, 318
    syscall
    ret
end __vdso_getrandom
function __vdso_capped
    mov rax, [rip + image {time} + 0x90]
    nop
    ret
end __vdso_capped
function __vdso_constant
    mov eax, 7
    ret
end __vdso_constant
";

/// The old image. Each run of the assembler names another temporary file in it.
static OLD_IMAGE: LazyLock<Vec<u8>> = LazyLock::new(|| old_image(CODE));

/// The same with so much code that interim code finds room in its last page, and a link record does
/// not.
static LARGE_IMAGE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    const LEFT: usize = 0x280;
    let with = |size: usize| {
        let large = "function __vdso_large\n .fill SIZE, 1, 0x90\n ret\nend __vdso_large\n";
        old_image(&format!(
            "{CODE}{}",
            large.replace("SIZE", &size.to_string())
        ))
    };
    let small = with(0);
    let zeros = small.iter().rev().take_while(|&&byte| byte == 0).count();
    let large = with(zeros - LEFT);
    assert_eq!(large.len(), small.len());
    large
});

fn old_image(code: &str) -> Vec<u8> {
    let code = code.replace("{time}", "- 0x4000");
    pretend::pages(&synthetic::assembled(&code).unwrap())
}

/// What a process is like.
#[derive(Debug, Clone, Copy)]
struct Bed {
    image: &'static LazyLock<Vec<u8>>,
    /// Whether another mapping follows the text directly.
    is_followed: bool,
    calls_elsewhere: bool,
}

impl Bed {
    /// The link record is in the text's last page, in a page behind it, or in the page before it.
    fn all() -> impl Iterator<Item = Self> {
        let images = [
            (&OLD_IMAGE, false),
            (&LARGE_IMAGE, false),
            (&LARGE_IMAGE, true),
        ];
        let with = |(image, is_followed)| {
            [false, true].map(|calls_elsewhere| Self {
                image,
                is_followed,
                calls_elsewhere,
            })
        };
        images.into_iter().flat_map(with)
    }
}

fn symbols(name: &str) -> Symtab {
    let table = fixture::find(name).unwrap().symtab.unwrap();
    symtab::elf::read(table, Provenance::Exported).unwrap()
}

/// The old kernel, as Linux 6.12 has its data.
fn old(bed: Bed) -> Source {
    Source {
        image: Some(Image::parse(bed.image).unwrap()),
        symtab: Some(symbols("stock")),
        ..Source::named("old")
    }
}

/// The kernel that runs, with functions of the same names elsewhere, and its highest address.
fn kernel(highest: u64) -> RunningKernel {
    let code = format!("function __vdso_getcpu\n nop\n ret\nend __vdso_getcpu\n{CODE}");
    let code = code.replace("{time}", "- 0x3000");
    let image = pretend::pages(&synthetic::assembled(&code).unwrap());
    let source = pretend::kernel();
    let live = source.live.iter().map(|mapping| LiveMapping {
        size: match mapping.name.as_str() {
            "[vdso]" => image.len() as u64,
            _ => mapping.size,
        },
        ..mapping.clone()
    });
    let live = live.collect();
    // The functions know no time namespaces, so that they are short; neither does the kernel.
    let known = source.symtab.as_ref().unwrap();
    let mut symtab = Symtab::new(known.provenance(), known.mappings().to_vec()).unwrap();
    let symbols = known.symbols().iter();
    for symbol in symbols.filter(|symbol| !symbol.name.starts_with("timens.")) {
        symtab.insert(symbol.clone()).unwrap();
    }
    let source = Source {
        image: Some(Image::parse(&image).unwrap()),
        symtab: Some(symtab),
        live,
        ..source
    };
    let limits = Limits {
        lowest: 0x1_0000,
        highest,
    };
    RunningKernel::of(source, limits, &tables::Options::default()).unwrap()
}

fn process(kernel: &RunningKernel, bed: Bed) -> Pretended {
    let mut process = Pretended {
        calls_elsewhere: bed.calls_elsewhere,
        ..Pretended::default()
    };
    process.hole(UNIT, 4, "[vvar]");
    process.hole(UNIT + 4 * PAGE, 2, "[vvar_vclock]");
    let vdso = kernel.source().image.as_ref().unwrap().bytes().to_vec();
    process.put(UNIT + 6 * PAGE, pretend::CODE, "[vdso]", Some(vdso));
    process.put(OLD - 4 * PAGE, READ, "", Some(vec![0; 4 * PAGE as usize]));
    process.put(OLD, pretend::CODE, "", Some(bed.image.to_vec()));
    let data = Protection {
        write: true,
        ..READ
    };
    if bed.is_followed {
        let next = OLD + bed.image.len() as u64;
        process.put(next, data, "", Some(vec![1; PAGE as usize]));
    }
    let program = Some(vec![0x90; 0x1000]);
    process.put(PROGRAM, pretend::CODE, "/bin/program", program);
    process.put(STACK, data, "[stack]", Some(vec![0; 2 * PAGE as usize]));
    process.put(STATES, data, "", Some(vec![0; PAGE as usize]));
    process.auxv = Some(Avma(OLD));
    process.special.droppable = vec![Avma(STATES)..Avma(STATES + PAGE)];
    process.threads = vec![thread(1, PROGRAM)];
    process
}

/// What a function does at some moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Does {
    /// Its own code, every byte of it.
    Own,
    /// Its own code, other numbers.
    Relocated,
    /// It leads to the same function in the vDSO that is mapped by the kernel now.
    Jumps,
    /// It makes a system call.
    Calls,
    /// It says that there is no such function.
    Fails,
}

fn read(process: &Pretended, at: Avma, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    assert!(process.read(at, &mut bytes), "{at}");
    bytes
}

/// What the function called `name` does, or something that it must never do.
fn does(
    process: &Pretended,
    kernel: &RunningKernel,
    old: &Image,
    name: &str,
) -> Result<Does, String> {
    let export = old.export(name).unwrap();
    let new = kernel.source().image.as_ref().unwrap();
    let vdso = process.parts.iter().find(|part| part.0.name == "[vdso]");
    let vdso = vdso.ok_or("no vDSO")?.0.range.start;
    let own_new = new.export(name).unwrap().address.at(vdso);
    let mut at = export.address.at(Avma(OLD));
    let entry = at;
    for _ in 0..4 {
        let bytes = read(process, at, 20);
        let mut decoder = Decoder::with_ip(64, &bytes, at.0, DecoderOptions::NONE);
        let mut first = decoder.decode();
        if first.mnemonic() == Mnemonic::Endbr64 {
            first = decoder.decode();
        }
        match (first.mnemonic(), first.op0_kind(), first.op1_kind()) {
            (Mnemonic::Jmp, OpKind::NearBranch64, _) => {
                at = Avma(first.near_branch_target());
                if at == own_new {
                    return Ok(Does::Jumps);
                }
            }
            (Mnemonic::Mov, _, OpKind::Immediate64) => {
                assert_eq!(decoder.decode().mnemonic(), Mnemonic::Jmp);
                return match first.immediate64() == own_new.0 {
                    true => Ok(Does::Jumps),
                    false => Err(format!("a jump to {:#x}", first.immediate64())),
                };
            }
            (Mnemonic::Mov, _, OpKind::Immediate32to64) if first.immediate32to64() == -38 => {
                return Ok(Does::Fails);
            }
            (Mnemonic::Mov, _, OpKind::Immediate32)
                if decoder.decode().mnemonic() == Mnemonic::Syscall =>
            {
                return Ok(Does::Calls);
            }
            (Mnemonic::Cmp, ..) if at != entry => {
                let call = proxy::system_call(name).unwrap();
                let stub = proxy::system_call_stub(call);
                assert_eq!(read(process, at, stub.len()), stub);
                return Ok(Does::Calls);
            }
            _ if at != entry => return Err(format!("{first:?} at {at}")),
            _ => break,
        }
    }
    let size = export.size as usize;
    let own = &old.bytes()[export.address.index()..][..size];
    let now = read(process, entry, size);
    let codes = |bytes: &[u8]| {
        let decoder = Decoder::new(64, bytes, DecoderOptions::NONE);
        decoder
            .into_iter()
            .map(|one| one.code())
            .collect::<Vec<_>>()
    };
    match (own == now, codes(own) == codes(&now)) {
        (true, _) => Ok(Does::Own),
        (false, true) => Ok(Does::Relocated),
        (false, false) => Err(format!("{now:x?}")),
    }
}

const NAMES: [&str; 12] = [
    SGX,
    UNLOCK,
    NEXT_UNLOCK,
    TINY_UNLOCK,
    TIME,
    CLOCK,
    FRAMED,
    NOVEL,
    BRIEF,
    RANDOM,
    CAPPED,
    CONSTANT,
];

fn all(
    process: &Pretended,
    kernel: &RunningKernel,
    old: &Source,
) -> Result<BTreeMap<&'static str, Does>, String> {
    let old = old.image.as_ref().unwrap();
    let one = |name| does(process, kernel, old, name).map_err(|error| format!("{name}: {error}"));
    NAMES
        .into_iter()
        .map(|name| Ok((name, one(name)?)))
        .collect()
}

/// Whether a process may be left with a function that does this, while some do what they did
/// before and in the end.
fn is_right(name: &str, does: Does, ends: [Does; 2]) -> bool {
    let has_call = [TIME, CLOCK, FRAMED, RANDOM].contains(&name);
    ends.contains(&does)
        || match does {
            Does::Own => !has_call && ![NOVEL, BRIEF, CAPPED].contains(&name),
            Does::Calls => has_call,
            Does::Fails => [NOVEL, BRIEF, CAPPED].contains(&name),
            Does::Relocated | Does::Jumps => false,
        }
}

/// Links it, and does each work until a tool is killed after each step.
fn every_moment(
    beds: impl Iterator<Item = Bed>,
    kernel: &RunningKernel,
    works: &[Work],
    expected: &[(&str, Does)],
) {
    for bed in beds {
        every_moment_in(bed, kernel, works, expected);
    }
}

fn every_moment_in(bed: Bed, kernel: &RunningKernel, works: &[Work], expected: &[(&str, Does)]) {
    let sources = [old(bed)];
    let all = |process: &Pretended, kernel| all(process, kernel, &sources[0]);
    let options = options();
    let before = process(kernel, bed);
    let mut linked = before.clone();
    let outcome = apply_to(&mut linked, kernel, &sources, &options).unwrap();
    assert_eq!(outcome.state, ApplyState::Linked);
    let first = all(&before, kernel).unwrap();
    let last = all(&linked, kernel).unwrap();
    for (name, does) in expected {
        assert_eq!(last[name], *does, "{name}");
    }
    for &work in works {
        let start = match work {
            Work::Link => &before,
            Work::Undo | Work::Prepare => &linked,
        };
        let steps = steps(start, kernel, &sources, work);
        for count in 0..=steps.len() {
            let mut left = start.clone();
            left.carry_out_until_killed(&steps, count);
            let now = all(&left, kernel);
            let now = now.unwrap_or_else(|error| panic!("{bed:?} {work:?} {count}: {error}"));
            let old = sources[0].image.as_ref().unwrap();
            // Where zeros are few, they are kept for what needs them.
            if std::ptr::eq(bed.image, &OLD_IMAGE) {
                let astray = frames::astray(&left, old, &now);
                assert_eq!(
                    astray,
                    [],
                    "{bed:?} {work:?} {count}: {:?}",
                    steps.get(count)
                );
            }
            for (name, does) in now {
                let right = is_right(name, does, [first[name], last[name]]);
                assert!(
                    right,
                    "{bed:?} {work:?} {count}: {name}: {does:?}, {:?}",
                    steps.get(count)
                );
            }
            let what = format!(
                "{} {work:?} {count}: {:?}",
                bed.is_followed,
                steps.get(count)
            );
            let mut again = left.clone();
            let done = apply_to(&mut again, kernel, &sources, &options);
            done.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(all(&again, kernel).unwrap(), last, "{what}");
            for mut process in [left, again] {
                let done = rollback_of(&mut process, kernel, &sources, &options);
                done.unwrap_or_else(|error| panic!("{what}: {error}"));
                assert!(flat(&process) == flat(&before), "{what}");
            }
        }
    }
}

#[test]
fn every_function_is_right_at_every_moment() {
    let expected = [
        (SGX, Does::Jumps),
        (UNLOCK, Does::Jumps),
        (NEXT_UNLOCK, Does::Jumps),
        (TINY_UNLOCK, Does::Own),
        (TIME, Does::Relocated),
        (CLOCK, Does::Relocated),
        (FRAMED, Does::Relocated),
        (NOVEL, Does::Relocated),
        (BRIEF, Does::Relocated),
        (CAPPED, Does::Relocated),
        (CONSTANT, Does::Own),
    ];
    every_moment(
        Bed::all(),
        &kernel(END),
        &[Work::Link, Work::Undo, Work::Prepare],
        &expected,
    );
}

/// The kernel's mappings stay far away: each jump takes more than eight bytes. There is no place for
/// stubs either.
#[test]
fn every_function_is_right_at_every_moment_beyond_reach() {
    let expected = [
        (SGX, Does::Jumps),
        (UNLOCK, Does::Jumps),
        (NEXT_UNLOCK, Does::Jumps),
        (TINY_UNLOCK, Does::Own),
        (CLOCK, Does::Jumps),
        (FRAMED, Does::Jumps),
        (CONSTANT, Does::Own),
    ];
    // No page next to the text can be used there.
    let beds = Bed::all().filter(|bed| std::ptr::eq(bed.image, &OLD_IMAGE));
    every_moment(
        beds,
        &kernel(UNIT + (1 << 20)),
        &[Work::Link, Work::Undo],
        &expected,
    );
}

#[test]
fn writes_that_share_bytes_are_one() {
    let write = |at: u64, bytes: &[u8]| Write {
        at: Avma(at),
        bytes: bytes.to_vec(),
    };
    let merged = at_once(vec![
        write(0x10, &[3; 4]),
        write(0, &[1; 8]),
        write(5, &[1, 1, 1, 2]),
        write(9, &[5]),
    ]);
    let expected = [
        write(0, &[1, 1, 1, 1, 1, 1, 1, 1, 2]),
        write(9, &[5]),
        write(0x10, &[3; 4]),
    ];
    assert_eq!(merged, expected);
}
