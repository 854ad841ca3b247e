//! States of `getrandom`, and whether two restores of one image share their random numbers.

use elf_tools::Avma;

use super::answer::Answer;
use super::call::{Call, Random};
use super::outcome::Ending;
use super::stage::{OperandField, Stage};
use super::traced_thread::TracedThread;
use crate::Result;
use relocator::threads::Memory;

/// Where the mark is that a state of `getrandom` is in use: `struct vgetrandom_state` of
/// `include/vdso/getrandom.h`, which has a key and a batch of 128 bytes, a generation of 8, a
/// position, and this.
const IN_USE: i64 = 137;

/// Most bytes in a state: it is in a page.
const LARGEST: usize = 4096;

/// How many random bytes the next call is asked for. That they are the same by accident is out of
/// the question.
const NEXT: usize = 32;

/// What the next call of `getrandom` gives, or how it fails.
pub(super) type Next = std::result::Result<Vec<u8>, String>;

/// Asks how to allocate a state.
pub(super) const QUERY: Call = Call::Getrandom(Random {
    length: 0,
    flags: 0,
    state: None,
    query: true,
});

/// The size of the state that the answer to the query asks for; `None` if there can be none that is
/// understood.
pub(super) fn state_size(answer: &Answer, operand_field: &[u8]) -> Option<usize> {
    let size = Call::state_size(operand_field);
    let usable = answer.code == 0 && size > IN_USE as usize && size <= LARGEST;
    usable.then_some(size)
}

/// Where the mark is that the state is in use.
pub(super) fn mark(stage: &Stage) -> Avma {
    stage.state().offset(IN_USE)
}

/// Whether the state is marked as being in use.
pub(super) fn is_marked(stage: &Stage) -> bool {
    let mut found = [0];
    stage.read(mark(stage), &mut found) && found != [0]
}

/// What the next call of the function at `entry` gives on the state that the thread has come out
/// with; `None` if `call` uses none.
pub(super) fn next(thread: &mut TracedThread, entry: Avma, call: Call) -> Result<Option<Next>> {
    let Call::Getrandom(random) = call else {
        return Ok(None);
    };
    if random.state.is_none() {
        return Ok(None);
    }
    let call = Call::Getrandom(Random {
        length: NEXT,
        flags: 0,
        ..random
    });
    let answer = thread.call(entry, call, OperandField::Inner)?;
    let operand_field = thread.stage.slot_bytes(OperandField::Inner);
    let bytes = call
        .random_bytes()
        .map(|range| operand_field[range].to_vec());
    Ok(Some(match answer {
        Ok(answer) if answer.code == NEXT as i64 => Ok(bytes.unwrap_or_default()),
        Ok(answer) => Err(format!("the next call returns {}", answer.code)),
        Err(what) => Err(format!("the next call: {what}")),
    }))
}

/// What was found, unless two restores of one snapshot go on with the same random numbers.
pub(super) fn compare(found: (Ending, String), first: Next, second: Next) -> (Ending, String) {
    match (first, second) {
        (Ok(first), Ok(second)) if first != second => found,
        (Ok(_), Ok(_)) => {
            let what = "two restores go on with the same random numbers".to_owned();
            (Ending::Wrong, what)
        }
        (Err(what), _) | (_, Err(what)) => (Ending::Wrong, what),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_random_numbers_are_wrong() {
        let found = || (Ending::New, String::new());
        assert_eq!(compare(found(), Ok(vec![1]), Ok(vec![2])), found());
        assert_eq!(compare(found(), Ok(vec![1]), Ok(vec![1])).0, Ending::Wrong);
        let failed = compare(found(), Ok(vec![1]), Err("it failed".to_owned()));
        assert_eq!(failed, (Ending::Wrong, "it failed".to_owned()));
    }
}
