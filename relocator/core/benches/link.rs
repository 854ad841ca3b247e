//! What linking costs: against a copy of the same image, by phase, as the number of relocations
//! grows, and for vDSOs of the distribution's kernels, as far as they have been fetched.
//!
//! Run with `cargo bench -p relocator --bench link`. The ratio that matters, linking to copying,
//! comes from one run.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use elf_tools::Avma;
use elf_tools::image::Image;
use elf_tools::reachability::Code;
use elf_tools::relocation::object;
use elf_tools::symtab::{self, Provenance, Symtab};
use kernel_fixtures::{fixture, synthetic};
use kernel_source::Cache;
use relocator::link::{New, Old, link};
use relocator::placement::Placement;
use relocator::plan::Policy;
use relocator_cli::source::Spec;

const BASE: Avma = Avma(0x7fff_f7f0_0000);

struct Kernel {
    image: Image,
    symtab: Symtab,
}

fn kernel(name: &str) -> Kernel {
    let found = fixture::find(name).expect("a fixture");
    let table = found.symtab.expect("a fixture with a table");
    Kernel {
        image: Image::parse(found.image).expect("a good image"),
        symtab: symtab::elf::read(table, Provenance::Exported).expect("a good table"),
    }
}

/// From parsed tables to the linked image: what is done for each process.
fn fixtures(criterion: &mut Criterion) {
    let new = kernel("shuffled");
    let offer = New {
        symtab: Some(&new.symtab),
        image: Some(&new.image),
        processor: None,
    };
    let placement = Placement::below(BASE, offer.symtab, offer.image).expect("it fits");
    let mut group = criterion.benchmark_group("link");
    for name in ["got", "operands"] {
        let bytes = fixture::find(name).expect("a fixture").image;
        let old = Old::read(Image::parse(bytes).expect("a good image")).expect("good tables");
        group.bench_function(BenchmarkId::new("copy", name), |b| {
            b.iter(|| black_box(bytes).to_vec())
        });
        group.bench_function(BenchmarkId::new("link", name), |b| {
            b.iter(|| link(&old, &offer, &placement, Policy::Auto).expect("it links"));
        });
        group.bench_function(BenchmarkId::new("parse and link", name), |b| {
            b.iter(|| {
                let old = Old::read(Image::parse(black_box(bytes)).expect("a good image"))
                    .expect("good tables");
                link(&old, &offer, &placement, Policy::Auto).expect("it links")
            });
        });
    }
    group.finish();
}

/// Numbers of relocations; the smallest only under `cargo test`.
fn counts() -> &'static [usize] {
    let measures = std::env::args().any(|argument| argument == "--bench");
    let all = &[1_000, 10_000, 100_000, 1_000_000];
    if measures { all } else { &all[..1] }
}

/// Whether cost grows with the number of relocations and nothing faster.
fn scaling(criterion: &mut Criterion) {
    let new = kernel("shuffled");
    let offer = New {
        symtab: Some(&new.symtab),
        image: Some(&new.image),
        processor: None,
    };
    let placement = Placement::below(BASE, offer.symtab, offer.image).expect("it fits");
    let mut group = criterion.benchmark_group("scaling");
    group.sample_size(10);
    for &count in counts() {
        let bytes = synthetic::image(count).expect("an assembler and a linker");
        let old = Old::read(Image::parse(&bytes).expect("a good image")).expect("good tables");
        let entries = old
            .relocations
            .as_ref()
            .map_or(0, |relocations| relocations.entries.len());
        assert_eq!(entries, count);
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::new("link", count), |b| {
            b.iter(|| link(&old, &offer, &placement, Policy::Auto).expect("it links"));
        });
    }
    group.finish();
}

/// Images that carry no tables, onto the running kernel: `cold` derives the table, `warm` reads one
/// that was kept, and `link` has it in memory.
fn stock(criterion: &mut Criterion) {
    let running = relocator_process::running::own().expect("a kernel with a vDSO");
    if let Some(reason) = &running.no_symtab {
        println!("stock: left out, no symbols of the running kernel: {reason}");
        return;
    }
    let new = New {
        symtab: running.symtab.as_ref(),
        image: running.image.as_ref(),
        processor: None,
    };
    let placement = Placement::below(BASE, new.symtab, new.image).expect("it fits");
    let kernels = Cache::locate().all_cached();
    if kernels.is_empty() {
        println!("stock: only the fixture, no kernel of the distribution was fetched");
    }
    let kernels = kernels
        .into_iter()
        .map(|kernel| Spec::Kernel(kernel.version));
    let mut group = criterion.benchmark_group("stock");
    for spec in std::iter::once(Spec::Fixture("hidden".to_owned())).chain(kernels) {
        let source = spec.open().expect("a kernel");
        let name = spec.to_string();
        let image = source.require_image().expect("a vDSO");
        let symtab = source.require_symtab().expect("symbols of its vvar");
        let bytes = image.bytes();
        let parse = || Image::parse(black_box(bytes)).expect("a good image");
        let derive = || Old::derive(parse(), symtab).expect("its own symbols");
        let link = |old: &Old| link(old, &new, &placement, Policy::Auto).expect("it links");
        let old = derive();
        let relocations = old.relocations.as_ref().expect("a derived table");
        let table = object::write(relocations, image.build_id(), None)
            .expect("a table that can be written");
        let read = || {
            let image = parse();
            let code = Code::of(&image).expect("good code");
            let table = object::read(black_box(&table), &image, &code).expect("its own table");
            Old::new(image, code, Some(table))
        };
        group.bench_function(BenchmarkId::new("copy", &name), |b| {
            b.iter(|| black_box(bytes).to_vec())
        });
        group.bench_function(BenchmarkId::new("link", &name), |b| b.iter(|| link(&old)));
        group.bench_function(BenchmarkId::new("warm", &name), |b| {
            b.iter(|| link(&read()))
        });
        group.bench_function(BenchmarkId::new("cold", &name), |b| {
            b.iter(|| link(&derive()))
        });
    }
    group.finish();
}

criterion_group!(benches, fixtures, stock, scaling);
criterion_main!(benches);
