//! `--cpu`: which processor is to run an image.

use std::fs;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, Error, Result, bail};
use elf_tools::processor::ProcessorFeatures;
use relocator_process::cpu_features;

/// The word for the processor that runs this tool.
const OWN: &str = "self";

/// The word for what every processor has.
const BASE: &str = "base";

/// What a processor has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Processor(pub(crate) ProcessorFeatures);

impl FromStr for Processor {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.contains('/') || Path::new(text).is_file() {
            true => of_file(Path::new(text)),
            false => of_list(text),
        }
        .map(Self)
    }
}

/// A file like `/proc/cpuinfo`: what all of its processors have.
fn of_file(path: &Path) -> Result<ProcessorFeatures> {
    let name = path.display();
    let text = fs::read(path).with_context(|| format!("{name}"))?;
    let text = String::from_utf8_lossy(&text);
    let lists = text.lines().filter_map(|line| {
        let (key, list) = line.split_once(':')?;
        (key.trim() == "flags").then(|| ProcessorFeatures::listed(list))
    });
    let common = lists.reduce(|all, next| all.without(all.without(next)));
    common.with_context(|| format!("{name}: there is no line `flags` as in /proc/cpuinfo"))
}

/// Names, of which those behind a minus are taken away.
fn of_list(text: &str) -> Result<ProcessorFeatures> {
    let mut all = ProcessorFeatures::BASE;
    for word in text.split(',').map(str::trim) {
        let name = word.strip_prefix('-').unwrap_or(word);
        let named = match name {
            OWN => cpu_features::running(),
            BASE => ProcessorFeatures::BASE,
            name => match ProcessorFeatures::named(name) {
                Some(named) => named,
                None => bail!(
                    "{name:?} is not known; there are `{OWN}`, `{BASE}` and {}",
                    ProcessorFeatures::all()
                ),
            },
        };
        all = match word == name {
            true => all.with(named),
            false => all.without(named),
        };
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ProcessorFeatures> {
        text.parse::<Processor>().map(|processor| processor.0)
    }

    #[test]
    fn processors_are_listed_by_features() {
        let running = cpu_features::running();
        assert_eq!(parse("self").unwrap(), running);
        assert_eq!(parse("base").unwrap(), ProcessorFeatures::BASE);
        let all = ProcessorFeatures::all();
        let names: Vec<_> = all.names().collect();
        let (first, second) = (names[0], names[1]);
        let two = parse(&format!("{first}, {second}")).unwrap();
        assert!(two.names().eq([first, second]));
        let one = parse(&format!("{first},{second},-{first}")).unwrap();
        assert!(one.names().eq([second]));
        let error = parse("nosuch").unwrap_err().to_string();
        assert!(
            error.contains("\"nosuch\"") && error.contains(first),
            "{error}"
        );
        assert!(parse("").is_err());
    }

    #[test]
    fn processors_are_read_from_files() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cpuinfo");
        let all = ProcessorFeatures::all();
        let names: Vec<_> = all.names().collect();
        let (first, second) = (names[0], names[1]);
        let text = format!(
            "processor : 0\nflags : fpu {first} {second}\n\nprocessor : 1\nflags\t: {second}\n"
        );
        fs::write(&path, text).unwrap();
        let read = parse(path.to_str().unwrap()).unwrap();
        assert!(read.names().eq([second]));
        fs::write(&path, "nothing").unwrap();
        assert!(parse(path.to_str().unwrap()).is_err());
        assert!(parse("./does/not/exist").is_err());
    }
}
