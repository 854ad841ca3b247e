//! Kernel files as small as they can be: real ones may not be committed, and take long to damage in every way.

use std::io::Write;

/// Offset of the payload of [`bzimage`].
const PAYLOAD: usize = 2 * 512 + 0x40;

/// A kernel ELF that holds a vDSO and nothing else: no BTF, and so no symbols.
pub fn vmlinux(vdso: &[u8]) -> Vec<u8> {
    const HEADERS: usize = 64 + 56;
    const NAMES: &[u8] = b"\0.shstrtab\0";
    let at_names = HEADERS + vdso.len();
    let sections = (at_names + NAMES.len()).next_multiple_of(8);
    let mut bytes = Vec::new();
    bytes.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    bytes.extend([2, 0, 62, 0, 1, 0, 0, 0]); // ET_EXEC, EM_X86_64
    put64(&mut bytes, &[0, 64, sections as u64]);
    bytes.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 64, 0, 2, 0, 1, 0]);
    bytes.extend([1, 0, 0, 0, 5, 0, 0, 0]); // PT_LOAD
    let (address, size) = (0xffff_ffff_8100_0000, sections as u64);
    put64(&mut bytes, &[0, address, address, size, size, 0x1000]);
    bytes.extend(vdso);
    bytes.extend(NAMES);
    bytes.resize(sections + 64, 0);
    bytes.extend([1, 0, 0, 0, 3, 0, 0, 0]); // SHT_STRTAB
    put64(
        &mut bytes,
        &[0, 0, at_names as u64, NAMES.len() as u64, 0, 1, 0],
    );
    bytes
}

fn put64(bytes: &mut Vec<u8>, words: &[u64]) {
    bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
}

/// A boot image around a kernel, compressed by gzip.
pub fn bzimage(kernel: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(kernel).expect("memory can be written");
    let payload = encoder.finish().expect("memory can be written");
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
    bytes
}
