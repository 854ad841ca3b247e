//! What is malformed is an error that says so, and only what is.

#![cfg(target_arch = "x86_64")]

use elf_tools::Result;
use elf_tools::image::Image;
use elf_tools::reachability::Code;
use elf_tools::relocation;
use elf_tools::symtab::{Provenance, elf};
use kernel_fixtures::fixture::{all, find, malformed};

fn read(image: &[u8], symtab: Option<&[u8]>) -> Result<()> {
    let image = Image::parse(image)?;
    relocation::read(&image, &Code::of(&image)?)?;
    symtab
        .map(|symtab| elf::read(symtab, Provenance::Exported))
        .transpose()?;
    Ok(())
}

#[test]
fn what_is_malformed_is_refused_for_what_is_wrong() {
    for fixture in malformed() {
        let error = read(&fixture.image, fixture.symtab.as_deref())
            .expect_err(fixture.name)
            .to_string();
        assert!(
            error.contains(fixture.expected),
            "{} ({}): {error}",
            fixture.name,
            fixture.what
        );
    }
}

#[test]
fn what_is_well_formed_is_not() {
    for fixture in all() {
        read(fixture.image, fixture.symtab).expect(fixture.name);
    }
}

#[test]
fn every_fixture_is_found_by_a_name_of_its_own() {
    let mut names: Vec<&str> = malformed().iter().map(|fixture| fixture.name).collect();
    names.extend(all().iter().map(|fixture| fixture.name));
    assert!(
        names
            .iter()
            .all(|name| find(name).is_some_and(|fixture| fixture.name == *name))
    );
    names.sort_unstable();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count);
}
