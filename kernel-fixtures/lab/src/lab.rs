//! What guests are made of, prepared once: layers of their file systems, kernels, the emulator.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use kernel_source::{Cache, Kernel};

use crate::checker::{self, Interpreter, Libc};
use crate::guest::{self, Answer, Criu, Job};
use crate::initramfs::{self, Archive};
use crate::kind::{Kind, Language};
use crate::machine::{Boot, Channel, Ended, Machine, Settings};
use crate::{arch, packages, programs, scratch};

/// Where a guest has the relocator.
const RELOCATOR: &str = "/lab/relocator";

/// A layer of a guest's file system.
type Layer = Arc<Vec<u8>>;

/// How a guest runs a checker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Program {
    /// The program and its arguments, before those that name pages.
    pub(crate) words: Vec<String>,
    /// Its environment.
    pub(crate) environment: Vec<(String, String)>,
}

impl Program {
    fn alone(program: &Path) -> Self {
        Self {
            words: vec![program.display().to_string()],
            environment: Vec::new(),
        }
    }
}

/// The lab: everything that guests are made of.
pub(crate) struct Lab {
    cache: Cache,
    machine: Machine,
    relocator: Option<PathBuf>,
    layers: Mutex<HashMap<String, Layer>>,
    echo: bool,
}

impl Lab {
    /// A lab with machines of these settings. `relocator` is the command that guests run; none: the
    /// workspace's own, which is built when it is first needed.
    pub(crate) fn new(settings: Settings, relocator: Option<PathBuf>, echo: bool) -> Result<Self> {
        scratch::clean();
        let cache = Cache::locate();
        let emulator = packages::emulator(&cache)?;
        Ok(Self {
            machine: Machine::new(emulator, settings),
            cache,
            relocator,
            layers: Mutex::default(),
            echo,
        })
    }

    /// The cache of packages.
    pub(crate) fn cache(&self) -> &Cache {
        &self.cache
    }

    /// How machines are set up.
    pub(crate) fn settings(&self) -> &Settings {
        self.machine.settings()
    }

    /// A kernel, by version.
    pub(crate) fn kernel(&self, version: &str) -> Result<Kernel> {
        Ok(self.cache.fetch(version)?)
    }

    /// The file system that every guest has.
    pub(crate) fn base(&self) -> Result<Layer> {
        self.layer("base", || {
            let busybox = packages::busybox(&self.cache)?;
            let mut archive = Archive::default();
            let places = ["bin/busybox", "usr/bin/busybox"].map(|place| busybox.root.join(place));
            let program = places.iter().find(|place| place.is_file());
            archive.copy(
                program.context("no busybox in its package")?,
                "/bin/busybox",
            )?;
            archive.file("/init", 0o755, guest::init().as_bytes())?;
            add_program(
                &mut archive,
                &std::env::current_exe()?,
                Path::new(guest::OWN),
            )?;
            archive.finish()
        })
    }

    /// The relocator, for guests that link.
    pub(crate) fn relocator(&self) -> Result<Layer> {
        self.layer("relocator", || {
            let program = match &self.relocator {
                Some(program) => program.clone(),
                None => programs::relocator()?,
            };
            let mut archive = Archive::default();
            add_program(&mut archive, &program, Path::new(RELOCATOR))?;
            let plugin = programs::plugin()?;
            let at = Path::new(guest::PLUGINS).join("relocator_plugin.so");
            archive.file(at, 0o755, &programs::small(&plugin)?)?;
            archive.finish()
        })
    }

    /// A kernel's modules.
    pub(crate) fn modules(&self, kernel: &Kernel) -> Result<Layer> {
        self.layer(&format!("modules {}", kernel.version), || {
            let (_, tree) = packages::kernel(&self.cache, &kernel.version)?;
            initramfs::modules(&tree.root)?.finish()
        })
    }

    /// A version of CRIU, and what it is in a guest. With the plugin, a guest needs
    /// [that of the relocator](Self::relocator) as well.
    pub(crate) fn criu(&self, version: &str, has_plugin: bool) -> Result<(Layer, Criu)> {
        let directory = PathBuf::from(format!("/opt/criu-{version}"));
        let layer = self.layer(&format!("criu {version}"), || {
            let tree = packages::criu(&self.cache, version)?;
            let program = tree.root.join("usr/sbin/criu");
            let mut archive = Archive::default();
            archive.copy(&program, directory.join("criu"))?;
            archive.libraries(&program, &tree.root, &directory)?;
            archive.finish()
        })?;
        let version = version.to_owned();
        let criu = Criu {
            version,
            directory,
            has_plugin,
        };
        Ok((layer, criu))
    }

    /// The checker of a kind, and how a guest runs it.
    pub(crate) fn checker(&self, kind: &Kind) -> Result<(Layer, Program)> {
        let directory = PathBuf::from(kind.directory());
        match kind.language {
            Language::C => self.checker_in_c(&kind.libc, &directory),
            Language::Python => {
                let tree = packages::python(&self.cache, &kind.libc)?;
                let python = Interpreter::of(&tree)?;
                let layer = self.layer(&kind.directory(), || {
                    let mut archive = Archive::default();
                    python.add(&mut archive, &directory)?;
                    archive.finish()
                })?;
                let program = Program {
                    words: python.words(&directory),
                    environment: Interpreter::environment(&directory),
                };
                Ok((layer, program))
            }
            Language::Go => {
                let program = directory.join("checker");
                let layer = self.layer(&kind.directory(), || {
                    let tree = packages::go(&self.cache)?;
                    let scratch = scratch::directory()?;
                    let built = scratch.path().join("checker");
                    checker::compile_go(&tree, &self.cache, &built)?;
                    let mut archive = Archive::default();
                    archive.copy(&built, &program)?;
                    archive.finish()
                })?;
                Ok((layer, Program::alone(&program)))
            }
        }
    }

    fn checker_in_c(&self, libc: &str, directory: &Path) -> Result<(Layer, Program)> {
        let program = directory.join("checker");
        let layer = self.layer(&format!("libc {libc}"), || {
            let tree = packages::libc(&self.cache, libc)?;
            let scratch = scratch::directory()?;
            let built = scratch.path().join("checker");
            let mut archive = Archive::default();
            if libc == "musl" {
                checker::compile(&Libc::Musl(tree), &built)?;
            } else {
                checker::compile(&Libc::Glibc(directory.to_owned()), &built)?;
                archive.libraries(&built, &tree.root, directory)?;
            }
            archive.copy(&built, &program)?;
            archive.finish()
        })?;
        Ok((layer, Program::alone(&program)))
    }

    /// Boots a kernel with a job. `more` are layers besides the usual ones.
    pub(crate) fn boot(
        &self,
        kernel: &Kernel,
        job: &Job,
        more: &[&[u8]],
        limit: Duration,
        channel: Channel<'_>,
    ) -> Result<Ended> {
        let (base, modules) = (self.base()?, self.modules(kernel)?);
        let restores = matches!(job, Job::Acts(acts) if acts.iter().any(guest::Act::restores));
        let mut archive = Archive::default();
        archive.file(guest::JOB, 0o644, &serde_json::to_vec(job)?)?;
        let job = archive.finish()?;
        let mut layers: Vec<&[u8]> = vec![&base, &modules, &job];
        layers.extend(more);
        // The kernel holds the archives and the files at the same time.
        let size: usize = more.iter().map(|layer| layer.len()).sum();
        let boot = Boot {
            kernel: &kernel.path,
            layers,
            limit,
            extra_mib: 2 * (size as u64 >> 20),
            restores,
        };
        let ended = self.machine.run(&boot, channel);
        ended.with_context(|| format!("Linux {}", kernel.version))
    }

    /// Boots a kernel with acts, and collects what the guest says about them. What it said before
    /// something went wrong comes with the error.
    pub(crate) fn perform(
        &self,
        kernel: &Kernel,
        acts: Vec<guest::Act>,
        more: &[&[u8]],
        limit: Duration,
    ) -> (Vec<Answer>, Result<Ended>) {
        let mut answers = Vec::new();
        let mut keep = |line: &str| match Answer::parse(line) {
            Some(answer) => answers.push(answer),
            None if self.echo => eprintln!("{}: {line}", kernel.version),
            None => {}
        };
        let job = Job::Acts(acts);
        let ended = self.boot(kernel, &job, more, limit, Channel::Lines(&mut keep));
        let ended = ended.and_then(|ended| match answers.last() {
            Some(Answer::Done) => Ok(ended),
            _ => anyhow::bail!(
                "Linux {}: the guest program ended early, with status {}",
                kernel.version,
                ended.status
            ),
        });
        (answers, ended)
    }

    fn layer(&self, name: &str, make: impl FnOnce() -> Result<Vec<u8>>) -> Result<Layer> {
        let mut layers = self
            .layers
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(layer) = layers.get(name) {
            return Ok(Arc::clone(layer));
        }
        let layer = Arc::new(make().with_context(|| format!("layer {name}"))?);
        layers.insert(name.to_owned(), Arc::clone(&layer));
        Ok(layer)
    }
}

/// Adds a program of this machine, with its libraries where it looks for them.
pub(crate) fn add_program(archive: &mut Archive, program: &Path, at: &Path) -> Result<()> {
    archive.file(at, 0o755, &programs::small(program)?)?;
    let libraries = Path::new("/").join(arch::LIBRARY_DIRECTORIES[1]);
    archive.libraries(program, Path::new("/"), &libraries)?;
    let linker = libraries.join(arch::DYNAMIC_LINKER_NAME);
    archive.link(arch::DYNAMIC_LINKER, &linker.to_string_lossy())
}
