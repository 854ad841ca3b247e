//! The running kernel, which others are compared with.

use anyhow::Result;
use relocator::source::Source;
use relocator_verify::Running;

/// The running kernel from its source.
pub(crate) fn running(source: &Source) -> Result<Running> {
    let image = source.require_image()?.clone();
    let symtab = source.symtab.clone();
    Ok(Running { image, symtab })
}
