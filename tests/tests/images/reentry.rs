//! Recipes that are derived from code, one idiom at a time, and what they make of a thread that was stopped. The code is
//! assembled when the tests run; reading at `image - 0x4000` is reading the vvar.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use elf_tools::disassembly::Flow;
use elf_tools::image::Image;
use elf_tools::reachability::Code;
use elf_tools::reentry::{Context, Location, Recipe, ReentryTable, Register, Source, derive};
use elf_tools::{Avma, Svma};
use kernel_fixtures::fixture;
use kernel_fixtures::synthetic::assembled;
use proptest::prelude::*;
use relocator::link::Old;
use relocator::threads::{CodeNow, Crossing, Memory, Moved, Registers, StuckReason, Verdict};

/// Where the image is in the pretended process.
const BASE: Avma = Avma(0x7fff_f000_0000);
/// Where the stack pointer was at the entry.
const STACK: u64 = 0x7ffe_0000_1008;
/// Reads the vvar.
const READ: &str = "mov r11d, [rip + image - 0x4000]\n";

/// An image with its table.
struct Subject {
    old: Old,
    table: ReentryTable,
}

impl Subject {
    fn of(text: &str) -> Self {
        let image = Image::parse(&assembled(text).unwrap()).unwrap();
        let code = Code::of(&image).unwrap();
        let table = derive(&image, &code).unwrap();
        let old = Old::new(image, code, None);
        Self { old, table }
    }

    /// One function of that name with this code.
    fn function(name: &str, code: &str) -> Self {
        Self::of(&format!("function {name}\n{code}\nend {name}\n"))
    }

    fn boundary(&self, number: usize) -> Svma {
        self.old.code.instructions()[number].address
    }

    /// The only context of an instruction, by its number in the image.
    #[track_caller]
    fn context(&self, number: usize) -> &Context {
        match self.table.at(self.boundary(number)) {
            [context] => context,
            contexts => panic!("{contexts:?}"),
        }
    }

    #[track_caller]
    fn recipe(&self, number: usize) -> Result<BTreeMap<String, Source>, String> {
        let recipe = self.table.recipe(self.context(number));
        let recipe: &Recipe = recipe.map_err(|reason| reason.to_string())?;
        let named = recipe.registers.iter().map(|(r, s)| (r.to_string(), *s));
        Ok(named.collect())
    }

    /// What the linker would have made of it: these functions are replaced by that many bytes.
    fn linked(&self, replaced: &[(&str, Vec<u8>)]) -> CodeNow {
        let mut code = CodeNow::unchanged(self.old.image.bytes().len());
        for (name, patch) in replaced {
            let entry = self.old.image.export(name).unwrap().address;
            code.patch(entry, patch.clone());
        }
        code
    }

    fn cross(
        &self,
        before: Option<&CodeNow>,
        after: &CodeNow,
        registers: &Registers,
        memory: &Words,
    ) -> Verdict {
        Crossing {
            old: &self.old,
            reentry: &self.table,
            before,
            after,
            processor: None,
            image: BASE,
        }
        .thread(registers, memory)
    }
}

fn register(register: Register, constant: i64, scale: i64, low: bool) -> Source {
    Source {
        location: Location::Register(register),
        image: 0,
        constant,
        scale,
        low,
    }
}

fn memory(base: Register, offset: i64) -> Source {
    Source {
        location: Location::Memory { base, offset },
        image: 0,
        constant: 0,
        scale: 1,
        low: false,
    }
}

/// Words of memory; nothing else can be read.
#[derive(Default)]
struct Words(BTreeMap<u64, u64>);

impl Memory for Words {
    fn read(&self, at: Avma, bytes: &mut [u8]) -> bool {
        let word = self.0.get(&at.0).filter(|_| bytes.len() == 8);
        word.is_some_and(|word| {
            bytes.copy_from_slice(&word.to_le_bytes());
            true
        })
    }
}

/// A thread at a place in the image, with registers that can be told apart.
fn at(place: Svma, stack: u64) -> Registers {
    let mut general = [0; 16].map(|_: u64| 0);
    for (number, value) in general.iter_mut().enumerate() {
        *value = 0x1111 * number as u64;
    }
    general[Register::RSP.index()] = stack;
    Registers {
        general,
        pc: place.at(BASE),
        system_call: -1,
    }
}

#[test]
fn what_is_in_its_place_needs_nothing() {
    let subject = Subject::function("__vdso_time", &format!("{READ}{READ}ret"));
    for number in 0..3 {
        assert_eq!(subject.recipe(number), Ok(BTreeMap::new()));
    }
    assert!(subject.context(1).reads);
    assert!(!subject.context(2).reads);
}

#[test]
fn saved_registers_and_arguments_are_found_where_they_are() {
    let code = format!(
        "push rbx\n mov rbx, rsi\n mov ecx, edi\n xor edi, edi\n xor esi, esi\n{READ}pop rbx\n ret"
    );
    let subject = Subject::function("__vdso_clock_gettime", &code);
    let recipe = subject.recipe(5).unwrap();
    assert_eq!(recipe["rsp"], register(Register::RSP, -8, 1, false));
    assert_eq!(recipe["rbx"], memory(Register::RSP, 0));
    assert_eq!(recipe["rsi"], register(Register::RBX, 0, 1, false));
    assert_eq!(recipe["rdi"], register(Register::RCX, 0, 1, true));
    assert_eq!(recipe.len(), 4);
    // Behind `pop rbx` the pointer is nowhere any more, but nothing is read there.
    assert_eq!(
        subject.recipe(7),
        Err("rsi of the entry is lost".to_owned())
    );
    assert!(!subject.context(7).reads);
}

#[test]
fn an_argument_is_computed_back_from_what_was_made_of_it() {
    let code = format!(
        "mov eax, edi\n lea rax, [rax - 2]\n shl rax, 4\n xor edi, edi\n{READ}ret\nadd rax, 1\n"
    );
    let subject = Subject::function("__vdso_clock_getres", &code);
    let recipe = subject.recipe(4).unwrap();
    assert_eq!(recipe["rdi"], register(Register::RAX, -32, 16, true));
    let pointed = format!(
        "mov eax, edi\n lea rcx, [rip + image - 0x4000]\n shl rax, 4\n add rcx, rax\n xor eax, eax\n xor edi, edi\n{READ}ret"
    );
    let subject = Subject::function("__vdso_clock_getres", &pointed);
    let expected = Source {
        image: 1,
        ..register(Register::RCX, -0x4000, 16, true)
    };
    assert_eq!(subject.recipe(6).unwrap()["rdi"], expected);
    // A whole register times 16 may have lost bits.
    let lossy = format!("mov rax, rsi\n shl rax, 4\n xor esi, esi\n{READ}ret");
    let subject = Subject::function("__vdso_clock_getres", &lossy);
    assert!(subject.recipe(3).is_err());
}

#[test]
fn half_of_a_register_and_all_of_it_meet() {
    let code = format!(
        "push rax\n mov [rsp], edi\n test esi, esi\n je 1f\n mov edi, [rsp]\n1: {READ}pop rax\n ret"
    );
    let subject = Subject::function("__vdso_clock_gettime", &code);
    assert!(!subject.recipe(5).unwrap().contains_key("rdi"));
    // Of a pointer, half is not enough.
    let subject = Subject::function("__vdso_time", &code);
    assert!(subject.recipe(5).is_err());
}

#[test]
fn what_code_has_compared_is_known() {
    let code = format!("cmp r8, 0x90\n jne 1f\n xor r8d, r8d\n{READ}1: ret");
    let subject = Subject::function("__vdso_getrandom", &code);
    let known = Source {
        location: Location::Nowhere,
        ..register(Register::RAX, -0x90, 1, false)
    };
    assert_eq!(subject.recipe(3).unwrap()["r8"], known);
    // Where both ways meet nothing is known.
    assert!(subject.recipe(4).is_err());
}

#[test]
fn an_aligned_stack_is_found_through_its_frame() {
    let code = format!(
        "push rbp\n mov rbp, rsp\n push rbx\n and rsp, -32\n sub rsp, 64\n mov [rsp + 8], rdi\n xor edi, edi\n xor ebx, ebx\n{READ}ret"
    );
    let subject = Subject::function("__vdso_time", &code);
    let recipe = subject.recipe(8).unwrap();
    assert_eq!(recipe["rsp"], register(Register::RBP, -8, 1, false));
    assert_eq!(recipe["rdi"], memory(Register::RSP, 8));
    assert_eq!(recipe["rbx"], memory(Register::RBP, -8));
    assert_eq!(recipe["rbp"], memory(Register::RBP, 0));
}

const HELPER: &str = "
function __vdso_time
	push rdi
	call 1f
	pop rdi
	ret
end __vdso_time
function __vdso_getcpu
	sub rsp, 24
	call 1f
	add rsp, 24
	ret
end __vdso_getcpu
1:	mov eax, [rip + image - 0x4000]
	ret
";

#[test]
fn a_helper_has_a_context_for_each_call() {
    let subject = Subject::of(HELPER);
    let [time, cpu] = ["__vdso_time", "__vdso_getcpu"]
        .map(|name| subject.old.image.export(name).unwrap().address);
    let code = &subject.old.code;
    let behind = |entry: Svma, number: u32| {
        let index = code.index_of(entry).unwrap() + number;
        code.instructions()[index as usize].address
    };
    let call = code.covering(behind(time, 1)).unwrap();
    let Flow::Call(helper) = call.flow else {
        panic!("{call:?}");
    };
    let contexts = subject.table.at(helper);
    let calls: Vec<(Svma, Svma)> = contexts
        .iter()
        .map(|context| (context.function, context.calls[0].returns_to))
        .collect();
    assert_eq!(calls, [(time, behind(time, 2)), (cpu, behind(cpu, 2))]);
    let after = subject.linked(&[]);
    let thread = |returns_to: Svma, frame: u64| {
        let mut memory = Words::default();
        memory.0.insert(STACK - frame, returns_to.at(BASE).0);
        memory.0.insert(STACK - 8, 0x5555);
        memory.0.insert(STACK - frame + 8, 0x5555);
        subject.cross(None, &after, &at(helper, STACK - frame), &memory)
    };
    for (returns_to, frame, entry) in [(behind(time, 2), 16, time), (behind(cpu, 2), 32, cpu)] {
        let Verdict::FixUp(fix_up) = thread(returns_to, frame) else {
            panic!("{:?}", thread(returns_to, frame));
        };
        assert_eq!(fix_up.registers.pc, entry.at(BASE));
        assert_eq!(fix_up.registers.general[Register::RSP.index()], STACK);
        assert_eq!(fix_up.returns, 1);
    }
    // A return address that no call of the helper has.
    let lost = thread(behind(time, 3), 16);
    assert!(matches!(lost, Verdict::Stuck { place, .. } if place == helper));
}

#[test]
fn call_frame_information_has_to_agree() {
    let code = |offset: u32| {
        format!(
            ".cfi_startproc\npush rbx\n.cfi_def_cfa_offset {offset}\n.cfi_offset rbx, -16\nxor ebx, ebx\n{READ}pop rbx\n.cfi_def_cfa_offset 8\n.cfi_restore rbx\nret\n.cfi_endproc"
        )
    };
    let right = Subject::function("__vdso_time", &code(16));
    assert_eq!(right.recipe(2).unwrap()["rbx"], memory(Register::RSP, 0));
    let wrong = Subject::function("__vdso_time", &code(24));
    let reason = wrong.recipe(2).unwrap_err();
    assert!(reason.contains("call frame information"), "{reason}");
    let misplaced = code(16).replace("rbx, -16", "rbx, -24");
    let misplaced = Subject::function("__vdso_time", &misplaced);
    let reason = misplaced.recipe(2).unwrap_err();
    assert!(reason.contains("where rbx is"), "{reason}");
}

/// A function that counts in a register which a helper may have to restore, and the helper's code between the boundaries
/// 0 and `helper`.
fn counting(helper: &str) -> Subject {
    let code = format!(
        "function __vdso_time
.cfi_startproc
push r15
.cfi_def_cfa_offset 16
.cfi_offset r15, -16
push r14
.cfi_def_cfa_offset 24
.cfi_offset r14, -24
xor r15d, r15d
xor r14d, r14d
1: call 2f
add r15, 7
add r14, 7
cmp r15, 700
jne 1b
pop r14
.cfi_def_cfa_offset 16
.cfi_restore r14
pop r15
.cfi_def_cfa_offset 8
.cfi_restore r15
ret
.cfi_endproc
end __vdso_time
2: .cfi_startproc
{helper}
.cfi_endproc"
    );
    Subject::of(&code)
}

/// Where a helper leaves registers alone they are in their place, whatever its caller has in them; and whatever that is,
/// they are not where something else was put.
#[test]
fn a_helper_has_what_nothing_was_written_to() {
    let code = format!("test eax, eax\nje 3f\n{READ}dec eax\njmp 2b\n3: {READ}ret");
    let subject = counting(&code);
    let recipes = 0..subject.old.code.instructions().len();
    let recipes: Vec<_> = recipes.map(|number| subject.recipe(number)).collect();
    assert!(recipes.iter().all(Result::is_ok), "{recipes:#?}");
    // Saved and restored, on one way.
    let code = format!(
        "test eax, eax\nje 3f\npush r15\n.cfi_def_cfa_offset 16\n.cfi_offset r15, -16\n{READ}\
         xor r15d, r15d\n{READ}pop r15\n.cfi_def_cfa_offset 8\n.cfi_restore r15\n3: {READ}ret"
    );
    let subject = counting(&code);
    let recipes = 0..subject.old.code.instructions().len();
    let recipes: Vec<_> = recipes.map(|number| subject.recipe(number)).collect();
    assert!(recipes.iter().all(Result::is_ok), "{recipes:#?}");
    // Both registers may hold the same numbers, but need not hold the same one.
    for lost in ["mov r15, r14\n", "push r14\npop r15\n", "mov r15d, r15d\n"] {
        let subject = counting(&format!("{lost}{READ}ret"));
        let last = subject.old.code.instructions().len() - 1;
        let reason = subject.recipe(last).unwrap_err();
        assert!(reason.contains("where r15 is"), "{reason}");
    }
}

#[test]
fn a_state_in_use_is_released() {
    let code = format!(
        "cmp byte ptr [rcx + 9], 0\n jne 1f\n mov byte ptr [rcx + 9], 1\n mov rax, [rip + image - 0x4000]\n mov [rcx], rax\n{READ}mov byte ptr [rcx + 9], 0\n1: ret"
    );
    let subject = Subject::function("__vdso_getrandom", &code);
    let cleared = |number: usize| {
        let recipe = subject.table.recipe(subject.context(number)).unwrap();
        let places = recipe.clear.iter().map(|c| (c.argument, c.offset, c.size));
        places.collect::<Vec<_>>()
    };
    let all = [(Register::RCX, 0, 8), (Register::RCX, 9, 1)];
    for number in [0, 1, 2, 7] {
        assert_eq!(cleared(number), [], "{number}");
    }
    for number in 3..7 {
        assert_eq!(cleared(number), all, "{number}");
    }
    let after = subject.linked(&[]);
    let registers = at(subject.boundary(4), STACK);
    let verdict = subject.cross(None, &after, &registers, &Words::default());
    let Verdict::FixUp(fix_up) = verdict else {
        panic!("{verdict:?}");
    };
    let state = registers.general[Register::RCX.index()];
    let writes = fix_up.writes.iter().map(|w| (w.at.0, w.bytes.clone()));
    assert_eq!(
        writes.collect::<Vec<_>>(),
        [(state, vec![0; 8]), (state + 9, vec![0])]
    );
}

#[test]
fn memory_that_is_read_and_changed_cannot_be_changed_twice() {
    let code = format!("mov rax, [rdi]\n inc rax\n mov [rdi], rax\n{READ}ret");
    let subject = Subject::function("__vdso_time", &code);
    assert!(subject.recipe(2).is_ok());
    let reason = subject.recipe(3).unwrap_err();
    assert!(reason.contains("changed"), "{reason}");
}

#[test]
fn what_a_function_has_stored_it_may_read_again() {
    let own = format!("mov [rsi], rax\n mov rax, [rsi]\n{READ}mov [rsi], rax\n ret");
    let subject = Subject::function("__vdso_clock_gettime", &own);
    assert!((0..5).all(|number| subject.recipe(number).is_ok()));
    // On one way it reads what was there before.
    let other = format!("test edi, edi\n je 1f\n mov [rsi], rax\n1: mov rax, [rsi]\n{READ}ret");
    let subject = Subject::function("__vdso_clock_gettime", &other);
    assert!(subject.recipe(3).unwrap_err().contains("changed"));
    // It stores less than it reads.
    let less = format!("mov [rsi], eax\n mov rax, [rsi]\n{READ}ret");
    let subject = Subject::function("__vdso_clock_gettime", &less);
    assert!(subject.recipe(2).unwrap_err().contains("changed"));
}

#[test]
fn a_frame_that_is_overwritten_is_not_believed() {
    let code = format!("mov [rsp], rdi\n{READ}ret");
    let subject = Subject::function("__vdso_time", &code);
    assert!(subject.recipe(1).is_err());
}

#[test]
fn who_reads_nothing_any_more_is_left_alone_unless_code_is_gone() {
    let code = format!("{READ}nop\n nop\n nop\n mov eax, 1\n ret");
    let subject = Subject::function("__vdso_time", &code);
    let untouched = subject.linked(&[]);
    let none = Words::default();
    let registers = at(subject.boundary(2), STACK);
    let cross = |after, registers| subject.cross(None, after, registers, &none);
    assert_eq!(cross(&untouched, &registers), Verdict::Untouched);
    let replaced = subject.linked(&[("__vdso_time", vec![0x90; 9])]);
    let Verdict::FixUp(fix_up) = cross(&replaced, &registers) else {
        panic!("it goes on in bytes that were overwritten");
    };
    assert_eq!(fix_up.to, subject.boundary(0));
    // Behind the replacement, and at the entry.
    let behind = at(subject.boundary(4), STACK);
    assert_eq!(cross(&replaced, &behind), Verdict::Untouched);
    let entry = at(subject.boundary(0), STACK);
    assert_eq!(cross(&replaced, &entry), Verdict::Untouched);
    // An instruction that was moved, before and after.
    let moved = Moved {
        from: subject.boundary(4),
        to: Svma(0x5000),
    };
    let mut detoured = subject.linked(&[]);
    detoured.size = 0x5010;
    detoured.moved = vec![moved];
    let Verdict::FixUp(fix_up) = cross(&detoured, &behind) else {
        panic!("its instruction is elsewhere");
    };
    assert_eq!(fix_up.registers.pc, moved.to.at(BASE));
    let back = subject.cross(Some(&detoured), &untouched, &fix_up.registers, &none);
    let Verdict::FixUp(back) = back else {
        panic!("{back:?}");
    };
    assert_eq!(back.registers.pc, behind.pc);
}

#[test]
fn a_system_call_is_repeated_where_it_is_or_begun_anew() {
    let code = format!("mov eax, 201\n syscall\n nop\n ret\n{READ}");
    let subject = Subject::function("__vdso_time", &code);
    let mut registers = at(subject.boundary(2), STACK);
    registers.system_call = 201;
    registers.general[Register::RAX.index()] = -512i64 as u64;
    let none = Words::default();
    let kept = subject.linked(&[]);
    let verdict = subject.cross(None, &kept, &registers, &none);
    assert_eq!(verdict, Verdict::Untouched);
    let replaced = subject.linked(&[("__vdso_time", vec![0x90; 7])]);
    let verdict = subject.cross(None, &replaced, &registers, &none);
    let Verdict::FixUp(fix_up) = verdict else {
        panic!("{verdict:?}");
    };
    assert_eq!(fix_up.registers.system_call, -1);
    assert_eq!(fix_up.registers.pc, subject.boundary(0).at(BASE));
    // With a result of its own it is over.
    registers.general[Register::RAX.index()] = 7;
    let verdict = subject.cross(None, &replaced, &registers, &none);
    assert_eq!(verdict, Verdict::Untouched);
}

#[test]
fn registers_that_a_system_call_overwrites_are_not_believed_when_it_is_repeated() {
    let code = format!("mov rbx, rbx\n mov eax, 318\n syscall\n{READ}ret");
    let subject = Subject::function("__vdso_getrandom", &code);
    assert!(subject.recipe(1).is_ok());
    let reason = subject.recipe(2).unwrap_err();
    assert_eq!(reason, "rcx of the entry is lost");
    let kept = format!("mov r10, rcx\n mov eax, 318\n syscall\n{READ}ret");
    let subject = Subject::function("__vdso_getrandom", &kept);
    let saved = register(Register(10), 0, 1, false);
    assert_eq!(subject.recipe(2).unwrap()["rcx"], saved);
}

#[test]
fn a_thread_in_a_replacement_begins_anew_or_returns() {
    let subject = Subject::function("__vdso_time", &format!("{READ}{READ}{READ}ret"));
    let stub = vec![0xb8, 201, 0, 0, 0, 0x0f, 0x05, 0xc3];
    let before = subject.linked(&[("__vdso_time", stub)]);
    let after = subject.linked(&[]);
    let mut memory = Words::default();
    memory.0.insert(STACK, 0x40_1234);
    let entry = subject.boundary(0);
    let cross = |offset: i64| {
        let registers = at(entry.offset(offset), STACK);
        subject.cross(Some(&before), &after, &registers, &memory)
    };
    assert_eq!(cross(0), Verdict::Untouched);
    let Verdict::FixUp(fix_up) = cross(5) else {
        panic!("{:?}", cross(5));
    };
    assert_eq!(fix_up.registers.pc, entry.at(BASE));
    let Verdict::FixUp(fix_up) = cross(7) else {
        panic!("{:?}", cross(7));
    };
    assert_eq!(fix_up.registers.pc, Avma(0x40_1234));
    assert_eq!(fix_up.registers.general[Register::RSP.index()], STACK + 8);
}

#[test]
fn what_an_earlier_link_has_changed_is_not_computed_with() {
    let code = format!(
        "mov eax, edi\n lea rcx, [rip + image - 0x4000]\n shl rax, 4\n add rcx, rax\n xor eax, eax\n xor edi, edi\n{READ}ret"
    );
    let subject = Subject::function("__vdso_clock_getres", &code);
    let mut registers = at(subject.boundary(6), STACK);
    registers.general[Register::RCX.index()] = BASE.0 - 0x4000 + 16 * 7;
    let (linked, none) = (subject.linked(&[]), Words::default());
    let verdict = subject.cross(None, &linked, &registers, &none);
    let Verdict::FixUp(fix_up) = verdict else {
        panic!("{verdict:?}");
    };
    assert_eq!(fix_up.registers.general[Register::RDI.index()], 7);
    // A function that was only replaced has the constants that it had, and one that was relocated may have others.
    let mut earlier = subject.linked(&[("__vdso_clock_getres", Vec::new())]);
    let unchanged = subject.cross(Some(&earlier), &linked, &registers, &none);
    assert_eq!(unchanged, Verdict::FixUp(fix_up));
    earlier.is_relocated = true;
    let verdict = subject.cross(Some(&earlier), &linked, &registers, &none);
    let Verdict::Stuck { reason, .. } = verdict else {
        panic!("{verdict:?}");
    };
    assert!(matches!(reason, StuckReason::LinkedEarlier(_)), "{reason}");
    // Between two elements the thread is not where it seems to be.
    registers.general[Register::RCX.index()] += 1;
    let verdict = subject.cross(None, &linked, &registers, &none);
    assert!(matches!(verdict, Verdict::Stuck { .. }), "{verdict:?}");
}

#[test]
fn places_that_no_instruction_begins_at_are_refused() {
    let subject = Subject::function("__vdso_time", &format!("{READ}ret"));
    let after = subject.linked(&[]);
    let none = Words::default();
    let inside = at(subject.boundary(0).offset(1), STACK);
    let verdict = subject.cross(None, &after, &inside, &none);
    assert!(matches!(verdict, Verdict::Stuck { .. }), "{verdict:?}");
    let mut outside = inside;
    outside.pc = BASE.offset(-1);
    assert_eq!(
        subject.cross(None, &after, &outside, &none),
        Verdict::Outside
    );
    // A stack that cannot be read.
    let saving = Subject::function(
        "__vdso_time",
        &format!("push rbx\n xor ebx, ebx\n{READ}ret"),
    );
    let verdict = saving.cross(
        None,
        &saving.linked(&[]),
        &at(saving.boundary(2), STACK),
        &none,
    );
    let Verdict::Stuck { reason, .. } = verdict else {
        panic!("{verdict:?}");
    };
    assert_eq!(reason.code(), "stack-unreadable", "{reason}");
}

/// Memory that answers with anything, sometimes with nothing.
struct Anything(u64);

impl Memory for Anything {
    fn read(&self, at: Avma, bytes: &mut [u8]) -> bool {
        let word = (at.0 ^ self.0)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(17);
        let source = match word % 4 {
            0 => return false,
            1 => BASE.0 + word % 0x2000,
            _ => word,
        };
        bytes
            .iter_mut()
            .zip(source.to_le_bytes())
            .for_each(|(to, from)| *to = from);
        true
    }
}

proptest! {
    /// A thread that lies in every register is refused, or comes out at the entry of a function.
    #[test]
    fn hostile_threads_do_no_harm(
        number in any::<prop::sample::Index>(),
        offset in -3i64..4,
        general in prop::array::uniform16(any::<u64>()),
        system_call in -1i64..400,
        seed in any::<u64>(),
    ) {
        let subject = &*FIXTURE;
        let code = subject.old.code.instructions();
        let place = code[number.index(code.len())].address.offset(offset);
        let registers = Registers { general, pc: place.at(BASE), system_call };
        let crossing = Crossing {
            old: &subject.old,
            reentry: &subject.table,
            before: None,
            after: &subject.linked(&[("__vdso_clock_gettime", vec![0x90; 13])]),
            processor: None,
            image: BASE,
        };
        match crossing.thread(&registers, &Anything(seed)) {
            Verdict::FixUp(fix_up) => {
                prop_assert!(subject.old.code.function(fix_up.to).is_some());
                prop_assert_eq!(fix_up.registers.pc, fix_up.to.at(BASE));
            }
            Verdict::Stuck { reason, .. } => prop_assert!(!reason.to_string().is_empty()),
            Verdict::Outside => prop_assert!(offset != 0),
            Verdict::Untouched => {}
        }
    }
}

static FIXTURE: LazyLock<Subject> = LazyLock::new(|| {
    let bytes = fixture::find("operands").unwrap().image;
    let image = Image::parse(bytes).unwrap();
    let code = Code::of(&image).unwrap();
    let table = derive(&image, &code).unwrap();
    let old = Old::new(image, code, None);
    Subject { old, table }
});
