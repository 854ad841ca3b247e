//! What unwinders find in an image: call frame information, by program headers as unwinders in the
//! process look for it, and by section headers as debuggers do.

use std::ops::Range;

use elf_tools::Svma;
use elf_tools::image::Image;
use elf_tools::reentry::{Recovery, ReentryTable, Relinked, derive, derive_relinked};
use gimli::{
    BaseAddresses, CfaRule, EhFrame, EhFrameHdr, EndianSlice, LittleEndian, Pointer, RegisterRule,
    UnwindContext, UnwindSection,
};
use object::elf::{PT_GNU_EH_FRAME, PT_LOAD};
use object::read::elf::{ElfFile64, ProgramHeader};
use object::{Object, ObjectSection};
use relocator::link::{LinkedImage, Moved, Old};
use relocator::plan::Strategy;

use crate::running::in_words;

/// The rules at an instruction: the frame, and registers by number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    frame: CfaRule<usize>,
    registers: Vec<(u16, RegisterRule<usize>)>,
}

/// Where an image is to be, so that what is below it has an address.
const BASE: u64 = 1 << 40;

/// The call frame information of an image.
pub struct Frames<'a> {
    bytes: &'a [u8],
    /// Where what is loaded ends.
    pub loaded: u64,
    header: u64,
    /// The `.eh_frame`, by its section header.
    section: (u64, &'a [u8]),
}

fn words(error: impl ToString) -> String {
    error.to_string()
}

impl<'a> Frames<'a> {
    /// Finds it by the headers.
    pub fn of(bytes: &'a [u8]) -> Result<Self, String> {
        let file = ElfFile64::<LittleEndianness>::parse(bytes).map_err(words)?;
        let endian = file.endian();
        let mut header = None;
        let mut loaded = 0;
        for segment in file.elf_program_headers() {
            let kind = segment.p_type(endian);
            if kind == PT_GNU_EH_FRAME {
                header = Some(segment.p_vaddr(endian));
            }
            if kind == PT_LOAD {
                loaded = loaded.max(segment.p_vaddr(endian) + segment.p_memsz(endian));
            }
        }
        let section = file.section_by_name(".eh_frame").ok_or("no .eh_frame")?;
        Ok(Self {
            bytes,
            loaded,
            header: header.ok_or("no PT_GNU_EH_FRAME")?,
            section: (section.address(), section.data().map_err(words)?),
        })
    }

    /// Where it is: the table, and what that leads to.
    pub fn place(&self) -> Range<usize> {
        let end = self.section.0 + self.section.1.len() as u64;
        self.header as usize..end as usize
    }

    /// The rules at an address by the sorted table.
    pub fn rules(&self, at: Svma) -> Result<Option<Rules>, String> {
        let header = &self.bytes[self.header as usize..];
        let bases = BaseAddresses::default().set_eh_frame_hdr(BASE + self.header);
        let parsed = EhFrameHdr::new(header, LittleEndian).parse(&bases, 8);
        let parsed = parsed.map_err(words)?;
        let table = parsed.table().ok_or("no sorted table")?;
        let Pointer::Direct(start) = parsed.eh_frame_ptr() else {
            return Err("an indirect pointer".to_owned());
        };
        let place = (start - BASE) as usize;
        let frames = EhFrame::new(&self.bytes[place..], LittleEndian);
        let bases = bases.set_eh_frame(start).set_text(BASE);
        let at = at.0.wrapping_add(BASE);
        let found = table.fde_for_address(&frames, &bases, at, EhFrame::cie_from_offset);
        row(found, &frames, &bases, at)
    }

    /// The rules at an address by a search through the section.
    pub fn rules_by_section(&self, at: Svma) -> Result<Option<Rules>, String> {
        let frames = EhFrame::new(self.section.1, LittleEndian);
        let bases = BaseAddresses::default()
            .set_eh_frame(BASE + self.section.0)
            .set_text(BASE);
        let at = at.0.wrapping_add(BASE);
        let found = frames.fde_for_address(&bases, at, EhFrame::cie_from_offset);
        row(found, &frames, &bases, at)
    }
}

type LittleEndianness = object::LittleEndian;
type Slice<'a> = EndianSlice<'a, LittleEndian>;

fn row(
    found: gimli::Result<gimli::FrameDescriptionEntry<Slice<'_>>>,
    frames: &EhFrame<Slice<'_>>,
    bases: &BaseAddresses,
    at: u64,
) -> Result<Option<Rules>, String> {
    let found = match found {
        Ok(found) if found.contains(at) => found,
        Ok(_) | Err(gimli::Error::NoUnwindInfoForAddress) => return Ok(None),
        Err(error) => return Err(words(error)),
    };
    let mut context = UnwindContext::new();
    let row = found.unwind_info_for_address(frames, bases, &mut context, at);
    let row = row.map_err(words)?;
    let mut registers: Vec<_> = row
        .registers()
        .filter(|(_, rule)| *rule != RegisterRule::SameValue)
        .map(|(register, rule)| (register.0, rule.clone()))
        .collect();
    registers.sort_by_key(|register| register.0);
    Ok(Some(Rules {
        frame: row.cfa().clone(),
        registers,
    }))
}

/// What is wrong at a place.
pub type Fault = (Svma, String);

/// Compares what unwinders find in a linked image with what they find in the old one, and what the
/// analysis of the code says. Returns the number of places that were compared, and the faults.
pub fn judge(old: &Old, linked: &LinkedImage) -> Result<(usize, Vec<Fault>), String> {
    let home = Frames::of(old.image.bytes())?;
    let now = Frames::of(&linked.bytes)?;
    let at_entry = entry_rules();
    let mut expected: Vec<(Svma, Option<Rules>)> = Vec::new();
    let mut overwritten = Vec::new();
    for function in &linked.functions {
        let patch = function.patch.as_ref().map_or(0, Vec::len) as u64;
        let part = function.entry.0..function.entry.0 + patch;
        expected.extend(part.clone().map(|at| (Svma(at), Some(at_entry.clone()))));
        overwritten.push(part);
    }
    let is_there = |at: Svma| !overwritten.iter().any(|part| part.contains(&at.0));
    for instruction in old.code.instructions() {
        let at = instruction.address;
        if is_there(at) && old.code.functions().iter().any(|one| reaches(old, one, at)) {
            expected.push((at, home.rules(at)?));
        }
    }
    let entries = old.code.functions().iter().map(|one| one.entry);
    let entries: Vec<Svma> = entries.collect();
    for Moved { from, to } in linked.moved.iter().chain(&linked.jumps_back) {
        let is_replacement =
            entries.contains(from) && linked.jumps_back.iter().any(|b| b.to == *to);
        let rules = match is_replacement {
            true => Some(at_entry.clone()),
            false => home.rules(*from)?,
        };
        expected.push((*to, rules));
    }
    let mut faults = Vec::new();
    for (at, rules) in &expected {
        let found = now.rules(*at)?;
        if found != *rules {
            faults.push((*at, format!("{found:?} instead of {rules:?}")));
        }
        if now.rules_by_section(*at)? != found {
            faults.push((*at, "the section says something else".to_owned()));
        }
        if at.0 >= now.loaded {
            faults.push((*at, "it is not loaded".to_owned()));
        }
    }
    faults.extend(by_analysis(old, linked)?);
    Ok((expected.len(), faults))
}

/// Compares what unwinders find in the linked image about the code that its proxies lead to, in a
/// new vDSO that is `distance` away, with what that itself says. Returns the same.
pub fn judge_proxies(
    old: &Old,
    new: &Image,
    distance: i64,
    linked: &LinkedImage,
) -> Result<(usize, Vec<Fault>), String> {
    let (mut places, mut faults) = (0, Vec::new());
    let proxies = linked.functions.iter();
    let proxies = proxies.filter(|function| function.strategy == Strategy::Proxy);
    let home = Frames::of(new.bytes())?;
    let now = Frames::of(&linked.bytes)?;
    let remembered = remembered(old.image.bytes(), &linked.bytes)?;
    for function in proxies {
        let export = function.names.iter().find_map(|name| new.export(name));
        let export = export.ok_or_else(|| format!("no {}", function.name()))?;
        for at in export.address.0..export.address.0 + export.size.max(1) {
            let there = Svma(at.wrapping_add_signed(distance));
            let rules = home.rules(Svma(at))?;
            let found = now.rules(there)?;
            places += 1;
            if found != rules {
                faults.push((Svma(at), format!("{found:?} instead of {rules:?}")));
            }
            if now.rules_by_section(there)? != found {
                faults.push((Svma(at), "the section says something else".to_owned()));
            }
            if !remembered.iter().any(|range| range.contains(&there.0)) {
                faults.push((Svma(at), "it is not loaded".to_owned()));
            }
        }
    }
    Ok((places, faults))
}

/// What is loaded by the program headers of a linked image where the old image has them, and as
/// many: a C library has remembered that. The ones that tools find state one loaded segment.
fn remembered(old: &[u8], linked: &[u8]) -> Result<Vec<Range<u64>>, String> {
    let loaded = |bytes: &[u8]| -> Result<Vec<Range<u64>>, String> {
        let file = ElfFile64::<LittleEndianness>::parse(bytes).map_err(words)?;
        let endian = file.endian();
        let segments = file.elf_program_headers().iter();
        let loaded = segments.filter(|one| one.p_type(endian) == PT_LOAD);
        Ok(loaded
            .map(|one| {
                let start = one.p_vaddr(endian);
                start..start.wrapping_add(one.p_memsz(endian))
            })
            .collect())
    };
    if loaded(linked)?.len() != 1 {
        return Err("tools find more than one loaded segment".to_owned());
    }
    let mut there = linked.to_vec();
    let header = size_of::<object::elf::FileHeader64<LittleEndianness>>();
    there[..header].copy_from_slice(&old[..header]);
    loaded(&there)
}

fn reaches(old: &Old, function: &elf_tools::reachability::Function, at: Svma) -> bool {
    old.code.reached(function).any(|one| one.address == at)
}

/// System V psABI for x86-64: the return address is on top of the stack.
fn entry_rules() -> Rules {
    Rules {
        frame: CfaRule::RegisterAndOffset {
            register: gimli::X86_64::RSP,
            offset: 8,
        },
        registers: vec![(gimli::X86_64::RA.0, RegisterRule::Offset(-8))],
    }
}

/// Moved instructions for which the analysis of the linked code finds no way back to the entry, though it
/// did in the old code: it compares call frame information with what the code does.
fn by_analysis(old: &Old, linked: &LinkedImage) -> Result<Vec<Fault>, String> {
    let failed = |error: elf_tools::Error| in_words(&error);
    let home = derive(&old.image, &old.code).map_err(failed)?;
    let moved = linked.moved.iter().chain(&linked.jumps_back);
    let moved: Vec<(Svma, Svma)> = moved.map(|moved| (moved.to, moved.from)).collect();
    let patched = |at: Svma| {
        let mut functions = linked.functions.iter();
        functions.any(|one| one.entry == at && one.patch.is_some())
    };
    // Functions of which the beginning is gone are not analysed.
    let moved: Vec<_> = moved
        .into_iter()
        .filter(|(_, from)| !patched(*from))
        .collect();
    let bytes = &linked.bytes;
    let moved = &moved;
    let now = derive_relinked(&old.image, Relinked { bytes, moved }).map_err(failed)?;
    let has_way = |table: &ReentryTable, at: Svma| {
        let contexts = table.at(at);
        let mut all = contexts.iter();
        !contexts.is_empty() && all.all(|one| matches!(one.recovery, Recovery::Recipe(_)))
    };
    let lost = moved
        .iter()
        .filter(|(to, from)| has_way(&home, *from) && !has_way(&now, *to));
    Ok(lost
        .map(|(to, from)| (*to, format!("no way back, as there was from {from}")))
        .collect())
}
