//! The few instructions of our own that a traced thread executes.

use super::instructions::{RETURN, SYSTEM_CALL, TRAP};

/// A place in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LandingPad {
    /// Functions return to here: a trap.
    Return,
    /// A system call, and then a trap.
    SystemCall,
    /// The handler of signals: a trap, and then a return.
    Handler,
    /// What handlers return to: `rt_sigreturn`.
    Restorer,
}

impl LandingPad {
    /// From the start of the code.
    pub(crate) fn offset(self) -> usize {
        match self {
            Self::Return => 0x10,
            Self::SystemCall => 0x20,
            Self::Handler => 0x30,
            Self::Restorer => 0x40,
        }
    }

    /// How far behind its start the program counter of a thread is that has met the trap.
    pub(crate) fn trapped(self) -> i64 {
        match self {
            Self::SystemCall => 3,
            Self::Return | Self::Handler | Self::Restorer => 1,
        }
    }
}

/// The code. What is not used of it are traps, which no thread is expected at.
pub(crate) fn landing_pad_code() -> Vec<u8> {
    let mut code = vec![TRAP; 0x60];
    let mut put =
        |pad: LandingPad, bytes: &[u8]| code[pad.offset()..][..bytes.len()].copy_from_slice(bytes);
    put(LandingPad::SystemCall, &SYSTEM_CALL);
    put(LandingPad::Handler, &[TRAP, RETURN]);
    // mov $15, %eax; syscall
    let [first, second] = SYSTEM_CALL;
    put(LandingPad::Restorer, &[0xb8, 15, 0, 0, 0, first, second]);
    code
}

#[cfg(test)]
mod tests {
    use iced_x86::{Decoder, DecoderOptions, Mnemonic};

    use super::*;

    #[test]
    fn landing_pads_hold_the_instructions_that_they_promise() {
        let code = landing_pad_code();
        let at = |pad: LandingPad| {
            let code = &code[pad.offset()..];
            let decoder = Decoder::with_ip(64, code, 0, DecoderOptions::NONE);
            decoder.into_iter().take(2).collect::<Vec<_>>()
        };
        for pad in [
            LandingPad::Return,
            LandingPad::SystemCall,
            LandingPad::Handler,
        ] {
            let trap = at(pad).into_iter().find(|i| i.mnemonic() == Mnemonic::Int3);
            assert_eq!(trap.unwrap().next_ip() as i64, pad.trapped(), "{pad:?}");
        }
        assert_eq!(at(LandingPad::SystemCall)[0].mnemonic(), Mnemonic::Syscall);
        assert_eq!(at(LandingPad::Handler)[1].mnemonic(), Mnemonic::Ret);
        let restorer = at(LandingPad::Restorer);
        let number = u64::from(restorer[0].immediate32());
        assert_eq!(number as i64, nix::libc::SYS_rt_sigreturn);
        assert_eq!(restorer[1].mnemonic(), Mnemonic::Syscall);
    }
}
