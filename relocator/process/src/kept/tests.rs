//! What is kept, and what becomes of what cannot be.

use std::fs;
use std::sync::Arc;

use elf_tools::digest;
use elf_tools::image::Image;
use elf_tools::reentry::Recovery;
use elf_tools::relocation::{Opaque, Relocations};
use kernel_fixtures::fixture;

use relocator::in_words;
use relocator::source::NoSymtab;
use relocator::tables::{
    Given, NoTables, Options, Provenance, ReentrySummary, find, object, reentry,
};

use super::*;
use nix::unistd::geteuid;

/// An image that carries no table.
fn bare() -> Old {
    let found = fixture::find("bare").unwrap();
    Old::read(Image::parse(found.image).unwrap()).unwrap()
}

fn table(old: &Old, reason: &str) -> Relocations {
    let opaque = Opaque {
        site: old.code.instructions()[0].address,
        reason: reason.into(),
    };
    Relocations {
        opaque: vec![opaque],
        ..Relocations::default()
    }
}

fn get(cache: &TableDirectory, old: &Old) -> Option<Relocations> {
    cache.get(&old.image, &old.code)
}

#[test]
fn a_vdso_is_kept_once_and_found_by_its_build_id() {
    let directory = tempfile::tempdir().unwrap();
    let cache = TableDirectory::at(directory.path().join("not/there/yet"));
    let image = bare().image;
    let build_id = image.build_id().unwrap();
    assert_eq!(cache.get_image(build_id).map(drop), None);
    let path = cache.put_image(&image).unwrap().unwrap();
    assert_eq!(cache.get_image(build_id).unwrap().bytes(), image.bytes());
    // What is there stays: it may be as it was linked, and the next copy may not.
    let mut other = image.bytes().to_vec();
    *other.last_mut().unwrap() ^= 1;
    let other = Image::parse(&other).unwrap();
    cache.put_image(&other).unwrap();
    assert_eq!(cache.get_image(build_id).unwrap().bytes(), image.bytes());
    // A damaged file counts as absent, and is replaced.
    fs::write(&path, &image.bytes()[..100]).unwrap();
    assert_eq!(cache.get_image(build_id).map(drop), None);
    cache.put_image(&image).unwrap();
    assert_eq!(cache.get_image(build_id).unwrap().bytes(), image.bytes());
    let another = Image::parse(fixture::find("got").unwrap().image).unwrap();
    fs::write(&path, file::sealed(another.bytes())).unwrap();
    assert_eq!(cache.get_image(build_id).map(drop), None);
}

#[test]
fn one_wrong_bit_makes_a_kept_vdso_absent() {
    let directory = tempfile::tempdir().unwrap();
    let cache = TableDirectory::at(directory.path().to_owned());
    let image = bare().image;
    let build_id = image.build_id().unwrap();
    let path = cache.put_image(&image).unwrap().unwrap();
    let good = fs::read(&path).unwrap();
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(&path, bytes).unwrap();
        assert_eq!(cache.get_image(build_id).map(drop), None, "byte {at}");
    }
}

/// A file that another user owns, or may write to, can say anything.
#[test]
fn what_others_may_have_written_counts_as_absent() {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};
    let directory = tempfile::tempdir().unwrap();
    let cache = TableDirectory::at(directory.path().to_owned());
    let old = bare();
    let good = table(&old, "good");
    let path = cache.put(&old, &good, None).unwrap().unwrap();
    let image = cache.put_image(&old.image).unwrap().unwrap();
    let build_id = old.image.build_id().unwrap();
    let is_there = || {
        let table = get(&cache, &old).is_some();
        assert_eq!(table, cache.get_image(build_id).is_some());
        table
    };
    let set = |mode| {
        for path in [&path, &image] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
    };
    for (mode, is_believed) in [
        (0o644, true),
        (0o600, true),
        (0o664, false),
        (0o646, false),
        (0o666, false),
        (0o444, true),
    ] {
        set(mode);
        assert_eq!(is_there(), is_believed, "{mode:o}");
    }
    // Only root can give files away.
    if geteuid().is_root() {
        let give = |to| [&path, &image].map(|path| chown(path, Some(to), None).unwrap());
        give(65534);
        assert!(!is_there());
        give(0);
        assert!(is_there());
    }
    let elsewhere = directory.path().join("elsewhere");
    for path in [&path, &image] {
        fs::rename(path, &elsewhere).unwrap();
        symlink(&elsewhere, path).unwrap();
    }
    assert!(!is_there(), "links lead elsewhere");
    // What is not believed is replaced.
    cache.put(&old, &good, None).unwrap();
    cache.put_image(&old.image).unwrap();
    assert!(is_there());
}

/// Each bit of a table decides what is written to a process.
#[test]
fn one_wrong_bit_makes_a_kept_table_absent() {
    let directory = tempfile::tempdir().unwrap();
    let cache = TableDirectory::at(directory.path().to_owned());
    let old = bare();
    let path = cache.put(&old, &table(&old, "good"), None).unwrap();
    let path = path.unwrap();
    let good = fs::read(&path).unwrap();
    for bit in 0..good.len() * 8 {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, bytes).unwrap();
        assert_eq!(get(&cache, &old), None, "bit {bit}");
    }
}

#[test]
fn what_is_kept_is_found_and_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let cache = TableDirectory::at(directory.path().join("not/there/yet"));
    let old = bare();
    assert_eq!(get(&cache, &old), None);
    for reason in ["first", "second"] {
        let table = table(&old, reason);
        let path = cache.put(&old, &table, None).unwrap().unwrap();
        assert_eq!(get(&cache, &old), Some(table));
        let files = fs::read_dir(path.parent().unwrap()).unwrap();
        assert_eq!(files.count(), 1, "nothing else is left");
    }
    let options = Options {
        cache: Some(Arc::new(cache)),
        file: None,
    };
    let (found, tables) =
        find(old.image.clone(), "bare", Err(NoSymtab::Unknown), &options).unwrap();
    assert_eq!(tables.provenance, Provenance::Cache);
    assert_eq!(tables.no_tables, None);
    assert_eq!(found.relocations, Some(table(&old, "second")));
}

#[test]
fn what_is_damaged_counts_as_absent_until_it_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let cache = TableDirectory::at(directory.path().to_owned());
    let old = bare();
    let path = cache.path(&old.image).unwrap();
    let good = table(&old, "good");
    cache.put(&old, &good, None).unwrap();
    let bytes = fs::read(&path).unwrap();
    for length in 0..bytes.len() {
        fs::write(&path, &bytes[..length]).unwrap();
        assert_eq!(get(&cache, &old), None, "{length} bytes");
    }
    let mut other = bytes.clone();
    let build_id = old.image.build_id().unwrap().as_bytes();
    let at = bytes.windows(build_id.len()).position(|b| b == build_id);
    other[at.unwrap()] ^= 1;
    fs::write(&path, other).unwrap();
    assert_eq!(get(&cache, &old), None, "the table of another image");
    cache.put(&old, &good, None).unwrap();
    assert_eq!(get(&cache, &old), Some(good));
}

#[test]
fn other_derivations_do_not_count() {
    let directory = tempfile::tempdir().unwrap();
    let cache = TableDirectory::at(directory.path().to_owned());
    let old = bare();
    let path = cache.put(&old, &table(&old, ""), None).err();
    assert!(path.is_some(), "a table that cannot be stored");
    let path = cache.put(&old, &table(&old, "good"), None).unwrap();
    let path = path.unwrap();
    let name = path.file_name().unwrap().to_str().unwrap();
    let older = name.replace(&format!(".{DERIVATION_VERSION}."), ".0.");
    assert_ne!(older, name);
    fs::rename(&path, path.with_file_name(older)).unwrap();
    assert_eq!(get(&cache, &old), None);
}

#[test]
fn an_image_that_nothing_tells_from_others_is_not_kept() {
    let directory = tempfile::tempdir().unwrap();
    let cache = TableDirectory::at(directory.path().to_owned());
    let old = bare();
    let build_id = old.image.build_id().unwrap().as_bytes();
    let mut bytes = old.image.bytes().to_vec();
    let at = bytes.windows(build_id.len()).position(|b| b == build_id);
    // The owner of the note is no longer GNU.
    bytes[at.unwrap() - 4] = b'X';
    let nameless = Old::read(Image::parse(&bytes).unwrap()).unwrap();
    assert_eq!(nameless.image.build_id(), None);
    let path = cache.put(&nameless, &table(&old, "good"), None).unwrap();
    assert_eq!(path, None);
    assert_eq!(get(&cache, &nameless), None);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_cache_that_cannot_be_written_is_no_obstacle() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let cache = TableDirectory::at(file.join("below"));
    let old = bare();
    let error = cache.put(&old, &table(&old, "good"), None).unwrap_err();
    assert!(error.to_string().contains("below"), "{error}");
    let options = Options {
        cache: Some(Arc::new(cache)),
        file: None,
    };
    let (_, tables) = find(old.image, "bare", Err(NoSymtab::Unknown), &options).unwrap();
    assert_eq!(tables.provenance, Provenance::None);
    let expected = NoTables::NoSymtab(NoSymtab::Unknown);
    assert_eq!(tables.no_tables, Some(expected));
}

/// The same image with other boot-time alternatives applied: the counter is read in another way.
fn patched(old: &Old) -> Old {
    let counter = old.code.instructions().iter().find(|instruction| {
        let bytes = &old.image.bytes()[instruction.address.index()..];
        bytes.starts_with(&[0x0f, 0x31])
    });
    let mut bytes = old.image.bytes().to_vec();
    bytes[counter.unwrap().address.index() + 1] = 0x33;
    Old::read(Image::parse(&bytes).unwrap()).unwrap()
}

#[test]
fn a_reentry_table_is_kept_with_the_relocations() {
    let directory = tempfile::tempdir().unwrap();
    let cache = TableDirectory::at(directory.path().to_owned());
    let old = bare();
    let options = Options {
        cache: Some(Arc::new(cache.clone())),
        file: None,
    };
    let from = |old: &Old| {
        let (table, provenance) = reentry(old, "bare", &options).unwrap();
        assert!(ReentrySummary::of(&table).boundaries > 300);
        provenance
    };
    // Alone it is not kept: an object without relocations would say that nothing depends on the kernel.
    assert_eq!(
        (from(&old), from(&old)),
        (Provenance::Derived, Provenance::Derived)
    );
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    cache.put(&old, &table(&old, "good"), None).unwrap();
    assert_eq!(
        (from(&old), from(&old)),
        (Provenance::Derived, Provenance::Cache)
    );
    assert_eq!(get(&cache, &old), Some(table(&old, "good")));
    // A table of another copy of the image does not fit, and the one that was used last is kept.
    let other = patched(&old);
    assert_eq!(
        (from(&other), from(&other)),
        (Provenance::Derived, Provenance::Cache)
    );
    assert_eq!(
        (from(&old), from(&old)),
        (Provenance::Derived, Provenance::Cache)
    );
}

#[test]
fn a_reentry_table_in_a_file_comes_first() {
    let old = bare();
    let mut of_file = elf_tools::reentry::derive(&old.image, &old.code).unwrap();
    for context in &mut of_file.contexts {
        context.recovery = Recovery::None("the file says so".into());
    }
    let written = object(&old, &table(&old, "good"), Some(&of_file)).unwrap();
    let given = |bytes: &[u8]| Options {
        cache: None,
        file: Some(Given {
            name: "table.so".to_owned(),
            bytes: bytes.into(),
        }),
    };
    let options = given(&written);
    let found = reentry(&old, "bare", &options).unwrap();
    assert!(found == (of_file.clone(), Provenance::File));
    let other = reentry(&patched(&old), "bare", &options).unwrap();
    assert_eq!(other.1, Provenance::Derived);
    // A file with a mistake is an error, and the error has the file's name.
    let mut wrong = written;
    let words = wrong.windows(8).position(|bytes| bytes == b"the file");
    wrong[words.unwrap()] = 0xff;
    digest::seal(&mut wrong).unwrap();
    let error = in_words(&reentry(&old, "bare", &given(&wrong)).unwrap_err());
    assert!(
        error.contains("table.so") && error.contains("UTF-8"),
        "{error}"
    );
}
