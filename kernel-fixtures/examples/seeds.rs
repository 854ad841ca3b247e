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
    put("criu", "bare", &checkpoint("bare"))?;
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

/// A protocol buffer: fields of numbers, and of bytes.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn number(mut self, field: u64, value: u64) -> Self {
        self.varint(field << 3);
        self.varint(value);
        self
    }

    fn bytes(mut self, field: u64, value: &[u8]) -> Self {
        self.varint(field << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend(value);
        self
    }

    fn message(self, field: u64, value: Self) -> Self {
        self.bytes(field, &value.0)
    }
}

/// Images of a task with two threads, one of them inside its vDSO, which is a fixture's: files as the fuzz target wants
/// them, each with its number and length. Field numbers are those of CRIU's messages.
fn checkpoint(fixture: &str) -> Vec<u8> {
    const PAGE: u64 = 0x1000;
    const VDSO: u64 = 0x7fff_f7f0_0000;
    const STACK: u64 = 0x7fff_0000_0000;
    let mut vdso = kernel_fixtures::fixture::find(fixture)
        .expect("built in")
        .image
        .to_vec();
    vdso.resize(vdso.len().next_multiple_of(PAGE as usize), 0);
    let vdso_pages = vdso.len() as u64 / PAGE;
    let new = Message::default;
    let core = |pc: u64, task: bool| {
        let registers = (1..=27).fold(new(), |registers, field| {
            let value = match field {
                16 => u64::MAX,
                17 => pc,
                18 => 0x33,
                20 => STACK + PAGE - 0x800,
                _ => 0,
            };
            registers.number(field, value)
        });
        let core = new().number(1, 1).message(2, new().message(2, registers));
        match task {
            true => core.message(3, new().number(1, 1).bytes(6, b"seed")),
            false => core,
        }
    };
    let mapping = |start: u64, end: u64, protection: u64, status: u64| {
        let range = new().number(1, start).number(2, end).number(3, 0);
        let flags = range.number(4, 0).number(5, protection).number(6, 0x22);
        flags.number(7, status | 1 << 9 | 1)
    };
    let space = new()
        .number(13, 33)
        .number(13, VDSO)
        .message(14, mapping(STACK, STACK + PAGE, 3, 0))
        .message(14, mapping(VDSO - 2 * PAGE, VDSO, 1, 1 << 12))
        .message(14, mapping(VDSO, VDSO + vdso_pages * PAGE, 5, 1 << 3));
    let run = |start: u64, count: u64, flags: u64| {
        let run = new().number(1, start).number(2, 0);
        run.number(4, flags).number(5, count)
    };
    let runs = [
        new().number(1, 1),
        run(STACK, 1, 1),
        run(VDSO, vdso_pages, 4),
    ];
    let older = [new().number(1, 1), run(STACK, 1, 4)];
    let one = |message: Message| vec![message];
    let files = [
        (0, one(new().number(1, 2))),
        (
            1,
            one(new().number(1, 7).number(2, 0).number(5, 7).number(5, 8)),
        ),
        (2, one(core(0x40_0000, true))),
        (3, one(core(VDSO + 0x600, false))),
        (4, one(space)),
        (5, runs.into()),
        (10, older.into()),
    ];
    let mut bytes = Vec::new();
    let mut put = |number: u8, content: &[u8]| {
        bytes.push(number);
        bytes.extend((content.len() as u16).to_le_bytes());
        bytes.extend(content);
    };
    for (number, messages) in files {
        let mut content = Vec::new();
        for message in messages {
            content.extend((message.0.len() as u32).to_le_bytes());
            content.extend(message.0);
        }
        put(number, &content);
    }
    put(6, &vdso);
    put(11, &[0x5a; PAGE as usize]);
    bytes
}
