//! What the address space of a restored program looks like from outside.

use std::collections::BTreeMap;
use std::fs;

use elf_tools::Avma;
use elf_tools::image::Image;
use nix::libc;
use procfs::process::{MMPermissions, MMapPath, MemoryMap, Process};
use relocator::criu::{self, Mark};
use relocator_tests::bed::{Bed, Restored};
use relocator_tests::running::RUNNING;
use relocator_tests::trials::ensure;

use crate::io;

pub(crate) fn maps(pid: i32) -> Result<Vec<MemoryMap>, String> {
    let maps = Process::new(pid).and_then(|process| process.maps());
    let maps = maps.map_err(|error| error.to_string())?;
    Ok(maps.into_iter().collect())
}

/// Memory as a debugger reads it.
fn memory(pid: i32, at: Avma, size: usize) -> Result<Vec<u8>, String> {
    use std::os::unix::fs::FileExt;
    let mut bytes = vec![0; size];
    let file = fs::File::open(format!("/proc/{pid}/mem")).map_err(io)?;
    file.read_exact_at(&mut bytes, at.0).map_err(io)?;
    Ok(bytes)
}

/// What a restore leaves: old text and zeros without a name, the kernel's mappings elsewhere in their order, and nothing
/// that can be written and executed.
pub(crate) fn looks_restored(bed: &Bed, restored: &Restored) -> Result<(), String> {
    let maps = maps(restored.pid())?;
    let both = MMPermissions::WRITE | MMPermissions::EXECUTE;
    let writable = maps.iter().find(|map| map.perms.contains(both));
    ensure(writable.is_none(), || format!("{writable:?}"))?;
    let (read, execute) = (MMPermissions::READ, MMPermissions::EXECUTE);
    let expected = [
        (&restored.zeros, read | MMPermissions::PRIVATE),
        (&restored.text, read | execute | MMPermissions::PRIVATE),
    ];
    for (range, permissions) in expected {
        let found = maps
            .iter()
            .find(|map| map.address == (range.start.0, range.end.0));
        let is_right = found.is_some_and(|map| {
            map.perms == permissions && map.pathname == MMapPath::Anonymous && map.inode == 0
        });
        ensure(is_right, || format!("{range:?}: {found:?}"))?;
    }
    let zeros = (restored.zeros.end.0 - restored.zeros.start.0) as usize;
    let zeros = memory(restored.pid(), restored.zeros.start, zeros)?;
    ensure(zeros.iter().all(|&byte| byte == 0), || {
        "no zeros".to_owned()
    })?;
    ensure(
        zeros.len() as u64 == bed.old.vvar_size && restored.zeros.end == restored.text.start,
        || format!("{restored:?}"),
    )?;
    is_parked(bed, restored, &maps)?;
    auxiliary_vector_agrees(restored)?;
    is_patched(bed, restored)
}

/// The kernel's mappings are as far from each other as in this process, and begin where they were to be.
fn is_parked(bed: &Bed, restored: &Restored, maps: &[MemoryMap]) -> Result<(), String> {
    let unit = |maps: &[MemoryMap]| -> Vec<(String, u64, u64)> {
        let ours = maps.iter().filter_map(|map| {
            let name = match &map.pathname {
                MMapPath::Vvar => "vvar",
                MMapPath::Vdso => "vdso",
                MMapPath::Other(name) if name.contains("vvar_vclock") => "vvar_vclock",
                _ => return None,
            };
            Some((name.to_owned(), map.address.0, map.address.1))
        });
        ours.collect()
    };
    let distances = |unit: &[(String, u64, u64)]| -> Vec<(String, u64, u64)> {
        let start = unit.first().map_or(0, |first| first.1);
        let from =
            |(name, begin, end): &(String, u64, u64)| (name.clone(), begin - start, end - start);
        unit.iter().map(from).collect()
    };
    let own = self::maps(std::process::id().cast_signed())?;
    let found = unit(maps);
    ensure(distances(&found) == distances(&unit(&own)), || {
        format!("{found:x?}")
    })?;
    let starts: Vec<u64> = restored
        .parked
        .iter()
        .map(|mapping| mapping.start.0)
        .collect();
    let found: Vec<u64> = found.iter().map(|mapping| mapping.1).collect();
    ensure(
        found == starts && starts.first() == Some(&bed.park.0),
        || format!("{found:x?}, {starts:x?}"),
    )
}

fn auxiliary_vector_agrees(restored: &Restored) -> Result<(), String> {
    // A kernel may not let it be changed; the program itself, which is asked by calling, sees the one on its stack.
    if let Err(error) = &restored.auxv {
        return Err(relocator::in_words(error));
    }
    let bytes = fs::read(format!("/proc/{}/auxv", restored.pid())).map_err(io)?;
    let words = bytes.chunks_exact(8).map(|word| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(word);
        u64::from_le_bytes(bytes)
    });
    let words: Vec<u64> = words.collect();
    let entries: BTreeMap<u64, u64> = words.chunks_exact(2).map(|two| (two[0], two[1])).collect();
    let own = fs::read("/proc/self/auxv").map_err(io)?;
    ensure(bytes.len() == own.len(), || {
        format!("{} bytes", bytes.len())
    })?;
    let found = entries.get(&libc::AT_SYSINFO_EHDR);
    ensure(found == Some(&restored.text.start.0), || {
        format!("{entries:x?}")
    })
}

/// Entries lead where they should, and the rest of the text is as it was.
fn is_patched(bed: &Bed, restored: &Restored) -> Result<(), String> {
    let old = &bed.old.image;
    let text = memory(restored.pid(), restored.text.start, old.bytes().len())?;
    let parked = |name: &str| restored.parked.iter().find(|mapping| mapping.name == name);
    let (vdso, vvar) = (
        parked("[vdso]").ok_or("no [vdso]")?,
        parked("[vvar]").ok_or("no [vvar]")?,
    );
    let mark = memory(restored.pid(), vdso.start, Mark::SIZE)?;
    let expected = Mark {
        old_vdso: restored.text.start,
        old_vvar: restored.zeros.start,
        new_vvar: vvar.start,
    };
    let expected = bed.patched.then_some(expected);
    ensure(Mark::read(&mark) == expected, || format!("{mark:x?}"))?;
    let running = RUNNING.as_ref().map_err(Clone::clone)?;
    for name in criu::SYMBOLS {
        let entry = old.export(name).ok_or(name)?.address;
        let target = running.image.export(name).ok_or(name)?.address;
        let expected = bed.patched.then_some(target.at(vdso.start));
        let found = criu::target(&text[entry.index()..]);
        ensure(found == expected, || format!("{name} leads to {found:?}"))?;
    }
    let read = Image::parse(&text).map_err(|error| error.to_string())?;
    ensure(
        read.exports() == old.exports() && read.build_id() == old.build_id(),
        || "another image".to_owned(),
    )
}
