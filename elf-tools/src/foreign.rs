//! Files that are none of ours, by what they begin with.

/// What a file is that is neither a kernel nor a vDSO, by what it begins with; `None` if nothing
/// tells.
pub(crate) fn foreign(bytes: &[u8]) -> Option<&'static str> {
    const KINDS: [(&[u8], &str); 9] = [
        (
            b"\x9f\xeb\x01",
            "BTF alone, which says how structs are laid out and not where a vDSO reads them: \
             name the kernel that it is of",
        ),
        (b"\xeb\x9f", "big-endian BTF"),
        (
            b"\xd0\x0d\xfe\xed",
            "a flattened device tree, perhaps a FIT image",
        ),
        (b"070701", "an initramfs (cpio)"),
        (b"!<arch>\n", "an archive of object files or a package"),
        (b"MZ", "an EFI or Windows program without a kernel in it"),
        (b"#!", "a script"),
        (b"\xcf\xfa\xed\xfe", "a Mach-O file"),
        (b"CrAU", "an Android update payload"),
    ];
    let mut kinds = KINDS.iter();
    let found = kinds.find(|(magic, _)| bytes.starts_with(magic));
    found.map(|(_, kind)| *kind)
}
