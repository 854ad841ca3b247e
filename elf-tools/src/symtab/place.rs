//! Every canonical name with its place, for given struct layouts and a given page layout.

use std::ops::Range;

use super::layout_fault::LayoutFault;
use super::page_layouts::{PAGE, Placement};
use crate::layout::{Layout, Member, Structure, Type};
use crate::{Error, Result};

/// `CS_BASES` of `include/vdso/datapage.h`: the high resolution clocks and the raw one. A macro,
/// hence not in BTF; before Linux 6.15 no struct holds the array.
const CLOCKS: u64 = 2;

/// Fields of a clock, in the order of the documentation. The first three have to exist.
const CLOCK_FIELDS: [&str; 7] = [
    "seq",
    "clock_mode",
    "cycle_last",
    "max_cycles",
    "mask",
    "mult",
    "shift",
];
const REQUIRED_CLOCK_FIELDS: usize = 3;
/// Arrays of seconds and nanoseconds in a clock. In a time namespace's page the second one takes
/// the first one's place.
const CLOCK_ARRAYS: [&str; 2] = ["basetime", "offset"];
const TIMESTAMP_FIELDS: [&str; 2] = ["sec", "nsec"];
/// What the time data has once for all clocks.
const GLOBAL_FIELDS: [&str; 3] = ["tz_minuteswest", "tz_dsttime", "hrtimer_res"];
const RNG_FIELDS: [&str; 2] = ["generation", "is_ready"];
const PVCLOCK_FIELDS: [&str; 6] = [
    "version",
    "tsc_timestamp",
    "system_time",
    "tsc_to_system_mul",
    "tsc_shift",
    "flags",
];
const HVCLOCK_FIELDS: [&str; 3] = ["tsc_sequence", "tsc_scale", "tsc_offset"];

/// What a place is to code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Something whose address code may load, but which it does not access as a whole.
    Object,
    /// Something that code accesses with one instruction.
    Field,
}

/// A named place before the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// Canonical name.
    pub(super) name: String,
    /// Whether it becomes a symbol. Others only explain what code does.
    pub(super) is_symbol: bool,
    /// Address relative to the image; of something inside arrays, in their first elements.
    pub(super) address: i64,
    /// Size in bytes.
    pub(super) size: u64,
    /// Stride and number of elements of each array it is in, outermost first.
    pub(super) repeats: Vec<(u64, u64)>,
    /// What it is to code.
    pub(super) role: Role,
}

impl Place {
    /// Its address in every element of the arrays that it is in.
    pub(super) fn addresses(&self) -> Vec<i64> {
        self.repeats
            .iter()
            .fold(vec![self.address], |addresses, &(stride, count)| {
                let elements = |&start: &i64| {
                    (0..count).map(move |index| start.wrapping_add_unsigned(index * stride))
                };
                addresses.iter().flat_map(elements).collect()
            })
    }
}

/// A field of an object, relative to the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PartInPage {
    /// Distance from the start of the object.
    pub(super) offset: i64,
    /// Size in bytes.
    pub(super) size: u64,
}

impl PartInPage {
    /// A field of a structure that is `start` bytes behind the start of an object.
    fn of(structure: &Structure, field: &str, start: u64) -> Option<Self> {
        let member = structure.member(field)?;
        let offset = start.checked_add(member.offset)?;
        Some(Self {
            offset: i64::try_from(offset).ok()?,
            size: member.kind.size(),
        })
    }
}

/// The structs that a kernel keeps in its vvar.
#[derive(Debug)]
pub(super) struct Structs {
    /// Offset of the clocks in the time data, and what they are.
    clocks: (u64, Array),
    /// The same of the auxiliary clocks, since Linux 6.17.
    aux_clocks: Option<(u64, Array)>,
    /// The struct that has the fields which exist once for all clocks.
    globals: Structure,
    rng: Option<Structure>,
    pvclock: Option<Structure>,
    hvclock: Option<Structure>,
    timens_mode: Option<i64>,
    /// Why what is not known of these is not.
    gaps: Vec<Error>,
}

/// `VDSO_CLOCKMODE_TIMENS` in every kernel that has it: `include/vdso/clocksource.h`.
const TIMENS_MODE: i64 = i32::MAX as i64;

/// An array of structs that is not empty and fits into a page.
#[derive(Debug, Clone)]
struct Array {
    element: Structure,
    count: u64,
}

impl Array {
    fn new(element: Structure, count: u64) -> Result<Self> {
        let size = element.size.checked_mul(count);
        if size.is_none_or(|size| size == 0 || size > PAGE.unsigned_abs()) {
            let reason = format!(
                "{count} elements of {:#x} bytes are not an array in a page",
                element.size
            );
            return Err(Error::unsupported(
                format!("array of struct `{}`", element.name),
                reason,
            ));
        }
        Ok(Self { element, count })
    }

    /// The array that a member is.
    fn of(structure: &Structure, member: &Member) -> Result<Self> {
        match &member.kind {
            Type::Array { element, count } => match element.as_ref() {
                Type::Structure(element) => Self::new(element.clone(), *count),
                _ => Err(unexpected(structure, member, "an array of structs")),
            },
            _ => Err(unexpected(structure, member, "an array of structs")),
        }
    }

    fn size(&self) -> u64 {
        self.element.size * self.count
    }

    fn repeat(&self) -> (u64, u64) {
        (self.element.size, self.count)
    }
}

impl Structs {
    /// Reads them, by what they contain and not by the kernel's version.
    pub(super) fn read(layout: &dyn Layout) -> Result<Self> {
        let (clocks, aux_clocks, globals) = time_data(layout)?;
        for name in &CLOCK_FIELDS[..REQUIRED_CLOCK_FIELDS] {
            if clocks.1.element.member(name).is_none() {
                let what = format!("struct `{}`", clocks.1.element.name);
                return Err(Error::unsupported(
                    what,
                    format!("it has no `{name}`, so it is no clock of a vvar"),
                ));
            }
        }
        let mut gaps = Vec::new();
        let mut optional = |name: &str| {
            let found = layout.structure(name);
            let missing = || Error::not_found(format!("struct `{name}`"), "no type has this name");
            found
                .and_then(|found| found.ok_or_else(missing))
                .map_err(|gap| gaps.push(gap))
                .ok()
        };
        let rng = optional("vdso_rng_data");
        let pvclock = optional("pvclock_vsyscall_time_info");
        let hvclock = optional("ms_hyperv_tsc_page");
        let pvclock = match pvclock.as_ref().map(pvclock_time).transpose() {
            Ok(pvclock) => pvclock,
            Err(gap) => {
                gaps.push(gap);
                None
            }
        };
        let timens_mode = match timens_mode(layout) {
            Ok(mode) => Some(mode),
            Err(gap) => {
                gaps.push(gap);
                None
            }
        };
        Ok(Self {
            clocks,
            aux_clocks,
            globals,
            rng,
            pvclock,
            hvclock,
            timens_mode,
            gaps,
        })
    }

    /// What is not known of the optional structs, and why.
    pub(super) fn gaps(&self) -> &[Error] {
        &self.gaps
    }

    /// Takes the mark of time namespaces to be what it is in all kernels, if nothing states it.
    pub(super) fn assume_timens_mode(&mut self) {
        self.timens_mode.get_or_insert(TIMENS_MODE);
    }

    /// Where the objects may be of which no struct is known: parts of the pages, relative to the
    /// image.
    pub(super) fn undescribed(&self, placement: &Placement) -> Vec<Range<i64>> {
        let page = |page: i64| page..page + PAGE;
        let mut ranges = Vec::new();
        if self.rng.is_none() {
            // The state lies behind the time data, in both pages, where it has none of its own.
            let data = placement
                .time_data
                .saturating_add_unsigned(self.time_size());
            let rest = |start: i64| start.saturating_add(data)..start + PAGE;
            match placement.rng {
                Some(rng) => ranges.push(page(rng)),
                None => ranges.extend(
                    [placement.time]
                        .into_iter()
                        .chain(placement.timens)
                        .map(rest),
                ),
            }
        }
        if self.pvclock.is_none() {
            ranges.push(page(placement.pvclock));
        }
        if self.hvclock.is_none() {
            ranges.push(page(placement.hvclock));
        }
        ranges
    }

    /// The `clock_mode` that says that the page is the one of a time namespace.
    pub(super) fn timens_mode(&self) -> Option<i64> {
        self.timens_mode
    }

    /// The sequence counters of the clocks.
    pub(super) fn sequences(&self) -> Vec<PartInPage> {
        let (start, clocks) = &self.clocks;
        let elements = 0..clocks.count;
        let sequence = |index: u64| {
            let element = start.checked_add(index * clocks.element.size)?;
            PartInPage::of(&clocks.element, CLOCK_FIELDS[0], element)
        };
        elements.filter_map(sequence).collect()
    }

    /// The fields of the random generator's state; none if the kernel has no such state.
    pub(super) fn random_state(&self) -> Vec<PartInPage> {
        let fields = self.rng.iter().flat_map(|rng| {
            let fields = RNG_FIELDS.iter();
            fields.filter_map(|field| PartInPage::of(rng, field, 0))
        });
        fields.collect()
    }

    /// Bytes from the start of the time data that are in use.
    fn time_size(&self) -> u64 {
        let clocks = std::iter::once(&self.clocks).chain(&self.aux_clocks);
        clocks
            .map(|(offset, clocks)| offset.saturating_add(clocks.size()))
            .fold(self.globals.size, u64::max)
    }

    /// Every name where `placement` puts it. Errors where the structs do not fit there.
    pub(super) fn place(&self, placement: &Placement) -> Result<Vec<Place>, LayoutFault> {
        let mut places = Places(Vec::new());
        let time_end = placement
            .time_data
            .unsigned_abs()
            .checked_add(self.time_size());
        if time_end.is_none_or(|end| end > PAGE.unsigned_abs()) {
            return Err(LayoutFault::TimeData);
        }
        self.place_time("time", placement.time, placement, &mut places)?;
        if let Some(timens) = placement.timens {
            self.place_time("timens", timens, placement, &mut places)?;
        }
        if let Some(page) = placement.rng {
            places.object("rng.page", page, PAGE.unsigned_abs(), &[]);
        }
        if let Some(rng) = &self.rng {
            self.place_rng(rng, placement, &mut places)?;
        }
        let clock_pages = [
            (
                "pvclock",
                placement.pvclock,
                &self.pvclock,
                &PVCLOCK_FIELDS[..],
            ),
            (
                "hvclock",
                placement.hvclock,
                &self.hvclock,
                &HVCLOCK_FIELDS[..],
            ),
        ];
        for (name, page, structure, fields) in clock_pages {
            places.object(format!("{name}.page"), page, PAGE.unsigned_abs(), &[]);
            if let Some(structure) = structure {
                places.fields(name, page, structure, fields, &[])?;
            }
        }
        Ok(places.0)
    }

    fn place_time(
        &self,
        prefix: &str,
        page: i64,
        placement: &Placement,
        places: &mut Places,
    ) -> Result<(), LayoutFault> {
        places.object(format!("{prefix}.page"), page, PAGE.unsigned_abs(), &[]);
        let data = page + placement.time_data;
        let aux = self.aux_clocks.iter().map(|clocks| ("aux_clock", clocks));
        for (name, (offset, clocks)) in std::iter::once(("clock", &self.clocks)).chain(aux) {
            places.clocks(
                &format!("{prefix}.{name}"),
                data.wrapping_add_unsigned(*offset),
                clocks,
            )?;
        }
        places.fields(prefix, data, &self.globals, &GLOBAL_FIELDS, &[])
    }

    fn place_rng(
        &self,
        rng: &Structure,
        placement: &Placement,
        places: &mut Places,
    ) -> Result<(), LayoutFault> {
        let Some(page) = placement.rng else {
            let Some(offset) = placement.rng_in_time else {
                return Ok(());
            };
            let time_end = placement.time_data.unsigned_abs() + self.time_size();
            if offset.unsigned_abs() < time_end
                || offset.unsigned_abs().saturating_add(rng.size) > PAGE.unsigned_abs()
            {
                return Err(LayoutFault::RandomState);
            }
            places.fields("rng", placement.time + offset, rng, &RNG_FIELDS, &[])?;
            places.hidden("rng", placement.time + offset, rng.size);
            // The page of a time namespace repeats the state, but it is the same thing to a reader.
            if let Some(timens) = placement.timens {
                let from = places.0.len();
                places.hidden("rng", timens + offset, rng.size);
                places.fields("rng", timens + offset, rng, &RNG_FIELDS, &[])?;
                places.0[from..]
                    .iter_mut()
                    .for_each(|place| place.is_symbol = false);
            }
            return Ok(());
        };
        places.fields("rng", page, rng, &RNG_FIELDS, &[])
    }
}

/// The clocks, the auxiliary clocks, and the struct with the fields of which there is one.
type TimeData = ((u64, Array), Option<(u64, Array)>, Structure);

fn time_data(layout: &dyn Layout) -> Result<TimeData> {
    let of_clocks = || layout.structure("vdso_data");
    let newer = match layout.structure("vdso_time_data") {
        // It cannot be told whether there is one. The code decides whether it is the older one.
        Err(fault) => match of_clocks() {
            Ok(Some(_)) => None,
            _ => return Err(fault),
        },
        Ok(newer) => newer,
    };
    if let Some(data) = newer {
        let array = |name| {
            data.member(name)
                .map(|member| Ok((member.offset, Array::of(&data, member)?)))
                .transpose()
        };
        let clocks = array("clock_data")?.ok_or_else(|| {
            Error::unsupported(
                "struct `vdso_time_data`",
                "it has no `clock_data`; layouts of Linux 6.15 on are understood",
            )
        })?;
        let aux_clocks = array("aux_clock_data")?;
        return Ok((clocks, aux_clocks, data));
    }
    let Some(data) = of_clocks()? else {
        let reason =
            "neither `vdso_time_data` (Linux 6.15 on) nor `vdso_data` (5.3 on) is described";
        return Err(Error::not_found("struct of a vvar", reason));
    };
    // The fields that exist once are those of the first element.
    Ok(((0, Array::new(data.clone(), CLOCKS)?), None, data))
}

/// KVM's clock, in the struct of its page.
fn pvclock_time(page: &Structure) -> Result<Structure> {
    match page.member("pvti") {
        Some(Member {
            offset: 0,
            kind: Type::Structure(pvti),
            ..
        }) => Ok(pvti.clone()),
        _ => Err(Error::unsupported(
            "struct `pvclock_vsyscall_time_info`",
            "it does not start with a struct `pvti`",
        )),
    }
}

/// What the kernel calls `VDSO_CLOCKMODE_TIMENS`.
fn timens_mode(layout: &dyn Layout) -> Result<i64> {
    let modes = layout.enumeration("vdso_clock_mode")?.unwrap_or_default();
    let mut modes = modes.into_iter();
    let found = modes.find(|(name, _)| name == "VDSO_CLOCKMODE_TIMENS");
    let missing = || {
        let reason = "`enum vdso_clock_mode` is not described or has no such enumerator";
        Error::not_found("VDSO_CLOCKMODE_TIMENS", reason)
    };
    found.map(|(_, mode)| mode).ok_or_else(missing)
}

fn unexpected(structure: &Structure, member: &Member, expected: &str) -> Error {
    Error::unsupported(
        format!("`{}.{}`", structure.name, member.name),
        format!("it is not {expected}"),
    )
}

/// Places in the order in which they become symbols.
struct Places(Vec<Place>);

impl Places {
    fn push(&mut self, name: String, address: i64, size: u64, repeats: &[(u64, u64)], role: Role) {
        self.0.push(Place {
            name,
            is_symbol: true,
            address,
            size,
            repeats: repeats.to_vec(),
            role,
        });
    }

    fn object(&mut self, name: impl Into<String>, address: i64, size: u64, repeats: &[(u64, u64)]) {
        self.push(name.into(), address, size, repeats, Role::Object);
    }

    /// An object that code may mention and that has no name in the vocabulary.
    fn hidden(&mut self, name: &str, address: i64, size: u64) {
        let name = name.to_owned();
        self.0.push(Place {
            name,
            is_symbol: false,
            address,
            size,
            repeats: Vec::new(),
            role: Role::Object,
        });
    }

    /// Those of the scalar fields `names` that `structure` has.
    fn fields(
        &mut self,
        prefix: &str,
        start: i64,
        structure: &Structure,
        names: &[&str],
        repeats: &[(u64, u64)],
    ) -> Result<(), LayoutFault> {
        if structure.size > PAGE.unsigned_abs() {
            let name = structure.name.clone();
            return Err(LayoutFault::StructSize { name });
        }
        for member in names.iter().filter_map(|name| structure.member(name)) {
            let Type::Scalar { size } = member.kind else {
                return Err(unexpected(structure, member, "a scalar").into());
            };
            let address = start.wrapping_add_unsigned(member.offset);
            self.push(
                format!("{prefix}.{}", member.name),
                address,
                size,
                repeats,
                Role::Field,
            );
        }
        Ok(())
    }

    /// The array `name` of clocks and everything in it.
    fn clocks(&mut self, name: &str, start: i64, clocks: &Array) -> Result<(), LayoutFault> {
        let element = format!("{name}[]");
        let repeats = [clocks.repeat()];
        self.object(name, start, clocks.size(), &[]);
        self.object(&element, start, clocks.element.size, &repeats);
        self.fields(&element, start, &clocks.element, &CLOCK_FIELDS, &repeats)?;
        for member in CLOCK_ARRAYS
            .iter()
            .filter_map(|array| clocks.element.member(array))
        {
            let array = Array::of(&clocks.element, member)?;
            let name = format!("{element}.{}", member.name);
            let start = start.wrapping_add_unsigned(member.offset);
            self.object(&name, start, array.size(), &repeats);
            let element = format!("{name}[]");
            let repeats = [clocks.repeat(), array.repeat()];
            self.object(&element, start, array.element.size, &repeats);
            self.fields(&element, start, &array.element, &TIMESTAMP_FIELDS, &repeats)?;
        }
        Ok(())
    }
}
