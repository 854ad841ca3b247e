//! Blobs are built by hand, so that each one shows exactly one property of the format.

use proptest::prelude::*;

use super::*;

/// Writes a blob type by type. Ids count from 1, in the order of calls.
#[derive(Clone)]
struct Blob {
    big_endian: bool,
    types: Vec<u8>,
    strings: Vec<u8>,
    /// Of kinds from 0 on; the header has no field for them if there are none.
    layouts: Vec<[u8; 4]>,
}

const FLAG: u32 = 1 << 31;

impl Blob {
    fn new() -> Self {
        Self {
            big_endian: false,
            types: Vec::new(),
            strings: vec![0],
            layouts: Vec::new(),
        }
    }

    /// Turns the order of bytes around, of types that are made of words only.
    fn swap_types(&mut self) {
        self.big_endian = !self.big_endian;
        self.types.chunks_exact_mut(4).for_each(<[u8]>::reverse);
    }

    fn word(&self, value: u32) -> [u8; 4] {
        if self.big_endian {
            value.to_be_bytes()
        } else {
            value.to_le_bytes()
        }
    }

    fn string(&mut self, text: &str) -> u32 {
        if text.is_empty() {
            return 0;
        }
        let offset = self.strings.len() as u32;
        self.strings.extend(text.as_bytes());
        self.strings.push(0);
        offset
    }

    fn add(&mut self, name: &str, kind: u32, info: u32, size_or_type: u32, trailing: &[u32]) {
        let name = self.string(name);
        for value in [name, (kind << 24) | info, size_or_type]
            .iter()
            .chain(trailing)
        {
            self.types.extend(self.word(*value));
        }
    }

    /// `members` are name, type and position in bits.
    fn structure(&mut self, name: &str, size: u32, flag: u32, members: &[(&str, u32, u32)]) {
        let trailing: Vec<u32> = members
            .iter()
            .flat_map(|&(n, t, at)| [self.string(n), t, at])
            .collect();
        self.add(
            name,
            kind::STRUCT,
            members.len() as u32 | flag,
            size,
            &trailing,
        );
    }

    fn finish(&self) -> Vec<u8> {
        let magic = if self.big_endian {
            MAGIC.to_be_bytes()
        } else {
            MAGIC.to_le_bytes()
        };
        let mut bytes = vec![magic[0], magic[1], 1, 0];
        let (types, strings) = (self.types.len() as u32, self.strings.len() as u32);
        let layouts = 4 * self.layouts.len() as u32;
        let header = match layouts {
            0 => vec![24, 0, types, types, strings],
            _ => vec![32, 0, types, types, strings, types + strings, layouts],
        };
        for value in header {
            bytes.extend(self.word(value));
        }
        bytes.extend(&self.types);
        bytes.extend(&self.strings);
        bytes.extend(self.layouts.as_flattened());
        bytes
    }
}

/// Every kind that a kernel's BTF has, around a struct in the shape of `vdso_data`.
fn every_kind(big_endian: bool) -> Vec<u8> {
    let mut blob = Blob {
        big_endian,
        ..Blob::new()
    };
    blob.add("u32", kind::INT, 0, 4, &[32]); // 1
    blob.add("u64", kind::INT, 0, 8, &[64]); // 2
    blob.add("", kind::PTR, 0, 1, &[]); // 3
    blob.structure("stamp", 16, 0, &[("sec", 2, 0), ("nsec", 12, 64)]); // 4
    blob.add("", kind::ARRAY, 0, 0, &[4, 1, 12]); // 5
    blob.structure("", 192, 0, &[("basetime", 5, 0), ("offset", 5, 0)]); // 6, anonymous
    let name = blob.string("A");
    blob.add("mode", kind::ENUM, 1 | FLAG, 4, &[name, -2i32 as u32]); // 7
    let name = blob.string("B");
    blob.add("wide", kind::ENUM64, 1, 8, &[name, 1, 0x8000_0000]); // 8
    blob.add("", kind::VOLATILE, 0, 2, &[]); // 9
    blob.add("", kind::CONST, 0, 9, &[]); // 10
    blob.add("tag", kind::TYPE_TAG, 0, 10, &[]); // 11
    blob.add("ktime", kind::TYPEDEF, 0, 11, &[]); // 12
    blob.add("forward", 7, 0, 0, &[]);
    blob.add("", 13, 1, 1, &[0, 1]); // function prototype
    blob.add("function", 12, 0, 14, &[]);
    blob.add("variable", 14, 0, 1, &[1]);
    blob.add("section", 15, 1, 4, &[16, 0, 4]);
    blob.add("double", kind::FLOAT, 0, 8, &[]); // 18
    blob.add("decl", 17, 0, 4, &[0]);
    blob.add("", kind::RESTRICT, 0, 3, &[]); // 20
    blob.structure(
        "data",
        240,
        0,
        &[
            ("seq", 1, 0),
            ("mode", 7, 32),
            ("", 6, 64),
            ("next", 20, 1600),
            ("real", 18, 1664),
            ("wide", 8, 1728),
        ],
    ); // 21
    blob.finish()
}

fn scalar(size: u64) -> Type {
    Type::Scalar { size }
}

#[test]
fn members_are_found_in_both_byte_orders() {
    for big_endian in [false, true] {
        let bytes = every_kind(big_endian);
        let btf = Btf::parse(&bytes).unwrap();
        assert_eq!(btf.len(), 21);
        let data = btf.structure("data").unwrap().unwrap();
        assert_eq!(data.size, 240);
        let places: Vec<_> = data
            .members
            .iter()
            .map(|m| (m.name.as_str(), m.offset, m.kind.size()))
            .collect();
        assert_eq!(
            places,
            [
                ("seq", 0, 4),
                ("mode", 4, 4),
                ("basetime", 8, 192),
                ("offset", 8, 192),
                ("next", 200, 8),
                ("real", 208, 8),
                ("wide", 216, 8)
            ]
        );
        let Type::Array { element, count: 12 } = &data.member("basetime").unwrap().kind else {
            panic!("no array")
        };
        let Type::Structure(stamp) = element.as_ref() else {
            panic!("no struct")
        };
        assert_eq!((stamp.size, stamp.member("nsec").unwrap().offset), (16, 8));
    }
}

#[test]
fn enumerators_keep_their_sign_and_width() {
    let bytes = every_kind(false);
    let btf = Btf::parse(&bytes).unwrap();
    assert_eq!(
        btf.enumeration("mode").unwrap().unwrap(),
        [("A".to_owned(), -2)]
    );
    assert_eq!(
        btf.enumeration("wide").unwrap().unwrap(),
        [("B".to_owned(), i64::MIN + 1)]
    );
    assert_eq!(btf.enumeration("data").unwrap(), None);
    assert_eq!(btf.structure("mode").unwrap(), None);
    // A forward declaration defines nothing.
    assert_eq!(btf.structure("forward").unwrap(), None);
    // Names match as a whole.
    assert_eq!(btf.structure("dat").unwrap(), None);
    assert_eq!(
        btf.structure("").unwrap().map(|anonymous| anonymous.size),
        Some(192)
    );
}

#[test]
fn bitfields_are_reported_as_such() {
    let mut blob = Blob::new();
    blob.add("u32", kind::INT, 0, 4, &[32]);
    blob.structure(
        "flags",
        8,
        FLAG,
        &[("a", 1, 3 << 24), ("b", 1, (5 << 24) | 11), ("c", 1, 32)],
    );
    let bytes = blob.finish();
    let flags = Btf::parse(&bytes)
        .unwrap()
        .structure("flags")
        .unwrap()
        .unwrap();
    let field = |first_bit, bits| Type::Bitfield { first_bit, bits };
    assert_eq!(
        flags.members[0],
        Member {
            name: "a".into(),
            offset: 0,
            kind: field(0, 3)
        }
    );
    assert_eq!(
        flags.members[1],
        Member {
            name: "b".into(),
            offset: 1,
            kind: field(3, 5)
        }
    );
    assert_eq!(
        flags.members[2],
        Member {
            name: "c".into(),
            offset: 4,
            kind: scalar(4)
        }
    );
}

#[test]
fn definitions_that_differ_are_ambiguous() {
    let mut blob = Blob::new();
    blob.add("u32", kind::INT, 0, 4, &[32]);
    blob.structure("same", 4, 0, &[("a", 1, 0)]);
    blob.structure("same", 4, 0, &[("a", 1, 0)]);
    blob.structure("other", 4, 0, &[("a", 1, 0)]);
    blob.structure("other", 8, 0, &[("a", 1, 32)]);
    let bytes = blob.finish();
    let btf = Btf::parse(&bytes).unwrap();
    assert!(btf.structure("same").unwrap().is_some());
    assert!(matches!(
        btf.structure("other"),
        Err(Error::Unsupported { .. })
    ));
}

/// What is wrong, and how to describe it.
type Case = (&'static str, fn(&mut Blob));

#[test]
fn hostile_types_are_errors_with_an_offset() {
    let cases: [Case; 10] = [
        ("struct in itself", |blob| {
            blob.structure("s", 8, 0, &[("a", 1, 0)])
        }),
        ("cyclic typedefs", |blob| {
            blob.structure("s", 8, 0, &[("a", 2, 0)]);
            blob.add("t", kind::TYPEDEF, 0, 3, &[]);
            blob.add("t", kind::TYPEDEF, 0, 2, &[]);
        }),
        ("array of itself", |blob| {
            blob.structure("s", 8, 0, &[("a", 2, 0)]);
            blob.add("", kind::ARRAY, 0, 0, &[2, 2, 1]);
        }),
        ("array without end", |blob| {
            blob.structure("s", 8, 0, &[("a", 2, 0)]);
            blob.add("", kind::ARRAY, 0, 0, &[3, 3, u32::MAX]);
            blob.add("", kind::ARRAY, 0, 0, &[4, 4, u32::MAX]);
            blob.add("u64", kind::INT, 0, 8, &[64]);
        }),
        ("type out of range", |blob| {
            blob.structure("s", 8, 0, &[("a", 9, 0)])
        }),
        ("void member", |blob| {
            blob.structure("s", 8, 0, &[("a", 0, 0)])
        }),
        ("function as a member", |blob| {
            blob.structure("s", 8, 0, &[("a", 2, 0)]);
            blob.add("f", 12, 0, 1, &[]);
        }),
        ("member outside its struct", |blob| {
            blob.structure("s", 8, 0, &[("a", 2, 64)]);
            blob.add("u64", kind::INT, 0, 8, &[64]);
        }),
        ("half a byte", |blob| {
            blob.structure("s", 8, 0, &[("a", 2, 4)]);
            blob.add("u8", kind::INT, 0, 1, &[8]);
        }),
        ("name out of range", |blob| {
            let name = blob.string("s");
            blob.types.extend(
                [name, (kind::STRUCT << 24) | 1, 8, u32::MAX, 2, 0]
                    .map(u32::to_le_bytes)
                    .concat(),
            );
            blob.add("u8", kind::INT, 0, 1, &[8]);
        }),
    ];
    for (what, build) in cases {
        let mut blob = Blob::new();
        build(&mut blob);
        let bytes = blob.finish();
        let error = Btf::parse(&bytes).unwrap().structure("s").unwrap_err();
        assert!(matches!(error, Error::Malformed { .. }), "{what}: {error}");
    }
}

#[test]
fn expansion_is_bounded() {
    // Each struct holds the next one twice: 2^40 members if nobody counts them.
    let mut blob = Blob::new();
    for id in 0..30 {
        blob.structure(
            &format!("s{id}"),
            0,
            0,
            &[("a", id + 2, 0), ("b", id + 2, 0)],
        );
    }
    blob.structure("end", 0, 0, &[]);
    let bytes = blob.finish();
    let error = Btf::parse(&bytes).unwrap().structure("s0").unwrap_err();
    assert!(error.to_string().contains("members"), "{error}");

    let mut blob = Blob::new();
    for id in 0..100 {
        blob.structure(&format!("s{id}"), 0, 0, &[("a", id + 2, 0)]);
    }
    let bytes = blob.finish();
    let error = Btf::parse(&bytes).unwrap().structure("s0").unwrap_err();
    assert!(error.to_string().contains("deeper"), "{error}");
}

#[test]
fn broken_headers_are_refused() {
    let good = every_kind(false);
    assert!(Btf::parse(&[]).is_err());
    assert!(Btf::parse(b"\x7fELF").is_err());
    for length in 0..good.len() {
        assert!(Btf::parse(&good[..length]).is_err(), "cut at {length}");
    }
    for (at, value) in [
        (2, 2u8),
        (4, 23),
        (8, 0xff),
        (12, 0xff),
        (15, 0xff),
        (19, 0xff),
        (23, 0x7f),
    ] {
        let mut bytes = good.clone();
        bytes[at] = value;
        assert!(Btf::parse(&bytes).is_err(), "byte {at}");
    }
}

fn ask_everything(bytes: &[u8]) {
    let Ok(btf) = Btf::parse(bytes) else { return };
    for name in ["data", "stamp", "", "flags"] {
        if let Ok(Some(structure)) = btf.structure(name) {
            assert!(
                structure
                    .members
                    .iter()
                    .all(|m| m.offset + m.kind.size() <= structure.size)
            );
        }
    }
    for name in ["mode", "wide"] {
        let _ = btf.enumeration(name);
    }
}

#[test]
fn every_flipped_bit_is_survived() {
    let good = every_kind(false);
    for bit in 0..good.len() * 8 {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        ask_everything(&bytes);
    }
}

proptest! {
    #[test]
    fn random_damage_is_survived(damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20)) {
        let mut bytes = every_kind(false);
        for (index, value) in damage {
            let at = index.index(bytes.len());
            bytes[at] = value;
        }
        ask_everything(&bytes);
    }

    #[test]
    fn random_bytes_are_survived(tail in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut bytes = every_kind(false);
        bytes.truncate(24);
        bytes.extend(tail);
        ask_everything(&bytes);
    }
}

mod split;
mod unknown;
