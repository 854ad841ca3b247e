//! Synthetic kernels, as small as kernels can be: real ones may not be committed, and cannot be cut
//! at every offset.

use std::io::Write;

use lzma_rust2::{CheckType, FilterType, LzmaOptions, LzmaWriter, XzOptions, XzWriter};

use super::Class;

/// The release that [`vmlinux`] reports.
pub(super) const RELEASE: &str = "6.99.1-synthetic";

const PAYLOAD: usize = 2 * 512 + 0x40;
const EM_386: u16 = 3;
pub(super) const EM_X86_64: u16 = 62;

/// A little-endian ELF under construction. Only what the readers look at is filled in.
struct Elf {
    class: Class,
    bytes: Vec<u8>,
}

impl Elf {
    fn new(class: Class) -> Self {
        let bytes = Vec::new();
        Self { class, bytes }
    }

    fn half(&mut self, value: u16) {
        self.bytes.extend(value.to_le_bytes());
    }

    fn word(&mut self, value: u32) {
        self.bytes.extend(value.to_le_bytes());
    }

    /// An address, offset or size: as wide as the class says.
    fn wide(&mut self, value: u64) {
        let width = self.by_class(4, 8);
        self.bytes
            .extend(value.to_le_bytes().iter().take(width as usize));
    }

    fn by_class(&self, elf32: u64, elf64: u64) -> u64 {
        match self.class {
            Class::Elf32 => elf32,
            Class::Elf64 => elf64,
        }
    }

    fn header(&mut self, kind: u16, machine: u16, segments: u16, sections: (u64, u16)) {
        let class = self.by_class(1, 2) as u8;
        self.bytes.extend(b"\x7fELF");
        self.bytes.extend([class, 1, 1]);
        self.bytes.resize(16, 0);
        self.half(kind);
        self.half(machine);
        self.word(1);
        self.wide(0);
        self.wide(self.by_class(52, 64));
        self.wide(sections.0);
        self.word(0);
        self.half(self.by_class(52, 64) as u16);
        self.half(self.by_class(32, 56) as u16);
        self.half(segments);
        self.half(self.by_class(40, 64) as u16);
        self.half(sections.1);
        self.half(sections.1.saturating_sub(1));
    }

    fn segment(&mut self, kind: u32, offset: u64, address: u64, size: u64) {
        self.word(kind);
        if self.class == Class::Elf64 {
            self.word(5);
        }
        for value in [offset, address, address, size, size] {
            self.wide(value);
        }
        if self.class == Class::Elf32 {
            self.word(5);
        }
        self.wide(8);
    }

    fn section(&mut self, name: u32, kind: u32, offset: u64, size: u64) {
        self.word(name);
        self.word(kind);
        for value in [0, 0, offset, size] {
            self.wide(value);
        }
        self.word(0);
        self.word(0);
        self.wide(1);
        self.wide(0);
    }
}

/// A vDSO that consists of its name.
pub(super) fn vdso(class: Class, machine: u16, soname: &str) -> Vec<u8> {
    const SECTIONS: u16 = 2;
    let mut elf = Elf::new(class);
    let entry = elf.by_class(4, 8) * 2;
    let strings = elf.by_class(52 + 2 * 32, 64 + 2 * 56);
    let names = format!("\0{soname}\0.shstrtab\0");
    let names_size = names.len() as u64;
    let dynamic = (strings + names_size).next_multiple_of(8);
    let sections = dynamic + 3 * entry;
    elf.header(3, machine, 2, (sections, SECTIONS));
    elf.segment(1, 0, 0, sections);
    elf.segment(2, dynamic, dynamic, 3 * entry);
    elf.bytes.extend(names.bytes());
    elf.bytes.resize(dynamic as usize, 0);
    for value in [5, strings, 14, 1, 0, 0] {
        elf.wide(value);
    }
    elf.section(0, 0, 0, 0);
    elf.section(soname.len() as u32 + 2, 3, strings, names_size);
    elf.bytes
}

/// BTF with one type, an `int` without a name.
pub(super) fn btf() -> Vec<u8> {
    let types: [u32; 4] = [0, 1 << 24, 4, 32];
    let mut bytes = vec![0x9f, 0xeb, 1, 0];
    for word in [24, 0, 16, 16, 5].into_iter().chain(types) {
        bytes.extend(u32::to_le_bytes(word));
    }
    bytes.extend(b"\0int\0");
    bytes
}

/// What a kernel holds, at the places that are returned: 64-bit, x32 and 32-bit vDSO.
fn data(start: usize) -> (Vec<u8>, Vec<u64>) {
    let mut bytes = format!("Linux version %s\0Linux version {RELEASE} (test@)\0").into_bytes();
    // A shared object that is no vDSO, and a magic number on its own, as a kernel with an ELF
    // loader has.
    bytes.extend(vdso(Class::Elf64, EM_X86_64, "libother.so"));
    bytes.extend(b"\x7fELF");
    let vdsos = [
        vdso(Class::Elf64, EM_X86_64, "linux-vdso.so.1"),
        vdso(Class::Elf32, EM_X86_64, "linux-vdsox32.so.1"),
        vdso(Class::Elf32, EM_386, "linux-gate.so.1"),
    ];
    let mut places = Vec::new();
    for vdso in vdsos {
        places.push((start + bytes.len()) as u64);
        bytes.extend(vdso);
        // Padding to pages, in small: the end of an image has to be found, not assumed.
        bytes.extend([0xcc; 7]);
    }
    (bytes, places)
}

/// A kernel ELF, and where in it the vDSOs are.
pub(super) fn vmlinux() -> (Vec<u8>, Vec<u64>) {
    const START: usize = 64 + 56;
    let (data, places) = data(START);
    let (btf, names) = (btf(), b"\0.BTF\0.shstrtab\0");
    let at_btf = START + data.len();
    let at_names = at_btf + btf.len();
    let sections = (at_names + names.len()).next_multiple_of(8);
    let mut elf = Elf::new(Class::Elf64);
    elf.header(2, EM_X86_64, 1, (sections as u64, 3));
    elf.segment(1, 0, 0xffff_ffff_8100_0000, sections as u64);
    elf.bytes.extend(data);
    elf.bytes.extend(&btf);
    elf.bytes.extend(names);
    elf.bytes.resize(sections, 0);
    elf.section(0, 0, 0, 0);
    elf.section(1, 1, at_btf as u64, btf.len() as u64);
    elf.section(6, 3, at_names as u64, names.len() as u64);
    (elf.bytes, places)
}

/// An arm64 `Image`: nothing but a header says what is in it.
pub(super) fn arm64_image() -> Vec<u8> {
    let mut bytes = vec![0; 56];
    bytes.extend(b"ARM\x64\0\0\0\0");
    bytes.extend(data(64).0);
    bytes.extend(vdso(Class::Elf64, 183, "linux-vdso.so.1"));
    bytes.extend(b"\x9f\xeb\x01\0 a magic number without a header");
    bytes.extend(btf());
    bytes
}

/// A bzImage around a payload, with bytes behind it that do not belong to it.
pub(super) fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; PAYLOAD];
    let mut put = |offset: usize, field: &[u8]| {
        bytes[offset..offset + field.len()].copy_from_slice(field);
    };
    put(0x1f1, &[1]);
    put(0x1fe, &[0x55, 0xaa]);
    put(0x202, b"HdrS\x0f\x02");
    put(0x248, &0x40_u32.to_le_bytes());
    put(0x24c, &(payload.len() as u32).to_le_bytes());
    bytes.extend(payload);
    bytes.extend([0x90; 16]);
    bytes
}

/// A zboot file around a payload.
pub(super) fn zboot(payload: &[u8]) -> Vec<u8> {
    let mut bytes = b"MZ\0\0zimg".to_vec();
    bytes.extend(64_u32.to_le_bytes());
    bytes.extend((payload.len() as u32).to_le_bytes());
    bytes.resize(24, 0);
    bytes.extend(b"gzip");
    bytes.resize(64, 0);
    bytes.extend(payload);
    bytes
}

/// Appends the unpacked size, as kernel builds do.
fn with_size(mut packed: Vec<u8>, unpacked: &[u8]) -> Vec<u8> {
    packed.extend((unpacked.len() as u32).to_le_bytes());
    packed
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    let mut encoder = flate2::read::GzEncoder::new(bytes, flate2::Compression::best());
    std::io::copy(&mut encoder, &mut packed).unwrap();
    packed
}

fn small_dictionary() -> LzmaOptions {
    let mut options = LzmaOptions::with_preset(6);
    options.dict_size = 1 << 16;
    options
}

/// With the branch filter that x86 kernels use.
pub(super) fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut options = XzOptions::with_preset(6);
    options.lzma_options = small_dictionary();
    options.set_check_sum_type(CheckType::Crc32);
    options.prepend_pre_filter(FilterType::BcjX86, 0);
    let mut encoder = XzWriter::new(Vec::new(), options).unwrap();
    encoder.write_all(bytes).unwrap();
    with_size(encoder.finish().unwrap(), bytes)
}

pub(super) fn lzma(bytes: &[u8]) -> Vec<u8> {
    let options = small_dictionary();
    let mut encoder = LzmaWriter::new_use_header(Vec::new(), &options, None).unwrap();
    encoder.write_all(bytes).unwrap();
    with_size(encoder.finish().unwrap(), bytes)
}

/// What XZ Utils, whose decoder is written in C, makes of [`calls`]: `xz --check=crc32 --x86
/// --lzma2=dict=64KiB`, and `xz --format=lzma --lzma1=dict=64KiB`.
pub(super) const PACKED_BY_XZ_UTILS: [&[u8]; 2] = [
    &[
        0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00, 0x00, 0x01, 0x69, 0x22, 0xde, 0x36, 0x02, 0x01, 0x04,
        0x00, 0x21, 0x01, 0x08, 0x00, 0xd2, 0xb9, 0x74, 0xcb, 0xe0, 0x00, 0x7c, 0x00, 0x31, 0x5d,
        0x00, 0x2a, 0x92, 0x0d, 0xa4, 0xe4, 0xbe, 0x54, 0x0e, 0xe7, 0x31, 0x47, 0xe2, 0x43, 0x45,
        0x48, 0x87, 0x59, 0xa4, 0x55, 0x78, 0x3e, 0x4b, 0x55, 0x46, 0xe7, 0xe1, 0x40, 0x43, 0x3e,
        0x94, 0x61, 0xc0, 0x36, 0xea, 0xc8, 0x49, 0xbd, 0xc0, 0x34, 0x3d, 0xf2, 0x36, 0x26, 0xb8,
        0x67, 0x37, 0x6d, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xbc, 0x1d, 0x5b, 0x53, 0x00, 0x01,
        0x49, 0x7d, 0xe6, 0x4c, 0x89, 0x2f, 0x90, 0x42, 0x99, 0x0d, 0x01, 0x00, 0x00, 0x00, 0x00,
        0x01, 0x59, 0x5a,
    ],
    &[
        0x5d, 0x00, 0x00, 0x01, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00, 0x2a,
        0x92, 0x0d, 0xa4, 0xe4, 0xbe, 0x30, 0x20, 0xe7, 0x31, 0x47, 0xe2, 0x45, 0x49, 0x30, 0xe9,
        0x9f, 0x18, 0x4a, 0x55, 0xf5, 0x41, 0xc3, 0x6c, 0x18, 0xe4, 0xac, 0xe9, 0xa9, 0x86, 0x92,
        0x8b, 0x26, 0x5e, 0xc1, 0xcb, 0x1b, 0xef, 0x79, 0xe8, 0x78, 0x05, 0xdc, 0xce, 0xcc, 0x4a,
        0x13, 0xb4, 0xfa, 0x07, 0xff, 0xff, 0x41, 0x5c, 0x00, 0x00,
    ],
];

/// Calls of one place, which the branch filter for x86 makes alike.
pub(super) fn calls() -> Vec<u8> {
    let mut bytes = vec![0x55, 0x48, 0x89, 0xe5];
    for call in 0..8 {
        bytes.push(0xe8);
        bytes.extend((0x1000_u32 - 5 * call).to_le_bytes());
        bytes.extend([0x90; 3]);
    }
    bytes.extend(b"Linux version ".repeat(4));
    bytes.push(0xc3);
    bytes
}

pub(super) fn zstd(bytes: &[u8]) -> Vec<u8> {
    let level = ruzstd::encoding::CompressionLevel::Fastest;
    with_size(ruzstd::encoding::compress_to_vec(bytes, level), bytes)
}

pub(super) fn lz4(bytes: &[u8]) -> Vec<u8> {
    let mut packed = b"\x02\x21\x4c\x18".to_vec();
    for block in bytes.chunks(8 << 20) {
        let block = lz4_flex::block::compress(block);
        packed.extend((block.len() as u32).to_le_bytes());
        packed.extend(block);
    }
    with_size(packed, bytes)
}
