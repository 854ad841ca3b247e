//! Whatever is done to a file, reading and linking it ends in an error with words, or in an image of which every
//! function has a strategy. Nothing here may panic, and nothing is run.

use std::sync::LazyLock;

use elf_tools::derive::derive;
use elf_tools::image::{Image, alternatives};
use elf_tools::kernel::{KernelFile, is_kernel_file};
use elf_tools::reachability::Code;
use elf_tools::relocation::{self, Kind, Relocation, object, write};
use elf_tools::symtab::{self, Provenance, Symtab};
use elf_tools::{Avma, BuildId, Svma};
use kernel_fixtures::fixture;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use relocator::link::{LinkedImage, New, Old, link};
use relocator::placement::Placement;
use relocator::plan::{Policy, Reason, Strategy as How, Unresolved};
use relocator_tests::constraints::as_constraints;
use relocator_tests::damage::sealed;
use relocator_tests::damage::{Damage, damage, damaged, damages};
use relocator_tests::kernel::{bzimage, vmlinux};
use relocator_tests::pretend::{BASE, Pretend};

static KERNELS: LazyLock<Vec<Pretend>> =
    LazyLock::new(|| fixture::all().iter().map(Pretend::of).collect());

const POLICIES: [Policy; 4] = [
    Policy::Auto,
    Policy::Relocate,
    Policy::Proxy,
    Policy::Syscall,
];

/// An error has to say something.
fn words<T, E: std::fmt::Display>(result: Result<T, E>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) => {
            assert!(error.to_string().len() > 10, "{error}");
            None
        }
    }
}

/// Links in every way, and checks what comes out.
fn link_every_way(old: &Old, new: &New<'_>) {
    let anywhere = [BASE, Avma(0x10_0000), Avma(0xffff_ffff_ffff_0000)];
    let below = anywhere.map(|at| words(Placement::below(at, new.symtab, new.image)));
    // Mappings on top of the image and of each other are no concern of a linker.
    let mappings = new.symtab.map_or(&[][..], Symtab::mappings).iter();
    let mappings = mappings.map(|mapping| (mapping.name.clone(), BASE.offset(-0x8000)));
    let stacked = Placement {
        image: BASE,
        mappings: mappings.collect(),
    };
    for placement in below.into_iter().flatten().chain([stacked]) {
        for policy in POLICIES {
            if let Some(linked) = words(link(old, new, &placement, policy)) {
                check(old, &linked, policy);
            }
        }
    }
}

fn check(old: &Old, linked: &LinkedImage, policy: Policy) {
    assert!(linked.bytes.len() >= old.image.bytes().len());
    for export in old.image.exports() {
        let plans = || {
            linked
                .functions
                .iter()
                .filter(|plan| plan.entry == export.address)
        };
        assert_eq!(plans().count(), 1, "{export:?}");
        for plan in plans() {
            assert!(plan.names.contains(&export.name), "{plan:?}");
            assert!(!plan.reason.to_string().is_empty(), "{plan:?}");
            let replaced = matches!(plan.strategy, How::Proxy | How::Syscall);
            assert_eq!(plan.patch.is_some(), replaced, "{plan:?}");
            assert!(!(replaced && policy == Policy::Relocate), "{plan:?}");
            if let Some(patch) = &plan.patch {
                assert_eq!(linked.bytes[plan.entry.index()..][..patch.len()], patch[..]);
            }
        }
    }
}

/// Everything that is done with an image.
fn use_image(bytes: &[u8], new: &Pretend) {
    let Some(image) = words(Image::parse(bytes)) else {
        return;
    };
    if let Some(table) = words(alternatives::read(&image)) {
        for all in [true, false] {
            let applied = alternatives::apply(&image, &table, |_| all);
            assert_eq!(applied.len(), bytes.len());
        }
    }
    let Some(code) = words(Code::of(&image)) else {
        return;
    };
    for pair in code.instructions().windows(2) {
        assert!(pair[0].end() <= pair[1].address, "{pair:?}");
    }
    let Some(relocations) = words(relocation::read(&image, &code)) else {
        return;
    };
    if let Some(attached) = relocations
        .as_ref()
        .and_then(|table| words(write::attach(&image, table)))
    {
        words(Old::read(
            Image::parse(&attached).expect("the image is as good as it was"),
        ));
    }
    let mut old = Old::new(image, code, relocations);
    link_every_way(&old, &new.offer());
    derive_and_link(&mut old, new.symtab.as_ref(), new);
}

/// What the code says, whatever kernel's symbols it is read with.
fn derive_and_link(old: &mut Old, home: Option<&Symtab>, new: &Pretend) {
    let derivation = home.and_then(|home| words(derive(&old.image, &old.code, home)));
    if let Some(derivation) = derivation {
        if let Some(written) = words(object::write(
            &derivation.relocations,
            BuildId::new(b"id").as_ref(),
            None,
        )) {
            assert!(object::is_table(&written));
        }
        old.set_table(derivation.relocations);
        link_every_way(old, &new.offer());
    }
}

/// The relocation table object of `operands`, with constraints.
static SUMS: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let old = Pretend::open("operands").old;
    let table = as_constraints(old.relocations.as_ref().unwrap(), &old.code);
    let build_id = old.image.build_id().unwrap();
    object::write(&table, Some(build_id), old.image.linux_version()).unwrap()
});

/// Everything that is done with a relocation table object.
fn use_relocations(bytes: &[u8], new: &Pretend) {
    let mut old = Pretend::open("operands").old;
    object::is_table(bytes);
    // Most are refused for their digests; the others matter as well.
    words(object::read(bytes, &old.image, &old.code));
    let Some(table) = words(object::read(&sealed(bytes), &old.image, &old.code)) else {
        return;
    };
    if let Some(written) = words(object::write(&table, old.image.build_id(), None)) {
        let read = object::read(&written, &old.image, &old.code);
        assert_eq!(
            read.expect("what was written is read").constraints.len(),
            table.constraints.len()
        );
    }
    old.set_table(table);
    link_every_way(&old, &new.offer());
}

/// Everything that is done with a symbol table.
fn use_symtab(bytes: &[u8], olds: &[&Pretend]) {
    words(symtab::elf::read(bytes, Provenance::File));
    let Some(table) = words(symtab::elf::read(&sealed(bytes), Provenance::File)) else {
        return;
    };
    if let Some(written) = words(symtab::elf::write(&table)) {
        let read = symtab::elf::read(&written, Provenance::File).expect("what was written is read");
        assert_eq!(read.symbols(), table.symbols());
        assert_eq!(read.mappings(), table.mappings());
    }
    for old in olds {
        use_table(&table, old);
        derive_and_link(&mut old.old.clone(), Some(&table), old);
    }
}

fn use_table(table: &Symtab, old: &Pretend) {
    for image in [None, Some(&old.old.image)] {
        let new = New {
            symtab: Some(table),
            image,
            processor: None,
        };
        link_every_way(&old.old, &new);
    }
}

fn any_image() -> impl Strategy<Value = &'static [u8]> {
    select(
        fixture::all()
            .iter()
            .map(|fixture| fixture.image)
            .collect::<Vec<_>>(),
    )
}

fn any_symtab() -> impl Strategy<Value = &'static [u8]> {
    select(
        fixture::all()
            .iter()
            .filter_map(|fixture| fixture.symtab)
            .collect::<Vec<_>>(),
    )
}

fn any_kernel() -> impl Strategy<Value = &'static Pretend> {
    select(KERNELS.iter().collect::<Vec<_>>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(800))]

    #[test]
    fn damaged_images(image in any_image(), damages in damages(), new in any_kernel()) {
        use_image(&damaged(image, &damages), new);
    }

    #[test]
    fn damaged_symbol_tables(table in any_symtab(), damages in damages()) {
        use_symtab(&damaged(table, &damages), &[&KERNELS[0], &KERNELS[1], &KERNELS[5]]);
    }

    #[test]
    fn damaged_relocation_tables(damages in damages(), new in any_kernel()) {
        use_relocations(&damaged(&SUMS, &damages), new);
    }

    /// What passes the reader has relocations in places, of kinds and with addends that no producer would choose.
    #[test]
    fn nonsense_relocations(
        old in any_kernel(),
        new in any_kernel(),
        changes in proptest::collection::vec(
            (any::<Index>(), any::<Index>(), select(vec![0, 1, -1, i64::MAX, i64::MIN, 1 << 31, 0x7f])),
            1..20,
        ),
    ) {
        let mut old = old.old.clone();
        if let Some(table) = old.relocations.as_mut() {
            for (entry, need, addend) in changes {
                let entry = entry.index(table.entries.len());
                table.entries[entry].need = need.index(table.needs.len()) as u32;
                table.entries[entry].addend = addend;
            }
        }
        link_every_way(&old, &new.offer());
    }

    #[test]
    fn damaged_kernels(damages in damages(), packed in any::<bool>(), after in damage()) {
        let kernel = damaged(&vmlinux(KERNELS[1].fixture.image), &damages);
        let file = if packed { bzimage(&kernel) } else { kernel };
        let file = match after {
            // What is aimed at structures of an ELF finds none in what is packed.
            Damage::Field { .. } => file,
            blind => damaged_blindly(file, blind),
        };
        is_kernel_file(&file);
        if let Some(kernel) = words(KernelFile::parse(&file)) {
            for vdso in &kernel.vdsos {
                use_image(&vdso.bytes, &KERNELS[0]);
            }
            words(kernel.native_vdso());
        }
    }
}

fn damaged_blindly(mut file: Vec<u8>, damage: Damage) -> Vec<u8> {
    match damage {
        Damage::Flip(at, bit) if !file.is_empty() => {
            let at = at.index(file.len());
            file[at] ^= 1 << bit;
        }
        Damage::Truncate(length) if !file.is_empty() => file.truncate(length.index(file.len())),
        _ => {}
    }
    file
}

/// Every length that a file can be cut to.
#[test]
fn images_and_tables_that_were_cut() {
    let kernel = &KERNELS[1];
    for length in 0..kernel.fixture.image.len() {
        use_image(&kernel.fixture.image[..length], &KERNELS[0]);
    }
    let table = kernel.fixture.symtab.unwrap();
    for length in 0..table.len() {
        use_symtab(&table[..length], &[]);
    }
}

/// The widest spread of places that a table can state: distances between them do not fit 63 bits.
#[test]
fn symbols_at_the_ends_of_a_huge_mapping() {
    for kernel in KERNELS.iter().filter(|kernel| kernel.symtab.is_some()) {
        let symtab = kernel.symtab.as_ref().unwrap();
        let mut mappings = symtab.mappings().to_vec();
        mappings.retain(|mapping| mapping.name == "[vvar]");
        mappings[0].address = 0;
        mappings[0].size = u64::MAX - 0xfff;
        let mut table = Symtab::new(Provenance::File, mappings).unwrap();
        let in_vvar = symtab.symbols().iter();
        for (symbol, index) in in_vvar.filter(|symbol| symbol.mapping == 0).zip(0..) {
            let mut symbol = symbol.clone();
            symbol.offset = if index % 2 == 0 {
                symbol.offset
            } else {
                (1 << 63) - 64 + index * 8
            };
            table.insert(symbol).unwrap();
        }
        for old in KERNELS.iter() {
            use_table(&table, old);
        }
    }
}

/// Elements without number, and elements so far apart that their defaults would fill memory.
#[test]
fn arrays_that_defaults_cannot_follow() {
    let kernel = Pretend::open("reordered");
    let good = kernel.symtab.unwrap();
    for (size, count) in [(1, 1 << 40), (1 << 30, 4), (1 << 62, 2), (8, 1 << 17)] {
        let mut mappings = good.mappings().to_vec();
        mappings.retain(|mapping| mapping.name == "[vvar]");
        mappings[0].address = 0;
        mappings[0].size = u64::MAX - 0xfff;
        let mut table = Symtab::new(Provenance::File, mappings).unwrap();
        for symbol in good.symbols().iter().filter(|symbol| symbol.mapping == 0) {
            let mut symbol = symbol.clone();
            match symbol.name.as_str() {
                "time.clock" => symbol.size = size * count,
                "time.clock[]" => symbol.size = size,
                _ => {}
            }
            table.insert(symbol).unwrap();
        }
        let old = Pretend::open("got");
        let new = New {
            symtab: Some(&table),
            image: Some(&old.old.image),
            processor: None,
        };
        let placement = Placement {
            image: BASE,
            mappings: vec![
                ("[vvar]".to_owned(), BASE.offset(-0x8000)),
                ("[vdso]".to_owned(), BASE.offset(0x10_0000)),
            ],
        };
        let linked = link(&old.old, &new, &placement, Policy::Auto).unwrap();
        check(&old.old, &linked, Policy::Auto);
        let plan = linked
            .functions
            .iter()
            .find(|plan| plan.name() == "__vdso_clock_gettime");
        let plan = plan.unwrap();
        assert_eq!(plan.strategy, How::Proxy, "{size} * {count}: {plan:?}");
        let Reason::Unresolved(unresolved) = &plan.reason else {
            panic!("{plan:?}");
        };
        let is_large = matches!(unresolved, Unresolved::DefaultTooLarge { .. });
        assert!(is_large, "{plan:?}");
    }
}

/// A table that was not read from a file but made by a program may have places anywhere; reading it back refuses it.
#[test]
fn places_outside_the_image_are_refused_when_they_are_read() {
    let old = Pretend::open("operands").old;
    for place in [
        Svma(u64::MAX),
        Svma(1 << 40),
        Svma(old.image.loaded_size() - 1),
    ] {
        let mut table = old.relocations.clone().unwrap();
        table.entries.push(Relocation {
            place,
            kind: Kind::Pc32,
            need: 0,
            addend: 0,
        });
        let bytes = write::attach(&old.image, &table).unwrap();
        let error = Old::read(Image::parse(&bytes).unwrap()).unwrap_err();
        assert!(error.to_string().contains("leave the image"), "{error}");
    }
}
