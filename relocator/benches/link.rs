//! What linking costs: against a copy of the same image, by phase, and as the number of relocations grows.
//!
//! Run with `cargo bench -p relocator --bench link`. The ratio that matters, linking to copying, comes from one run.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use elf_tools::Avma;
use elf_tools::image::Image;
use elf_tools::symtab::{self, Provenance, Symtab};
use kernel_fixtures::{fixture, synthetic};
use relocator::link::{New, Old, link};
use relocator::placement::Placement;
use relocator::plan::Policy;

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

/// Whether cost grows with the number of relocations and nothing faster.
fn scaling(criterion: &mut Criterion) {
    let new = kernel("shuffled");
    let offer = New {
        symtab: Some(&new.symtab),
        image: Some(&new.image),
    };
    let placement = Placement::below(BASE, offer.symtab, offer.image).expect("it fits");
    let mut group = criterion.benchmark_group("scaling");
    group.sample_size(10);
    for count in [1_000, 10_000, 100_000, 1_000_000] {
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

criterion_group!(benches, fixtures, scaling);
criterion_main!(benches);
