//! Types of kinds that are newer than this crate.

use super::*;

/// A kind from the future.
const NEW: u32 = 20;

/// Structs on both sides of a type of a kind from the future.
fn future() -> Blob {
    let mut blob = Blob::new();
    blob.add("u32", kind::INT, 0, 4, &[32]); // 1
    blob.structure("before", 4, 0, &[("a", 1, 0)]); // 2
    blob.add("new", NEW, 2, 4, &[7, 8, 9]); // 3
    blob.structure("behind", 4, 0, &[("a", 1, 0)]); // 4
    blob.structure("with", 8, 0, &[("a", 1, 0), ("b", 3, 32)]); // 5
    blob
}

/// The structs of [`future`] that a blob has.
fn found(bytes: &[u8]) -> Vec<&'static str> {
    let btf = Btf::parse(bytes).unwrap();
    let names = ["before", "behind", "with"].into_iter();
    names
        .filter(|name| btf.structure(name).is_ok_and(|found| found.is_some()))
        .collect()
}

#[test]
fn a_type_whose_size_follows_from_the_rest_is_skipped() {
    for big_endian in [false, true] {
        let mut blob = future();
        if big_endian {
            blob.swap_types();
        }
        let bytes = blob.finish();
        let btf = Btf::parse(&bytes).unwrap();
        assert_eq!(btf.len(), 5);
        // It costs what needs it.
        assert_eq!(found(&bytes), ["before", "behind"]);
        let error = btf.structure("with").unwrap_err();
        assert!(error.to_string().contains("kind 20 at offset"), "{error}");
        assert_eq!(btf.structure("nowhere").unwrap(), None);
    }
}

/// Fixed sizes, sizes of elements, both, and kinds of several sizes between each other.
#[test]
fn sizes_of_many_kinds_are_found() {
    for (fixed, element) in [(0, 0), (4, 0), (64, 0), (0, 4), (0, 32), (8, 12), (20, 28)] {
        let mut blob = Blob::new();
        blob.add("u32", kind::INT, 0, 4, &[32]);
        for count in [0_u32, 3, 1] {
            let words = (fixed + element * count) / 4;
            let payload: Vec<u32> = (0..words).map(|word| word * 0x0101_0101 + count).collect();
            blob.add("new", NEW, count, 7, &payload);
            blob.structure("before", 4, 0, &[("a", 1, 0)]);
            blob.add("newer", NEW + 1, 0, 9, &[1, 2]);
            blob.add("", NEW + 11, count, 9, &vec![1; count as usize * 2]);
        }
        blob.structure("behind", 4, 0, &[("a", 1, 0)]);
        let bytes = blob.finish();
        let btf = Btf::parse(&bytes).unwrap();
        assert_eq!(btf.len(), 14, "{fixed} {element}");
        assert_eq!(found(&bytes), ["before", "behind"]);
    }
}

/// What may be one type with much behind it, or several types, is several.
#[test]
fn types_are_not_swallowed() {
    let mut blob = Blob::new();
    blob.add("u32", kind::INT, 0, 4, &[32]);
    blob.add("new", NEW, 0, 0, &[5]);
    for name in ["before", "behind", "other"] {
        blob.structure(name, 4, 0, &[("a", 1, 0)]);
    }
    let bytes = blob.finish();
    assert_eq!(Btf::parse(&bytes).unwrap().len(), 5);
    assert_eq!(found(&bytes), ["before", "behind"]);
}

/// Payload that looks like a type: if it was one, the numbers of those behind it were others.
#[test]
fn payload_that_looks_like_a_type_is_not_believed() {
    let mut blob = Blob::new();
    blob.add("u32", kind::INT, 0, 4, &[32]); // 1
    let name = blob.string("inside");
    let inside = [name, (kind::STRUCT << 24) | 1, 4, name, 1, 0];
    blob.add("new", NEW, 0, 0, &inside); // 2
    blob.add("", kind::FUNC_PROTO, 0, 1, &[]); // 3
    blob.add("f", kind::FUNC, 0, 3, &[]); // 4
    blob.structure("behind", 4, 0, &[("a", 1, 0)]); // 5
    let bytes = blob.finish();
    let btf = Btf::parse(&bytes).unwrap();
    assert_eq!(btf.len(), 1);
    let error = btf.structure("inside").unwrap_err();
    assert!(error.to_string().contains("with no size"), "{error}");
    // No reference tells.
    blob.types.truncate(blob.types.len() - 24 - 24);
    blob.structure("behind", 4, 0, &[("a", 1, 0)]);
    assert_eq!(found(&blob.finish()), ["behind"]);
}

/// Payload that may be two types of the same kind, or none.
#[test]
fn sizes_that_are_ambiguous_end_the_list() {
    let mut blob = Blob::new();
    blob.add("u32", kind::INT, 0, 4, &[32]);
    blob.structure("before", 4, 0, &[("a", 1, 0)]);
    let name = blob.string("inside");
    let inside = [name, NEW << 24, 4, name, NEW << 24, 4];
    blob.add("new", NEW, 0, 0, &inside);
    let bytes = blob.finish();
    let btf = Btf::parse(&bytes).unwrap();
    assert_eq!(btf.len(), 2);
    assert_eq!(found(&bytes), ["before"]);
    for name in ["inside", "nowhere"] {
        let error = btf.structure(name).unwrap_err();
        assert!(error.to_string().contains("several sizes fit"), "{error}");
    }
    // Others of the kind decide it.
    blob.structure("behind", 4, 0, &[("a", 1, 0)]);
    blob.add("new", NEW, 0, 0, &[7; 6]);
    blob.structure("behind", 4, 0, &[("a", 1, 0)]);
    let bytes = blob.finish();
    assert_eq!(Btf::parse(&bytes).unwrap().len(), 6);
    assert_eq!(found(&bytes), ["before", "behind"]);
}

/// No size fits: types of the kind differ in it, for a reason that nobody knows.
#[test]
fn a_type_without_size_ends_the_list() {
    let mut blob = future();
    blob.add("new", NEW, 2, 4, &[7]);
    blob.structure("before", 8, 0, &[("a", 1, 32)]);
    let bytes = blob.finish();
    let btf = Btf::parse(&bytes).unwrap();
    assert_eq!(btf.len(), 2);
    assert_eq!(btf.structure("before").unwrap().unwrap().size, 4);
    // It may be there or not.
    for name in ["behind", "nowhere"] {
        let error = btf.structure(name).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        for part in [name, "type 3", "kind 20", "offset 0x40", "with no size"] {
            assert!(error.to_string().contains(part), "{error}");
        }
    }
    let mut blob = Blob::new();
    blob.structure("s", 4, 0, &[("a", 3, 0)]);
    blob.add("new", NEW, 0, 0, &[1]);
    blob.add("u32", kind::INT, 0, 4, &[32]);
    blob.add("new", NEW, 0, 0, &[1, 2]);
    let bytes = blob.finish();
    let error = Btf::parse(&bytes).unwrap().structure("s").unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
}

/// Whatever the sizes are, types follow, and none of them leads to the end.
#[test]
fn the_search_is_bounded() {
    let mut blob = Blob::new();
    for word in 0..30_000_u32 {
        let kind = NEW + word.wrapping_mul(2_654_435_761) % 3;
        blob.types
            .extend([0, kind << 24].map(u32::to_le_bytes).concat());
    }
    blob.types.extend([0; 400]);
    let bytes = blob.finish();
    let error = Btf::parse(&bytes).unwrap().structure("s").unwrap_err();
    assert!(error.to_string().contains("too many sizes"), "{error}");
}

#[test]
fn a_type_whose_size_is_stated_is_skipped() {
    let mut blob = future();
    // 4 bytes once, and 4 for each element.
    blob.layouts = vec![[0, 0, 0, 0]; NEW as usize];
    blob.layouts.push([4, 4, 0, 0]);
    for big_endian in [false, true] {
        let mut blob = blob.clone();
        if big_endian {
            blob.swap_types();
        }
        let bytes = blob.finish();
        let btf = Btf::parse(&bytes).unwrap();
        assert_eq!(btf.len(), 5);
        assert!(btf.structure("before").unwrap().is_some());
        assert!(btf.structure("behind").unwrap().is_some());
        assert_eq!(btf.structure("nowhere").unwrap(), None);
        // It costs what needs it.
        let error = btf.structure("with").unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains("kind 20"), "{error}");
    }
    // A kind behind the last one that is stated has the size that fits.
    blob.layouts.pop();
    assert_eq!(Btf::parse(&blob.finish()).unwrap().len(), 5);
    // Layouts outside the blob.
    let mut bytes = blob.finish();
    bytes[27] = 0x7f;
    assert!(matches!(Btf::parse(&bytes), Err(Error::Malformed { .. })));
    // A size that leaves the types.
    blob.layouts.push([0xff, 0xff, 0, 0]);
    let bytes = blob.finish();
    assert!(matches!(Btf::parse(&bytes), Err(Error::Malformed { .. })));
}
