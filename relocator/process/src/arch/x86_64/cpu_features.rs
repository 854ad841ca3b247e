//! What this processor can do, as far as a vDSO's alternatives ask.

use std::arch::x86_64::{__cpuid, __cpuid_count};

use elf_tools::image::alternatives::{Feature, feature};

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
        feature::RDTSCP => {
            leaf(EXTENDED_MAXIMUM, 0x8000_0001).is_some_and(|words| words[3] & (1 << 27) != 0)
        }
        feature::RDPID => leaf(MAXIMUM, 7).is_some_and(|words| words[2] & (1 << 22) != 0),
        // The kernel sets it where SSE2 is there: Intel always orders so, AMD since the kernel
        // makes `lfence` serialise.
        feature::LFENCE_RDTSC => leaf(MAXIMUM, 1).is_some_and(|words| words[3] & (1 << 26) != 0),
        _ => false,
    }
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
}
