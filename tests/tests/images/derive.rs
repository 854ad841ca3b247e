//! What the derivation makes of code, one idiom at a time. The code is assembled when the tests run, for a made-up
//! kernel with a time page 0x4000 below the image and the page of time namespaces 0x1000 below it.

use std::collections::BTreeSet;

use elf_tools::derive::derive;
use elf_tools::image::Image;
use elf_tools::reachability::Code;
use elf_tools::relocation::{Relocations, RightHandSide};
use elf_tools::symtab::{Mapping, Provenance, Symbol, Symtab};
use kernel_fixtures::synthetic::assembled;
use relocator::link::{Old, link};
use relocator::placement::Placement;
use relocator::plan::{FunctionPlan, Policy, Strategy};
use relocator_tests::pretend::{BASE, Pretend};

/// Fields of the time pages: name below the page's, offset in the page, size.
const FIELDS: [(&str, u64, u64); 9] = [
    ("page", 0, 0x1000),
    ("clock", 0x80, 0x1e0),
    ("clock[]", 0x80, 0xf0),
    ("clock[].seq", 0x80, 4),
    ("clock[].clock_mode", 0x84, 4),
    ("clock[].basetime", 0xa0, 0xc0),
    ("clock[].basetime[]", 0xa0, 16),
    ("clock[].basetime[].sec", 0xa0, 8),
    ("clock[].basetime[].nsec", 0xa8, 8),
];

fn symtab() -> Symtab {
    let mapping = |name: &str, address, size| Mapping {
        name: name.to_owned(),
        address,
        size,
    };
    let mappings = vec![
        mapping("[vvar]", 0x10000, 0x4000),
        mapping("[vdso]", 0x14000, 0x2000),
    ];
    let mut symtab = Symtab::new(Provenance::File, mappings).unwrap();
    let mut insert = |name: String, offset, size| {
        symtab
            .insert(Symbol {
                name,
                version: 1,
                mapping: 0,
                offset,
                size,
            })
            .unwrap();
    };
    for (page, start) in [("time", 0), ("timens", 0x3000)] {
        for (name, offset, size) in FIELDS {
            insert(format!("{page}.{name}"), start + offset, size);
        }
    }
    insert("time.tz_minuteswest".to_owned(), 0x268, 4);
    insert("time.tz_dsttime".to_owned(), 0x26c, 4);
    insert("rng.is_ready".to_owned(), 0x288, 1);
    symtab.check().unwrap();
    symtab
}

/// The table of one function, `time`, with this code.
fn table(code: &str) -> Relocations {
    let text = format!("function __vdso_time\n{code}\nret\nend __vdso_time\n");
    table_of(&text)
}

fn table_of(text: &str) -> Relocations {
    let bytes = assembled(text).unwrap();
    let image = Image::parse(&bytes).unwrap();
    let code = Code::of(&image).unwrap();
    let derivation = derive(&image, &code, &symtab()).unwrap();
    assert_eq!(derivation.unreached, []);
    derivation.relocations
}

/// What a table refers to: references, each with the number of constants that make up its address.
fn stated(table: &Relocations) -> BTreeSet<String> {
    let name = |need: u32| table.needs[need as usize].reference.to_string();
    let entries = table
        .entries
        .iter()
        .map(|entry| format!("{} {}", entry.kind, name(entry.need)));
    let constraints = table
        .constraints
        .iter()
        .map(|constraint| match constraint.right_hand_side {
            RightHandSide::Address => {
                format!("{} of {}", name(constraint.need), constraint.terms.len())
            }
            RightHandSide::Size => format!(
                "size of {} of {}",
                name(constraint.need),
                constraint.terms.len()
            ),
            RightHandSide::Presence => format!("presence of {}", name(constraint.need)),
        });
    entries.chain(constraints).collect()
}

#[track_caller]
fn check(code: &str, expected: &[&str]) {
    let table = table(code);
    assert_eq!(table.opaque, [], "{code}");
    let expected: BTreeSet<String> = expected.iter().map(|&text| text.to_owned()).collect();
    assert_eq!(stated(&table), expected, "{code}");
}

#[track_caller]
fn check_opaque(code: &str, reason: &str) {
    let table = table(code);
    let found: Vec<String> = table.opaque.iter().map(|o| o.reason.to_string()).collect();
    assert!(
        found.iter().any(|found| found.contains(reason)),
        "{code}: {found:?}, and stated {:?}",
        stated(&table)
    );
}

#[test]
fn an_operand_of_its_own_is_an_ordinary_relocation() {
    check(
        "mov eax, [rip + image - 0x3f80]",
        &["R_X86_64_PC32 time.clock[].seq"],
    );
    // Element 1 of the clocks, and of the time stamps in it.
    check(
        "mov rax, [rip + image - 0x4000 + 0x80 + 0xf0 + 0x20 + 16]",
        &["R_X86_64_PC32 time.clock[1].basetime[1].sec"],
    );
}

#[test]
fn an_address_that_is_loaded_first_is_a_sum() {
    check(
        "lea rcx, [rip + image - 0x3f80]; mov eax, [rcx]; mov edx, [rcx + 4]",
        &["time.clock[].seq of 2", "time.clock[].clock_mode of 2"],
    );
}

#[test]
fn an_address_survives_moves_the_stack_and_calls() {
    check(
        "push rbx; lea rbx, [rip + image - 0x3f80]; sub rsp, 24; mov [rsp + 8], rbx
         xor ebx, ebx; syscall; mov rcx, [rsp + 8]; mov rdx, rcx; mov eax, [rdx + 4]
         add rsp, 24; pop rbx",
        &["time.clock[].clock_mode of 2"],
    );
    let text = "function __vdso_time
        push rbp; mov rbp, rsp; and rsp, -32; lea rdi, [rip + image - 0x3f80]; call 1f; mov eax, [rdi + 4]
        lea rdi, [rip + image - 0xf80]; call 1f; leave; ret
     1: mov eax, [rdi]; ret
        end __vdso_time";
    let table = table_of(text);
    assert_eq!(table.opaque, []);
    let expected = [
        "time.clock[].clock_mode of 2",
        "time.clock[].seq of 2",
        "timens.clock[].seq of 2",
    ];
    assert_eq!(stated(&table), expected.map(str::to_owned).into());
}

#[test]
fn one_of_two_addresses_is_both() {
    check(
        "lea rcx, [rip + image - 0x3f80]; lea rdx, [rip + image - 0xf80]; cmp edi, 1; cmove rcx, rdx; mov eax, [rcx]",
        &["time.clock[].seq of 2", "timens.clock[].seq of 2"],
    );
    // A distance between pages: three constants for one of them.
    check(
        "lea rcx, [rip + image - 0xf80]; cmp edi, 1; jne 1f; sub rcx, 0x3000; 1: mov eax, [rcx + 4]",
        &[
            "time.clock[].clock_mode of 3",
            "timens.clock[].clock_mode of 2",
        ],
    );
    // The difference of two addresses, computed when it runs.
    check(
        "lea rcx, [rip + image - 0x3f80]; lea rdx, [rip + image - 0xf80]; lea rsi, [rip + image - 0x3f80]
         sub rdx, rsi; cmp edi, 1; jne 1f; add rcx, rdx; 1: mov eax, [rcx]",
        &["time.clock[].seq of 2", "timens.clock[].seq of 4"],
    );
}

/// Compilers make a number of a condition, and a distance of that.
#[test]
fn a_condition_chooses_a_page() {
    let both = ["time.clock[].seq of 2", "timens.clock[].seq of 2"];
    let conditions = [
        "xor ecx, ecx; cmp edi, 1; sete cl",
        "cmp edi, 1; sete cl; movzx ecx, cl",
        "cmp edi, 1; sbb rcx, rcx; and ecx, 1",
        "xor ecx, ecx; cmp edi, 1; sete cl; or rcx, 8; xor ecx, 8",
        "mov eax, [rip + image - 0x3f80]; cmp edi, 1; setg al; movzx ecx, al",
    ];
    for condition in conditions {
        let code = format!(
            "{condition}; imul rcx, rcx, 0x3000; lea rdx, [rip + image - 0x3f80]; mov eax, [rdx + rcx]"
        );
        let table = table(&code);
        assert_eq!(table.opaque, [], "{code}");
        let stated = stated(&table);
        for wanted in both {
            assert!(stated.contains(wanted), "{code}: {stated:?}");
        }
    }
    check(
        "xor ecx, ecx; cmp edi, 1; sete cl; shl ecx, 2; lea rdx, [rip + image - 0x3f80]; mov eax, [rdx + rcx]",
        &["time.clock[].seq of 2", "time.clock[].clock_mode of 2"],
    );
    // Any other number may choose anything.
    check_opaque(
        "mov rcx, rdi; imul rcx, rcx, 0x3000; lea rdx, [rip + image - 0x3f80]; mov eax, [rdx + rcx]",
        "no symbol",
    );
}

/// What is left of an address in a register is no address.
#[test]
fn a_part_of_a_register_can_be_written() {
    check(
        "lea rcx, [rip + image - 0x3f80]; mov eax, [rcx]; mov cl, [rcx + 4]; shl rdx, cl",
        &["time.clock[].seq of 2", "time.clock[].clock_mode of 2"],
    );
    check_opaque(
        "lea rcx, [rip + image - 0x3f80]; mov cl, 0x84; mov eax, [rcx]",
        "computed with",
    );
}

/// Where it counts most that code is small, constants are loaded like this.
#[test]
fn constants_have_short_forms() {
    for constant in ["or rcx, -1", "and ecx, 0", "push -1; pop rcx"] {
        check(
            &format!(
                "lea rcx, [rip + image - 0x3f80]; mov eax, [rcx]; {constant}; mov rax, rcx; shr rax, 3"
            ),
            &["time.clock[].seq of 2"],
        );
    }
    check(
        "lea rcx, [rip + image - 0x3f80]; xchg rcx, rdx; mov eax, [rdx]",
        &["time.clock[].seq of 2"],
    );
}

#[test]
fn an_index_is_told_by_its_stride() {
    let expected = [
        "time.clock[].basetime[].nsec of 2",
        "presence of time.clock[].basetime",
        "size of time.clock[].basetime[] of 0",
    ];
    check(
        "movsxd rdi, edi; shl rdi, 4; lea rcx, [rip + image - 0x3f80]; mov rax, [rcx + rdi + 0x28]",
        &expected,
    );
    // An index that is too high by two.
    check(
        "movsxd rdi, edi; shl rdi, 4; lea rcx, [rip + image - 0x3f80]; mov rax, [rcx + rdi + 8]",
        &expected,
    );
    // A stride that is a constant of the code.
    check(
        "imul rdi, rdi, 0xf0; lea rcx, [rip + image - 0x3f80]; mov eax, [rcx + rdi]",
        &[
            "time.clock[].seq of 2",
            "presence of time.clock",
            "size of time.clock[] of 1",
        ],
    );
}

#[test]
fn loops_come_to_an_end() {
    check(
        "xor esi, esi; lea rcx, [rip + image - 0x3f80]
         1: mov rax, rsi; shl rax, 4; add rdx, [rcx + rax + 0x20]; inc rsi; cmp esi, edi; jb 1b",
        &[
            "time.clock[].basetime[].sec of 2",
            "presence of time.clock[].basetime",
            "size of time.clock[].basetime[] of 0",
        ],
    );
}

#[test]
fn what_shares_the_page_of_the_clocks_is_found_in_both() {
    check(
        "lea rcx, [rip + image - 0xd80]; mov al, [rcx + 8]; movzx eax, byte ptr [rip + image - 0x3d78]",
        &["rng.is_ready of 2", "R_X86_64_PC32 rng.is_ready"],
    );
}

#[test]
fn one_access_may_read_two_fields() {
    check(
        "lea rcx, [rip + image - 0x3f80]; mov rax, [rcx]",
        &["time.clock[].clock_mode of 2", "time.clock[].seq of 2"],
    );
    check(
        "mov rax, [rip + image - 0x3d98]",
        &["time.tz_dsttime of 1", "time.tz_minuteswest of 1"],
    );
}

#[test]
fn constants_that_are_used_otherwise_stay() {
    // The displacement also forms an address that has nothing to do with the vvar.
    check(
        "lea rcx, [rip + image - 0x3f80]; cmp edi, 1; cmove rcx, rsi; mov eax, [rcx + 4]",
        &["time.clock[].clock_mode of 1"],
    );
    // The distance is compared with.
    check(
        "mov rdx, 0x20; lea rcx, [rip + image - 0x3f80]; add rcx, rdx; mov rax, [rcx]; cmp rdx, rsi; jb 1f; nop; 1:",
        &["time.clock[].basetime[].sec of 2"],
    );
}

#[test]
fn what_is_not_understood_is_said_to_be() {
    let beyond = "an address is computed with";
    // A masked address.
    check_opaque(
        "lea rcx, [rip + image - 0x3f80]; and rcx, -4096; mov eax, [rcx + 0x80]",
        beyond,
    );
    check_opaque(
        "lea rcx, [rip + image - 0x3f80]; mov ecx, ecx; mov eax, [rcx]",
        beyond,
    );
    check_opaque(
        "lea rcx, [rip + image - 0x3f80]; xor rcx, rsi; mov eax, [rcx]",
        beyond,
    );
    check_opaque("lea rcx, [rip + image - 0x3f80]; movq xmm0, rcx", beyond);
    // An address that leaves the function, or is left in memory.
    check_opaque("lea rax, [rip + image - 0x3f80]", beyond);
    check_opaque("lea rcx, [rip + image - 0x3f80]; mov [rsi], rcx", beyond);
    // A table of offsets: what is added is known only when it runs.
    check_opaque(
        "lea rdx, [rip + image + 0x200]; mov rdx, [rdx + rdi * 8]; lea rcx, [rip + image - 0x4000]; mov eax, [rcx + rdx]",
        "no symbol is at",
    );
    check_opaque(
        "lea rdx, [rip + image]; sub rdx, rdi; mov eax, [rdx]",
        "no symbol is at",
    );
    check_opaque(
        "lea rcx, [rip + image - 0x3f80]; mov eax, [rcx + rdi * 8]",
        "no symbol is at",
    );
    // Places that no symbol describes, and parts of two.
    check_opaque("mov eax, [rip + image - 0x3ff0]", "no symbol is at");
    check_opaque("mov eax, [rip + image - 0x3f82]", "no symbol is at");
    check_opaque(
        "lea rcx, [rip + image - 0x3f80]; mov eax, [rcx + 2]",
        "more than one thing",
    );
    // Writing.
    check_opaque("mov dword ptr [rip + image - 0x3f80], 0", "written to");
    check_opaque(
        "lea rcx, [rip + image - 0x3f80]; lock inc dword ptr [rcx]",
        "written to",
    );
    // An address saved under a condition and restored without it.
    check_opaque(
        "sub rsp, 24; lea rcx, [rip + image - 0x3f80]; cmp edi, 1; jne 1f; mov [rsp], rcx
         1: add rsp, 24; mov rdx, [rsp - 24]; and rdx, -4096; mov eax, [rdx]",
        beyond,
    );
    // One that is loaded and never used cannot be told.
    check_opaque("lea rcx, [rip + image - 0x3f80]", "but to no symbol");
    // A function that does not end in sight.
    check_opaque(
        "1: lea rcx, [rip + image - 0x3f80]; mov eax, [rcx]; call 1b",
        "nested",
    );
}

#[test]
fn what_no_function_reaches_is_listed() {
    let text = "function __vdso_time\nxor eax, eax\nret\nmov eax, [rip + image - 0x3f80]\nret\nend __vdso_time\n";
    let bytes = assembled(text).unwrap();
    let image = Image::parse(&bytes).unwrap();
    let code = Code::of(&image).unwrap();
    let derivation = derive(&image, &code, &symtab()).unwrap();
    assert_eq!(derivation.relocations, Relocations::default());
    assert_eq!(derivation.unreached.len(), 1);
}

/// Whatever else is mapped into this process: its program, the C library, the loader.
/// In a time namespace the page of the clocks refers to another one, where such code never looks: it would wait for
/// ever.
#[test]
fn code_without_time_namespaces_is_not_relocated_to_a_kernel_that_has_them() {
    let fixture = Pretend::open("shuffled");
    assert!(fixture.offer().symtab.unwrap().get("timens.page").is_some());
    let time = "mov eax, [rip + image - 0x3f80]";
    let both = format!("{time}; mov eax, [rip + image - 0xf80]");
    // As `getrandom` of 6.12, which finds its own state in either page.
    let mode = "mov eax, [rip + image - 0x3f7c]";
    for (code, strategy) in [
        (time, Strategy::Proxy),
        (&both, Strategy::Relocate),
        (mode, Strategy::Relocate),
    ] {
        let text = format!("function __vdso_time\n{code}\nnop\nnop\nnop\nret\nend __vdso_time\n");
        let image = Image::parse(&assembled(&text).unwrap()).unwrap();
        let old = Old::derive(image, &symtab()).unwrap();
        let placement = Placement::below(BASE, fixture.offer().symtab, fixture.offer().image);
        let linked = link(&old, &fixture.offer(), &placement.unwrap(), Policy::Auto).unwrap();
        let [time] = &linked.functions[..] else {
            panic!("{:?}", linked.functions);
        };
        assert_eq!(time.strategy, strategy, "{}", time.reason);
        let is_reason = time.reason.code() == "no-time-namespaces";
        assert_eq!(is_reason, strategy == Strategy::Proxy, "{}", time.reason);
    }
}

#[test]
fn other_objects_are_refused_or_proxied() {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let files: BTreeSet<&str> = maps
        .lines()
        .filter_map(|line| line.split_whitespace().nth(5))
        .filter(|path| path.starts_with('/'))
        .collect();
    let fixture = Pretend::open("shuffled");
    let mut derived = 0;
    for path in files {
        let bytes = std::fs::read(path).unwrap();
        let old = Image::parse(&bytes).and_then(|image| Old::derive(image, &symtab()));
        let Ok(old) = old else { continue };
        let table = old.relocations.as_ref().unwrap();
        assert!(
            table.entries.is_empty() && table.constraints.is_empty(),
            "{path}"
        );
        derived += 1;
        // Functions that no vDSO has cannot be proxied, so the whole object is refused.
        let placement = Placement::below(BASE, fixture.offer().symtab, fixture.offer().image);
        let linked = link(&old, &fixture.offer(), &placement.unwrap(), Policy::Auto);
        if let Ok(linked) = linked {
            let relocated = |f: &FunctionPlan| f.strategy == Strategy::Relocate;
            assert!(!linked.functions.iter().any(relocated), "{path}");
        }
    }
    assert!(derived > 0, "nothing could be read");
}
