//! Unwinders find callers in linked images as in the old ones: at each instruction of the images of
//! stock kernels, linked to each other in every way.

use elf_tools::Avma;
use libtest_mimic::{Arguments, Trial};
use relocator::link::{LinkedImage, New, Old, link};
use relocator::placement::Placement;
use relocator::plan::Policy;
use relocator_tests::running::in_words;
use relocator_tests::stock::{self, Kernel};
use relocator_tests::trials::{ensure, trial};
use relocator_tests::unwinding::{Frames, judge, judge_proxies};

use crate::ways_out::{BASE, derived};

/// How images are linked.
const POLICIES: [Policy; 3] = [Policy::Auto, Policy::Proxy, Policy::Syscall];

/// Further than jumps of five bytes reach.
const FAR: Avma = Avma(0x3_0000);

/// One for each kernel and each other one.
pub(crate) fn trials(arguments: &Arguments) -> Vec<Trial> {
    let kernels = stock::all(arguments.list);
    let mut trials = Vec::new();
    for (name, old, possible) in &kernels {
        for (other, new, also) in kernels.iter().filter(|other| other.0 != *name) {
            let (old, new) = (old.clone(), new.clone());
            let possible = possible.clone().and_then(|()| also.clone());
            trials.push(trial(
                format!("{name}::to::{other}"),
                &possible,
                move || {
                    let (old, new) = (old()?, new()?);
                    frames_are_right(&old, &new)
                },
            ));
        }
    }
    trials
}

/// The image, and how far the new vDSO is away from it.
fn linked(
    old: &Old,
    new: &Kernel,
    policy: Policy,
    far: bool,
) -> Result<(LinkedImage, i64), String> {
    let words = |error: relocator::Error| in_words(&error);
    let offer = New {
        symtab: Some(new.symtab()?),
        image: Some(&new.image),
        processor: None,
    };
    let near = Placement::below(BASE, offer.symtab, offer.image).map_err(words)?;
    let away = Placement::below(FAR, offer.symtab, offer.image).map_err(words);
    let placement = match far {
        false => near,
        true => Placement {
            image: near.image,
            ..away?
        },
    };
    let at = placement.new_vdso().ok_or("no new vDSO")?;
    let distance = at.0.wrapping_sub(placement.image.0).cast_signed();
    let linked = link(old, &offer, &placement, policy).map_err(words)?;
    Ok((linked, distance))
}

fn frames_are_right(kernel: &Kernel, new: &Kernel) -> Result<(), String> {
    let old = derived(kernel, true)?;
    let loaded = old.image.loaded_size();
    for (policy, far) in POLICIES
        .into_iter()
        .flat_map(|policy| [(policy, false), (policy, true)])
    {
        let (linked, distance) = linked(&old, new, policy, far)?;
        let (places, mut faults) = judge(&old, &linked)?;
        // Frame descriptions have no address of what is further away.
        if !far {
            let (places, more) = judge_proxies(&old, &new.image, distance, &linked)?;
            faults.extend(more);
            ensure(policy != Policy::Proxy || places > 100, || {
                format!("only {places} places")
            })?;
        }
        let what = format!("{policy}, far: {far}");
        ensure(faults.is_empty() && places > 100, || {
            format!("{what}: {} of {places}: {faults:#?}", faults.len())
        })?;
        // A C library does not look further than the image went when the process started.
        let mut added = linked.moved.iter().chain(&linked.jumps_back);
        ensure(added.all(|moved| moved.to.0 < loaded), || {
            format!("{what}: code behind the image: {:?}", linked.jumps_back)
        })?;
        unwinders_that_know_only_the_old_image_fail(&old, &linked)?;
    }
    Ok(())
}

/// The judge notices that.
fn unwinders_that_know_only_the_old_image_fail(
    old: &Old,
    linked: &LinkedImage,
) -> Result<(), String> {
    let own = old.image.bytes();
    let is_changed = !linked.moved.is_empty()
        || linked.functions.iter().any(|function| {
            let patch = function.patch.as_ref().map_or(0, Vec::len) as u64;
            let frames = Frames::of(own).and_then(|frames| {
                let start = frames.rules(function.entry)?;
                let mut places = function.entry.0..function.entry.0 + patch;
                Ok(places.any(|at| frames.rules(elf_tools::Svma(at)) != Ok(start.clone())))
            });
            frames == Ok(true)
        });
    let mut without = linked.clone();
    let code = |index: &usize| old.image.is_text(elf_tools::Svma(*index as u64));
    let is_added = |index: &usize| {
        let mut all = linked.moved.iter().chain(&linked.jumps_back);
        all.any(|moved| (moved.to.index()..moved.to.index() + 15).contains(index))
    };
    for index in (0..own.len()).filter(|index| !code(index) && !is_added(index)) {
        without.bytes[index] = own[index];
    }
    match judge(old, &without) {
        Ok((_, faults)) => ensure(faults.is_empty() != is_changed, || {
            format!("changed: {is_changed}, and {faults:?}")
        }),
        // The table leads to code.
        Err(_) => ensure(is_changed, || "nothing has changed".to_owned()),
    }
}
