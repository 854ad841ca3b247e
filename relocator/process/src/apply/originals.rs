//! The old vDSOs of a process, as their own kernels had prepared them.

use elf_tools::Avma;
use elf_tools::image::Image;

use super::RunningKernel;
use super::survey::Survey;
use super::text::Known;
use crate::Result;
use crate::targets::live::Running;
use crate::tracing::TraceableProcess;
use relocator::source::Source;
use relocator::tables;

/// An old vDSO without what links and CRIU have changed.
#[derive(Debug, Clone)]
pub struct Original {
    /// Where its first byte is.
    pub at: Avma,
    /// Whether the auxiliary vector says that it is there.
    pub is_by_auxv: bool,
    /// The vDSO.
    pub image: Image,
}

/// Reads the old vDSOs of a process, which goes on meanwhile. `old` are images that may be found in
/// it, and `options` may have others by build-id.
///
/// Errors: those of [`super::apply`] about what is in the process, such as
/// [`crate::Unlinkable::Overwritten`].
pub fn of(
    pid: i32,
    kernel: &RunningKernel,
    old: &[Source],
    options: &tables::Options,
) -> Result<Vec<Original>> {
    let known = Known {
        sources: old,
        tables: options,
    };
    let process = TraceableProcess::open(pid)?;
    let survey = Survey::of(&Running::of(pid), kernel, known);
    let survey = survey.map_err(|error| process.explain(error))?;
    let originals = survey.texts.into_iter().map(|text| Original {
        at: text.found.image,
        is_by_auxv: text.found.is_by_auxv,
        image: text.old.image,
    });
    Ok(originals.collect())
}
