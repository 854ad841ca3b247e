//! What a vDSO is compiled differently from the distribution's.

use anyhow::{Result, bail};

use crate::compiler::Family;

/// A difference from the distribution's configuration.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Change {
    pub(crate) name: &'static str,
    /// Options of the configuration with their values; those without a value are not set.
    pub(crate) options: &'static [(&'static str, Option<&'static str>)],
    /// Flags that come last.
    pub(crate) flags: &'static [&'static str],
    /// Whether the compiler sees all files at once.
    pub(crate) at_link_time: bool,
    /// Lines of headers that are others.
    pub(crate) edits: &'static [Edit],
    /// The first series that has what is changed, and the last.
    pub(crate) series: (&'static str, &'static str),
    /// The compilers that can do it.
    pub(crate) compilers: fn(Family, u32) -> bool,
}

/// A line of a header.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Edit {
    /// Below the kernel's source.
    pub(crate) file: &'static str,
    /// How the line ends, without space around it.
    pub(crate) line: &'static str,
    /// What comes before it.
    pub(crate) before: &'static str,
    /// What takes its place.
    pub(crate) instead: Option<&'static str>,
}

const ALWAYS: (&str, &str) = ("6.1", "9.9");
const FIELDS: &str = "include/vdso/datapage.h";

const USUAL: Change = Change {
    name: "usual",
    options: &[],
    flags: &[],
    at_link_time: false,
    edits: &[],
    series: ALWAYS,
    compilers: |_, _| true,
};

const fn insert(line: &'static str, before: &'static str) -> Edit {
    Edit {
        file: FIELDS,
        line,
        before,
        instead: None,
    }
}

const fn replace(line: &'static str, instead: &'static str) -> Edit {
    Edit {
        file: FIELDS,
        line,
        before: "",
        instead: Some(instead),
    }
}

const fn options(
    name: &'static str,
    options: &'static [(&'static str, Option<&'static str>)],
) -> Change {
    Change {
        name,
        options,
        ..USUAL
    }
}

const fn flags(name: &'static str, flags: &'static [&'static str]) -> Change {
    Change {
        name,
        flags,
        ..USUAL
    }
}

/// Fields moved, as backports do: `edits` of the structures in the vvar.
const fn fields(name: &'static str, edits: &'static [Edit]) -> Change {
    Change {
        name,
        edits,
        ..USUAL
    }
}

/// All changes; the first is none.
pub(crate) const CHANGES: [Change; 23] = [
    USUAL,
    flags("size", &["-Os"]),
    flags("more", &["-O3"]),
    options("no-hyperv", &[("HYPERV_TIMER", None)]),
    options("no-pvclock", &[("PARAVIRT_CLOCK", None)]),
    options(
        "no-hypervisor",
        &[("HYPERV_TIMER", None), ("PARAVIRT_CLOCK", None)],
    ),
    options("no-timens", &[("TIME_NS", None), ("TIME_NS_VDSO", None)]),
    options("sgx", &[("X86_SGX", Some("y"))]),
    options("no-sgx", &[("X86_SGX", None)]),
    Change {
        series: ("6.12", "9.9"),
        ..options("no-getrandom", &[("VDSO_GETRANDOM", None)])
    },
    options(
        "no-retpoline",
        &[("RETPOLINE", None), ("MITIGATION_RETPOLINE", None)],
    ),
    Change {
        flags: &["-mharden-sls=all"],
        compilers: |family, version| family == Family::Clang || version >= 12,
        ..options(
            "return-thunks",
            &[
                ("RETHUNK", Some("y")),
                ("MITIGATION_RETHUNK", Some("y")),
                ("SLS", Some("y")),
                ("MITIGATION_SLS", Some("y")),
            ],
        )
    },
    flags("cet", &["-fcf-protection=branch"]),
    Change {
        flags: &["-fcf-protection=full"],
        ..options(
            "cet-full",
            &[("RETPOLINE", None), ("MITIGATION_RETPOLINE", None)],
        )
    },
    Change {
        at_link_time: true,
        ..USUAL_LTO
    },
    Change {
        series: ("6.18", "9.9"),
        ..options("aux-clocks", &[("POSIX_AUX_CLOCKS", Some("y"))])
    },
    options("one-cpu", &[("SMP", None), ("NR_CPUS", Some("1"))]),
    options("many-cpus", &[("NR_CPUS", Some("8192"))]),
    fields("field-first", &[insert("seq;", "u64 vendor_first;")]),
    fields("field-early", &[insert("cycle_last;", "u64 vendor_early;")]),
    fields(
        "fields-late",
        &[
            insert("union {", "u64 vendor_late[2];"),
            insert("tz_minuteswest;", "u64 vendor_zone;"),
            RANDOM_ELSEWHERE,
        ],
    ),
    fields(
        "fields-swapped",
        &[
            replace("shift;", ""),
            replace("mult;", "u32 shift; u32 mult;"),
        ],
    ),
    Change {
        series: ("6.12", "9.9"),
        ..fields(
            "fields-random",
            &[insert("is_ready;", "u64 vendor_random[3];")],
        )
    },
];

const USUAL_LTO: Change = Change {
    name: "link-time",
    ..USUAL
};

/// Before Linux 6.13 the random state is at a fixed place behind the clocks, which then is another.
const RANDOM_ELSEWHERE: Edit = Edit {
    file: "arch/x86/include/asm/vvar.h",
    line: "DECLARE_VVAR_SINGLE(640, struct vdso_rng_data, _vdso_rng_data)",
    before: "",
    instead: Some("DECLARE_VVAR_SINGLE(768, struct vdso_rng_data, _vdso_rng_data)"),
};

impl Change {
    /// Whether the kernel has time namespaces.
    pub(crate) fn has_time_namespaces(&self) -> bool {
        !self.options.contains(&("TIME_NS", None))
    }
}

impl Edit {
    /// Whether a kernel needs it: of the files that not every kernel has, those with the line.
    pub(crate) fn is_optional(&self) -> bool {
        self.file != FIELDS
    }

    /// The text of the file with the line changed. Lines of comments are not meant.
    pub(crate) fn apply(&self, text: &str) -> Result<String> {
        let mut found = 0;
        let mut changed = String::with_capacity(text.len());
        for line in text.lines() {
            let code = line.trim();
            let words = |line: &str| {
                line.split_whitespace()
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            };
            let (wanted, here) = (words(self.line), words(code));
            let is_it = !code.starts_with(['*', '/']) && here.ends_with(&wanted);
            if is_it {
                found += 1;
                changed.push_str(self.before);
                changed.push('\n');
            }
            changed.push_str(self.instead.filter(|_| is_it).unwrap_or(line));
            changed.push('\n');
        }
        if found == 0 && !self.is_optional() {
            bail!("{} has no line `{}`", self.file, self.line);
        }
        Ok(changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_put_before_another() {
        let text = " * mult;\nstruct clock {\n\tu32\tmult;\n\tu32\tshift;\n};\n";
        let edited = insert("mult;", "u64 x;").apply(text).unwrap();
        assert_eq!(
            edited,
            " * mult;\nstruct clock {\nu64 x;\n\tu32\tmult;\n\tu32\tshift;\n};\n"
        );
        let replaced = replace("shift;", "u32 mult;").apply(text).unwrap();
        assert!(
            replaced.contains("\tu32\tmult;\n\nu32 mult;\n};"),
            "{replaced}"
        );
        assert!(insert("missing;", "u64 x;").apply(text).is_err());
    }

    #[test]
    fn names_are_different() {
        let mut names = CHANGES.map(|change| change.name);
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
    }
}
