//! Sources that are running: this process and others.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;

use elf_tools::image::{Image, TablesNote};
use elf_tools::layout::btf::Btf;
use elf_tools::symtab::{self, Provenance, Symtab, mapping_name, stock_symbols};

use crate::targets::Mapping;
use crate::{Error, Result, maps};
use relocator::criu::Mark;
use relocator::in_words;
use relocator::source::{LiveMapping, NoSymtab, Source};

/// Where the running kernel publishes its type information.
const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// The largest vDSO that is read from a process.
const MAX_VDSO: u64 = 1 << 20;

/// The running kernel, as this process sees it.
pub fn own() -> Result<Source> {
    let mut source = own_image()?;
    add_symtab(&mut source);
    Ok(source)
}

/// The running kernel without its symbols, which take longer to find than all the rest.
fn own_image() -> Result<Source> {
    let mut source = Source::named("self");
    let maps = maps::own().map_err(Error::io(&source.name))?;
    source.live = live(&maps);
    source.image = read_image("/proc/self/mem", &source, None)?;
    Ok(source)
}

/// Finds the symbols of the running kernel for `own`, which [`own_image`] opened.
fn add_symtab(own: &mut Source) {
    let note = own.image.as_ref().and_then(Image::tables_note).copied();
    let table = match note {
        Some(note) if note.symtab_size > 0 => exported(&note, &own.live),
        _ => running_symtab(own.image.as_ref()),
    };
    match table {
        Ok(table) => own.symtab = Some(table),
        Err(error) => own.no_symtab = Some(NoSymtab::Unreadable(in_words(&error))),
    }
}

/// A process. Its vvar is the running kernel's, so the symbols are this process's own unless it
/// carries another vDSO.
pub fn process(pid: i32) -> Result<Source> {
    let mut source = Source::named(format!("pid:{pid}"));
    let maps = maps::of(pid).map_err(Error::io(&source.name))?;
    source.live = live(&maps);
    let mut own = own_image()?;
    let memory = format!("/proc/{pid}/mem");
    source.image = read_image(&memory, &source, own.image.as_ref())?;
    if source.build_id() == own.build_id() {
        add_symtab(&mut own);
        source.symtab = own.symtab;
        source.no_symtab = own.no_symtab;
    } else {
        source.no_symtab = Some(NoSymtab::OtherKernel);
    }
    Ok(source)
}

/// The kernel's mappings among all of a process.
fn live(maps: &[Mapping]) -> Vec<LiveMapping> {
    let live = maps.iter().filter_map(|mapping| {
        Some(LiveMapping {
            name: maps::kernel_name(mapping)?.to_owned(),
            start: mapping.range.start,
            size: mapping.size(),
        })
    });
    live.collect()
}

/// The process's vDSO; `None` if it has none (`vdso=0`, or unmapped). If CRIU has left its mark
/// over the header, that of `own` is what was there: a mark is made in the running kernel's vDSO.
fn read_image(memory: &str, source: &Source, own: Option<&Image>) -> Result<Option<Image>> {
    let Some(vdso) = source
        .live
        .iter()
        .find(|mapping| mapping.name == mapping_name::VDSO)
    else {
        return Ok(None);
    };
    if vdso.size > MAX_VDSO {
        let reason = format!("its [vdso] has {:#x} bytes", vdso.size);
        return Err(Error::Source {
            text: source.name.clone(),
            reason,
        });
    }
    let what = format!("memory of {}", source.name);
    let memory = File::open(memory).map_err(Error::io(&what))?;
    let mut bytes = vec![0; vdso.size as usize];
    memory
        .read_exact_at(&mut bytes, vdso.start.0)
        .map_err(Error::io(&what))?;
    if let (Some(_), Some(own)) = (Mark::read(&bytes), own) {
        bytes[..Mark::SIZE].copy_from_slice(&own.bytes()[..Mark::SIZE]);
    }
    let image = Image::parse(&bytes).map_err(Error::input(format!("vDSO of {}", source.name)))?;
    Ok(Some(image))
}

/// The symbols of the running kernel by its BTF.
fn running_symtab(image: Option<&Image>) -> Result<Symtab> {
    let image = image.ok_or_else(|| Error::Source {
        text: "self".to_owned(),
        reason: "the kernel maps no vDSO, so nothing can be checked against it".to_owned(),
    })?;
    let mut bytes = Vec::new();
    let mut file = File::open(KERNEL_BTF).map_err(Error::path(KERNEL_BTF))?;
    file.read_to_end(&mut bytes)
        .map_err(Error::path(KERNEL_BTF))?;
    let btf = Btf::parse(&bytes).map_err(Error::input(KERNEL_BTF))?;
    stock_symbols::from_layout(&btf, image).map_err(Error::input(KERNEL_BTF))
}

/// The symbol table that a relocation-capable kernel maps into this process: `docs/abi.md`, section
/// 2.
///
/// It is read by its address: before Linux 7.3 nothing else reads vvar.
fn exported(note: &TablesNote, live: &[LiveMapping]) -> Result<Symtab> {
    let bad = |reason: &str| Error::Source {
        text: "self".to_owned(),
        reason: reason.to_owned(),
    };
    let base = live
        .iter()
        .find(|mapping| mapping.name == mapping_name::VDSO)
        .ok_or_else(|| bad("no [vdso]"))?;
    let start = base.start.offset(note.symtab_distance);
    let inside = |mapping: &&LiveMapping| {
        let offset = start.0.checked_sub(mapping.start.0);
        mapping.name != mapping_name::VDSO
            && offset
                .and_then(|offset| offset.checked_add(note.symtab_size))
                .is_some_and(|end| end <= mapping.size)
    };
    if !live.iter().any(|mapping| inside(&mapping)) {
        return Err(bad(
            "the note puts the symbol table outside the vvar mappings",
        ));
    }
    // SAFETY: the range lies in one mapping that the kernel keeps readable for the life of the
    // process, and the table in it is constant.
    let bytes =
        unsafe { std::slice::from_raw_parts(start.0 as *const u8, note.symtab_size as usize) };
    symtab::elf::read(bytes, Provenance::Exported).map_err(Error::input("exported symbol table"))
}

#[cfg(test)]
mod tests {
    use elf_tools::Avma;
    use kernel_fixtures::fixture;

    use super::*;

    /// A relocation-capable kernel's mappings, acted by memory of ours: the fixture's table where
    /// the note says.
    fn acted(table: &[u8], note: &TablesNote) -> Vec<LiveMapping> {
        let start = Avma(table.as_ptr() as u64);
        let mapping = |name: &str, start, size| LiveMapping {
            name: name.to_owned(),
            start,
            size,
        };
        let base = start.offset(-note.symtab_distance);
        vec![
            mapping(mapping_name::VVAR, start, table.len() as u64),
            mapping(mapping_name::VDSO, base, 0x2000),
        ]
    }

    #[test]
    fn an_exported_table_is_read_where_the_note_says() {
        let found = fixture::find("got").unwrap();
        let image = Image::parse(found.image).unwrap();
        let note = *image.tables_note().unwrap();
        let table = found.symtab.unwrap();
        assert_eq!(note.symtab_size, table.len() as u64);
        let symtab = exported(&note, &acted(table, &note)).unwrap();
        assert_eq!(symtab.provenance(), Provenance::Exported);
        assert!(symtab.get("time.clock[].seq").is_some());
    }

    #[test]
    fn a_note_that_leads_out_of_vvar_is_refused() {
        let found = fixture::find("got").unwrap();
        let image = Image::parse(found.image).unwrap();
        let note = *image.tables_note().unwrap();
        let live = acted(found.symtab.unwrap(), &note);
        for (distance, size) in [(-8, 0), (8, 0), (0, 1), (0, 1 << 63), (i64::MIN, 0)] {
            let mut wrong = note;
            wrong.symtab_distance = note.symtab_distance.wrapping_add(distance);
            wrong.symtab_size = note.symtab_size.wrapping_add(size);
            let error = exported(&wrong, &live).unwrap_err();
            assert!(
                error.to_string().contains("outside the vvar mappings"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_table_that_cannot_be_read_is_missing_with_the_cause() {
        let found = fixture::find("got").unwrap();
        let mut table = found.symtab.unwrap().to_vec();
        table[0] = 0;
        let mut own = Source::named("self");
        let image = Image::parse(found.image).unwrap();
        own.live = acted(&table, image.tables_note().unwrap());
        own.image = Some(image);
        add_symtab(&mut own);
        let reason = own.no_symtab.unwrap().to_string();
        assert!(
            reason.contains("exported symbol table: malformed ELF header"),
            "{reason}"
        );
    }
}
