//! Functions assembled by hand, with a table that says what their constants add up to.

use elf_tools::image::Image;
use elf_tools::reachability::Code;
use elf_tools::relocation::{
    Constraint, Need, OperandField, Relocations, RightHandSide, Term, Width,
};
use elf_tools::symtab::name::Reference;
use elf_tools::symtab::{Mapping, Provenance, Symbol, Symtab, mapping_name};
use elf_tools::{Avma, Svma};
use kernel_fixtures::fixture;
use relocator::link::{LinkedImage, New, Old, link_in_detail};
use relocator::placement::Placement;
use relocator::plan::{FunctionPlan, Policy};
use relocator::unwind::Detail;

/// The function that bodies take the place of: the longest one.
pub(crate) const FUNCTION: &str = "__vdso_clock_gettime";

/// Where the page is, from the image.
pub(crate) const PAGE: u64 = 0x1_0000;

/// An image without tables of its own.
pub(crate) fn bare() -> Image {
    let found = fixture::find("bare").expect("a fixture");
    Image::parse(found.image).expect("a good image")
}

/// Code under construction, at the entry of [`FUNCTION`].
pub(crate) struct Body {
    entry: Svma,
    code: Vec<u8>,
    pub(crate) table: Relocations,
}

impl Body {
    pub(crate) fn new() -> Self {
        Self::at(FUNCTION)
    }

    /// In place of another function.
    pub(crate) fn at(function: &str) -> Self {
        let entry = bare().export(function).expect("the fixture has it").address;
        let need = Need {
            reference: Reference::parse("time.page").expect("a good name"),
            size: 0,
            default: None,
        };
        Self {
            entry,
            code: Vec::new(),
            table: Relocations {
                needs: vec![need],
                ..Relocations::default()
            },
        }
    }

    /// The address of the next instruction.
    pub(crate) fn here(&self) -> Svma {
        self.entry.offset(self.code.len() as i64)
    }

    /// Appends instructions without operand fields and returns where they are.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> Svma {
        let here = self.here();
        self.code.extend(bytes);
        here
    }

    /// Appends an instruction whose constant at `offset` is an operand field.
    pub(crate) fn operand_field(&mut self, bytes: &[u8], offset: i64, width: Width) -> u32 {
        let place = self.put(bytes).offset(offset);
        self.table
            .operand_fields
            .push(OperandField { place, width });
        self.table.operand_fields.len() as u32 - 1
    }

    /// Demands that these operand fields together, at the last instruction, make the distance of
    /// `page + addend`.
    pub(crate) fn constraint(&mut self, site: Svma, terms: &[(u32, i64)], addend: i64) {
        self.right_hand_side(RightHandSide::Address, site, terms, addend);
    }

    pub(crate) fn right_hand_side(
        &mut self,
        right_hand_side: RightHandSide,
        site: Svma,
        terms: &[(u32, i64)],
        addend: i64,
    ) {
        let term = |&(operand_field, coefficient): &(u32, i64)| Term {
            operand_field,
            coefficient,
        };
        self.table.constraints.push(Constraint {
            site,
            right_hand_side,
            need: 0,
            addend,
            terms: terms.iter().map(term).collect(),
        });
    }

    /// `lea rax, [rip+...]`, to point to the page.
    pub(crate) fn point(&mut self) -> u32 {
        let site = self.here();
        let operand_field = self.operand_field(&[0x48, 0x8d, 0x05, 0, 0, 0, 0], 3, Width::I32);
        let end = self.here();
        self.constraint(site, &[(operand_field, 1)], -end.signed());
        operand_field
    }

    /// An instruction that reads `field` of the page from where `base`, the operand field of
    /// [`Body::point`], points to.
    pub(crate) fn field(
        &mut self,
        base: u32,
        bytes: &[u8],
        offset: i64,
        width: Width,
        field: i64,
    ) -> u32 {
        let site = self.here();
        let operand_field = self.operand_field(bytes, offset, width);
        let end = self.table.operand_fields[base as usize].place.offset(4);
        self.constraint(site, &[(base, 1), (operand_field, 1)], field - end.signed());
        operand_field
    }

    /// The image with the body in place of its function, and the table.
    pub(crate) fn old(&self) -> Old {
        let bare = bare();
        let mut bytes = bare.bytes().to_vec();
        let function = |e: &&elf_tools::image::Export| e.address == self.entry;
        let export = bare.exports().iter().find(function).expect("it is there");
        assert!(self.code.len() as u64 <= export.size, "too long a body");
        let place = &mut bytes[self.entry.index()..][..export.size as usize];
        place.fill(0xcc);
        place[..self.code.len()].copy_from_slice(&self.code);
        let image = Image::parse(&bytes).expect("still a good image");
        let code = Code::of(&image).expect("it decodes");
        Old::new(image, code, Some(self.table.clone()))
    }

    /// Linked for an image at `base`.
    pub(crate) fn link_at(&self, base: Avma) -> Linked {
        self.link_in(base, Detail::default())
    }

    fn link_in(&self, base: Avma, detail: Detail) -> Linked {
        let old = self.old();
        let symtab = symtab();
        let new = New {
            symtab: Some(&symtab),
            image: Some(&old.image),
            processor: None,
        };
        let placement = Placement {
            image: base,
            mappings: vec![
                (mapping_name::VVAR.to_owned(), base.offset(PAGE as i64)),
                (mapping_name::VDSO.to_owned(), base.offset(0x10_0000)),
            ],
        };
        let image = link_in_detail(&old, &new, &placement, Policy::Auto, detail);
        let image = image.expect("it links");
        let entry = self.entry;
        Linked { old, image, entry }
    }

    pub(crate) fn link(&self) -> Linked {
        self.link_at(USUAL)
    }

    /// The same, without what is added for unwinders.
    pub(crate) fn link_in_place(&self) -> Linked {
        self.link_in(USUAL, Detail::InPlace)
    }
}

/// Where an image is, unless a test says otherwise.
const USUAL: Avma = Avma(0x7fff_f7f0_0000);

/// The result.
pub(crate) struct Linked {
    pub(crate) old: Old,
    pub(crate) image: LinkedImage,
    pub(crate) entry: Svma,
}

impl Linked {
    /// What became of the body's function.
    pub(crate) fn plan(&self) -> &FunctionPlan {
        self.plan_of(self.entry)
    }

    pub(crate) fn plan_of(&self, entry: Svma) -> &FunctionPlan {
        let plans = &self.image.functions;
        plans.iter().find(|p| p.entry == entry).expect("a plan")
    }
}

/// One page and nothing else.
pub(crate) fn symtab() -> Symtab {
    let mapping = Mapping {
        name: mapping_name::VVAR.to_owned(),
        address: 0,
        size: 0x1000,
    };
    let mut symtab = Symtab::new(Provenance::File, vec![mapping]).expect("a good mapping");
    let page = Symbol {
        name: "time.page".to_owned(),
        version: 1,
        mapping: 0,
        offset: 0,
        size: 0x1000,
    };
    symtab.insert(page).expect("a good symbol");
    symtab
}
