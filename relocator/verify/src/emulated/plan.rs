//! Which field is filled from where: the two symbol tables side by side.

use std::collections::BTreeMap;

use elf_tools::symtab::{Symtab, mapping_name};

use super::clock::Clock;
use super::copy::Copied;
use super::live::Live;
use super::place::{Field, FieldPlace, fields};
use super::unit::Unit;
use super::word::OwnWord;
use super::{ClockMode, Error, word};
use crate::memory::Region;

/// `VDSO_CLOCKMODE_TIMENS`: this page redirects to the other one.
pub(super) const REDIRECTS: u64 = 0x7fff_ffff;

/// Everything that is copied.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Clocks that the running kernel updates.
    pub(super) clocks: Vec<Clock>,
    /// What is updated without a sequence counter: time zone, resolution, state of the random
    /// number generator.
    pub(super) plain: Vec<Copied>,
    /// What never changes: the clocks of a page that redirects, and those that only the emulated
    /// kernel has.
    pub(super) fixed: Vec<Copied>,
}

/// What plans are made from.
pub(super) struct Planner<'a> {
    pub(super) symtab: &'a Symtab,
    pub(super) live: &'a Live<'a>,
    pub(super) unit: &'a Unit,
    pub(super) region: &'a Region,
    pub(super) clock_mode: ClockMode,
}

impl Planner<'_> {
    /// The plan. Whether the process is in a time namespace is looked at once: it must not enter or
    /// leave one later.
    pub(super) fn plan(&self) -> Result<Plan, Error> {
        let page = self.read_page()?;
        let redirected = page == "timens";
        let mode = self.mode_of(page)?;
        if mode != u64::from(ClockMode::COUNTER.number()) {
            let mode = mode as u32;
            return Err(Error::ClockMode { mode });
        }
        let mut plan = Plan::default();
        let mut clocks: BTreeMap<(String, u64), Vec<Field>> = BTreeMap::new();
        for name in ["seq", "clock_mode", "cycle_last"] {
            let needed = Field::new(format!("{page}.clock[].{name}"), &[0]);
            self.own(&needed)?;
            self.live.require(&needed)?;
        }
        for field in fields(self.symtab) {
            let object = field.name.split('.').next().unwrap_or_default();
            match object {
                // Outside a time namespace the kernel has nothing at this position.
                "timens" if !redirected => {}
                "time" | "timens" => match self.clock_of(&field) {
                    Some(clock) => clocks.entry(clock).or_default().push(field),
                    None => plan.plain.push(self.global(&field)?),
                },
                "rng" => plan.plain.push(self.random(&field, redirected)?),
                _ => {}
            }
        }
        for ((array, index), fields) in clocks {
            let is_read = array.starts_with(&format!("{page}."));
            self.clock(&array, index, &fields, is_read, &mut plan)?;
        }
        Ok(plan)
    }

    /// `cycle_last` of the first clock that is read.
    pub(super) fn last_update(&self) -> Result<u64, Error> {
        let last = Field::new(format!("{}.clock[].cycle_last", self.read_page()?), &[0]);
        Ok(self.live.require(&last)?.load())
    }

    /// The page whose clocks readers end up at.
    fn read_page(&self) -> Result<&'static str, Error> {
        Ok(match self.mode_of("time")? {
            REDIRECTS => "timens",
            _ => "time",
        })
    }

    /// `clock_mode` of the first clock in a page of the running kernel.
    fn mode_of(&self, page: &str) -> Result<u64, Error> {
        let mode = Field::new(format!("{page}.clock[].clock_mode"), &[0]);
        Ok(self.live.require(&mode)?.load())
    }

    /// The clock that a field is part of, if it is in an array whose elements have a sequence
    /// counter.
    fn clock_of(&self, field: &Field) -> Option<(String, u64)> {
        let (array, index, _) = field.element()?;
        self.symtab.get(&format!("{array}[].seq"))?;
        Some((array.to_owned(), index))
    }

    /// Plans one clock. It is read if it is in the page whose clocks readers end up at.
    fn clock(
        &self,
        array: &str,
        index: u64,
        fields: &[Field],
        is_read: bool,
        plan: &mut Plan,
    ) -> Result<(), Error> {
        let sequence = Field::new(format!("{array}[].seq"), &[index]);
        let live = self.live.word(&sequence)?;
        let clock_mode = (is_read && live.is_some()).then_some(self.clock_mode);
        let mut copied = Vec::with_capacity(fields.len());
        for field in fields.iter().filter(|field| **field != sequence) {
            let rest = field.element().map_or("", |(_, _, rest)| rest);
            // Offsets take the place of the base in a page that redirects: they are a union.
            let other = if is_read { "offset" } else { "basetime" };
            if rest.split(['[', '.']).next() == Some(other) {
                continue;
            }
            let own = self.own(field)?;
            copied.push(match (rest, is_read, live) {
                ("clock_mode", false, None) => Copied::constant(own.1, REDIRECTS),
                _ => Copied::time(field, own, self.live, clock_mode)?,
            });
        }
        let (_, own) = self.own(&sequence)?;
        match live {
            Some(live) if is_read => plan.clocks.push(Clock {
                own,
                live,
                fields: copied,
            }),
            _ => {
                plan.fixed.extend(copied);
                plan.fixed.push(Copied::constant(own, u64::from(!is_read)));
            }
        }
        Ok(())
    }

    /// A field of a time page that no sequence counter protects.
    fn global(&self, field: &Field) -> Result<Copied, Error> {
        Copied::time(field, self.own(field)?, self.live, None)
    }

    /// The state of the random number generator.
    ///
    /// Where it shares the time page, it goes where that page's content goes: a time namespace
    /// swaps contents, and symbols name positions. Without it, it counts as not seeded, and code
    /// makes the system call.
    fn random(&self, field: &Field, redirected: bool) -> Result<Copied, Error> {
        let (place, _) = self.own(field)?;
        let place = follow(self.symtab, place, redirected).ok_or_else(|| no_timens("emulated"))?;
        let own = self.own_at(&field.name, place)?;
        let Some(live) = field.place(self.live.symtab()) else {
            return Ok(Copied::constant(own, 0));
        };
        if live.version != place.version {
            return Err(Error::Semantics {
                symbol: field.name.clone(),
                running: live.version,
                emulated: place.version,
            });
        }
        let live =
            follow(self.live.symtab(), live, redirected).ok_or_else(|| no_timens("running"))?;
        let live = self.live.word_at(&field.name, live)?;
        Ok(Copied::plain(own, live))
    }

    /// A field of the emulated kernel, and its place.
    pub(super) fn own(&self, field: &Field) -> Result<(FieldPlace<'_>, OwnWord), Error> {
        let place = field.place(self.symtab).ok_or_else(|| Error::Missing {
            symbol: field.name.clone(),
            kernel: "emulated",
        })?;
        Ok((place, self.own_at(&field.name, place)?))
    }

    fn own_at(&self, symbol: &str, place: FieldPlace<'_>) -> Result<OwnWord, Error> {
        let offset = self
            .unit
            .offset(place.mapping)
            .filter(|_| place.mapping != mapping_name::VDSO);
        let offset = offset.ok_or_else(|| Error::Mapping {
            mapping: place.mapping.to_owned(),
            reason: format!("`{symbol}` cannot be in it"),
        })?;
        let word = word::within(self.region, offset + place.offset, place.size);
        word.ok_or_else(|| Error::Access {
            symbol: symbol.to_owned(),
            kernel: "emulated",
            size: place.size,
            address: self.region.start().0 + offset + place.offset,
        })
    }
}

fn no_timens(kernel: &'static str) -> Error {
    let symbol = "timens.page".to_owned();
    Error::Missing { symbol, kernel }
}

/// Where the content of a place is: in the other time page, if it is in the first one and that
/// redirects.
pub(super) fn follow<'a>(
    symtab: &'a Symtab,
    place: FieldPlace<'a>,
    redirected: bool,
) -> Option<FieldPlace<'a>> {
    let page = |name: &str| Field::new(name, &[]).place(symtab);
    let Some(time) = page("time.page").filter(|_| redirected) else {
        return Some(place);
    };
    let within = place.offset.checked_sub(time.offset);
    let within = within.filter(|within| place.mapping == time.mapping && *within < time.size);
    let Some(within) = within else {
        return Some(place);
    };
    let timens = page("timens.page")?;
    if within + place.size > timens.size {
        return None;
    }
    Some(FieldPlace {
        mapping: timens.mapping,
        offset: timens.offset + within,
        ..place
    })
}
