//! What a restore makes of an address space, step by step. No page can be written and executed at
//! any time.

use std::ops::Range;

use elf_tools::Avma;
use elf_tools::image::Image;
use elf_tools::symtab::mapping_name;
use nix::libc;
use relocator::criu::{self, Mark};
use relocator::placement::PAGE;
use relocator::source::LiveMapping;
use relocator_process::tracing::Tracee;

use super::remote::Remote;
use super::space::Space;
use super::{Bed, Error, Result, auxv};

/// Where everything is.
pub(super) struct Layout {
    pub(super) text: Range<Avma>,
    pub(super) zeros: Range<Avma>,
    pub(super) parked: Vec<LiveMapping>,
    pub(super) auxv: Result<()>,
}

/// Restores a program that has not begun yet.
pub(super) fn restore(bed: &Bed, tracee: &mut Tracee) -> Result<Layout> {
    let space = Space::of(tracee.pid().as_raw())?;
    let unit = space.unit()?;
    let vdso = find(&unit, mapping_name::VDSO)?.clone();
    let text = choose(bed, &space)?;
    let zeros = text.start.offset(-bed.old.vvar_size.cast_signed())..text.start;
    space.check_free("the old vDSO", &(zeros.start..text.end))?;
    let (parked, distance) = parked(bed, &space, &unit)?;

    let mut remote = Remote::new(tracee, vdso.start, vdso.size)?;
    let new = Image::parse(&remote.read(vdso.start, vdso.size as usize)?)?;
    let code = code(bed, text.start, &new, vdso.start.offset(distance))?;
    map(&mut remote, &zeros, libc::PROT_READ)?;
    map(&mut remote, &text, libc::PROT_READ | libc::PROT_WRITE)?;
    remote.write(text.start, &code)?;
    protect(&mut remote, &text)?;
    neighbours(bed, &mut remote, &(zeros.start..text.end))?;
    for (from, to) in unit.iter().zip(&parked) {
        park(&mut remote, from, to)?;
    }
    if bed.patched {
        let mark = Mark {
            old_vdso: text.start,
            old_vvar: zeros.start,
            new_vvar: find(&parked, mapping_name::VVAR)?.start,
        };
        remote.write(find(&parked, mapping_name::VDSO)?.start, &mark.bytes())?;
    }
    let auxv = auxv::name_vdso(&mut remote, text.start)?;
    remote.finish()?;
    Ok(Layout {
        text,
        zeros,
        parked,
        auxv,
    })
}

/// Where the old text is to be.
fn choose(bed: &Bed, space: &Space) -> Result<Range<Avma>> {
    let size = bed.old.image.bytes().len() as u64;
    let size = size.next_multiple_of(PAGE);
    let start = match bed.text {
        Some(start) if start.0.is_multiple_of(PAGE) => start,
        Some(at) => {
            return Err(Error::Place {
                what: "the old vDSO",
                at,
                reason: "it is not the start of a page".to_owned(),
            });
        }
        None => space.place(size)?,
    };
    let end = start.0.checked_add(size);
    let out_of_bounds = |reason: &str| Error::Place {
        what: "the old vDSO",
        at: start,
        reason: reason.to_owned(),
    };
    let end = end.ok_or_else(|| out_of_bounds("it is too high"))?;
    match start.0 > bed.old.vvar_size {
        true => Ok(start..Avma(end)),
        false => Err(out_of_bounds("it is too low")),
    }
}

/// What the text is to hold.
fn code(bed: &Bed, text: Avma, new: &Image, new_base: Avma) -> Result<Vec<u8>> {
    let bytes = bed.old.bytes_at(text)?;
    if bytes.len() > bed.old.image.bytes().len().next_multiple_of(PAGE as usize) {
        return Err(Error::missing("room for what its own kernel fills in"));
    }
    if !bed.patched {
        return Ok(bytes);
    }
    let image = Image::parse(&bytes)?;
    let patched = criu::patch(&image, new, new_base)?;
    Ok(patched.bytes)
}

/// The kernel's mappings where they are to be, and how far that is.
fn parked(bed: &Bed, space: &Space, unit: &[LiveMapping]) -> Result<(Vec<LiveMapping>, i64)> {
    let start = unit
        .first()
        .ok_or_else(|| Error::missing("a mapping of the kernel"))?
        .start;
    let distance = bed.park.distance_from(start);
    let moved = unit.iter().map(|mapping| LiveMapping {
        start: mapping.start.offset(distance),
        ..mapping.clone()
    });
    let moved: Vec<_> = moved.collect();
    let end = moved
        .last()
        .ok_or_else(|| Error::missing("a mapping of the kernel"))?;
    let range = bed.park..end.start.offset(end.size.cast_signed());
    space.check_free("the kernel's unit", &range)?;
    Ok((moved, distance))
}

fn find<'a>(mappings: &'a [LiveMapping], name: &str) -> Result<&'a LiveMapping> {
    let found = mappings.iter().find(|mapping| mapping.name == name);
    found.ok_or_else(|| Error::missing(name))
}

fn map(remote: &mut Remote<'_>, range: &Range<Avma>, protection: i32) -> Result<()> {
    let size = range.end.0 - range.start.0;
    if size == 0 {
        return Ok(());
    }
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
    let arguments = [
        range.start.0,
        size,
        protection as u64,
        flags as u64,
        u64::MAX,
        0,
    ];
    let what = format!("mapping {size:#x} bytes at {}", range.start);
    remote.call(&what, libc::SYS_mmap, arguments).map(drop)
}

/// Makes the text executable, and no longer writable.
fn protect(remote: &mut Remote<'_>, range: &Range<Avma>) -> Result<()> {
    let size = range.end.0 - range.start.0;
    let protection = libc::PROT_READ | libc::PROT_EXEC;
    let arguments = [range.start.0, size, protection as u64, 0, 0, 0];
    let done = remote.call("protecting the old text", libc::SYS_mprotect, arguments);
    done.map(drop)
}

/// Mappings of somebody else, so that there is as much room as was asked for. They can neither be
/// read nor written.
fn neighbours(bed: &Bed, remote: &mut Remote<'_>, all: &Range<Avma>) -> Result<()> {
    if let Some(room) = bed.room_below {
        let end = all.start.offset(-room.next_multiple_of(PAGE).cast_signed());
        map(remote, &(end.offset(-(PAGE as i64))..end), libc::PROT_NONE)?;
    }
    if let Some(room) = bed.room_behind {
        let start = all.end.offset(room.next_multiple_of(PAGE).cast_signed());
        map(remote, &(start..start.offset(PAGE as i64)), libc::PROT_NONE)?;
    }
    Ok(())
}

/// Moves one of the kernel's mappings; system calls are made from where the vDSO is.
fn park(remote: &mut Remote<'_>, from: &LiveMapping, to: &LiveMapping) -> Result<()> {
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    let arguments = [
        from.start.0,
        from.size,
        from.size,
        flags as u64,
        to.start.0,
        0,
    ];
    let what = format!(
        "moving {} to {} (see vm.mmap_min_addr)",
        from.name, to.start
    );
    remote.call(&what, libc::SYS_mremap, arguments)?;
    if from.name == mapping_name::VDSO {
        remote.moved(to.start.distance_from(from.start));
    }
    Ok(())
}
