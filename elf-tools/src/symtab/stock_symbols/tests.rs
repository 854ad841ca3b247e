//! Images are compiled from `fixture.c`, whose debug information is the struct layout as well. The
//! layouts of real kernels, against real images, are in the tests that cross crates.

use std::process::Command;

use super::*;
use crate::layout::dwarf::Dwarf;

/// Linux 5.6 to 6.12.
const NAMESPACES: [(&str, i64); 6] = [
    ("TIME_PAGE", -0x4000),
    ("TIMENS_PAGE", -0x1000),
    ("PVCLOCK_PAGE", -0x3000),
    ("HVCLOCK_PAGE", -0x2000),
    ("DATA", 0x80),
    ("RNG", -0x4000 + 0x280),
];
/// Linux 6.13 and 6.14.
const SPLIT: [(&str, i64); 6] = [
    ("TIME_PAGE", -0x4000),
    ("TIMENS_PAGE", -0x3000),
    ("PVCLOCK_PAGE", -0x2000),
    ("HVCLOCK_PAGE", -0x1000),
    ("DATA", 0),
    ("RNG", -0x4000 + 0x280),
];
/// Linux 6.15 on.
const GENERIC: [(&str, i64); 7] = [
    ("GENERIC_STORE", 1),
    ("TIME_PAGE", -0x6000),
    ("TIMENS_PAGE", -0x5000),
    ("PVCLOCK_PAGE", -0x2000),
    ("HVCLOCK_PAGE", -0x1000),
    ("DATA", 0),
    ("RNG", -0x4000),
];

/// Compiles the fixture with these macros; later ones override earlier ones.
fn compile(macros: &[(&str, i64)]) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let output = directory.path().join("vdso.so");
    let source = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/src/symtab/stock_symbols/fixture.c"
    );
    let mut command = Command::new(std::env::var("CC").unwrap_or_else(|_| "cc".to_owned()));
    command.args([
        "-g",
        "-O2",
        "-w",
        "-fPIC",
        "-shared",
        "-nostdlib",
        "-fno-eliminate-unused-debug-types",
    ]);
    command.args(["-fcf-protection=none", "-mno-sse", "-ffreestanding"]);
    command.args([
        "-Wl,--build-id=sha1",
        concat!(
            "-Wl,-T,",
            env!("CARGO_MANIFEST_DIR"),
            "/src/symtab/stock_symbols/fixture.lds"
        ),
    ]);
    command.args(
        macros
            .iter()
            .map(|(name, value)| format!("-D{name}=({value})")),
    );
    let status = command.arg("-o").arg(&output).arg(source).status().unwrap();
    assert!(status.success());
    std::fs::read(output).unwrap()
}

/// The symbols for an image, with the struct layouts of another compilation.
fn derive(structs: &[u8], image: &[u8]) -> Result<Symtab> {
    from_layout(
        &Dwarf::parse(structs).unwrap(),
        &Image::parse(image).unwrap(),
    )
}

fn derive_own(macros: &[(&str, i64)]) -> Result<Symtab> {
    let file = compile(macros);
    derive(&file, &file)
}

/// Distance of a symbol from the image.
fn place(symtab: &Symtab, name: &str) -> i64 {
    let symbol = symtab.get(name).unwrap_or_else(|| panic!("no {name}"));
    let vdso = symtab.mapping(mapping_name::VDSO).unwrap();
    (symtab.mappings()[symbol.mapping].address + symbol.offset) as i64 - vdso.address as i64
}

#[test]
fn pages_of_the_catalogue_are_recognised() {
    let symtab = derive_own(&NAMESPACES).unwrap();
    assert_eq!(symtab.mappings().len(), 2);
    assert_eq!(place(&symtab, "time.page"), -0x4000);
    assert_eq!(place(&symtab, "time.clock[].seq"), -0x4000 + 0x80);
    assert_eq!(
        place(&symtab, "time.clock[].basetime[].nsec"),
        -0x4000 + 0x80 + 40
    );
    assert_eq!(
        place(&symtab, "timens.clock[].offset[].sec"),
        -0x1000 + 0x80 + 32
    );
    assert_eq!(place(&symtab, "time.hrtimer_res"), -0x4000 + 0x80 + 232);
    assert_eq!(place(&symtab, "rng.is_ready"), -0x4000 + 0x288);
    assert_eq!(place(&symtab, "pvclock.flags"), -0x3000 + 29);
    assert_eq!(place(&symtab, "hvclock.tsc_offset"), -0x2000 + 16);
    assert_eq!(symtab.array("time.clock"), Some((240, 2)));
    assert_eq!(symtab.array("time.clock[].basetime"), Some((16, 12)));
    assert!(
        ["rng.page", "time.aux_clock", "time.clock[].max_cycles"]
            .iter()
            .all(|name| symtab.get(name).is_none())
    );
    assert!(symtab.symbols().iter().all(|symbol| symbol.version == 1));
}

#[test]
fn clock_pages_of_their_own_are_recognised() {
    let symtab = derive_own(&SPLIT).unwrap();
    let names: Vec<_> = symtab
        .mappings()
        .iter()
        .map(|mapping| (mapping.name.as_str(), mapping.size))
        .collect();
    assert_eq!(
        names[..2],
        [
            (mapping_name::VVAR, 0x2000),
            (mapping_name::VVAR_VCLOCK, 0x2000)
        ]
    );
    assert_eq!(place(&symtab, "timens.clock[].seq"), -0x3000);
    assert_eq!(place(&symtab, "hvclock.tsc_scale"), -0x1000 + 8);
}

#[test]
fn kernels_without_time_namespaces_are_recognised() {
    let pages = [
        ("TIME_PAGE", -0x3000),
        ("PVCLOCK_PAGE", -0x2000),
        ("HVCLOCK_PAGE", -0x1000),
    ];
    let symtab =
        derive_own(&[&pages[..], &[("DATA", 0x80), ("RNG", -0x3000 + 0x280)]].concat()).unwrap();
    assert_eq!(place(&symtab, "time.clock"), -0x3000 + 0x80);
    assert!(symtab.get("timens.page").is_none());
}

#[test]
fn pages_of_the_enum_are_recognised() {
    let symtab = derive_own(&GENERIC).unwrap();
    assert_eq!(place(&symtab, "time.clock[].seq"), -0x6000);
    assert_eq!(place(&symtab, "timens.page"), -0x5000);
    assert_eq!(place(&symtab, "rng.page"), -0x4000);
    assert_eq!(place(&symtab, "rng.is_ready"), -0x4000 + 8);
    assert_eq!(symtab.array("time.aux_clock"), Some((224, 8)));
    assert_eq!(
        place(&symtab, "time.aux_clock[].mult"),
        -0x6000 + 2 * 224 + 24
    );
    assert_eq!(place(&symtab, "time.tz_dsttime"), -0x6000 + 10 * 224 + 4);
    assert_eq!(
        place(&symtab, "timens.aux_clock[].basetime[].nsec"),
        -0x5000 + 2 * 224 + 40
    );
}

/// A description of types can be stripped of what no structure refers to.
#[test]
fn pages_of_the_enum_are_recognised_without_it() {
    let stated = derive_own(&GENERIC).unwrap();
    let unstated = derive_own(&[&GENERIC[..], &[("UNSTATED", 1)]].concat()).unwrap();
    assert_eq!(stated.symbols(), unstated.symbols());
    assert_eq!(stated.mappings(), unstated.mappings());
    // Pages in another order are none that are known.
    let swapped = [("TIME_PAGE", -0x5000), ("TIMENS_PAGE", -0x6000)];
    let swapped = [&GENERIC[..], &[("UNSTATED", 1)], &swapped].concat();
    assert!(derive_own(&swapped).is_err());
}

/// Nothing but the code states these offsets.
#[test]
fn objects_elsewhere_in_their_page_are_found() {
    for (data, random) in [
        (0, 0x280),
        (0x80 + 240, 0x380),
        (0x80, 0x2c0),
        (0x200, 0x800),
        (0x80, 0x260),
    ] {
        let moved = [("DATA", data), ("RNG", -0x4000 + random)];
        let symtab = derive_own(&[&NAMESPACES[..], &moved].concat()).unwrap();
        assert_eq!(place(&symtab, "time.clock[].seq"), -0x4000 + data);
        assert_eq!(place(&symtab, "timens.clock[].seq"), -0x1000 + data);
        assert_eq!(place(&symtab, "rng.generation"), -0x4000 + random);
        assert_eq!(place(&symtab, "rng.is_ready"), -0x4000 + random + 8);
    }
}

/// Every one of these moves a single thing that the structs do not say.
#[test]
fn code_that_contradicts_the_pages_is_refused() {
    let old = |moved: &[(&'static str, i64)]| [&NAMESPACES[..], moved].concat();
    let new = |moved: &[(&'static str, i64)]| [&GENERIC[..], moved].concat();
    for (what, macros) in [
        (
            "time and timens swapped",
            old(&[
                ("TIME_PAGE", -0x1000),
                ("TIMENS_PAGE", -0x4000),
                ("RNG", -0x1000 + 0x280),
            ]),
        ),
        (
            "clock pages swapped",
            old(&[("PVCLOCK_PAGE", -0x2000), ("HVCLOCK_PAGE", -0x3000)]),
        ),
        ("data that is not aligned", old(&[("DATA", 0x84)])),
        (
            "random state that is not aligned",
            old(&[("RNG", -0x4000 + 0x284)]),
        ),
        (
            "random state in the clocks",
            old(&[("RNG", -0x4000 + 0x100)]),
        ),
        (
            "random state in the other page",
            old(&[("RNG", -0x3000 + 0x280)]),
        ),
        (
            "one page further",
            old(&[("TIME_PAGE", -0x5000), ("RNG", -0x5000 + 0x280)]),
        ),
        (
            "other pages swapped",
            new(&[("TIME_PAGE", -0x5000), ("TIMENS_PAGE", -0x6000)]),
        ),
        (
            "random and time pages swapped",
            new(&[("TIME_PAGE", -0x4000), ("RNG", -0x6000)]),
        ),
        (
            "other clock pages swapped",
            new(&[("PVCLOCK_PAGE", -0x1000), ("HVCLOCK_PAGE", -0x2000)]),
        ),
        ("data inside the page", new(&[("DATA", 0x80)])),
        ("a clock stride", [&old(&[]), &[("PADDED", 1)][..]].concat()),
        (
            "another clock stride",
            [&new(&[]), &[("PADDED", 1)][..]].concat(),
        ),
    ] {
        let structs = if macros.starts_with(&GENERIC) {
            compile(&GENERIC)
        } else {
            compile(&NAMESPACES)
        };
        let error = derive(&structs, &compile(&macros)).expect_err(what);
        assert!(
            matches!(&error, Error::Unsupported { what, .. } if what == "page layout"),
            "{what}: {error}"
        );
    }
}

#[test]
fn an_image_of_another_generation_is_refused() {
    let (old, new) = (compile(&NAMESPACES), compile(&GENERIC));
    assert!(derive(&old, &new).is_err());
    assert!(derive(&new, &old).is_err());
}

#[test]
fn structs_that_are_no_vvar_are_refused() {
    let image = compile(&NAMESPACES);
    let without = |from: &[u8], to: &[u8]| {
        let mut structs = image.clone();
        let places = memchr_all(&structs, from);
        assert!(!places.is_empty());
        places
            .into_iter()
            .for_each(|at| structs[at..at + to.len()].copy_from_slice(to));
        derive(&structs, &image)
    };
    assert!(matches!(
        without(b"vdso_data\0", b"vdso_none\0"),
        Err(Error::NotFound { .. })
    ));
    assert!(matches!(
        without(b"clock_mode\0", b"clock_mood\0"),
        Err(Error::Unsupported { .. })
    ));
}

/// The struct layouts of `structs` with a name changed, for an image.
fn derive_renamed(structs: &[u8], image: &[u8], from: &[u8], to: &[u8]) -> Result<Symtab> {
    let mut structs = structs.to_vec();
    let places = memchr_all(&structs, from);
    assert!(!places.is_empty());
    for at in places {
        structs[at..at + to.len()].copy_from_slice(to);
    }
    derive(&structs, image)
}

#[test]
fn what_is_not_described_costs_its_symbols_alone() {
    let image = compile(&NAMESPACES);
    let whole = derive(&image, &image).unwrap();
    assert_eq!(whole.gaps, []);
    let without = |from: &[u8], to: &[u8], prefix: &str| {
        let symtab = derive_renamed(&image, &image, from, to).unwrap();
        let all = whole.symbols().iter();
        let left = all.filter(|s| !s.name.starts_with(prefix) || s.name.ends_with(".page"));
        assert!(symtab.symbols().iter().eq(left), "{prefix}");
        let [gap] = &symtab.gaps[..] else {
            panic!("{:?}", symtab.gaps);
        };
        gap.to_string()
    };
    let gap = without(b"vdso_rng_data\0", b"vdso_rng_none\0", "rng.");
    assert!(gap.contains("vdso_rng_data"), "{gap}");
    let gap = without(b"ms_hyperv_tsc_page\0", b"ms_hyperv_tsc_none\0", "hvclock.");
    assert!(gap.contains("ms_hyperv_tsc_page"), "{gap}");
    // All kernels have the same value.
    let gap = without(
        b"VDSO_CLOCKMODE_TIMENS\0",
        b"VDSO_CLOCKMODE_TIMEXX\0",
        "nothing",
    );
    assert!(gap.contains("VDSO_CLOCKMODE_TIMENS"), "{gap}");
}

/// What is not described excuses nothing elsewhere.
#[test]
fn pages_are_compared_without_the_mark_of_time_namespaces() {
    let structs = compile(&NAMESPACES);
    let swapped = [("TIME_PAGE", -0x1000), ("TIMENS_PAGE", -0x4000)];
    let swapped = compile(&[&NAMESPACES[..], &swapped].concat());
    let (from, to) = (b"VDSO_CLOCKMODE_TIMENS\0", b"VDSO_CLOCKMODE_TIMEXX\0");
    let error = derive_renamed(&structs, &swapped, from, to).unwrap_err();
    assert!(
        matches!(&error, Error::Unsupported { what, .. } if what == "page layout"),
        "{error}"
    );
}

fn memchr_all(bytes: &[u8], text: &[u8]) -> Vec<usize> {
    (0..bytes.len().saturating_sub(text.len()))
        .filter(|&at| bytes[at..].starts_with(text))
        .collect()
}

#[test]
fn code_that_reads_nothing_is_no_witness() {
    let structs = compile(&NAMESPACES);
    // The first byte of every function becomes a `ret`.
    let mut image = structs.clone();
    for export in Image::parse(&structs).unwrap().exports() {
        image[export.address.index()] = 0xc3;
    }
    let error = derive(&structs, &image).unwrap_err();
    assert!(error.to_string().contains("too few to tell"), "{error}");
}

#[test]
fn damaged_images_are_survived() {
    let good = compile(&NAMESPACES);
    let dwarf = Dwarf::parse(&good).unwrap();
    for range in Image::parse(&good).unwrap().text() {
        for at in range.start as usize..range.end as usize {
            let mut image = good.clone();
            image[at] ^= 1 << (at % 8);
            let _ = Image::parse(&image).and_then(|image| from_layout(&dwarf, &image));
        }
    }
}
