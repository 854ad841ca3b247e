//! What takes the place of the old text, and how the thread is carried across.

use std::ops::Range;

use elf_tools::Avma;
use elf_tools::image::Image;
use elf_tools::reentry::ReentryTable;
use elf_tools::symtab::mapping_name;

use super::old_environment::Text;
use super::stage::Stage;
use crate::Approach;
use crate::address_space::AddressSpace;
use crate::arch::TRAP;
use crate::{Error, Result};
use relocator::criu;
use relocator::link::{LinkedImage, New, Old, link};
use relocator::placement::{PAGE, Placement};
use relocator::plan::Policy;
use relocator::threads::carry::{Contexts, Stuck, carry};
use relocator::threads::frames::Scope;
use relocator::threads::{CodeNow, Crossing, Registers, Thread, Write, random};
use relocator_process::tracing::UserRegisters;

/// An old image and the kernel that it finds itself on.
#[derive(Debug)]
pub(super) struct Kernels<'a> {
    pub(super) old: &'a Old,
    pub(super) reentry: &'a ReentryTable,
    pub(super) new: New<'a>,
    /// The vDSO of the kernel that is emulated, if the old image is not it.
    pub(super) vdso: &'a [u8],
}

impl Kernels<'_> {
    /// How much room the image needs, linked or not.
    pub(super) fn room(&self, approach: Approach) -> Result<usize> {
        let size = self.old.image.bytes().len();
        let Some(policy) = approach.policy() else {
            return Ok(size);
        };
        let space = AddressSpace::read()?;
        let linked = self.link(space.hole(size as u64)?, policy)?;
        Ok(linked.bytes.len().max(size))
    }

    fn link(&self, image: Avma, policy: Policy) -> Result<LinkedImage> {
        let mappings = AddressSpace::read()?.mappings();
        let placement = Placement { image, mappings };
        Ok(link(self.old, &self.new, &placement, policy)?)
    }
}

/// What threads run in before the kernel is swapped.
#[derive(Debug)]
pub(super) struct Before<'a> {
    /// What the range of the layout holds that text is in.
    text: Vec<u8>,
    /// The vDSO of the kernel that is emulated, if the old image is not it.
    vdso: &'a [u8],
}

impl<'a> Before<'a> {
    /// For an image on a stage, where it is this text now.
    pub(super) fn new(kernels: &Kernels<'a>, now: &Text, stage: &Stage) -> Self {
        Self {
            text: whole(&now.bytes, stage.layout().text.len()),
            vdso: kernels.vdso,
        }
    }

    /// Puts it in place.
    pub(super) fn put(&self, stage: &mut Stage) {
        let (text, vdso) = (stage.layout().text.start, stage.layout().vdso.start);
        stage.put(text, &self.text);
        stage.put(vdso, self.vdso);
    }
}

/// Bytes and zeros behind them.
fn whole(bytes: &[u8], length: usize) -> Vec<u8> {
    let mut whole = bytes.to_vec();
    whole.resize(length, 0);
    whole
}

/// What is done when the kernel is swapped.
#[derive(Debug)]
pub(super) struct Swap<'a> {
    kernels: &'a Kernels<'a>,
    approach: Approach,
    /// What threads find afterwards, if the image is linked.
    linked: Option<CodeNow>,
    image: Avma,
    /// The range of the layout that text is in, and what it holds afterwards.
    text: Range<usize>,
    after: Vec<u8>,
    /// What the old kernel's pages hold afterwards.
    zeros: Vec<u8>,
    /// What its vDSO holds afterwards, if the old image is not it: no thread may execute what an old kernel had there.
    traps: Vec<u8>,
    /// What the old image was linked to before, if it was.
    earlier: Option<&'a CodeNow>,
    size: usize,
}

impl<'a> Swap<'a> {
    /// For an image on a stage, where it is this text now.
    pub(super) fn new(
        kernels: &'a Kernels<'a>,
        approach: Approach,
        now: &'a Text,
        stage: &Stage,
    ) -> Result<Self> {
        let text = stage.layout().text.clone();
        let image = stage.image();
        let policy = approach.policy();
        let linked = policy
            .map(|policy| kernels.link(image, policy))
            .transpose()?;
        let after = match (&linked, approach) {
            (Some(linked), _) => linked.bytes.clone(),
            (None, Approach::Criu) => {
                as_criu_does(&kernels.old.image, kernels.new.image, &now.bytes)?
            }
            (None, _) => now.bytes.clone(),
        };
        Ok(Self {
            kernels,
            approach,
            linked: linked.as_ref().map(LinkedImage::code_now),
            image,
            size: now.bytes.len().max(after.len()),
            after: whole(&after, text.len()),
            zeros: vec![0; stage.layout().pages.len()],
            traps: vec![TRAP; stage.layout().vdso.len()],
            text,
            earlier: now.linked.as_ref(),
        })
    }

    /// What is done.
    pub(super) fn approach(&self) -> Approach {
        self.approach
    }

    /// Puts the new kernel in place: what takes the place of the old text, and pages of zeros, which a restore leaves where
    /// the old vvar was.
    pub(super) fn put(&self, stage: &mut Stage) {
        let (pages, vdso) = (stage.layout().pages.start, stage.layout().vdso.start);
        stage.put(self.text.start, &self.after);
        stage.put(pages, &self.zeros);
        stage.put(vdso, &self.traps);
    }

    /// What to change in a thread and its memory; nothing if the approach leaves both as they are. This writes nothing.
    pub(super) fn fix_up(&self, thread: &UserRegisters, stage: &Stage) -> Result<FixUp, String> {
        let mut fix_up = FixUp::default();
        let Some(linked) = &self.linked else {
            return Ok(fix_up);
        };
        // Whatever becomes of threads: two processes must not go on with the same random numbers.
        let page = stage.state();
        fix_up.writes = random::stale(&[page..page.offset(PAGE as i64)]);
        if !self.approach.carries_threads() {
            return Ok(fix_up);
        }
        let crossing = Crossing {
            old: self.kernels.old,
            reentry: self.kernels.reentry,
            before: self.earlier,
            after: linked,
            processor: self.kernels.new.processor,
            image: self.image,
        };
        let text = self.image..self.image.offset(self.size as i64);
        let threads = [Thread {
            id: 0,
            registers: thread.registers(),
        }];
        let stacks = [stage.stack(), stage.alternate_stack()];
        let contexts = Contexts::of(&threads, &stacks, &[text], stage, &Scope::whole());
        let decide = |registers: &Registers| crossing.thread(registers, stage);
        let carried = carry(&threads, &contexts, &decide);
        if let Some(Stuck { place, reason, .. }) = carried.stuck.first() {
            return Err(format!("stuck at {place}: {reason}"));
        }
        let moved = carried.threads.first();
        fix_up.registers = moved.map(|moved| thread.with(&moved.registers));
        fix_up.writes.extend(carried.writes);
        Ok(fix_up)
    }
}

/// What carries a thread and the contexts on its stacks across.
#[derive(Debug, Default)]
pub(super) struct FixUp {
    pub(super) registers: Option<UserRegisters>,
    pub(super) writes: Vec<Write>,
}

/// The text of the old image as CRIU changes it.
fn as_criu_does(old: &Image, new: Option<&Image>, text: &[u8]) -> Result<Vec<u8>> {
    let mappings = AddressSpace::read()?.mappings();
    let vdso = mappings.iter().find(|(name, _)| name == mapping_name::VDSO);
    let refused = |reason: &dyn ToString| Error::Unlinkable {
        what: "an image as CRIU does".to_owned(),
        reason: reason.to_string(),
    };
    let found = vdso.zip(new);
    let (vdso, new) = found.ok_or_else(|| refused(&"the new kernel has no vDSO"))?;
    let patched = criu::patch(old, new, vdso.1).map_err(|reason| refused(&reason))?;
    let mut text = text.to_vec();
    for entry in patched.entries {
        let place = entry.index()..entry.index() + criu::JUMP;
        text[place.clone()].copy_from_slice(&patched.bytes[place]);
    }
    Ok(text)
}
