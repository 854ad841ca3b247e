//! Images of a checkpoint: whatever they say, reading, surveying and planning end with a value or an error.
#![no_main]

use std::rc::Rc;

use elf_tools::image::Image;
use elf_tools::symtab::{self, Provenance};
use libfuzzer_sys::fuzz_target;
use relocator::source::Source;
use relocator::tables;
use relocator_criu::check::{Onto, check, kernel};
use relocator_criu::{Held, Images};
use relocator_process::apply::{ApplyOptions, RunningKernel};

/// The files of a directory, with the magic number of each, by CRIU's `include/magic.h`. The last two are of the dump
/// before.
const FILES: [(&str, u32); 12] = [
    ("inventory.img", 0x5831_3116),
    ("pstree.img", 0x5027_3030),
    ("core-7.img", 0x5505_3847),
    ("core-8.img", 0x5505_3847),
    ("mm-7.img", 0x5749_2820),
    ("pagemap-7.img", 0x5608_4025),
    ("pages-1.img", 0),
    ("files.img", 0x5630_3138),
    ("cpuinfo.img", 0x6140_4013),
    ("timens-0.img", 0x4311_4433),
    ("pagemap-7.img", 0x5608_4025),
    ("pages-1.img", 0),
];

/// Where the files of the dump before begin.
const PARENT: usize = 10;

/// What all images but the inventory begin with.
const COMMON: u32 = 0x5456_4319;

/// One file after the other, each with its number and its length before it. Magic numbers are put in front, since
/// nothing but they would be found wrong otherwise.
fn directory(mut bytes: &[u8]) -> Held {
    let (mut own, mut parent) = (Held::default(), Held::default());
    while let [number, low, high, rest @ ..] = bytes {
        let number = usize::from(*number) % FILES.len();
        let size = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
        let (content, rest) = rest.split_at(size);
        let (name, magic) = FILES[number];
        let mut file = Vec::new();
        if number > 0 && magic != 0 {
            file.extend(COMMON.to_le_bytes());
        }
        if magic != 0 {
            file.extend(magic.to_le_bytes());
        }
        file.extend(content);
        let held = if number >= PARENT {
            &mut parent
        } else {
            &mut own
        };
        held.files.insert(name.to_owned(), file);
        bytes = rest;
    }
    if !parent.files.is_empty() {
        own.parent = Some(Rc::new(parent));
    }
    own
}

/// A kernel to restore on.
fn onto() -> RunningKernel {
    let found = kernel_fixtures::fixture::find("reordered").expect("built in");
    let source = Source {
        image: Some(Image::parse(found.image).expect("built in")),
        symtab: found
            .symtab
            .map(|bytes| symtab::elf::read(bytes, Provenance::Exported).expect("built in")),
        ..Source::named("reordered")
    };
    kernel(source, &tables::Options::default()).expect("built in")
}

thread_local! {
    /// The kernel. Making it takes longer than all the rest.
    static KERNEL: RunningKernel = onto();
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(images) = Images::held(directory(bytes)) else {
        return;
    };
    KERNEL.with(|kernel| look(&images, kernel));
});

/// Reads everything, and checks each task.
fn look(images: &Images, kernel: &RunningKernel) {
    let onto = Onto {
        kernel,
        old: &[],
        options: &ApplyOptions::default(),
        makes_time_namespace: images.has_time_namespace,
    };
    for task in images.tasks().flatten() {
        if let Some(pages) = task.pages() {
            for run in pages.present().take(64) {
                let _ = pages.read(run.start, &mut [0; 64]);
            }
        }
        let _ = check(&task, &onto);
    }
}
