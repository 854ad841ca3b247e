//! What this processor can do, as far as a vDSO's alternatives ask.

use std::arch::x86_64::{__cpuid, __cpuid_count};

use elf_tools::image::alternatives::{Feature, feature};
use elf_tools::processor::ProcessorFeatures;

/// Leaf with the number of the highest standard leaf.
const MAXIMUM: u32 = 0;
/// Leaf with the number of the highest extended leaf.
const EXTENDED_MAXIMUM: u32 = 0x8000_0000;

/// Whether the kernel would set `feature` on this processor.
///
/// Features that no known vDSO asks for are reported as absent, which leaves the code as it was
/// linked.
pub fn has(feature: Feature) -> bool {
    match feature {
        feature::RDTSCP => is_set(RDTSCP),
        feature::RDPID => is_set(RDPID),
        // The kernel sets it where SSE2 is there: Intel always orders so, AMD since the kernel
        // makes `lfence` serialise.
        feature::LFENCE_RDTSC => is_set((MAXIMUM, 1, EDX, 26)),
        _ => false,
    }
}

/// A bit of `cpuid`: the number of the highest leaf of its kind, leaf, word (`eax` to `edx`), bit.
type Bit = (u32, u32, usize, u32);

const EBX: usize = 1;
const ECX: usize = 2;
const EDX: usize = 3;

const RDTSCP: Bit = (EXTENDED_MAXIMUM, 0x8000_0001, EDX, 27);
const RDPID: Bit = (MAXIMUM, 7, ECX, 22);

/// The extensions that a program can use if the processor has them.
const PLAIN: [(&str, Bit); 21] = [
    ("rdtscp", RDTSCP),
    ("rdpid", RDPID),
    ("cx16", (MAXIMUM, 1, ECX, 13)),
    ("pni", (MAXIMUM, 1, ECX, 0)),
    ("ssse3", (MAXIMUM, 1, ECX, 9)),
    ("sse4_1", (MAXIMUM, 1, ECX, 19)),
    ("sse4_2", (MAXIMUM, 1, ECX, 20)),
    ("sse4a", (EXTENDED_MAXIMUM, 0x8000_0001, ECX, 6)),
    ("popcnt", (MAXIMUM, 1, ECX, 23)),
    ("abm", (EXTENDED_MAXIMUM, 0x8000_0001, ECX, 5)),
    ("bmi1", (MAXIMUM, 7, EBX, 3)),
    ("bmi2", (MAXIMUM, 7, EBX, 8)),
    ("movbe", (MAXIMUM, 1, ECX, 22)),
    ("adx", (MAXIMUM, 7, EBX, 19)),
    ("aes", (MAXIMUM, 1, ECX, 25)),
    ("pclmulqdq", (MAXIMUM, 1, ECX, 1)),
    ("sha_ni", (MAXIMUM, 7, EBX, 29)),
    ("rdrand", (MAXIMUM, 1, ECX, 30)),
    ("rdseed", (MAXIMUM, 7, EBX, 18)),
    ("serialize", (MAXIMUM, 7, EDX, 14)),
    ("clflushopt", (MAXIMUM, 7, EBX, 23)),
];

/// What the processor that runs this tool has for programs. Extensions with registers of their own,
/// and those that a program may only use if the kernel allows it, are asked for where the standard
/// library knows whether it does; others are taken to be missing.
pub fn running() -> ProcessorFeatures {
    let plain = PLAIN.iter().filter(|(_, bit)| is_set(*bit));
    let plain = plain.map(|(name, _)| *name);
    let allowed = [
        ("xsave", std::is_x86_feature_detected!("xsave")),
        ("avx", std::is_x86_feature_detected!("avx")),
        ("avx2", std::is_x86_feature_detected!("avx2")),
        ("fma", std::is_x86_feature_detected!("fma")),
        ("f16c", std::is_x86_feature_detected!("f16c")),
        ("vaes", std::is_x86_feature_detected!("vaes")),
        ("avx512f", std::is_x86_feature_detected!("avx512f")),
        ("avx512vl", std::is_x86_feature_detected!("avx512vl")),
        ("avx512bw", std::is_x86_feature_detected!("avx512bw")),
        ("avx512dq", std::is_x86_feature_detected!("avx512dq")),
    ];
    let allowed = allowed
        .into_iter()
        .filter_map(|(name, has)| has.then_some(name));
    let all = plain.chain(allowed).filter_map(ProcessorFeatures::named);
    all.fold(ProcessorFeatures::BASE, ProcessorFeatures::with)
}

fn is_set((maximum, number, word, bit): Bit) -> bool {
    leaf(maximum, number).is_some_and(|words| words[word] & (1 << bit) != 0)
}

/// `eax` to `edx` of a leaf; `None` if the processor does not have it.
#[allow(
    unused_unsafe,
    reason = "safe in recent compilers, unsafe in the oldest one that is supported"
)]
fn leaf(maximum: u32, number: u32) -> Option<[u32; 4]> {
    // SAFETY: every x86-64 processor has the instruction.
    let highest = unsafe { __cpuid(maximum) }.eax;
    if number > highest {
        return None;
    }
    // SAFETY: as above.
    let words = unsafe { __cpuid_count(number, 0) };
    Some([words.eax, words.ebx, words.ecx, words.edx])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_those_that_the_kernel_lists() {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        let flags = info.lines().find(|line| line.starts_with("flags")).unwrap();
        let listed = |name: &str| flags.split_whitespace().any(|flag| flag == name);
        assert_eq!(has(feature::RDTSCP), listed("rdtscp"));
        assert_eq!(has(feature::RDPID), listed("rdpid"));
        assert_eq!(has(feature::LFENCE_RDTSC), listed("sse2"));
        assert!(!has(Feature::MAX));
    }

    /// The kernel may hide what it knows to be broken. How a program uses some of what it lists
    /// depends on more than the processor, and this tool does not ask for it.
    #[test]
    fn the_processor_has_what_the_kernel_lists() {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        let flags = info.lines().find(|line| line.starts_with("flags")).unwrap();
        let not_asked = ProcessorFeatures::listed("fsgsbase user_shstk");
        let listed = ProcessorFeatures::listed(flags).without(not_asked);
        assert_eq!(listed.without(running()), ProcessorFeatures::BASE);
        assert!(!running().is_empty());
    }
}
