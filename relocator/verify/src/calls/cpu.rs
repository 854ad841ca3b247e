//! `getcpu`.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use super::{Checker, Difference, Settable, equal};
use crate::entry::Cpu;
use crate::system;
use crate::{Error, Result};

/// On every processor that this process may run on, with every combination of pointers.
pub(super) fn getcpu(checker: &mut Checker<'_>, function: Cpu) -> Result<()> {
    let own = Pid::from_raw(0);
    let failed =
        |errno: nix::errno::Errno| Error::io("the processors of this process")(errno.into());
    let allowed = sched_getaffinity(own).map_err(failed)?;
    for cpu in (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap_or(false)) {
        let mut only = CpuSet::new();
        only.set(cpu).map_err(failed)?;
        sched_setaffinity(own, &only).map_err(failed)?;
        for (what, wants_cpu, wants_node) in [
            ("CPU and node", true, true),
            ("CPU", true, false),
            ("node", false, true),
            ("neither", false, false),
        ] {
            checker.case(format!("{what} on CPU {cpu}"));
            checker.rounds(Settable::No, || compare(function, wants_cpu, wants_node));
        }
    }
    sched_setaffinity(own, &allowed).map_err(failed)
}

fn compare(function: Cpu, wants_cpu: bool, wants_node: bool) -> Result<(), Difference> {
    let (mut cpu, mut node) = (u32::MAX, u32::MAX);
    let (code, expected_cpu, expected_node) = system::getcpu();
    let found = function.call(
        wants_cpu.then_some(&mut cpu),
        wants_node.then_some(&mut node),
    );
    equal("the result", &found, &code)?;
    if wants_cpu {
        equal("the CPU", &cpu, &expected_cpu)?;
    }
    if wants_node {
        equal("the node", &node, &expected_node)?;
    }
    Ok(())
}
