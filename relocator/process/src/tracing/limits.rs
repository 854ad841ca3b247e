//! Limits of a process that leave no room for what linking it takes.

use std::fmt;

use procfs::process::LimitValue;

use super::TraceableProcess;
use crate::{Error, Refusal, Result};

/// A limit that is too low.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Limit {
    /// `RLIMIT_AS`: bytes of address space.
    AddressSpace,
    /// `RLIMIT_DATA`: bytes of private memory that can be written.
    Data,
    /// `vm.max_map_count`: number of mappings.
    Mappings,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AddressSpace => "RLIMIT_AS (raise it by `prlimit --pid PID --as=BYTES`)",
            Self::Data => "RLIMIT_DATA (raise it by `prlimit --pid PID --data=BYTES`)",
            Self::Mappings => "vm.max_map_count (raise it by `sysctl`)",
        })
    }
}

impl TraceableProcess {
    /// Refuses a process that may not have so many bytes and mappings more. It has `mappings` now.
    pub(crate) fn check_room(&self, bytes: u64, mappings: usize, more: usize) -> Result<()> {
        let limited = |limit, used: u64, allowed: u64, needed: u64| match used
            .saturating_add(needed)
            > allowed
        {
            true => Err(self.refused(Refusal::Limited {
                limit,
                used,
                allowed,
                needed,
            })),
            false => Ok(()),
        };
        let process = self.process();
        let (Ok(status), Ok(limits)) = (process.status(), process.limits()) else {
            return Ok(());
        };
        let value = |limit: LimitValue| match limit {
            LimitValue::Value(value) => value,
            LimitValue::Unlimited => u64::MAX,
        };
        let used = |kib: Option<u64>| kib.unwrap_or_default().saturating_mul(1024);
        let space = value(limits.max_address_space.soft_limit);
        limited(Limit::AddressSpace, used(status.vmsize), space, bytes)?;
        let data = value(limits.max_data_size.soft_limit);
        limited(Limit::Data, used(status.vmdata), data, bytes)?;
        match std::fs::read_to_string("/proc/sys/vm/max_map_count") {
            Ok(most) => {
                let most = most.trim().parse().unwrap_or(u64::MAX);
                limited(Limit::Mappings, mappings as u64, most, more as u64)
            }
            Err(_) => Ok(()),
        }
    }

    /// Refuses to work where `/proc` is that of other processes than those that this one can trace:
    /// the same number is another process there.
    pub(super) fn check_namespace() -> Result<()> {
        let own = std::fs::read_link("/proc/self");
        let number = own.ok().and_then(|path| path.to_str()?.parse::<u32>().ok());
        match number == Some(std::process::id()) {
            true => Ok(()),
            false => Err(Error::Source {
                text: "/proc".to_owned(),
                reason: "it is of another PID namespace than this process; mount one of its own"
                    .to_owned(),
            }),
        }
    }
}
