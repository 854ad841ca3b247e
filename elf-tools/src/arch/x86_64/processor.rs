//! Extensions of the instruction set, and which of them an instruction needs.

use iced_x86::CpuidFeature;

use crate::processor::ProcessorFeatures;

/// An extension: its name in `/proc/cpuinfo`, and what the decoder calls it.
type Extension = (&'static str, &'static [CpuidFeature]);

/// The extensions that compilers and alternatives may put into a vDSO, from
/// `arch/x86/include/asm/cpufeatures.h`.
const EXTENSIONS: [Extension; 33] = [
    ("rdtscp", &[CpuidFeature::RDTSCP]),
    ("rdpid", &[CpuidFeature::RDPID]),
    ("fsgsbase", &[CpuidFeature::FSGSBASE]),
    ("cx16", &[CpuidFeature::CMPXCHG16B]),
    ("pni", &[CpuidFeature::SSE3]),
    ("ssse3", &[CpuidFeature::SSSE3]),
    ("sse4_1", &[CpuidFeature::SSE4_1]),
    ("sse4_2", &[CpuidFeature::SSE4_2]),
    ("sse4a", &[CpuidFeature::SSE4A]),
    ("popcnt", &[CpuidFeature::POPCNT]),
    ("abm", &[CpuidFeature::LZCNT]),
    ("bmi1", &[CpuidFeature::BMI1]),
    ("bmi2", &[CpuidFeature::BMI2]),
    ("movbe", &[CpuidFeature::MOVBE]),
    ("adx", &[CpuidFeature::ADX]),
    ("avx", &[CpuidFeature::AVX]),
    ("avx2", &[CpuidFeature::AVX2]),
    ("fma", &[CpuidFeature::FMA]),
    ("f16c", &[CpuidFeature::F16C]),
    ("avx512f", &[CpuidFeature::AVX512F]),
    ("avx512vl", &[CpuidFeature::AVX512VL]),
    ("avx512bw", &[CpuidFeature::AVX512BW]),
    ("avx512dq", &[CpuidFeature::AVX512DQ]),
    ("aes", &[CpuidFeature::AES]),
    ("pclmulqdq", &[CpuidFeature::PCLMULQDQ]),
    ("vaes", &[CpuidFeature::VAES]),
    ("sha_ni", &[CpuidFeature::SHA]),
    ("rdrand", &[CpuidFeature::RDRAND]),
    ("rdseed", &[CpuidFeature::RDSEED]),
    ("xsave", &[CpuidFeature::XSAVE]),
    ("serialize", &[CpuidFeature::SERIALIZE]),
    ("clflushopt", &[CpuidFeature::CLFLUSHOPT]),
    ("user_shstk", &[CpuidFeature::CET_SS]),
];

/// The names of all extensions.
pub(in crate::arch) const NAMES: [&str; EXTENSIONS.len()] = {
    let mut names = [""; EXTENSIONS.len()];
    let mut index = 0;
    while index < names.len() {
        names[index] = EXTENSIONS[index].0;
        index += 1;
    }
    names
};

/// What every processor with 64-bit mode executes. `endbr64`, the only instruction of `CET_IBT` in
/// programs, and hints for prefetching do nothing where they are not known.
const BASE: [CpuidFeature; 27] = [
    CpuidFeature::INTEL8086,
    CpuidFeature::INTEL8086_ONLY,
    CpuidFeature::INTEL186,
    CpuidFeature::INTEL286,
    CpuidFeature::INTEL386,
    CpuidFeature::INTEL386_ONLY,
    CpuidFeature::INTEL486,
    CpuidFeature::X64,
    CpuidFeature::CPUID,
    CpuidFeature::CX8,
    CpuidFeature::CMOV,
    CpuidFeature::FPU,
    CpuidFeature::FPU287,
    CpuidFeature::FPU387,
    CpuidFeature::FXSR,
    CpuidFeature::MMX,
    CpuidFeature::MULTIBYTENOP,
    CpuidFeature::PAUSE,
    CpuidFeature::PREFETCHW,
    CpuidFeature::SSE,
    CpuidFeature::SSE2,
    CpuidFeature::CLFSH,
    CpuidFeature::SYSCALL,
    CpuidFeature::SEP,
    CpuidFeature::TSC,
    CpuidFeature::CET_IBT,
    CpuidFeature::INTEL286_ONLY,
];

/// What an instruction needs.
pub(super) fn needs(decoded: &iced_x86::Instruction) -> ProcessorFeatures {
    let needed = decoded.cpuid_features().iter().map(one);
    needed.fold(ProcessorFeatures::BASE, ProcessorFeatures::with)
}

fn one(feature: &CpuidFeature) -> ProcessorFeatures {
    if BASE.contains(feature) {
        return ProcessorFeatures::BASE;
    }
    let mut extensions = EXTENSIONS.iter();
    let known = extensions.position(|extension| extension.1.contains(feature));
    known.map_or(ProcessorFeatures::UNKNOWN, ProcessorFeatures::of)
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions};

    fn needed(code: &[u8]) -> String {
        let mut decoder = Decoder::new(64, code, DecoderOptions::NONE);
        needs(&decoder.decode()).to_string()
    }

    #[test]
    fn instructions_of_vdsos_need_what_alternatives_ask_for() {
        // endbr64, lfence, rdtsc, pause, lsl, syscall, a long nop, mov
        let base: [&[u8]; 8] = [
            &[0xf3, 0x0f, 0x1e, 0xfa],
            &[0x0f, 0xae, 0xe8],
            &[0x0f, 0x31],
            &[0xf3, 0x90],
            &[0x0f, 0x03, 0xc0],
            &[0x0f, 0x05],
            &[0x0f, 0x1f, 0x44, 0x00, 0x00],
            &[0x48, 0x8b, 0x07],
        ];
        for code in base {
            assert_eq!(needed(code), "", "{code:x?}");
        }
        assert_eq!(needed(&[0x0f, 0x01, 0xf9]), "rdtscp");
        assert_eq!(needed(&[0xf3, 0x0f, 0xc7, 0xf8]), "rdpid");
        // mulx, vpxor of 32 bytes
        assert_eq!(needed(&[0xc4, 0xe2, 0xfb, 0xf6, 0xc1]), "bmi2");
        assert_eq!(needed(&[0xc5, 0xfd, 0xef, 0xc0]), "avx2");
        // What no table knows: vmmcall, of a hypervisor's.
        assert_eq!(needed(&[0x0f, 0x01, 0xd9]), "unknown");
    }
}
