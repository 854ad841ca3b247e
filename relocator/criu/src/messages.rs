//! The messages of CRIU's images that this crate reads, with those of their fields that it needs.
//!
//! Numbers and types of fields are CRIU's (`images/*.proto`); they stay the same from version to
//! version, and decoding passes over other fields. What CRIU always writes is `Option` here all the
//! same, since a damaged file may lack it. What differs between architectures is in
//! [`arch`](crate::arch).

use bytes::Bytes;

/// `inventory_entry`: what a directory of images is.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Inventory {
    #[prost(uint32, optional, tag = "1")]
    pub(crate) version: Option<u32>,
    /// How memory is compressed, from 4.3 on.
    #[prost(uint32, optional, tag = "15")]
    pub(crate) compression: Option<u32>,
}

/// `pstree_entry`: a task.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct TaskEntry {
    #[prost(uint32, optional, tag = "1")]
    pub(crate) pid: Option<u32>,
    #[prost(uint32, optional, tag = "2")]
    pub(crate) parent: Option<u32>,
    #[prost(uint32, repeated, packed = "false", tag = "5")]
    pub(crate) threads: Vec<u32>,
}

/// `task_core_entry`: what a task has besides its threads.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct TaskCore {
    #[prost(uint32, optional, tag = "1")]
    pub(crate) state: Option<u32>,
    #[prost(string, optional, tag = "6")]
    pub(crate) name: Option<String>,
    #[prost(message, optional, tag = "8")]
    pub(crate) limits: Option<Limits>,
}

/// `task_rlimits_entry`: the limits, by their numbers.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Limits {
    #[prost(message, repeated, tag = "1")]
    pub(crate) limits: Vec<Limit>,
}

/// `rlimit_entry`
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct Limit {
    #[prost(uint64, optional, tag = "1")]
    pub(crate) soft: Option<u64>,
}

/// `thread_core_entry`: what a thread has besides its registers.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ThreadCore {
    #[prost(uint64, optional, tag = "6")]
    pub(crate) blocked: Option<u64>,
    #[prost(message, optional, tag = "7")]
    pub(crate) alternate_stack: Option<AlternateStack>,
    #[prost(string, optional, tag = "13")]
    pub(crate) name: Option<String>,
}

/// `thread_sas_entry`: where handlers run.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct AlternateStack {
    #[prost(uint64, optional, tag = "1")]
    pub(crate) start: Option<u64>,
    #[prost(uint64, optional, tag = "2")]
    pub(crate) size: Option<u64>,
}

/// `mm_entry`: an address space.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct AddressSpace {
    /// An address in the main stack.
    #[prost(uint64, optional, tag = "5")]
    pub(crate) stack: Option<u64>,
    #[prost(uint64, optional, tag = "6")]
    pub(crate) heap: Option<u64>,
    /// Pairs of numbers: what, and its value.
    #[prost(uint64, repeated, packed = "false", tag = "13")]
    pub(crate) auxiliary: Vec<u64>,
    /// [`MappingEntry`]s, which are decoded one by one: an empty one takes two bytes in the file, and
    /// many more when it is decoded.
    #[prost(bytes = "bytes", repeated, tag = "14")]
    pub(crate) mappings: Vec<Bytes>,
}

/// `vma_entry`: a mapping.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct MappingEntry {
    #[prost(uint64, optional, tag = "1")]
    pub(crate) start: Option<u64>,
    #[prost(uint64, optional, tag = "2")]
    pub(crate) end: Option<u64>,
    #[prost(uint64, optional, tag = "3")]
    pub(crate) offset: Option<u64>,
    /// The number of the file, or of the shared memory.
    #[prost(uint64, optional, tag = "4")]
    pub(crate) backing: Option<u64>,
    #[prost(uint32, optional, tag = "5")]
    pub(crate) protection: Option<u32>,
    #[prost(uint32, optional, tag = "6")]
    pub(crate) flags: Option<u32>,
    #[prost(uint32, optional, tag = "7")]
    pub(crate) status: Option<u32>,
    /// Advice, a bit for each number of `madvise`.
    #[prost(uint64, optional, tag = "9")]
    pub(crate) advice: Option<u64>,
}

/// `pagemap_head`: what a list of pages begins with.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct PagesHead {
    #[prost(uint32, optional, tag = "1")]
    pub(crate) id: Option<u32>,
}

/// `pagemap_entry`: a run of pages.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct PagesEntry {
    #[prost(uint64, optional, tag = "1")]
    pub(crate) start: Option<u64>,
    /// How many pages there are, before 4.2.
    #[prost(uint32, optional, tag = "2")]
    pub(crate) short_count: Option<u32>,
    #[prost(bool, optional, tag = "3")]
    pub(crate) in_parent: Option<bool>,
    #[prost(uint32, optional, tag = "4")]
    pub(crate) flags: Option<u32>,
    #[prost(uint64, optional, tag = "5")]
    pub(crate) count: Option<u64>,
    #[prost(message, optional, tag = "6")]
    pub(crate) blocks: Option<PageBlocks>,
}

/// `pagemap_blocks`: how a run of pages is compressed, from 4.3 on.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct PageBlocks {
    #[prost(uint32, repeated, tag = "1")]
    pub(crate) sizes: Vec<u32>,
    #[prost(uint64, optional, tag = "2")]
    pub(crate) total: Option<u64>,
    #[prost(uint32, optional, tag = "3")]
    pub(crate) pages: Option<u32>,
}

/// `timens_entry`: how far the clocks of a time namespace are from those of the machine.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct TimeNamespace {
    #[prost(message, optional, tag = "1")]
    pub(crate) monotonic: Option<Time>,
    #[prost(message, optional, tag = "2")]
    pub(crate) boottime: Option<Time>,
}

/// `timespec`
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct Time {
    #[prost(uint64, optional, tag = "1")]
    pub(crate) seconds: Option<u64>,
    #[prost(uint64, optional, tag = "2")]
    pub(crate) nanoseconds: Option<u64>,
}

/// `file_entry`: an open file, or one that is mapped. Only regular files have a name here.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct FileEntry {
    #[prost(uint32, optional, tag = "2")]
    pub(crate) id: Option<u32>,
    #[prost(message, optional, tag = "3")]
    pub(crate) regular: Option<RegularFile>,
}

/// `reg_file_entry`: a regular file. Before 3.x these were in an image of their own.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct RegularFile {
    #[prost(uint32, optional, tag = "1")]
    pub(crate) id: Option<u32>,
    /// A path is bytes; the message says that it is text.
    #[prost(bytes = "bytes", optional, tag = "6")]
    pub(crate) name: Option<Bytes>,
}
