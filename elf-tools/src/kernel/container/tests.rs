//! Containers as their tools make them, as far as readers look, intact and damaged.

use super::super::fixture;
use super::super::{Compression, Format, KernelFile, is_kernel_file};
use super::*;
use crate::foreign::foreign;

/// An EFI program with two sections, of which the second is the kernel.
fn uki(kernel: &[u8]) -> Vec<u8> {
    const FIRST: u32 = 0x400;
    let mut file = b"MZ".to_vec();
    file.resize(0x3c, 0);
    file.extend(0x40_u32.to_le_bytes());
    file.extend(b"PE\0\0");
    // x86-64, two sections, no symbols, 240 bytes of optional header, an executable.
    file.extend(0x8664_u16.to_le_bytes());
    file.extend(2_u16.to_le_bytes());
    file.extend([0; 12]);
    file.extend(240_u16.to_le_bytes());
    file.extend(0x22_u16.to_le_bytes());
    let optional = file.len();
    file.extend(0x20b_u16.to_le_bytes());
    file.resize(optional + 108, 0);
    // Sixteen directories, all empty.
    file.extend(16_u32.to_le_bytes());
    file.resize(optional + 240, 0);
    let padded = (kernel.len() as u32).next_multiple_of(0x200);
    for (name, used, stored, at) in [
        (b".cmdline", 5, 0x200, FIRST),
        (b".linux\0\0", kernel.len() as u32, padded, FIRST + 0x200),
    ] {
        file.extend(name);
        for word in [used, 0x1000, stored, at, 0, 0, 0, 0x4000_0040] {
            file.extend(word.to_le_bytes());
        }
    }
    file.resize(FIRST as usize, 0);
    file.extend(b"quiet");
    file.resize(FIRST as usize + 0x200, 0);
    file.extend(kernel);
    file.resize((FIRST + 0x200 + padded) as usize, 0);
    file
}

fn android(kernel: &[u8], version: u32) -> Vec<u8> {
    let page: u32 = if version < 3 { 2048 } else { 4096 };
    let mut file = b"ANDROID!".to_vec();
    file.extend((kernel.len() as u32).to_le_bytes());
    file.resize(36, 0);
    // From version 3 on no page size is here.
    file.extend(if version < 3 { page } else { 0 }.to_le_bytes());
    file.extend(version.to_le_bytes());
    file.resize(page as usize, 0);
    file.extend(kernel);
    file.resize(file.len().next_multiple_of(page as usize), 0);
    file.extend(b"an initramfs");
    file
}

fn uimage(kernel: &[u8]) -> Vec<u8> {
    let mut file = UIMAGE.to_vec();
    file.resize(12, 0);
    file.extend((kernel.len() as u32).to_be_bytes());
    file.resize(64, 0);
    file.extend(kernel);
    file
}

type Pack = fn(&[u8]) -> Vec<u8>;

const PACKERS: [(Container, Pack); 4] = [
    (Container::Uki, uki),
    (Container::AndroidBoot, |kernel| android(kernel, 2)),
    (Container::AndroidBoot, |kernel| android(kernel, 4)),
    (Container::UImage, uimage),
];

#[test]
fn what_is_in_a_container_is_read() {
    let vmlinux = fixture::vmlinux().0;
    let kernels = [
        fixture::bzimage(&fixture::zstd(&vmlinux)),
        fixture::gzip(&fixture::arm64_image()),
        vmlinux,
    ];
    for kernel in kernels {
        let alone = KernelFile::parse(&kernel).unwrap();
        assert_eq!(alone.container, None);
        for (container, pack) in PACKERS {
            let file = pack(&kernel);
            assert!(is_kernel_file(&file), "{container}");
            let found = KernelFile::parse(&file).unwrap();
            assert_eq!(found.container, Some(container));
            assert_eq!(
                (found.format, &found.vmlinux),
                (alone.format, &alone.vmlinux)
            );
            assert_eq!(found.vdsos.len(), alone.vdsos.len());
        }
    }
    let compression = Compression::Gzip;
    let file = uimage(&fixture::gzip(&fixture::arm64_image()));
    let format = KernelFile::parse(&file).unwrap().format;
    assert_eq!(format, Format::Arm64Image { compression });
}

#[test]
fn a_container_that_is_cut_off_says_so() {
    let kernel = fixture::bzimage(&fixture::vmlinux().0);
    for (container, pack) in PACKERS {
        let file = pack(&kernel);
        for length in (0..kernel.len()).step_by(61) {
            // Short of everything, or damaged: an error, and no panic.
            KernelFile::parse(&file[..length]).unwrap_err();
        }
        let mut empty = pack(b"");
        empty.truncate(empty.len().min(0x600));
        KernelFile::parse(&empty).unwrap_err();
        // A size that no file has.
        let mut huge = pack(&kernel);
        let at = match container {
            Container::Uki => continue,
            Container::AndroidBoot => 8,
            Container::UImage => 12,
        };
        huge[at..at + 4].fill(0xff);
        let error = KernelFile::parse(&huge).unwrap_err().to_string();
        assert!(error.contains("in a file of"), "{container}: {error}");
    }
}

#[test]
fn a_container_with_something_else_names_that() {
    for (_, pack) in PACKERS {
        let error = KernelFile::parse(&pack(b"070701 an initramfs")).unwrap_err();
        assert!(error.to_string().contains("cpio"), "{error}");
    }
}

#[test]
fn files_that_are_none_of_ours_are_named() {
    for (bytes, word) in [
        (&fixture::btf()[..], "BTF alone"),
        (b"\xd0\x0d\xfe\xed\0\0", "FIT"),
        (b"070701", "cpio"),
        (b"!<arch>\ndebian-binary", "archive"),
        (b"MZ\x90\0", "EFI"),
        (b"#!/bin/sh", "script"),
    ] {
        assert!(!is_kernel_file(bytes), "{word}");
        for error in [
            KernelFile::parse(bytes).unwrap_err().to_string(),
            crate::image::Image::parse(&[bytes, &[0; 64]].concat())
                .unwrap_err()
                .to_string(),
        ] {
            assert!(error.contains(word), "{error}");
        }
    }
    assert_eq!(foreign(b"anything"), None);
}
