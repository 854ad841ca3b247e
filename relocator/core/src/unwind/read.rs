//! The call frame information of an image, as unwinders find it: by the program header of the
//! `.eh_frame_hdr`.
//!
//! What is damaged, or made in another way than linkers make it, counts as absent: then unwinders
//! find no frames in the old image either, and the linker changes nothing of it.

use std::ops::Range;

use elf_tools::Svma;
use gimli::{
    BaseAddresses, CfaRule, CieOrFde, EhFrame, EhFrameHdr, LittleEndian, Pointer, RegisterRule,
    UnwindContext, UnwindExpression, UnwindSection,
};

use super::elf::Elf;
use super::rules::{Convention, Frame, Row, Rule, Rules, push};

/// Bytes of a table's header before its entries, with a count of four bytes.
pub(super) const HEADER: u64 = 12;

/// Bytes of an entry of the table.
pub(super) const ENTRY: u64 = 8;

/// A frame description entry.
#[derive(Debug, Clone)]
pub(super) struct Description {
    /// Its call frame program, if another one can be written in its place: it begins with the rules
    /// at the entry of a function.
    pub(super) program: Option<Range<usize>>,
    /// The code that it describes.
    pub(super) range: Range<u64>,
    /// Whether it is of a signal trampoline.
    pub(super) is_signal: bool,
    /// Its rows, ascending.
    pub(super) rows: Vec<Row>,
}

/// The call frame information of an image.
#[derive(Debug, Clone)]
pub(super) struct Frames {
    /// Where the table's header is.
    pub(super) header: Svma,
    /// Number of entries of the table.
    pub(super) entries: u64,
    /// Where the entries are that the table leads to.
    pub(super) section: Range<u64>,
    /// The frame descriptions, by what they describe.
    pub(super) descriptions: Vec<Description>,
}

impl Frames {
    /// Reads it, if there is one that linkers make.
    pub(super) fn read(elf: &Elf, bytes: &[u8], convention: &Convention) -> Option<Self> {
        let header = elf.frame_header?;
        let table = bytes.get(header.index()..)?;
        let bases = BaseAddresses::default().set_eh_frame_hdr(header.0);
        let parsed = EhFrameHdr::new(table, LittleEndian).parse(&bases, 8).ok()?;
        let Pointer::Direct(start) = parsed.eh_frame_ptr() else {
            return None;
        };
        let whole = EhFrame::new(bytes, LittleEndian);
        // The image begins at 0, so that offsets in this section are addresses.
        let bases = bases.set_eh_frame(0).set_text(0);
        let table = parsed.table()?;
        let mut iterator = table.iter(&bases);
        let (mut entries, mut end) = (0, start);
        while let Some((_, at)) = iterator.next().ok()? {
            let at = usize::try_from(at.direct().ok()?).ok()?;
            let found = whole.fde_from_offset(&bases, at.into(), EhFrame::cie_from_offset);
            let found = found.ok()?;
            let size = size_of::<u32>() as u64 + found.entry_len() as u64;
            end = end.max(found.offset() as u64 + size);
            entries += 1;
        }
        let section = start..end;
        let descriptions = descriptions(bytes, &section, convention)?;
        (!descriptions.is_empty()).then_some(Self {
            header,
            entries,
            section,
            descriptions,
        })
    }

    /// The rules at an address.
    pub(super) fn rules(&self, address: Svma) -> Option<&Rules> {
        super::rules::at(&self.description(address)?.rows, address.0)
    }

    /// The description of the code at an address.
    pub(super) fn description(&self, address: Svma) -> Option<&Description> {
        let after = self
            .descriptions
            .partition_point(|one| one.range.start <= address.0);
        let before = self.descriptions[..after].last();
        before.filter(|one| one.range.contains(&address.0))
    }
}

/// All frame descriptions of a section, by what they describe.
pub(super) fn descriptions(
    bytes: &[u8],
    section: &Range<u64>,
    convention: &Convention,
) -> Option<Vec<Description>> {
    let start = usize::try_from(section.start).ok()?;
    let data = bytes.get(start..usize::try_from(section.end).ok()?)?;
    let frames = EhFrame::new(data, LittleEndian);
    let bases = BaseAddresses::default()
        .set_eh_frame(section.start)
        .set_text(0);
    let mut context = UnwindContext::new();
    let mut all = Vec::new();
    let mut entries = frames.entries(&bases);
    while let Some(entry) = entries.next().ok()? {
        let CieOrFde::Fde(partial) = entry else {
            continue;
        };
        let found = partial.parse(EhFrame::cie_from_offset).ok()?;
        // They belong to exceptions, which vDSOs do not have.
        if found.lsda().is_some() || found.personality().is_some() {
            return None;
        }
        let mut table = found.rows(&frames, &bases, &mut context).ok()?;
        let mut rows = Vec::new();
        while let Some(row) = table.next_row().ok()? {
            let range = row.start_address()..row.end_address();
            if range.start < range.end {
                push(&mut rows, range, &rules(row, &frames)?);
            }
        }
        let range = found.initial_address()..found.end_address();
        let at = section.start + found.offset() as u64;
        let is_usual = begins_as_functions_do(found.cie(), &frames, &bases, convention);
        let program = program(bytes, at, found.entry_len(), &range).filter(|_| is_usual);
        if range.start < range.end {
            all.push(Description {
                program,
                range,
                is_signal: found.is_signal_trampoline(),
                rows,
            });
        }
    }
    all.sort_by_key(|description| description.range.start);
    let are_apart = |pair: &[Description]| pair[0].range.end <= pair[1].range.start;
    all.windows(2).all(are_apart).then_some(all)
}

type Section<'a> = EhFrame<gimli::EndianSlice<'a, LittleEndian>>;

/// The rules of a row.
fn rules(row: &gimli::UnwindTableRow<usize>, frames: &Section<'_>) -> Option<Rules> {
    let expression = |expression: &UnwindExpression<usize>| {
        let found = expression.get(frames).ok()?;
        Some(found.0.slice().to_vec())
    };
    let frame = match row.cfa() {
        CfaRule::RegisterAndOffset { register, offset } => Frame::At(register.0, *offset),
        CfaRule::Expression(found) => Frame::Expression(expression(found)?),
    };
    let mut registers = Vec::new();
    for (register, rule) in row.registers() {
        let rule = match rule {
            RegisterRule::Undefined => Rule::Undefined,
            RegisterRule::SameValue => Rule::SameValue,
            RegisterRule::Offset(offset) => Rule::At(*offset),
            RegisterRule::ValOffset(offset) => Rule::Is(*offset),
            RegisterRule::Register(other) => Rule::In(other.0),
            RegisterRule::Expression(found) => Rule::AtExpression(expression(found)?),
            RegisterRule::ValExpression(found) => Rule::IsExpression(expression(found)?),
            _ => return None,
        };
        registers.push((register.0, rule));
    }
    registers.sort_by_key(|register| register.0);
    Some(Rules { frame, registers })
}

/// Whether what a frame description has in common with others says the same as the architecture's
/// convention.
fn begins_as_functions_do(
    common: &gimli::CommonInformationEntry<gimli::EndianSlice<'_, LittleEndian>>,
    frames: &Section<'_>,
    bases: &BaseAddresses,
    convention: &Convention,
) -> bool {
    use gimli::CallFrameInstruction::{DefCfa, Nop, Offset};
    let mut frame = None;
    let mut registers = Vec::new();
    let mut instructions = common.instructions(frames, bases);
    loop {
        match instructions.next() {
            Ok(None) => break,
            Ok(Some(Nop)) => {}
            Ok(Some(DefCfa { register, offset })) => {
                frame = Some(Frame::At(register.0, offset.cast_signed()));
            }
            Ok(Some(Offset {
                register,
                factored_offset,
            })) => {
                let offset = factored_offset.cast_signed() * common.data_alignment_factor();
                registers.push((register.0, Rule::At(offset)));
            }
            _ => return false,
        }
    }
    registers.sort_by_key(|register| register.0);
    let own = frame.map(|frame| Rules { frame, registers });
    own.as_ref() == Some(&convention.at_entry)
        && common.code_alignment_factor() == u64::from(convention.code_alignment)
        && common.data_alignment_factor() == i64::from(convention.data_alignment)
        && common.return_address_register().0 == convention.return_address
}

/// Where the call frame program of a description is, if the description has the form that compilers
/// give it: length, distance to what is common, distance to the code, size of the code, and no
/// augmentation data.
fn program(bytes: &[u8], at: u64, length: usize, range: &Range<u64>) -> Option<Range<usize>> {
    let start = usize::try_from(at).ok()?;
    let end = start.checked_add(size_of::<u32>())?.checked_add(length)?;
    let entry = bytes.get(start..end)?;
    let word = |at: usize| {
        let word = entry.get(at..at + size_of::<u32>())?;
        Some(u32::from_le_bytes(word.try_into().ok()?))
    };
    let distance = i64::from(word(8)?.cast_signed());
    let is_usual = word(0)? as usize == length
        && (at + 8).checked_add_signed(distance) == Some(range.start)
        && u64::from(word(12)?) == range.end - range.start
        && *entry.get(16)? == 0;
    is_usual.then_some(start + 17..end)
}
