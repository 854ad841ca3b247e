//! How a machine is set up: what a user may vary.

use clap::ValueEnum;

/// What the guest counts time with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Clock {
    /// What the kernel chooses.
    #[default]
    Usual,
    /// The time-stamp counter.
    Tsc,
    /// The timer of the chipset: no clock that a vDSO can read, so its functions make system calls.
    Hpet,
    /// The clock of KVM's, which the emulator only has with `--accel kvm`.
    Kvm,
}

impl Clock {
    /// The kernel's name for it.
    pub(crate) fn source(self) -> Option<&'static str> {
        match self {
            Self::Usual => None,
            Self::Tsc => Some("tsc"),
            Self::Hpet => Some("hpet"),
            Self::Kvm => Some("kvm-clock"),
        }
    }
}

/// How machines are set up.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
#[command(next_help_heading = "Machines")]
pub(crate) struct Settings {
    /// The emulator's model of the processor, with features: max, max,-rdpid, Nehalem.
    #[arg(long, global = true, value_name = "MODEL", default_value = "max")]
    pub(crate) cpu: String,
    /// The same for guests that restore: another processor than the one of the dump.
    #[arg(long, global = true, value_name = "MODEL")]
    pub(crate) restore_cpu: Option<String>,
    /// What the emulator runs code with: tcg, or kvm where the machine can.
    #[arg(long, global = true, value_name = "NAME", default_value = "tcg")]
    pub(crate) accel: String,
    /// Processors; with two or more they run at the same time.
    #[arg(long, global = true, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) smp: u32,
    /// Memory of the guest.
    #[arg(long, global = true, value_name = "MIB", default_value_t = 640)]
    pub(crate) memory: u64,
    /// What the guest counts time with.
    #[arg(long, global = true, value_enum, default_value_t)]
    pub(crate) clock: Clock,
    /// More for the kernel's command line.
    #[arg(long, global = true, value_name = "WORDS")]
    pub(crate) append: Option<String>,
    /// Room for what a guest hands back.
    #[arg(long, global = true, value_name = "MIB", default_value_t = 256)]
    pub(crate) disk_mib: u64,
}

impl Settings {
    /// The emulator's arguments, for a guest that restores or one that does not.
    pub(crate) fn arguments(&self, extra_mib: u64, restores: bool) -> Vec<String> {
        let other = self.restore_cpu.as_ref().filter(|_| restores);
        let cpu = other.unwrap_or(&self.cpu);
        let accel = match (self.accel.as_str(), self.smp) {
            // One thread is quicker as long as there is one processor.
            ("tcg", 1) => "tcg,thread=single".to_owned(),
            ("tcg", _) => "tcg,thread=multi".to_owned(),
            (other, _) => other.to_owned(),
        };
        let memory = format!("{}M", self.memory + extra_mib);
        let words = ["-accel", &accel, "-cpu", cpu, "-m", &memory];
        let mut words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        words.extend(["-smp".to_owned(), self.smp.to_string()]);
        words
    }

    /// The kernel's command line: quiet, and at its end after a panic. A kernel measures whether
    /// timers and the processor's counter tick; on an emulator that has to wait for its turn, that
    /// goes wrong, so the kernel is told to trust both, and how fast the counter ticks.
    pub(crate) fn kernel_arguments(&self) -> String {
        let mut line = format!(
            "console={} panic=-1 quiet {}",
            crate::arch::CONSOLE,
            crate::arch::kernel_arguments()
        );
        if let Some(source) = self.clock.source() {
            line.push_str(&format!(" clocksource={source}"));
        }
        if let Some(more) = &self.append {
            line.push_str(&format!(" {more}"));
        }
        line
    }
}

impl std::fmt::Display for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let processors = if self.smp == 1 {
            "processor"
        } else {
            "processors"
        };
        let Self {
            accel, cpu, smp, ..
        } = self;
        write!(
            f,
            "{accel}, -cpu {cpu}, {smp} {processors}, {} MiB",
            self.memory
        )?;
        if let Some(cpu) = &self.restore_cpu {
            write!(f, ", restored with -cpu {cpu}")?;
        }
        if let Some(source) = self.clock.source() {
            write!(f, ", clock {source}")?;
        }
        match &self.append {
            Some(more) => write!(f, ", {more}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_reach_the_emulator_and_the_kernel() {
        let settings = Settings {
            cpu: "max".to_owned(),
            restore_cpu: Some("max,-rdpid".to_owned()),
            accel: "tcg".to_owned(),
            smp: 2,
            memory: 512,
            clock: Clock::Hpet,
            append: Some("nosgx".to_owned()),
            disk_mib: 64,
        };
        for (restores, cpu) in [(false, "max"), (true, "max,-rdpid")] {
            let words = settings.arguments(100, restores).join(" ");
            let expected = format!("-accel tcg,thread=multi -cpu {cpu} -m 612M -smp 2");
            assert_eq!(words, expected);
        }
        let line = settings.kernel_arguments();
        assert!(line.ends_with(" clocksource=hpet nosgx"), "{line}");
        assert!(line.contains(&crate::arch::kernel_arguments()), "{line}");
    }
}
