//! Why images could not be read.

use std::path::PathBuf;

use elf_tools::Avma;

/// The result of this crate's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, and where.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An image file that does not say what it should.
    #[error("{file}, offset {offset:#x}: {fault}")]
    Image {
        /// Its name, with the directory.
        file: String,
        /// Where in it the faulty part begins, in bytes.
        offset: u64,
        /// What is wrong.
        fault: Fault,
    },
    /// A file that could not be read.
    #[error("{path}")]
    Io {
        /// Its name, with the directory.
        path: String,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// Images of a kind that this crate does not read.
    #[error("{path}: {reason}")]
    Unsupported {
        /// What was given, or the file that shows it.
        path: String,
        /// Which kind it is, and what the user can do.
        reason: Unsupported,
    },
    /// A task in the images could not be surveyed or planned for.
    #[error(transparent)]
    Process(#[from] relocator_process::Error),
}

impl Error {
    /// Attaches the path that an operating system error is about.
    pub(crate) fn path(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into().display().to_string();
        move |source| Self::Io { path, source }
    }

    /// Whether the inputs were understood and the answer is no.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Process(error) => error.is_refusal(),
            Self::Image { .. } | Self::Io { .. } | Self::Unsupported { .. } => false,
        }
    }
}

/// What is wrong with an image file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// It ends too early.
    #[error("the file ends {missing} bytes too early")]
    Truncated {
        /// How many bytes more there should be.
        missing: u64,
    },
    /// It is another file, or none of CRIU's.
    #[error("the magic numbers are {found:#010x} and not {expected:#010x}")]
    Magic {
        /// What is there.
        found: u32,
        /// What should be there.
        expected: u32,
    },
    /// A message is longer than any that makes sense.
    #[error("a message of {length} bytes; no more than {limit} are read")]
    TooLong {
        /// Its length.
        length: u64,
        /// The longest that is read.
        limit: u64,
    },
    /// A message is no protocol buffer of its kind.
    #[error("malformed message: {0}")]
    Message(String),
    /// A message lacks what CRIU always writes.
    #[error("there is no {0}")]
    Missing(&'static str),
    /// There are more entries than are read.
    #[error("more than {0} entries")]
    TooMany(usize),
    /// Images of another version.
    #[error("images of version {0}; versions 1 and 2 are known")]
    Version(u32),
    /// A number of a task or thread that is none, or is there twice.
    #[error("{what} {number} {wrong}")]
    Number {
        /// What it is the number of.
        what: &'static str,
        /// The number.
        number: u64,
        /// What is wrong with it.
        wrong: &'static str,
    },
    /// A mapping that is empty, wraps around, or is not made of pages.
    #[error("no mapping can be from {start} to {end}")]
    Range {
        /// Its first byte.
        start: Avma,
        /// The first byte behind it.
        end: Avma,
    },
    /// Two mappings, or two runs of pages, overlap or are out of order.
    #[error("{what} at {at} begin before the end of those before them")]
    Order {
        /// What overlaps.
        what: &'static str,
        /// Where the second one begins.
        at: Avma,
    },
    /// Pages that are in no mapping.
    #[error("pages at {at} are in no mapping")]
    Unmapped {
        /// The first such page.
        at: Avma,
    },
    /// Pages are said to be in the parent, and there is none, or it does not have them.
    #[error("the parent images do not have the page at {at}")]
    NotInParent {
        /// The page.
        at: Avma,
    },
    /// Images are their own parents.
    #[error("the parents of these images lead back to them")]
    CyclicParents,
    /// There are more generations of parents than are read.
    #[error("more than {0} generations of parents")]
    TooManyParents(usize),
    /// Compressed pages whose description contradicts itself.
    #[error("compressed pages: {0}")]
    Compressed(Compression),
    /// The file has nothing but its magic numbers.
    #[error("the file is empty")]
    Empty,
}

impl Fault {
    pub(crate) fn number(what: &'static str, number: u32, wrong: &'static str) -> Self {
        Self::Number {
            what,
            number: number.into(),
            wrong,
        }
    }
}

/// What is wrong with compressed pages.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Compression {
    /// A block is empty, or larger than CRIU makes them.
    #[error("blocks of {0} pages; from 1 to 1024 are known")]
    BlockPages(u32),
    /// There are more or fewer blocks than the pages take.
    #[error("{found} blocks for pages that take {expected}")]
    Count {
        /// How many sizes there are.
        found: u64,
        /// How many there should be.
        expected: u64,
    },
    /// A block takes more bytes than it would raw.
    #[error("a block of {size} bytes holds {raw}")]
    Size {
        /// Bytes that it takes.
        size: u32,
        /// Bytes that it holds.
        raw: u64,
    },
    /// The sizes of all blocks do not add up to what the entry says.
    #[error("the blocks have {found} bytes and not {stated}")]
    Total {
        /// What the sizes add up to.
        found: u64,
        /// What the entry says.
        stated: u64,
    },
    /// A block is not what LZ4 makes.
    #[error("{0}")]
    Block(String),
    /// The inventory says another way of compression.
    #[error("mode {0} is unknown; 0 (none) and 1 (LZ4) are known")]
    Mode(u32),
}

/// Images of a kind that this crate does not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unsupported {
    /// It is a file, and not a directory.
    #[error(
        "it is a file, and images are a directory. Unpack an exported checkpoint with `tar`, and a stream \
         (--stream) with `criu-image-streamer extract`"
    )]
    File,
    /// A directory that streams images.
    #[error(
        "these are sockets of criu-image-streamer: the images are in a stream (--stream). Extract them with \
         `criu-image-streamer extract`"
    )]
    Stream,
    /// A directory without an inventory.
    #[error("there is no inventory.img; these are no images of CRIU, or the dump did not finish")]
    NoInventory,
    /// Memory that is elsewhere.
    #[error(
        "the pages are not here: the dump sent them to a page server (--page-server). Copy the files of that \
         server next to these images"
    )]
    RemotePages,
    /// Memory that is still in the process.
    #[error(
        "pages from {0} on were left in the process (--lazy-pages): the dump is not complete without them"
    )]
    LazyPages(Avma),
    /// Images of another architecture.
    #[error("the images are of another architecture (number {0} of CRIU)")]
    Machine(i32),
    /// Images of a predump.
    #[error("these are images of `criu pre-dump`, which have memory and no tasks")]
    PreDump,
}

impl Unsupported {
    /// A word for machines, which stays as it is.
    pub fn code(&self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Stream => "stream",
            Self::NoInventory => "no-inventory",
            Self::RemotePages => "remote-pages",
            Self::LazyPages(_) => "lazy-pages",
            Self::Machine(_) => "machine",
            Self::PreDump => "pre-dump",
        }
    }
}
