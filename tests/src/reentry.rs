//! Re-entry tables, an image that they can be of, and their records in an object.

use std::sync::LazyLock;

use elf_tools::Svma;
use elf_tools::disassembly::Flow;
use elf_tools::image::Image;
use elf_tools::reachability::Code;
use elf_tools::reentry::{
    Call, Clear, Context, Location, Recipe, Recovery, ReentryTable, Register, Source,
};
use elf_tools::relocation::{Relocations, object};
use kernel_fixtures::fixture;

use crate::damage::sealed;

/// An image whose tables are stored.
pub struct Subject {
    /// The image.
    pub image: Image,
    /// Its instructions.
    pub code: Code,
    /// Where calls of local functions return to.
    pub returns: Vec<Svma>,
}

/// The subject of all tests of stored tables: a fixture in which two instructions call what follows them, since compilers
/// leave no call in it.
pub static SUBJECT: LazyLock<Subject> = LazyLock::new(|| {
    let mut bytes = fixture::find("bare").unwrap().image.to_vec();
    let code = Code::of(&Image::parse(&bytes).unwrap()).unwrap();
    let reached = code.functions().iter().flat_map(|f| code.reached(f));
    let wide = reached.filter(|i| i.length == 5 && i.flow == Flow::Next);
    for instruction in wide.take(2) {
        bytes[instruction.address.index()..][..5].copy_from_slice(&[0xe8, 0, 0, 0, 0]);
    }
    let image = Image::parse(&bytes).unwrap();
    let code = Code::of(&image).unwrap();
    let calls = code.instructions().iter();
    let calls = calls.filter(|i| matches!(i.flow, Flow::Call(_)));
    let returns: Vec<Svma> = calls.map(|call| call.end()).collect();
    assert_eq!(returns.len(), 2);
    Subject {
        image,
        code,
        returns,
    }
});

impl Subject {
    /// A table of it as an object.
    pub fn object(&self, table: &ReentryTable) -> Result<Vec<u8>, String> {
        let none = Relocations::default();
        object::write_with_reentry(&none, table, &self.image, &self.code)
            .map_err(|error| error.to_string())
    }

    /// The table in an object, with the digest that it ought to have.
    pub fn read(&self, object: &[u8]) -> Result<Option<ReentryTable>, String> {
        object::read_reentry(&sealed(object), &self.image, &self.code)
            .map_err(|error| error.to_string())
    }

    /// One context for each boundary of each function; what is known of it is asked for by its number.
    pub fn contexts(&self, known: impl Fn(usize) -> (Vec<Call>, bool, Recovery)) -> Vec<Context> {
        let functions = self.code.functions().iter();
        let places = functions.flat_map(|function| {
            let reached = self.code.reached(function);
            reached.map(|instruction| (instruction.address, function.entry))
        });
        let mut places: Vec<_> = places.collect();
        places.sort_unstable();
        let contexts = places.into_iter().enumerate();
        let contexts = contexts.map(|(number, (boundary, function))| {
            let (calls, reads, recovery) = known(number);
            Context {
                boundary,
                function,
                calls,
                reads,
                recovery,
            }
        });
        contexts.collect()
    }
}

/// A value in memory at a register's value.
pub fn memory(base: u8, offset: i64) -> Location {
    let base = Register(base);
    Location::Memory { base, offset }
}

/// One of everything.
pub fn sample() -> ReentryTable {
    let source = |location, low| Source {
        location,
        image: 1,
        constant: -0x5fe0,
        scale: 16,
        low,
    };
    let recipes = vec![
        Recipe {
            registers: vec![
                (Register::RBX, source(memory(7, -8), false)),
                (
                    Register::RDI,
                    source(Location::Register(Register(12)), true),
                ),
                (Register::RSP, source(memory(6, 40), false)),
            ],
            clear: vec![Clear {
                argument: Register::RCX,
                offset: 136,
                size: 1,
            }],
        },
        Recipe::default(),
    ];
    let call = |index: usize, offset| Call {
        at: memory(7, offset),
        returns_to: SUBJECT.returns[index],
    };
    let contexts = SUBJECT.contexts(|number| match number % 4 {
        0 => (vec![call(0, 8), call(1, 24)], true, Recovery::Recipe(0)),
        1 => (vec![call(1, 0)], false, Recovery::Recipe(1)),
        2 => (
            Vec::new(),
            true,
            Recovery::None("it is lost, “for ever”".into()),
        ),
        _ => (Vec::new(), false, Recovery::Recipe(1)),
    });
    ReentryTable { recipes, contexts }
}

/// Where a section of an object is: offset of its header, offset and size of its content.
pub fn section(object: &[u8], name: &str) -> (usize, usize, usize) {
    let word = |at: usize, width: usize| {
        let mut value = [0; 8];
        value[..width].copy_from_slice(&object[at..at + width]);
        u64::from_le_bytes(value) as usize
    };
    let (headers, count, names) = (word(40, 8), word(60, 2), word(62, 2));
    let names = word(headers + names * 64 + 24, 8);
    let header = (0..count).map(|index| headers + index * 64);
    let is_named = |header: &usize| {
        let stored = &object[names + word(*header, 4)..];
        stored.starts_with(name.as_bytes()) && stored[name.len()] == 0
    };
    let header = { header }
        .find(is_named)
        .expect("the object has the section");
    (header, word(header + 24, 8), word(header + 32, 8))
}
