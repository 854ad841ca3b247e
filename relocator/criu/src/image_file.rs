//! One image file: two magic numbers, and messages with their lengths before them.
//!
//! | bytes | are |
//! |---|---|
//! | 4 | the magic number of all images; the inventory does not have it |
//! | 4 | that of this kind of image |
//! | 4 | the length of a message |
//! | that many | the message, a protocol buffer |
//! | 4 ... | the next message |

use bytes::Bytes;
use scroll::{LE, Pread};

use crate::directory::{Content, Directory, INVENTORY};
use crate::{Error, Fault, Result};

/// The longest message that is read: the mappings of a process take some 35 bytes each, and Linux
/// allows 65,530 of them unless it is told otherwise.
const LONGEST: u64 = 16 << 20;

/// What CRIU's `include/magic.h` calls `IMG_COMMON_MAGIC`.
const COMMON: u32 = 0x5456_4319;

/// The kinds of images, with the magic numbers of CRIU's `include/magic.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Kind {
    Inventory = 0x5831_3116,
    Tasks = 0x5027_3030,
    Core = 0x5505_3847,
    AddressSpace = 0x5749_2820,
    Pages = 0x5608_4025,
    Files = 0x5630_3138,
    RegularFiles = 0x5036_3636,
    Processors = 0x6140_4013,
    TimeNamespace = 0x4311_4433,
}

/// The magic numbers of a file.
#[derive(Debug, Clone, Copy, Pread)]
#[repr(C)]
struct Magic {
    common: u32,
    kind: u32,
}

/// The magic number of an inventory, and of all files of the first version.
#[derive(Debug, Clone, Copy, Pread)]
#[repr(C)]
struct SingleMagic {
    kind: u32,
}

/// What is before each message.
#[derive(Debug, Clone, Copy, Pread)]
#[repr(C)]
struct Length {
    bytes: u32,
}

/// Which versions of images have the number that all images begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Format {
    /// Whether files begin with both numbers, as in version 2 (CRIU calls it 1.1).
    pub(crate) has_common: bool,
}

impl Format {
    /// That of an inventory's version.
    pub(crate) fn of(version: u32) -> Option<Self> {
        match version {
            1 => Some(Self { has_common: false }),
            2 => Some(Self { has_common: true }),
            _ => None,
        }
    }
}

/// An image file that is being read.
#[derive(Debug)]
pub(crate) struct ImageFile {
    /// Its name, with the directory.
    pub(crate) name: String,
    content: Content,
    /// Where the next message begins.
    next: u64,
}

impl ImageFile {
    /// The inventory of a directory.
    pub(crate) fn inventory(directory: &Directory) -> Result<Option<Self>> {
        let format = Format { has_common: false };
        Self::open(directory, INVENTORY, Kind::Inventory, format)
    }

    /// Opens a file and checks its magic numbers; `None` if there is none of that name.
    pub(crate) fn open(
        directory: &Directory,
        name: &str,
        kind: Kind,
        format: Format,
    ) -> Result<Option<Self>> {
        let Some(content) = directory.file(name)? else {
            return Ok(None);
        };
        let mut file = Self {
            name: directory.name(name),
            content,
            next: 0,
        };
        let magic = match format.has_common {
            true => {
                let magic: Magic = file.record()?;
                file.expect(0, magic.common, COMMON)?;
                magic.kind
            }
            false => file.record::<SingleMagic>()?.kind,
        };
        file.expect(file.next - size_of::<u32>() as u64, magic, kind as u32)?;
        Ok(Some(file))
    }

    fn expect(&self, offset: u64, found: u32, expected: u32) -> Result<()> {
        match found == expected {
            true => Ok(()),
            false => Err(self.fault(offset, Fault::Magic { found, expected })),
        }
    }

    /// Where the next message begins.
    pub(crate) fn offset(&self) -> u64 {
        self.next
    }

    /// An error about a place in this file.
    pub(crate) fn fault(&self, offset: u64, fault: Fault) -> Error {
        Error::Image {
            file: self.name.clone(),
            offset,
            fault,
        }
    }

    /// The next message, with the offset at which it begins; `None` at the end of the file.
    pub(crate) fn message<M: prost::Message + Default>(&mut self) -> Result<Option<(u64, M)>> {
        if self.next == self.content.size() {
            return Ok(None);
        }
        let begin = self.next;
        let length = u64::from(self.record::<Length>()?.bytes);
        let limit = LONGEST;
        if length > limit {
            return Err(self.fault(begin, Fault::TooLong { length, limit }));
        }
        let at = self.next;
        let bytes = Bytes::from(self.take(length)?);
        let message = M::decode(bytes);
        let message = message.map_err(|error| self.fault(at, Fault::Message(error.to_string())))?;
        Ok(Some((at, message)))
    }

    /// The first message of a file, which has to have one.
    pub(crate) fn first<M: prost::Message + Default>(&mut self) -> Result<(u64, M)> {
        let at = self.next;
        self.message()?.ok_or_else(|| self.fault(at, Fault::Empty))
    }

    /// A record of fixed size.
    fn record<T>(&mut self) -> Result<T>
    where
        T: for<'a> scroll::ctx::TryFromCtx<'a, scroll::Endian, Error = scroll::Error>,
    {
        let at = self.next;
        let bytes = self.take(size_of::<T>() as u64)?;
        // There are as many bytes as the record has.
        let record: Result<T, scroll::Error> = bytes.pread_with(0, LE);
        record.map_err(|error| self.fault(at, Fault::Message(error.to_string())))
    }

    fn take(&mut self, size: u64) -> Result<Vec<u8>> {
        let left = self.content.size().saturating_sub(self.next);
        if size > left {
            let missing = size - left;
            return Err(self.fault(self.next, Fault::Truncated { missing }));
        }
        let mut bytes = vec![0; size as usize];
        let read = self.content.read(self.next, &mut bytes);
        read.map_err(Error::path(&self.name))?;
        self.next += size;
        Ok(bytes)
    }
}
