//! Why a page layout is not the one of a kernel.

use crate::{Error, Svma};

/// What contradicts a page layout: the structs of the kernel, or the code of its vDSO.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum LayoutFault {
    /// The time data is too large for where the layout puts it.
    #[error("the time data does not fit into its page")]
    TimeData,
    /// The state of the random generator is not behind the time data, or not in the page.
    #[error("the random generator's state overlaps the time data")]
    RandomState,
    /// A struct is larger than a page.
    #[error("struct `{name}` does not fit into a page")]
    StructSize { name: String },
    /// A struct is none of a vvar.
    #[error(transparent)]
    Struct(#[from] Error),
    /// Code loads an address at which the layout has nothing.
    #[error("{at} loads the address {target}, where nothing starts")]
    Load { at: Svma, target: Svma },
    /// Code accesses what is no field of the layout.
    #[error("{at} accesses {size} bytes at {target}, which is no field")]
    Access { at: Svma, size: u32, target: Svma },
    /// Code accesses too few fields for a verdict.
    #[error("the code is seen to touch {seen} fields of time.clock[], too few to tell")]
    TooFewFields { seen: usize },
    /// Code uses the page of time namespaces and does not ask whether it is in one.
    #[error("the code uses the page of time namespaces without asking for VDSO_CLOCKMODE_TIMENS")]
    NoNamespaceTest,
    /// Code looks for the mark of a time namespace at another place than the layout has it.
    #[error(
        "{at} compares {target} with VDSO_CLOCKMODE_TIMENS, which is no clock_mode of the time page"
    )]
    NamespaceTest { at: Svma, target: Svma },
}
