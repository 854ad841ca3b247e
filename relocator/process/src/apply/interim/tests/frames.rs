//! Call frame information at what stands in for functions.

use std::collections::BTreeMap;

use elf_tools::image::Image;
use elf_tools::{Avma, Svma};
use iced_x86::{Decoder, DecoderOptions, Mnemonic, OpKind};
use relocator::placement::PAGE;
use relocator::unwind::moves_early;

use super::{Does, read};
use crate::apply::pretend::OLD;
use crate::targets::pretended::Pretended;

/// Instructions of what stands in for a function, up to where it is left.
fn replacement(process: &Pretended, old: &Image, name: &str) -> Vec<Svma> {
    let mut at = old.export(name).unwrap().address;
    let mut boundaries = Vec::new();
    for _ in 0..8 {
        let bytes = read(process, at.at(Avma(OLD)), 16);
        let first = Decoder::with_ip(64, &bytes, at.0, DecoderOptions::NONE).decode();
        boundaries.push(at);
        at = match first.mnemonic() {
            Mnemonic::Ret => break,
            Mnemonic::Jmp if first.op0_kind() == OpKind::NearBranch64 => {
                Svma(first.near_branch_target())
            }
            Mnemonic::Jmp => break,
            _ => at.offset(first.len() as i64),
        };
        // The new vDSO says where its frames are.
        if at.0 >= 4 * PAGE {
            break;
        }
    }
    boundaries
}

/// Where an unwinder would find wrong callers: call frame information is of other code.
pub(super) fn astray(process: &Pretended, old: &Image, now: &BTreeMap<&str, Does>) -> Vec<Svma> {
    let text = process.parts.iter().find(|part| {
        let range = &part.0.range;
        range.contains(&Avma(OLD))
    });
    let range = text.unwrap().0.range.clone();
    let bytes = read(process, Avma(OLD), (range.end.0 - OLD) as usize);
    let image = Image::parse(&bytes).unwrap();
    let replaced = now
        .iter()
        .filter(|(_, does)| !matches!(does, Does::Own | Does::Relocated));
    let boundaries = replaced.flat_map(|(name, _)| replacement(process, old, name));
    moves_early(&image, &boundaries.collect::<Vec<_>>(), 1)
}
