//! The result of an experiment: compares answers with the system call and with the old code.

use nix::libc;

use super::answer::Answer;
use super::call::Call;
use super::experiment::ExperimentOutcome;
use super::function_sweep::{FunctionSweeper, Ready};
use super::outcome::Ending;
use super::random;
use super::scenario::Prepared;
use super::stage::OperandField;
use crate::{Approach, Result};

impl FunctionSweeper<'_, '_> {
    /// Compares what came out with the system call and with the old code.
    pub(super) fn judge(
        &mut self,
        ready: &mut Ready<'_>,
        approach: Approach,
        outcome: ExperimentOutcome,
    ) -> Result<(Ending, String)> {
        let landings = match outcome {
            ExperimentOutcome::Landed(landings) => landings,
            ExperimentOutcome::Ended(ending, what) => return Ok((ending, what)),
        };
        let answers: Result<Vec<Answer>, String> = landings.into_iter().collect();
        let answers = match answers {
            Ok(answers) => answers,
            Err(what) => return Ok((Ending::Wrong, what)),
        };
        if ready.scenario.prepared != Prepared::Taken && random::is_marked(&self.thread.stage) {
            let what = "the state of getrandom is marked as being in use".to_owned();
            return Ok((Ending::Wrong, what));
        }
        let call = ready.scenario.call;
        // Of nested calls, one may have read everything before and the other nothing.
        let mut left = answers.clone();
        if let Some(before) = &ready.witness {
            let after = self.thread.system_call(call)?;
            left.retain(|answer| !answer.is_between(before, &after));
            ready.latest = Some(after);
            if left.is_empty() {
                return Ok((Ending::New, String::new()));
            }
        }
        self.undo(&ready.start)?;
        let home = self.at_home(call)?;
        left.retain(|answer| !answer.is_between(&ready.home, &home));
        if left.is_empty() {
            return Ok((Ending::Old, String::new()));
        }
        if left.iter().all(|answer| answer.moment.is_none()) && self.is_native(call, &left)? {
            return Ok((Ending::New, String::new()));
        }
        if !call.has_system_call() && says_nothing(approach, &left) {
            return Ok((Ending::New, String::new()));
        }
        let found: Vec<String> = answers.iter().map(|found| found.beside(&home)).collect();
        let witness = ready.latest.as_ref().map(ToString::to_string);
        let what = format!(
            "it says {}; the old kernel {home}, the new one {}",
            found.join(" and "),
            witness.unwrap_or_else(|| "nothing".to_owned()),
        );
        Ok((Ending::Wrong, what))
    }

    /// Whether answers that do not move are those of the new kernel's own vDSO, which does not
    /// always do what its system calls do: from 6.18 on it states a resolution for auxiliary clocks
    /// that the system call rejects.
    fn is_native(&mut self, call: Call, answers: &[Answer]) -> Result<bool> {
        let Some(native) = self.native else {
            return Ok(false);
        };
        let native = self.thread.call(native, call, OperandField::Outer)?;
        Ok(native.is_ok_and(|native| answers.iter().all(|answer| *answer == native)))
    }
}

/// Whether these are what a function says that was replaced by a system call and is asked what no
/// system call tells. Programs on kernels without the function get the same answer: see
/// [`relocator::proxy::system_call_stub`].
fn says_nothing(approach: Approach, answers: &[Answer]) -> bool {
    let refused = -i64::from(libc::ENOSYS);
    approach == Approach::Syscall && answers.iter().all(|answer| answer.code == refused)
}
