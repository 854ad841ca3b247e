//! Every container with every compression, intact and damaged.

use super::fixture::{self, EM_X86_64, RELEASE};
use super::*;

type Pack = fn(&[u8]) -> Vec<u8>;

const PACKERS: [(Compression, Pack); 6] = [
    (Compression::None, |bytes| bytes.to_vec()),
    (Compression::Gzip, fixture::gzip),
    (Compression::Xz, fixture::xz),
    (Compression::Zstd, fixture::zstd),
    (Compression::Lz4, fixture::lz4),
    (Compression::Lzma, fixture::lzma),
];

#[track_caller]
fn assert_is_the_fixture(kernel: &KernelFile) {
    let (vmlinux, places) = fixture::vmlinux();
    assert_eq!(kernel.vmlinux, vmlinux);
    assert_eq!(kernel.machine, Some(Machine::X86_64));
    assert_eq!(kernel.release.as_deref(), Some(RELEASE));
    assert_eq!(kernel.btf.as_deref(), Some(fixture::btf().as_slice()));
    let found: Vec<u64> = kernel.vdsos.iter().map(|vdso| vdso.offset).collect();
    assert_eq!(found, places);
    let expected = fixture::vdso(Class::Elf64, EM_X86_64, "linux-vdso.so.1");
    assert_eq!(kernel.native_vdso().unwrap().bytes, expected);
    assert_eq!(kernel.vdsos[1].class, Class::Elf32);
    assert_eq!(kernel.vdsos[1].machine, Machine::X86_64);
    assert_eq!(kernel.vdsos[2].machine, Machine::X86);
}

#[test]
fn bzimage_of_every_compression() {
    for (compression, pack) in PACKERS {
        let file = fixture::bzimage(&pack(&fixture::vmlinux().0));
        let kernel = KernelFile::parse(&file).unwrap();
        assert_eq!(kernel.format, Format::BzImage { compression });
        assert_is_the_fixture(&kernel);
        assert!(is_kernel_file(&file));
    }
}

#[test]
fn vmlinux_of_every_compression() {
    for (compression, pack) in PACKERS {
        let file = pack(&fixture::vmlinux().0);
        let kernel = KernelFile::parse(&file).unwrap();
        assert_eq!(kernel.format, Format::Vmlinux { compression });
        assert_is_the_fixture(&kernel);
        assert!(is_kernel_file(&file));
    }
}

/// Our test kernels are packed by the library that unpacks them; this is another one's work.
#[test]
fn what_xz_utils_packs_is_unpacked() {
    let names = [Compression::Xz, Compression::Lzma];
    for (packed, name) in fixture::PACKED_BY_XZ_UTILS.into_iter().zip(names) {
        // Behind it is what a kernel build appends.
        let bytes = [packed, &[0x7d, 0, 0, 0]].concat();
        let payload = decompress::Payload {
            bytes: &bytes,
            offset: 0,
        };
        assert_eq!(payload.unpack(), Ok((name, fixture::calls())));
    }
}

/// A dictionary of 1 GiB is more than a decoder may have.
#[test]
fn decoders_have_a_limit() {
    let mut packed = fixture::PACKED_BY_XZ_UTILS[1].to_vec();
    packed[1..5].copy_from_slice(&(1_u32 << 30).to_le_bytes());
    let payload = decompress::Payload {
        bytes: &packed,
        offset: 0,
    };
    let error = payload.unpack().unwrap_err().to_string();
    assert!(error.contains("memory"), "{error}");
}

/// The last block of an LZ4 frame is told by its size; here one full block comes before it.
#[test]
fn lz4_of_more_than_one_block() {
    let mut vmlinux = fixture::vmlinux().0;
    vmlinux.resize((8 << 20) + 5, 0);
    for vmlinux in [&vmlinux[..], &vmlinux[..8 << 20]] {
        let kernel = KernelFile::parse(&fixture::bzimage(&fixture::lz4(vmlinux))).unwrap();
        assert_eq!(kernel.vmlinux, vmlinux);
    }
}

#[test]
fn arm64_image_raw_compressed_and_in_zboot() {
    let image = fixture::arm64_image();
    let expected = fixture::vdso(Class::Elf64, 183, "linux-vdso.so.1");
    let zboot = |compression| Format::Zboot { compression };
    let plain = |compression| Format::Arm64Image { compression };
    for (file, format) in [
        (image.clone(), plain(Compression::None)),
        (fixture::gzip(&image), plain(Compression::Gzip)),
        (
            fixture::zboot(&fixture::gzip(&image)),
            zboot(Compression::Gzip),
        ),
        (
            fixture::zboot(&fixture::zstd(&image)),
            zboot(Compression::Zstd),
        ),
    ] {
        assert!(is_kernel_file(&file));
        let kernel = KernelFile::parse(&file).unwrap();
        assert_eq!(kernel.format, format);
        assert_eq!(kernel.machine, Some(Machine::Aarch64));
        assert_eq!(kernel.native_vdso().unwrap().bytes, expected);
        assert_eq!(kernel.btf.as_deref(), Some(fixture::btf().as_slice()));
    }
}

#[test]
fn a_bare_vdso_is_not_a_kernel_file() {
    let vdso = fixture::vdso(Class::Elf64, EM_X86_64, "linux-vdso.so.1");
    assert!(!is_kernel_file(&vdso));
    let error = KernelFile::parse(&vdso).unwrap_err();
    assert!(error.to_string().contains("a bare vDSO image"), "{error}");
    assert!(!is_kernel_file(b"#!/bin/sh\n"));
    assert!(KernelFile::parse(b"").is_err());
}

#[test]
fn a_kernel_without_a_native_vdso_says_what_it_has() {
    let mut file = fixture::vmlinux().0;
    let name = memchr::memmem::find(&file, b"linux-vdso.so.1").unwrap();
    file[name] = b'L';
    let kernel = KernelFile::parse(&file).unwrap();
    let error = kernel.native_vdso().unwrap_err().to_string();
    assert!(error.contains("32-bit x86 ("), "{error}");
}

#[test]
fn errors_name_format_and_offset() {
    let mut file = fixture::bzimage(&fixture::gzip(&fixture::vmlinux().0));
    let middle = 0x440 + 200;
    file[middle] ^= 0xff;
    let error = KernelFile::parse(&file).unwrap_err();
    let Error::Malformed { what, offset, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(what, "gzip data");
    assert!(offset >= 0x440 && offset < file.len() as u64, "{offset:#x}");

    file[0x206] = 7;
    let error = KernelFile::parse(&file).unwrap_err().to_string();
    assert!(error.contains("protocol 2.07"), "{error}");

    for magic in ["BZh91AY", "\u{89}LZO"] {
        let error = KernelFile::parse(&fixture::bzimage(magic.as_bytes())).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    }
}

#[test]
fn a_truncated_bzimage_is_an_error_at_every_length() {
    for (compression, pack) in PACKERS {
        let packed = pack(&fixture::vmlinux().0);
        let file = fixture::bzimage(&packed);
        for length in 0..file.len() - 16 {
            let result = KernelFile::parse(&file[..length]);
            assert!(result.is_err(), "{compression} cut at {length:#x}");
        }
        // With a header that matches the shorter payload, only the size word at its end can be
        // missed.
        for length in 0..packed.len() - 4 {
            let result = KernelFile::parse(&fixture::bzimage(&packed[..length]));
            assert!(result.is_err(), "{compression} payload cut at {length:#x}");
        }
    }
}

/// BTF that is damaged, or that of a module, costs itself.
#[test]
fn a_kernel_with_unreadable_btf_is_a_kernel() {
    let (vmlinux, _) = fixture::vmlinux();
    let btf = fixture::btf();
    let at = vmlinux.windows(btf.len()).position(|bytes| bytes == btf);
    // The magic number, the version, the extent of types, the first string.
    for (offset, value) in [(0, 0), (2, 9), (15, 0xff), (btf.len() - 5, b'x')] {
        let mut damaged = vmlinux.clone();
        damaged[at.unwrap() + offset] = value;
        let kernel = KernelFile::parse(&damaged).unwrap();
        assert_eq!(kernel.btf, None, "{offset}");
        assert!(matches!(kernel.btf_fault, Some(Error::Malformed { .. })));
        assert!(kernel.native_vdso().is_ok());
    }
    assert_eq!(KernelFile::parse(&vmlinux).unwrap().btf_fault, None);
}

#[test]
fn damaged_bytes_never_panic() {
    for (_, pack) in PACKERS {
        let file = fixture::bzimage(&pack(&fixture::vmlinux().0));
        damage_every_byte(&file);
    }
    damage_every_byte(&fixture::zboot(&fixture::gzip(&fixture::arm64_image())));
    damage_every_byte(&fixture::arm64_image());
}

/// Damages one byte at a time, by one bit and by all of them.
fn damage_every_byte(file: &[u8]) {
    let mut damaged = file.to_vec();
    for (index, &byte) in file.iter().enumerate() {
        for flip in [1 << (index % 8), 0xff] {
            damaged[index] = byte ^ flip;
            // Whether it is noticed depends on what the byte is for; only panics and hangs are
            // excluded.
            let _ = KernelFile::parse(&damaged).map(|kernel| kernel.native_vdso().is_ok());
            let _ = is_kernel_file(&damaged);
        }
        damaged[index] = byte;
    }
}
