//! `cpuinfo.img`: the processors of the machine that made the dump, by CRIU's `cpuinfo.proto`.

use elf_tools::processor::ProcessorFeatures;

/// `cpuinfo_entry`
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Processors {
    #[prost(message, repeated, tag = "1")]
    processors: Vec<Processor>,
}

/// `cpuinfo_x86_entry`
#[derive(Clone, PartialEq, prost::Message)]
struct Processor {
    /// Words of capabilities.
    #[prost(uint32, repeated, packed = "false", tag = "6")]
    capabilities: Vec<u32>,
    #[prost(string, optional, tag = "7")]
    model: Option<String>,
}

/// Where capabilities are in these words. CRIU has an order of words of its own
/// (`compel/arch/x86/src/lib/include/uapi/asm/cpu.h`); bits are as in `cpuid`.
const CAPABILITIES: [(&str, usize, u32); 32] = [
    ("rdtscp", 1, 27),
    ("rdpid", 11, 22),
    ("fsgsbase", 9, 0),
    ("cx16", 4, 13),
    ("pni", 4, 0),
    ("ssse3", 4, 9),
    ("sse4_1", 4, 19),
    ("sse4_2", 4, 20),
    ("sse4a", 6, 6),
    ("popcnt", 4, 23),
    ("abm", 6, 5),
    ("bmi1", 9, 3),
    ("bmi2", 9, 8),
    ("movbe", 4, 22),
    ("adx", 9, 19),
    ("avx", 4, 28),
    ("avx2", 9, 5),
    ("fma", 4, 12),
    ("f16c", 4, 29),
    ("avx512f", 9, 16),
    ("avx512vl", 9, 31),
    ("avx512bw", 9, 30),
    ("avx512dq", 9, 17),
    ("aes", 4, 25),
    ("pclmulqdq", 4, 1),
    ("vaes", 11, 9),
    ("sha_ni", 9, 29),
    ("rdrand", 4, 30),
    ("rdseed", 9, 18),
    ("xsave", 4, 26),
    ("serialize", 18, 14),
    ("clflushopt", 9, 23),
];

impl Processors {
    /// What all of them have; `None` if there is none.
    pub(crate) fn features(&self) -> Option<ProcessorFeatures> {
        let all = self.processors.iter().map(Processor::features);
        all.reduce(|all, next| all.without(all.without(next)))
    }

    /// What the first one is called.
    pub(crate) fn model(&self) -> Option<&str> {
        self.processors.first()?.model.as_deref()
    }
}

impl Processor {
    fn features(&self) -> ProcessorFeatures {
        let has = |word: usize, bit: u32| {
            let word = self.capabilities.get(word);
            word.is_some_and(|word| word >> bit & 1 != 0)
        };
        let listed = CAPABILITIES
            .iter()
            .filter(|(_, word, bit)| has(*word, *bit));
        let named = listed.filter_map(|(name, ..)| ProcessorFeatures::named(name));
        named.fold(ProcessorFeatures::BASE, ProcessorFeatures::with)
    }
}
