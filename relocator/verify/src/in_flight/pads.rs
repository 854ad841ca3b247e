//! The few instructions of our own that the thread executes.

/// A place in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pad {
    /// Functions return to here: a trap.
    Return,
    /// A system call, and then a trap.
    SystemCall,
    /// The handler of signals: a trap, and then a return.
    Handler,
    /// What handlers return to: `rt_sigreturn`.
    Restorer,
}

const INT3: u8 = 0xcc;
const RET: u8 = 0xc3;
const SYSCALL: [u8; 2] = [0x0f, 0x05];

impl Pad {
    /// From the start of the code.
    pub(super) fn offset(self) -> usize {
        match self {
            Self::Return => 0x10,
            Self::SystemCall => 0x20,
            Self::Handler => 0x30,
            Self::Restorer => 0x40,
        }
    }

    /// How far behind its start a thread is found that has met the trap.
    pub(super) fn trapped(self) -> i64 {
        match self {
            Self::SystemCall => 3,
            Self::Return | Self::Handler | Self::Restorer => 1,
        }
    }
}

/// The code. What is not used of it are traps, which no thread is expected at.
pub(super) fn code() -> Vec<u8> {
    let mut code = vec![INT3; 0x60];
    let mut put =
        |pad: Pad, bytes: &[u8]| code[pad.offset()..][..bytes.len()].copy_from_slice(bytes);
    put(Pad::SystemCall, &SYSCALL);
    put(Pad::Handler, &[INT3, RET]);
    // mov $15, %eax; syscall
    put(Pad::Restorer, &[0xb8, 15, 0, 0, 0, SYSCALL[0], SYSCALL[1]]);
    code
}

#[cfg(test)]
mod tests {
    use iced_x86::{Decoder, DecoderOptions, Mnemonic};

    use super::*;

    #[test]
    fn pads_are_what_they_are_said_to_be() {
        let code = code();
        let at = |pad: Pad| {
            let code = &code[pad.offset()..];
            let decoder = Decoder::with_ip(64, code, 0, DecoderOptions::NONE);
            decoder.into_iter().take(2).collect::<Vec<_>>()
        };
        for pad in [Pad::Return, Pad::SystemCall, Pad::Handler] {
            let trap = at(pad).into_iter().find(|i| i.mnemonic() == Mnemonic::Int3);
            assert_eq!(trap.unwrap().next_ip() as i64, pad.trapped(), "{pad:?}");
        }
        assert_eq!(at(Pad::SystemCall)[0].mnemonic(), Mnemonic::Syscall);
        assert_eq!(at(Pad::Handler)[1].mnemonic(), Mnemonic::Ret);
        let restorer = at(Pad::Restorer);
        let number = u64::from(restorer[0].immediate32());
        assert_eq!(number as i64, nix::libc::SYS_rt_sigreturn);
        assert_eq!(restorer[1].mnemonic(), Mnemonic::Syscall);
    }
}
