//! BTF of modules.

use super::*;

/// A blob whose types and strings start behind those of another one.
struct Module {
    blob: Blob,
    /// Size of the base's strings.
    strings: u32,
}

impl Module {
    fn over(base: &Blob) -> Self {
        let strings = base.strings.len() as u32;
        let blob = Blob {
            strings: Vec::new(),
            ..Blob::new()
        };
        Self { blob, strings }
    }

    /// `members` are name, type and position in bits.
    fn structure(&mut self, name: &str, size: u32, members: &[(&str, u32, u32)]) {
        let mut string = |text: &str| self.strings + self.blob.string(text);
        let name = string(name);
        let members: Vec<u32> = members
            .iter()
            .flat_map(|&(name, kind, at)| [string(name), kind, at])
            .collect();
        let header = [
            name,
            (kind::STRUCT << 24) | (members.len() as u32 / 3),
            size,
        ];
        let words = header.iter().chain(&members);
        self.blob
            .types
            .extend(words.flat_map(|word| word.to_le_bytes()));
    }
}

/// A kernel's blob with three types, and what a module adds.
fn pair() -> (Blob, Module) {
    let mut base = Blob::new();
    base.add("u64", kind::INT, 0, 8, &[64]); // 1
    base.structure("stamp", 16, 0, &[("sec", 1, 0), ("nsec", 1, 64)]); // 2
    base.structure("size_only", 24, 0, &[]); // 3
    let mut module = Module::over(&base);
    module.structure(
        "clock",
        48,
        &[("seq", 1, 0), ("at", 2, 64), ("rest", 3, 192)],
    ); // 4
    module.structure("pair", 96, &[("first", 4, 0), ("second", 4, 384)]); // 5
    (base, module)
}

#[test]
fn a_module_is_read_over_its_base() {
    let (base, module) = pair();
    let (base, module) = (base.finish(), module.blob.finish());
    let btf = Btf::parse_over(&module, &base).unwrap();
    assert_eq!(btf.len(), 5);
    let pair = btf.structure("pair").unwrap().unwrap();
    let Type::Structure(second) = &pair.member("second").unwrap().kind else {
        panic!("no struct")
    };
    let Type::Structure(at) = &second.member("at").unwrap().kind else {
        panic!("no struct")
    };
    assert_eq!((second.size, at.member("nsec").unwrap().offset), (48, 8));
    // Its base is described as well.
    assert!(btf.structure("stamp").unwrap().is_some());
    assert_eq!(btf.structure("nowhere").unwrap(), None);
}

#[test]
fn a_module_means_nothing_alone_and_is_no_base() {
    let (base, module) = pair();
    let (base, module) = (base.finish(), module.blob.finish());
    for error in [
        Btf::parse(&module).unwrap_err(),
        Btf::parse_over(&base, &module).unwrap_err(),
    ] {
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains("split"), "{error}");
    }
    // Over another kernel it refers to what is not there, or to other types.
    let other = Blob::new().finish();
    let btf = Btf::parse_over(&module, &other).unwrap();
    assert!(btf.structure("pair").is_err() || btf.structure("pair").unwrap().is_none());
}

/// The struct of a distilled base has a size and is no definition.
#[test]
fn a_size_is_no_definition() {
    let (base, mut module) = pair();
    let bytes = base.finish();
    let error = Btf::parse(&bytes)
        .unwrap()
        .structure("size_only")
        .unwrap_err();
    assert!(error.to_string().contains("only its size"), "{error}");
    // Another blob defines it.
    module.structure("size_only", 24, &[("a", 1, 0)]);
    let module = module.blob.finish();
    let btf = Btf::parse_over(&module, &bytes).unwrap();
    assert_eq!(
        btf.structure("size_only").unwrap().unwrap().members.len(),
        1
    );
}

/// Behind a type whose size is not known no id is known, and all of a module's are.
#[test]
fn a_base_that_ends_too_early_is_none() {
    let (mut base, _) = pair();
    base.add("new", 30, 0, 0, &[1]);
    base.add("u32", kind::INT, 0, 4, &[32]);
    base.add("new", 30, 0, 0, &[1, 2]);
    let module = Module::over(&base).blob.finish();
    let error = Btf::parse_over(&module, &base.finish()).unwrap_err();
    assert!(error.to_string().contains("kind 30"), "{error}");
}

#[test]
fn every_flipped_bit_of_a_pair_is_survived() {
    let (base, module) = pair();
    let (base, module) = (base.finish(), module.blob.finish());
    let ask = |module: &[u8], base: &[u8]| {
        if let Ok(btf) = Btf::parse_over(module, base) {
            for name in ["pair", "clock", "stamp", "size_only", ""] {
                let _ = btf.structure(name);
            }
        }
    };
    let flipped = |bytes: &[u8], bit: usize| {
        let mut bytes = bytes.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        bytes
    };
    (0..module.len() * 8).for_each(|bit| ask(&flipped(&module, bit), &base));
    (0..base.len() * 8).for_each(|bit| ask(&module, &flipped(&base, bit)));
}
