//! Processes that are made up, with fixtures as vDSOs; and this very one.

use kernel_fixtures::fixture;
use proptest::prelude::*;
use relocator_verify::memory::Region;

use super::super::pretend::*;
use super::*;
use crate::targets::Protection;
use crate::targets::live::Running;
use crate::targets::pretended::Pretended;

fn starts(found: &FoundVdsos) -> Vec<u64> {
    let unit = found.kernel.as_ref().unwrap();
    let parts = unit.mappings.iter();
    parts.map(|part| part.range.start.0).collect()
}

fn in_place(at: u64) -> Vec<u64> {
    vec![at, at + 4 * PAGE, at + 6 * PAGE]
}

/// The only remark.
fn misleading(found: &FoundVdsos) -> &str {
    assert_eq!(
        found.misleading_names.len(),
        1,
        "{:?}",
        found.misleading_names
    );
    &found.misleading_names[0]
}

#[test]
fn every_fixture_is_found_next_to_the_kernels_own() {
    for fixture in fixture::all() {
        let old = pages(fixture.image);
        let exports = Image::parse(&old).unwrap();
        let exports = exports.exports().iter();
        assert!(
            exports
                .clone()
                .any(|export| export.name.starts_with("__vdso_"))
        );
        let found = Pretended::restored(&old).recognise(Some(OLD)).unwrap();
        assert!(
            found.misleading_names.is_empty(),
            "{}: {:?}",
            fixture.name,
            found.misleading_names
        );
        assert_eq!(starts(&found), in_place(UNIT));
        let unit = found.kernel.unwrap();
        assert!(unit.is_whole() && unit.mark.is_none());
        let [text] = &found.old[..] else {
            panic!("{}: {} texts", fixture.name, found.old.len());
        };
        assert_eq!(text.mapping, Avma(OLD)..Avma(OLD + old.len() as u64));
        assert_eq!((text.image, text.is_by_auxv), (Avma(OLD), true));
        assert_eq!(text.bytes, old);
        assert_eq!(text.size, fixture.image.len(), "{}", fixture.name);
    }
}

#[test]
fn a_mark_is_no_difference_and_anything_else_is() {
    let mut process = Pretended::restored(&image("bare"));
    let mark = Mark {
        old_vdso: Avma(OLD),
        old_vvar: Avma(OLD - 2 * PAGE),
        new_vvar: Avma(UNIT),
    };
    let vdso = UNIT + 6 * PAGE;
    process.part(vdso).1.as_mut().unwrap()[..Mark::SIZE].copy_from_slice(&mark.bytes());
    let found = process.recognise(None).unwrap();
    assert!(
        found.misleading_names.is_empty(),
        "{:?}",
        found.misleading_names
    );
    assert_eq!(found.kernel.unwrap().mark, Some(mark));
    assert!(!found.old[0].is_by_auxv);

    process.part(vdso).1.as_mut().unwrap()[0] ^= 1;
    let found = process.recognise(None).unwrap();
    assert_eq!(found.kernel, None);
    assert!(
        misleading(&found).contains("bytes differ, the first at 0x0"),
        "{:?}",
        found.misleading_names
    );

    let mut process = Pretended::restored(&image("bare"));
    let last = new().len() - 1;
    process.part(vdso).1.as_mut().unwrap()[last] ^= 1;
    let found = process.recognise(None).unwrap();
    assert_eq!(found.kernel, None);
    let expected = format!("1 bytes differ, the first at {last:#x}");
    assert!(
        found.misleading_names[0].contains(&expected),
        "{:?}",
        found.misleading_names
    );
    assert_eq!(found.old.len(), 2, "what is called [vdso] is a vDSO still");
}

#[test]
fn a_mark_leads_to_an_old_vdso_in_the_middle_of_a_mapping() {
    let mut process = Pretended::default();
    process.unit(UNIT);
    let mut bytes = vec![0x90; 9 * PAGE as usize];
    bytes.extend(image("bare"));
    process.put(OLD, CODE, "", Some(bytes));
    assert!(process.recognise(None).unwrap().old.is_empty());
    let at = OLD + 9 * PAGE;
    assert_eq!(process.recognise(Some(at)).unwrap().old[0].image, Avma(at));
    let mark = Mark {
        old_vdso: Avma(at),
        old_vvar: Avma(0),
        new_vvar: Avma(UNIT),
    };
    let vdso = process.part(UNIT + 6 * PAGE).1.as_mut().unwrap();
    vdso[..Mark::SIZE].copy_from_slice(&mark.bytes());
    assert_eq!(process.recognise(None).unwrap().old[0].image, Avma(at));
}

#[test]
fn names_that_lie_are_reported_and_not_believed() {
    for name in [
        "/tmp/[vdso]",
        "[vdso] (deleted)",
        "[anon:[vdso]]",
        "anon_inode:[vdso]",
    ] {
        let mut process = Pretended::restored(&image("bare"));
        process.put(OLD + 16 * PAGE, CODE, name, Some(new()));
        let found = process.recognise(Some(OLD)).unwrap();
        assert_eq!(starts(&found), in_place(UNIT), "{name}");
        assert_eq!(
            found.old.len(),
            2,
            "{name}: it is a vDSO, whatever its name"
        );
        assert!(
            found.misleading_names[0].contains(name),
            "{:?}",
            found.misleading_names
        );
        assert!(found.misleading_names[0].contains("not mapped by the kernel"));
    }
    for name in ["/tmp/[vvar]", "[anon:[vvar]]"] {
        let mut process = Pretended::restored(&image("bare"));
        process.hole(OLD + 16 * PAGE, 4, name);
        let found = process.recognise(Some(OLD)).unwrap();
        assert_eq!(starts(&found), in_place(UNIT), "{name}");
        assert!(misleading(&found).contains(name));
    }
}

#[test]
fn a_file_of_that_very_name_is_told_by_its_content_or_its_place() {
    let mut process = Pretended::restored(&image("bare"));
    process.put(0x1_0000, CODE, "[vdso]", Some(image("got")));
    let found = process.recognise(Some(OLD)).unwrap();
    assert_eq!(starts(&found), in_place(UNIT));
    assert!(
        found.misleading_names[0].contains("0x10000"),
        "{:?}",
        found.misleading_names
    );

    let mut process = Pretended::restored(&image("bare"));
    process.put(0x1_0000, CODE, "[vdso]", Some(new()));
    process.put(OLD + 16 * PAGE, CODE, "[vdso]", Some(new()));
    let found = process.recognise(Some(OLD)).unwrap();
    assert_eq!(starts(&found), in_place(UNIT));
    assert_eq!(found.old.len(), 3);
}

#[test]
fn a_label_may_be_missing_where_the_place_tells() {
    let mut process = Pretended::restored(&image("bare"));
    process.part(UNIT + 6 * PAGE).0.name.clear();
    let found = process.recognise(Some(OLD)).unwrap();
    assert_eq!(starts(&found), in_place(UNIT));
    assert!(misleading(&found).contains("is called ``"));

    // An old vDSO from the running kernel, in a process whose new one is away.
    let mut process = Pretended::default();
    process.put(OLD, CODE, "", Some(new()));
    let found = process.recognise(Some(OLD)).unwrap();
    assert_eq!(found.kernel, None);
    assert_eq!(found.old.len(), 1);
}

#[test]
fn an_old_vdso_from_the_running_kernel_is_an_old_one() {
    let found = Pretended::restored(&new()).recognise(Some(OLD)).unwrap();
    assert_eq!(starts(&found), in_place(UNIT));
    assert_eq!(found.old.len(), 1);
    assert!(
        found.misleading_names.is_empty(),
        "{:?}",
        found.misleading_names
    );
}

#[test]
fn a_unit_that_is_half_moved_is_found_where_it_is() {
    let mut process = Pretended::restored(&image("bare"));
    process.part(UNIT).0.range = Avma(OLD - 16 * PAGE)..Avma(OLD - 12 * PAGE);
    process.sort();
    let found = process.recognise(Some(OLD)).unwrap();
    let expected = [OLD - 16 * PAGE, UNIT + 4 * PAGE, UNIT + 6 * PAGE];
    assert_eq!(starts(&found), expected);
    assert!(misleading(&found).contains("not at its own distances"));
    assert!(!found.kernel.unwrap().is_whole());
}

#[test]
fn data_of_a_wrong_shape_is_missing() {
    for change in [
        (|mapping| mapping.protection.write = true) as fn(&mut Mapping),
        |mapping| mapping.protection.shared = true,
        |mapping| mapping.range.end.0 -= PAGE,
        |mapping| mapping.name.clear(),
    ] {
        let mut process = Pretended::restored(&image("bare"));
        change(&mut process.part(UNIT).0);
        let found = process.recognise(Some(OLD)).unwrap();
        let unit = found.kernel.as_ref().unwrap();
        assert_eq!(unit.missing, ["[vvar]"]);
        assert!(!unit.is_whole() && !found.misleading_names.is_empty());
    }
    // Two that could be it, and neither in its place.
    let mut process = Pretended::restored(&image("bare"));
    process.part(UNIT).0.range = Avma(0x1_0000)..Avma(0x1_4000);
    process.hole(OLD + 16 * PAGE, 4, "[vvar]");
    process.sort();
    let found = process.recognise(Some(OLD)).unwrap();
    assert_eq!(found.kernel.unwrap().missing, ["[vvar]"]);
}

#[test]
fn a_record_before_an_image_and_bytes_behind_it_belong_to_its_mapping() {
    let found = fixture::find("got").unwrap();
    let mut bytes = vec![7; PAGE as usize];
    bytes.extend(pages(found.image));
    bytes.extend(vec![9; PAGE as usize]);
    let process = Pretended::restored(&bytes);
    let old = process.recognise(Some(OLD + PAGE)).unwrap().old;
    assert_eq!(old.len(), 1);
    assert_eq!((old[0].image, old[0].is_by_auxv), (Avma(OLD + PAGE), true));
    assert_eq!(old[0].mapping.start, Avma(OLD));
    assert_eq!(
        (old[0].bytes.len(), old[0].size),
        (bytes.len(), found.image.len())
    );
    assert_eq!(
        process.recognise(None).unwrap().old[0].image,
        Avma(OLD + PAGE)
    );
}

#[test]
fn two_images_in_one_mapping_are_two() {
    let first = image("bare");
    assert!(first.len() < 4 * PAGE as usize);
    let second = OLD + first.len() as u64;
    let both = [first, image("got")].concat();
    let old = Pretended::restored(&both)
        .recognise(Some(second))
        .unwrap()
        .old;
    let found: Vec<_> = old
        .iter()
        .map(|text| (text.image.0, text.is_by_auxv))
        .collect();
    assert_eq!(found, [(OLD, false), (second, true)]);
}

#[test]
fn what_cannot_be_executed_is_a_copy_unless_it_was_told() {
    let copy = OLD + 64 * PAGE;
    let mut process = Pretended::restored(&image("bare"));
    process.put(copy, READ, "[heap]", Some(image("got")));
    assert_eq!(process.recognise(Some(OLD)).unwrap().old.len(), 1);
    let found = process.recognise(Some(copy)).unwrap();
    assert_eq!(found.old.len(), 2);
    assert!(found.old[1].is_by_auxv);
}

#[test]
fn what_others_can_change_is_none() {
    let shared = Protection {
        shared: true,
        ..CODE
    };
    let mut process = Pretended::restored(&image("bare"));
    process.put(OLD + 64 * PAGE, shared, "/dev/shm/x", Some(image("got")));
    assert_eq!(process.recognise(Some(OLD)).unwrap().old.len(), 1);
}

#[test]
fn libraries_are_none() {
    let mut library = image("bare");
    let names = memory_of(&library, b"__vdso_");
    for at in names {
        library[at..at + 7].copy_from_slice(b"__libc_");
    }
    let mut process = Pretended::restored(&image("bare"));
    process.put(OLD + 64 * PAGE, CODE, "/lib/libc.so.6", Some(library));
    let found = process.recognise(Some(OLD)).unwrap();
    assert_eq!(found.old.len(), 1);
    assert!(
        found.misleading_names.is_empty(),
        "{:?}",
        found.misleading_names
    );
    let found = process.recognise(Some(OLD + 64 * PAGE)).unwrap();
    assert!(misleading(&found).contains("exports no __vdso_ function"));
}

fn memory_of(bytes: &[u8], what: &[u8]) -> Vec<usize> {
    let windows = bytes.windows(what.len()).enumerate();
    windows
        .filter(|window| window.1 == what)
        .map(|window| window.0)
        .collect()
}

#[test]
fn hints_that_lead_nowhere_are_reported() {
    let process = Pretended::restored(&image("got"));
    for (told, reason) in [
        (0x5000, "nothing that can be read"),
        (OLD - PAGE + 8, "not the start of a page"),
        (OLD - PAGE, "no ELF header"),
        (UNIT, "cannot be read"),
        (OLD + PAGE, "inside another vDSO"),
        (u64::MAX, "nothing that can be read"),
    ] {
        let found = process.recognise(Some(told)).unwrap();
        assert!(
            misleading(&found).contains(reason),
            "{told:#x}: {:?}",
            found.misleading_names
        );
        assert_eq!(found.old.len(), 1);
    }
    let found = process.recognise(Some(UNIT + 6 * PAGE)).unwrap();
    assert!(
        found.misleading_names.is_empty(),
        "the kernel's own: {:?}",
        found.misleading_names
    );
}

#[test]
fn mappings_that_are_too_large_or_cut_off_are_reported_where_hints_lead() {
    let mut large = image("bare");
    large.resize(MAX_TEXT as usize, 0);
    assert_eq!(
        Pretended::restored(&large)
            .recognise(Some(OLD))
            .unwrap()
            .old
            .len(),
        1
    );
    large.resize(MAX_TEXT as usize + PAGE as usize, 0);
    let found = Pretended::restored(&large).recognise(Some(OLD)).unwrap();
    assert!(found.old.is_empty() && misleading(&found).contains("are not read"));
    // Pages behind the first are not there: a file that was cut off.
    let mut process = Pretended::restored(&image("got"));
    process
        .part(OLD)
        .1
        .as_mut()
        .unwrap()
        .truncate(PAGE as usize);
    let found = process.recognise(Some(OLD)).unwrap();
    assert!(misleading(&found).contains("cannot be read as a whole"));
}

#[test]
fn a_32_bit_vdso_is_an_error_in_words() {
    let mut small = image("bare");
    small[4] = 1;
    let mut process = Pretended::restored(&small);
    let error = process.recognise(Some(OLD)).unwrap_err();
    assert!(error.to_string().contains("32-bit"), "{error}");
    assert!(process.recognise(None).unwrap().old.is_empty());
    process.part(UNIT + 6 * PAGE).1 = Some(small);
    assert!(process.recognise(None).is_err());
}

#[test]
fn zeros_are_what_is_directly_below() {
    let mut process = Pretended::restored(&image("bare"));
    assert_eq!(process.placeholder(OLD), Some(OLD - 2 * PAGE..OLD));
    assert_eq!(process.placeholder(OLD + PAGE), None);
    // Another mapping below belongs to them, as far as it is zero.
    let mut below = vec![0; 3 * PAGE as usize];
    below[PAGE as usize - 1] = 1;
    process.put(OLD - 5 * PAGE, READ, "", Some(below));
    assert_eq!(process.placeholder(OLD), Some(OLD - 4 * PAGE..OLD));
    for change in [
        (|mapping| mapping.protection.write = true) as fn(&mut Mapping),
        |mapping| mapping.protection.read = false,
        |mapping| mapping.protection.shared = true,
        |mapping| mapping.name = "/tmp/zeros".to_owned(),
        |mapping| mapping.range.end.0 -= PAGE,
    ] {
        let mut process = process.clone();
        change(&mut process.part(OLD - 2 * PAGE).0);
        assert_eq!(process.placeholder(OLD), None);
    }
    process.part(OLD - 2 * PAGE).1.as_mut().unwrap()[2 * PAGE as usize - 1] = 1;
    assert_eq!(process.placeholder(OLD), None);
}

#[test]
fn large_mappings_of_zeros_are_the_programs_own() {
    for (pages, is_taken) in [(MAX_PLACEHOLDER, true), (MAX_PLACEHOLDER + 1, false)] {
        let mut process = Pretended::default();
        let size = pages * PAGE;
        process.put(OLD - size, READ, "", Some(vec![0; size as usize]));
        assert_eq!(process.placeholder(OLD).is_some(), is_taken);
    }
}

proptest! {
    #[test]
    fn hostile_headers_do_no_harm(
        changes in prop::collection::vec((0usize..0x400, any::<u8>()), 1..12),
        is_new in any::<bool>(),
    ) {
        let mut bytes = image("got");
        for (at, value) in changes {
            bytes[at] = value;
        }
        let mut process = Pretended::restored(&bytes);
        if is_new {
            process.part(UNIT + 6 * PAGE).1 = Some(bytes);
        }
        if let Ok(found) = process.recognise(Some(OLD)) {
            for text in &found.old {
                let behind = text.mapping.end.0 - text.image.0;
                prop_assert!(text.size as u64 <= behind);
            }
        }
    }
}

#[test]
fn this_process_has_the_kernels_and_what_it_maps_itself() {
    let own = Own::of(&crate::running::own().unwrap()).unwrap();
    let myself = Running::of(std::process::id().cast_signed());
    let old = image("got");
    let mut region = Region::reserve(None, old.len() + 4 * PAGE as usize).unwrap();
    region.freeze(0..2 * PAGE as usize).unwrap();
    region.fill(2 * PAGE as usize, &old).unwrap();
    let at = region.start().offset(2 * PAGE as i64);
    let mappings = myself.mappings().unwrap();
    let live = mappings.iter().find(|mapping| mapping.name == "[vdso]");
    let live = live.unwrap().range.clone();
    assert_eq!(myself.auxv_vdso(), Some(live.start));
    let found = recognise(&myself, &own).unwrap();
    let unit = found.kernel.as_ref().unwrap();
    assert!(unit.is_whole(), "{unit:?}");
    assert_eq!(unit.vdso().unwrap().range, live);
    let text = found.old.iter().find(|text| text.image == at).unwrap();
    assert_eq!(text.bytes, old);
    assert_eq!(
        vvar_placeholder(&mappings, &myself, at),
        Some(region.start()..at)
    );
}
