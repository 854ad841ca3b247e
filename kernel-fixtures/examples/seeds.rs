//! Writes the built-in fixtures into corpus directories, one a fuzz target of `tests/fuzz`.

use std::fs;
use std::path::Path;

use elf_tools::image::Image;
use elf_tools::reachability::Code;
use elf_tools::reentry;
use elf_tools::relocation::{Relocations, object};

fn main() -> std::io::Result<()> {
    let root = std::env::args().nth(1).expect("usage: seeds DIRECTORY");
    let put = |target: &str, name: &str, bytes: &[u8]| {
        let directory = Path::new(&root).join(target);
        fs::create_dir_all(&directory)?;
        fs::write(directory.join(name), bytes)
    };
    for fixture in kernel_fixtures::fixture::all() {
        put("image", fixture.name, fixture.image)?;
        put("tables", fixture.name, fixture.image)?;
        put("derive", fixture.name, fixture.image)?;
        put("kernel", fixture.name, fixture.image)?;
        if let Some(symtab) = fixture.symtab {
            put("symtab", fixture.name, symtab)?;
        }
        if let Some(debug) = fixture.debug {
            put("btf", fixture.name, debug)?;
        }
    }
    put("reentry", "bare", &reentry_table())?;
    put("btf", "types", &types())
}

/// A relocation table object with the re-entry table of the image that the fuzz target reads it for.
fn reentry_table() -> Vec<u8> {
    let fixture = kernel_fixtures::fixture::find("bare").expect("built in");
    let image = Image::parse(fixture.image).expect("built in");
    let code = Code::of(&image).expect("built in");
    let table = reentry::derive(&image, &code).expect("a good image");
    object::write_with_reentry(&Relocations::default(), &table, &image, &code)
        .expect("what was derived can be written")
}

/// A few types in the BTF format: a structure with an array of structures, and an enumeration, by the names that the
/// fuzz target looks up. A kernel's own BTF has megabytes, which no fuzzer gets through.
fn types() -> Vec<u8> {
    let mut strings = vec![0u8];
    let mut name = |text: &str| {
        let at = strings.len() as u32;
        strings.extend(text.bytes().chain([0]));
        at
    };
    let [int, strct, enumeration] = [1u32, 4, 6].map(|kind| kind << 24);
    let words = [
        // 1: a 4-byte integer; 2: an 8-byte one.
        vec![name("u32"), int, 4, 32],
        vec![name("u64"), int, 8, 64],
        // 3: { sec, nsec }; 4: an array of 12; 5: the structure around it.
        vec![
            name("vdso_timestamp"),
            strct | 2,
            16,
            name("sec"),
            2,
            0,
            name("nsec"),
            2,
            64,
        ],
        vec![0, 3 << 24, 0, 3, 1, 12],
        vec![
            name("vdso_clock"),
            strct | 2,
            200,
            name("seq"),
            1,
            0,
            name("basetime"),
            4,
            64,
        ],
        vec![
            name("vdso_pages"),
            enumeration | 1,
            4,
            name("VDSO_TIME_PAGE_OFFSET"),
            0,
        ],
    ];
    let types: Vec<u8> = words
        .concat()
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    let mut bytes = vec![0x9f, 0xeb, 1, 0];
    for word in [24, 0, types.len(), types.len(), strings.len()] {
        bytes.extend((word as u32).to_le_bytes());
    }
    bytes.extend(types);
    bytes.extend(strings);
    bytes
}
