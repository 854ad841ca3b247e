//! Stacks of many threads, searched together: what is found, and how much is read for it.

use std::cell::Cell;
use std::collections::BTreeSet;

use super::*;
use crate::threads::Populated;

/// What is asked of memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Asked {
    reads: usize,
    bytes: usize,
    questions: usize,
}

/// Memory of private anonymous mappings, as a live process has it: what is not there is zeros, and
/// guard pages are known.
#[derive(Default)]
struct Sparse {
    pages: Pages,
    guards: BTreeSet<u64>,
    asked: Cell<Asked>,
}

impl Sparse {
    fn is_mapped(&self, at: u64) -> bool {
        !self.guards.contains(&(at / PAGE * PAGE))
    }

    fn count(&self, reads: usize, bytes: usize, questions: usize) {
        let asked = self.asked.get();
        self.asked.set(Asked {
            reads: asked.reads + reads,
            bytes: asked.bytes + bytes,
            questions: asked.questions + questions,
        });
    }

    fn fill(&self, at: Avma, bytes: &mut [u8]) -> bool {
        for (at, byte) in (at.0..).zip(bytes) {
            if !self.is_mapped(at) {
                return false;
            }
            let page = self.pages.0.get(&(at / PAGE * PAGE));
            *byte = page.map_or(0, |page| page[(at % PAGE) as usize]);
        }
        true
    }
}

impl Memory for Sparse {
    fn read(&self, at: Avma, bytes: &mut [u8]) -> bool {
        self.count(1, bytes.len(), 0);
        self.fill(at, bytes)
    }

    fn read_ranges(&self, ranges: &[Range<Avma>], bytes: &mut [u8]) -> usize {
        self.count(1, bytes.len(), 0);
        let mut done = 0;
        for range in ranges {
            let size = (range.end.0 - range.start.0) as usize;
            assert!(self.fill(range.start, &mut bytes[done..done + size]));
            done += size;
        }
        done
    }

    fn populated(&self, range: Range<Avma>, _: u64) -> Populated {
        self.count(0, 0, 1);
        let Range { start, end } = range;
        let guard = self.guards.range(start.0 / PAGE * PAGE..end.0).next();
        let end = guard.map_or(end, |&guard| Avma(guard).max(start));
        let pages = self.pages.0.range(start.0 / PAGE * PAGE..end.0);
        let part = |(&page, _): (&u64, _)| start.max(Avma(page))..end.min(Avma(page + PAGE));
        Populated {
            parts: merge(&pages.map(part).collect::<Vec<_>>()),
            absent: Vec::new(),
            at_guard: guard.is_some(),
            end,
        }
    }
}

/// Threads whose stacks are parts of one mapping, each with a guard page below, as the C library
/// makes them from glibc 2.42 on: of each, some pages below the stack pointer are left of earlier
/// calls, and few above it are in use.
const SHARED: u64 = 0x7f10_0000_0000;
const STACK_SIZE: u64 = 8 << 20;
const DEAD: u64 = 100;
const LIVE: u64 = 3;

fn shared(threads: u64) -> (Sparse, Vec<Registers>, Range<Avma>) {
    let mut memory = Sparse::default();
    memory.pages.map_restorer();
    let mut all = Vec::new();
    for thread in 0..threads {
        let bottom = SHARED + thread * STACK_SIZE;
        let top = bottom + STACK_SIZE;
        memory.guards.insert(bottom);
        memory.pages.map(top - (LIVE + DEAD) * PAGE..top);
        all.push(registers(1, top - LIVE * PAGE + 0x100));
    }
    (
        memory,
        all,
        Avma(SHARED)..Avma(SHARED + threads * STACK_SIZE),
    )
}

fn of_all(memory: &Sparse, threads: &[Registers], writable: Range<Avma>) -> Vec<Vec<u64>> {
    let found = of_threads(threads, &[writable], &[TEXT], memory, &Scope::whole());
    assert_eq!(found.left_out, []);
    found.contexts.iter().map(|found| places(found)).collect()
}

#[test]
fn shared_stacks_are_read_once_and_as_far_as_they_go() {
    for count in [1, 16, 1000] {
        let (mut memory, threads, writable) = shared(count);
        let last = threads.len() - 1;
        let uc = threads[last].stack_pointer().0 + 0x500;
        memory.pages.put_frame(uc, &inside(uc + 0x600));
        let found = of_all(&memory, &threads, writable);
        assert_eq!(found[last], [uc]);
        assert_eq!(found.concat(), [uc]);
        let asked = memory.asked.get();
        let live = (count * LIVE * PAGE) as usize;
        assert!(
            asked.bytes <= live + 2 * PAGE as usize,
            "{count}: {asked:?}"
        );
        assert!(asked.questions <= 2 * count as usize, "{count}: {asked:?}");
        // A batch of a megabyte each, and what belongs to the one frame.
        assert!(
            asked.reads <= live.div_ceil(1 << 20) + 8,
            "{count}: {asked:?}"
        );
    }
}

#[test]
fn without_guards_shared_stacks_are_read_once_too() {
    let (mut memory, threads, writable) = shared(100);
    memory.guards.clear();
    let uc = threads[0].stack_pointer().0 + 0x500;
    memory.pages.put_frame(uc, &inside(uc + 0x600));
    assert_eq!(of_all(&memory, &threads, writable)[0], [uc]);
    let all = (100 * (LIVE + DEAD) * PAGE) as usize;
    let asked = memory.asked.get();
    assert!(asked.bytes <= all + 2 * PAGE as usize, "{asked:?}");
}

#[test]
fn a_context_is_found_however_deep_a_stack_is() {
    // A handler that calls itself: what it interrupted is 100 MiB above its stack pointer.
    const DEPTH: u64 = 100 << 20;
    let (mut memory, mut threads, _) = shared(1);
    let uc = SHARED + DEPTH;
    memory.guards = BTreeSet::from([SHARED]);
    memory.pages.map(SHARED + PAGE..SHARED + DEPTH + 2 * PAGE);
    memory.pages.put_frame(uc, &inside(uc + 0x600));
    threads[0].general[Register::RSP.index()] = SHARED + PAGE;
    let writable = Avma(SHARED)..Avma(SHARED + (1 << 30));
    assert_eq!(of_all(&memory, &threads, writable), [[uc]]);
    let asked = memory.asked.get();
    assert!(asked.bytes <= (DEPTH + 4 * PAGE) as usize, "{asked:?}");
}

#[test]
fn a_thread_on_an_alternate_stack_within_the_stack_of_another_hides_nothing() {
    // The second thread is in a handler, on an alternate stack that is a variable of the first
    // one, which is in a handler as well.
    let (mut memory, mut threads, writable) = shared(2);
    let first = threads[0].stack_pointer().0;
    let alternate = first + 0x800..first + 0x1800;
    let (entered, hidden) = (alternate.start + 0xa00, alternate.end + 0x100);
    threads[1].general[Register::RSP.index()] = alternate.start + 0x400;
    let second = SHARED + 2 * STACK_SIZE - PAGE;
    let interrupted = second + 0x200;
    memory
        .pages
        .put_frame(entered, &registers(0x40_0000, second));
    memory
        .pages
        .put_word(entered + ALTERNATE_STACK as u64, alternate.start);
    memory.pages.put_word(entered + MODE as u64, 0);
    memory
        .pages
        .put_word(entered + MODE as u64 + 8, alternate.end - alternate.start);
    memory.pages.put_frame(hidden, &inside(hidden + 0x600));
    memory
        .pages
        .put_frame(interrupted, &inside(interrupted + 0x600));
    let expected = [vec![hidden], vec![interrupted]];
    assert_eq!(of_all(&memory, &threads, writable.clone()), expected);
    // The first thread alone, with what is left of the handler of the second.
    assert_eq!(
        of_all(&memory, &threads[..1], writable),
        [[hidden, interrupted]]
    );
}

#[test]
fn a_stack_that_lies_in_that_of_another_thread_hides_nothing() {
    // A coroutine's stack, which the second thread is on, is a variable of the first one.
    let (mut memory, mut threads, writable) = shared(2);
    let first = threads[0].stack_pointer().0;
    threads[1].general[Register::RSP.index()] = first + 0x800;
    let uc = first + 0x1900;
    memory.pages.put_frame(uc, &inside(uc + 0x600));
    assert_eq!(of_all(&memory, &threads, writable).concat(), [uc]);
}

#[test]
fn frames_of_neighbours_belong_to_them() {
    let (mut memory, threads, writable) = shared(2);
    memory.guards.clear();
    let [first, second] = [0, 1].map(|thread| threads[thread].stack_pointer().0 + 0x500);
    memory.pages.put_frame(first, &inside(first + 0x600));
    memory.pages.put_frame(second, &inside(second + 0x600));
    let alone = |neighbours: &[Avma]| {
        let texts = [TEXT];
        let all = [writable.clone()];
        places(&of_thread_among(
            &threads[0],
            neighbours,
            &all,
            &texts,
            &memory,
            &Scope::whole(),
        ))
    };
    assert_eq!(alone(&[]), [first, second]);
    assert_eq!(alone(&[threads[1].stack_pointer()]), [first]);
}

#[test]
fn what_is_too_much_is_left_out_and_said() {
    let (mut memory, threads, writable) = shared(2);
    memory.guards.clear();
    let near = threads[0].stack_pointer().0 + 0x500;
    let far = threads[1].stack_pointer().0 + 0x500;
    for uc in [near, far] {
        memory.pages.put_frame(uc, &inside(uc + 0x600));
    }
    let pointers = [threads[0].stack_pointer()];
    let (all, texts) = ([writable.clone()], [TEXT]);
    let search = |budget| {
        let scope = Scope::of(budget);
        Search::new(&pointers, &[], &all, &texts, &memory, &scope).run()
    };
    let enough = search(u64::MAX);
    assert_eq!(
        (places(&enough.contexts[0]), enough.left_out),
        (vec![near, far], vec![])
    );
    let little = search(LIVE * PAGE);
    assert_eq!(places(&little.contexts[0]), [near]);
    let [left_out] = &little.left_out[..] else {
        panic!("{:?}", little.left_out);
    };
    assert!(left_out.contains(&Avma(far)));
    assert!(Avma(near) < left_out.start);
}

/// Threads whose stacks are parts of one mapping that is in use as a whole, without guard pages:
/// those of coroutines in a heap.
fn in_use(threads: u64, size: u64) -> (Sparse, Vec<Registers>, Range<Avma>) {
    let mut memory = Sparse::default();
    let all = SHARED..SHARED + threads * size;
    memory.pages.map(all.clone());
    memory.pages.map_restorer();
    let pointers = (0..threads).map(|thread| SHARED + thread * size + 0x100);
    let registers = pointers.map(|pointer| registers(1, pointer)).collect();
    (memory, registers, Avma(all.start)..Avma(all.end))
}

#[test]
fn a_brief_search_reads_so_much_and_no_more() {
    for size in [1 << 18, 1 << 20] {
        let (memory, threads, writable) = in_use(20, size);
        let scope = Scope::brief(threads.len(), Earlier::default());
        let found = of_threads(
            &threads,
            std::slice::from_ref(&writable),
            &[TEXT],
            &memory,
            &scope,
        );
        assert!(memory.asked.get().bytes <= (1 << 20) + (20 << 15));
        // What it has not read it says.
        let left_out: u64 = found
            .left_out
            .iter()
            .map(|range| range.end.0 - range.start.0)
            .sum();
        let read = memory.asked.get().bytes as u64;
        let all = writable.end.0 - writable.start.0;
        assert!(read + left_out + (1 << 12) > all, "{read} {left_out} {all}");
    }
}

#[test]
fn what_was_searched_earlier_is_not_read_again() {
    let (mut memory, threads, writable) = in_use(20, 1 << 20);
    let far = (threads[3].stack_pointer().0 + (600 << 10)) & !15;
    let near = (threads[7].stack_pointer().0 + 0x1000) & !15;
    for uc in [far, near] {
        memory.pages.put_frame(uc, &inside(uc + 0x600));
    }
    let search = |scope: &Scope| {
        of_threads(
            &threads,
            std::slice::from_ref(&writable),
            &[TEXT],
            &memory,
            scope,
        )
    };
    let brief = search(&Scope::brief(20, Earlier::default()));
    let all = |found: &Found| -> Vec<u64> {
        found
            .contexts
            .iter()
            .flat_map(|found| places(found))
            .collect()
    };
    assert_eq!(all(&brief), [near]);
    let earlier = Earlier::search(&brief.left_out, &[TEXT], &memory);
    assert_eq!(earlier.searched(), brief.left_out);
    let asked = memory.asked.take().bytes;
    let scope = Scope::brief(20, earlier);
    let found = search(&scope);
    assert_eq!(
        (all(&found), &found.left_out[..]),
        (vec![far, near], &[][..])
    );
    assert!(memory.asked.get().bytes < asked / 2);
    // A handler that has returned meanwhile has left nothing.
    memory
        .pages
        .map(far / PAGE * PAGE..far / PAGE * PAGE + PAGE);
    let found = of_threads(
        &threads,
        std::slice::from_ref(&writable),
        &[TEXT],
        &memory,
        &scope,
    );
    assert_eq!(all(&found), [near]);
}

#[test]
fn forged_frames_make_a_search_read_little_besides() {
    let (mut memory, threads, writable) = in_use(1, 1 << 20);
    let pointer = threads[0].stack_pointer().0;
    let places: Vec<u64> = ((pointer + 0x400) & !15..writable.end.0 - 0x1000)
        .step_by(0x600)
        .collect();
    for (index, &uc) in places.iter().enumerate() {
        memory.pages.put_frame(uc, &inside(uc + 0x500));
        // Each returns to another place.
        memory
            .pages
            .put_word(uc - 8, 0x6000_0000_0000 + index as u64 * 16);
    }
    let scope = Scope::brief(1, Earlier::default());
    let found = of_threads(&threads, &[writable], &[TEXT], &memory, &scope);
    assert!(!found.contexts[0].is_empty());
    assert!(
        places.len() > 600 && memory.asked.get().reads < 300,
        "{:?}",
        memory.asked
    );
}

#[test]
fn what_somebody_has_to_bring_is_said() {
    /// Memory of which a page is absent.
    struct Absent<'a>(&'a Sparse, u64);
    impl Memory for Absent<'_> {
        fn read(&self, at: Avma, bytes: &mut [u8]) -> bool {
            let page = at.0 / PAGE * PAGE;
            page != self.1 && self.0.read(at, bytes)
        }

        fn populated(&self, range: Range<Avma>, enough: u64) -> Populated {
            let mut found = self.0.populated(range.clone(), enough);
            let page = Avma(self.1)..Avma(self.1 + PAGE);
            if range.start < page.end && page.start < range.end {
                found.absent.push(page.clone());
                found.parts = vec![range.start..page.start, page.end..range.end];
                found.parts.retain(|part| !part.is_empty());
            }
            found
        }
    }
    let (memory, threads, writable) = in_use(1, 1 << 20);
    for (page, near) in [(SHARED + 0x8000, true), (SHARED + 0x8_0000, false)] {
        let memory = Absent(&memory, page);
        let scope = Scope::brief(1, Earlier::default());
        let found = of_threads(
            &threads,
            std::slice::from_ref(&writable),
            &[TEXT],
            &memory,
            &scope,
        );
        let expected = [Avma(page)..Avma(page + PAGE)];
        match near {
            true => assert_eq!(found.absent, expected),
            false => assert!(found.absent.is_empty() && found.left_out == expected),
        }
    }
}
