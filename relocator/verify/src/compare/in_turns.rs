//! Timing all approaches in turns, in a child that holds all of them.

use elf_tools::symtab::Symtab;

use super::check::failure;
use super::code::Code;
use super::{CompareOptions, Row, Timing, measure};
use crate::child::{self, Progress};
use crate::entry::Entry;
use crate::linked::Prepared;
use crate::memory::{PAGE, Region, Shared};
use crate::{Approach, Error, Result};

/// Times every row whose code was checked and has neither crashed nor hung.
///
/// If the child is lost, the row that it was at has failed, and the others are timed again.
pub(super) fn time_all(
    prepared: &Prepared<'_>,
    home: Option<&Symtab>,
    rows: &mut [Row],
    options: &CompareOptions,
) -> Result<()> {
    loop {
        let timed: Vec<(usize, Approach)> = rows
            .iter()
            .enumerate()
            .filter(|(_, row)| row.failure.is_none() && row.calls > 0)
            .map(|(index, row)| (index, row.approach))
            .collect();
        let Some(&(first, _)) = timed.first() else {
            return Ok(());
        };
        let mut turn = Turn::new(first)?;
        let times = child::try_run(options.conditions(), |progress| {
            time(prepared, home, &timed, options, (progress, &mut turn))
        });
        match times {
            Ok(times) => {
                for ((index, _), timings) in timed.into_iter().zip(times) {
                    rows[index].timings = timings;
                }
                return Ok(());
            }
            Err(lost) => {
                let at = turn.get();
                let at = if timed.iter().any(|(index, _)| *index == at) {
                    at
                } else {
                    first
                };
                rows[at].fail(failure(lost)?);
            }
        }
    }
}

fn time(
    prepared: &Prepared<'_>,
    home: Option<&Symtab>,
    timed: &[(usize, Approach)],
    options: &CompareOptions,
    (progress, turn): (&mut Progress, &mut Turn),
) -> Result<Vec<Vec<Timing>>> {
    let mut mapped: Vec<(Approach, Vec<Entry>)> = Vec::with_capacity(timed.len());
    for &(index, approach) in timed {
        turn.set(index);
        progress.at(format!("mapping the image for {approach}"));
        let entries = Code::from(approach).entries(prepared, home, approach)?;
        mapped.push((approach, entries));
    }
    let mut at = |position: usize| turn.set(timed[position].0);
    Ok(measure::interleaved(&mapped, options, progress, &mut at))
}

/// Which row a child is at, in memory that survives it: messages would disturb what is timed.
struct Turn {
    memory: Region,
}

impl Turn {
    fn new(first: usize) -> Result<Self> {
        let memory = Shared::new(PAGE).and_then(|shared| shared.view(None));
        let memory = memory.map_err(Error::io("memory shared with a child"))?;
        let mut turn = Self { memory };
        turn.set(first);
        Ok(turn)
    }

    fn set(&mut self, index: usize) {
        // The page is as large, and nothing in it is protected.
        let _ = self.memory.write(0, &index.to_ne_bytes());
    }

    fn get(&self) -> usize {
        let mut bytes = [0; size_of::<usize>()];
        let _ = self.memory.read(0, &mut bytes);
        usize::from_ne_bytes(bytes)
    }
}
