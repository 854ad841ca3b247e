//! Dump on one kernel, restore on another.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::guest::{self, Act, Answer, By, Dumped, IMAGES, Restore, Restored, Subject, TABLES};
use crate::initramfs::Archive;
use crate::kind::Kind;
use crate::lab::Lab;
use crate::scratch;

/// The number of the first subject's process, and how far apart they are.
const FIRST_PID: i32 = 4000;
const PIDS: i32 = 100;

/// The time that a guest has to boot and end.
const BOOT: Duration = Duration::from_secs(120);

/// The time for one dump or restore at most. A machine may have a lot of other work.
const ACT: Duration = Duration::from_secs(150);

/// The first kernel without a question that CRIU asks about glibc's restartable sequences.
const RSEQ: (u32, u32) = (5, 13);

/// What dumps on a kernel left: images, and what one carries from its kernel.
#[derive(Debug)]
pub(crate) struct Dumps {
    directory: TempDir,
    /// How each dump went.
    pub(crate) dumped: Vec<Dumped>,
    /// Why there is no vDSO with tables.
    pub(crate) not_described: Option<String>,
    /// What else went wrong: the guest ended early.
    pub(crate) failure: Option<String>,
}

impl Dumps {
    fn empty() -> Result<Self> {
        Ok(Self {
            directory: scratch::directory()?,
            dumped: Vec::new(),
            not_described: Some("the guest said nothing about it".to_owned()),
            failure: None,
        })
    }

    /// Dumps with empty images of these names.
    #[cfg(test)]
    pub(crate) fn with_images(images: &[String]) -> Result<Self> {
        let dumps = Self::empty()?;
        for image in images {
            std::fs::create_dir_all(dumps.directory.path().join("images").join(image))?;
        }
        Ok(dumps)
    }

    /// The directory of an image, if the dump went well.
    pub(crate) fn image(&self, name: &str) -> Option<PathBuf> {
        let directory = self.directory.path().join("images").join(name);
        directory.is_dir().then_some(directory)
    }

    /// Adds what one carries from this kernel to a guest. The result is where its vDSO is there.
    fn carry(&self, archive: &mut Archive, number: usize) -> Result<Option<PathBuf>> {
        let vdso = self.directory.path().join("vdso.so");
        if !vdso.is_file() {
            return Ok(None);
        }
        let place = PathBuf::from(format!("/lab/old/{number}.so"));
        archive.copy(&vdso, &place)?;
        let tables = self.directory.path().join("tables");
        if tables.is_dir() {
            archive.copy_tree(&tables, Path::new(TABLES))?;
        }
        Ok(Some(place))
    }
}

/// What restores on a kernel left.
#[derive(Debug, Default)]
pub(crate) struct Restores {
    /// How each restore went.
    pub(crate) restored: Vec<Restored>,
    /// What else went wrong: the guest ended early.
    pub(crate) failure: Option<String>,
    /// The images of dumps afterwards, if there are any.
    pub(crate) dumps: Option<Dumps>,
}

/// One restore that is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// The image.
    pub(crate) image: String,
    /// The kind of subjects in it.
    pub(crate) kind: Kind,
    /// Who makes its vDSO right.
    pub(crate) by: By,
    /// How often the image was restored before.
    pub(crate) epoch: u64,
    /// Whether it is dumped afterwards.
    pub(crate) dump: bool,
    /// Whether CRIU is told to take the same vDSO for another one.
    pub(crate) fault: bool,
}

/// Dumps `repeat` subjects of each kind on a kernel. If the plugin is to link them later, it takes
/// part in the dump.
pub(crate) fn dump(
    lab: &Lab,
    version: &str,
    kinds: &[Kind],
    repeat: usize,
    by: By,
) -> Result<Dumps> {
    let kernel = lab.kernel(version)?;
    let relocator = lab.relocator()?;
    let mut layers = vec![relocator];
    let mut acts = vec![Act::Describe];
    let mut pid = FIRST_PID;
    for kind in kinds {
        let (layer, criu) = lab.criu(&kind.criu, by == By::Plugin)?;
        let (checker, program) = lab.checker(kind)?;
        layers.extend([layer, checker]);
        for number in 0..repeat {
            pid += PIDS;
            let image = kind.image(number);
            let mut environment = environment(version);
            environment.extend(program.environment.clone());
            acts.push(Act::Dump(Subject {
                command: program.words.clone(),
                pages: (0..kind.processes)
                    .map(|number| guest::page(&image, number))
                    .collect(),
                environment,
                criu: criu.clone(),
                container: kind.container,
                pid,
                image,
            }));
        }
    }
    let layers: Vec<&[u8]> = layers.iter().map(|layer| layer.as_slice()).collect();
    let limit = limit(acts.len());
    let (answers, ended) = lab.perform(&kernel, acts, &layers, limit);
    let mut dumps = Dumps::empty()?;
    match ended {
        Ok(ended) => take(&ended.files(), dumps.directory.path())?,
        Err(error) => dumps.failure = Some(format!("{error:#}")),
    }
    for answer in answers {
        match answer {
            Answer::Described(described) => dumps.not_described = described.err(),
            Answer::Dumped(dumped) => dumps.dumped.push(dumped),
            _ => {}
        }
    }
    Ok(dumps)
}

/// Restores images on a kernel. `olds` are dumps on every kernel that the processes come from, the
/// last of which have the images.
pub(crate) fn restore(
    lab: &Lab,
    version: &str,
    olds: &[&Dumps],
    wanted: &[Wanted],
    observe: Duration,
) -> Result<Restores> {
    let kernel = lab.kernel(version)?;
    let mut layers = vec![lab.relocator()?];
    let mut archive = Archive::default();
    let mut old = Vec::new();
    for (dumps, number) in olds.iter().zip(0..) {
        old.extend(dumps.carry(&mut archive, number)?);
    }
    let images = olds.last().context("no dumps")?;
    let mut acts = Vec::new();
    for one in wanted {
        let Some(directory) = images.image(&one.image) else {
            continue;
        };
        archive.copy_tree(&directory, &Path::new(IMAGES).join(&one.image))?;
        let (layer, criu) = lab.criu(&one.kind.criu, one.by == By::Plugin)?;
        // The program itself is mapped from its file.
        layers.extend([layer, lab.checker(&one.kind)?.0]);
        acts.push(Act::Restore(Restore {
            image: one.image.clone(),
            epoch: one.epoch,
            criu,
            container: one.kind.container,
            by: one.by,
            old: old.clone(),
            fault: one.fault,
            observe_ms: u64::try_from(observe.as_millis())?,
            dump: one.dump,
        }));
    }
    if acts.is_empty() {
        return Ok(Restores::default());
    }
    if wanted.iter().any(|one| one.dump) {
        // What is dumped here is carried on from here.
        acts.push(Act::Describe);
    }
    let images = archive.finish()?;
    layers.sort_by_key(|layer| layer.as_ptr());
    layers.dedup_by_key(|layer| layer.as_ptr());
    let mut layers: Vec<&[u8]> = layers.iter().map(|layer| layer.as_slice()).collect();
    layers.push(&images);
    let limit = limit(acts.len());
    let (answers, ended) = lab.perform(&kernel, acts, &layers, limit);
    let mut dumps = Dumps::empty()?;
    let mut restores = Restores::default();
    match ended {
        Ok(ended) => take(&ended.files(), dumps.directory.path())?,
        Err(error) => restores.failure = Some(format!("{error:#}")),
    }
    for answer in answers {
        match answer {
            Answer::Restored(restored) => restores.restored.push(*restored),
            Answer::Described(described) => dumps.not_described = described.err(),
            _ => {}
        }
    }
    restores.dumps = Some(dumps);
    Ok(restores)
}

/// How long a guest may take for so many acts.
fn limit(acts: usize) -> Duration {
    BOOT + ACT * u32::try_from(acts).unwrap_or(u32::MAX)
}

/// Moves what a guest left, out of what is removed with its machine.
fn take(from: &Path, to: &Path) -> Result<()> {
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        std::fs::rename(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

/// What subjects need in their environment on a kernel.
fn environment(version: &str) -> Vec<(String, String)> {
    let mut numbers = version
        .split(['.', '-'])
        .map_while(|part| part.parse().ok());
    let series = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let tunables = (
        "GLIBC_TUNABLES".to_owned(),
        "glibc.pthread.rseq=0".to_owned(),
    );
    match series < RSEQ {
        true => vec![tunables],
        false => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_kernels_cannot_say_where_restartable_sequences_are() {
        assert_eq!(environment("5.10").len(), 1);
        for version in ["5.13", "6.1", "6.12-rt", "7.3"] {
            assert_eq!(environment(version), [], "{version}");
        }
    }
}
