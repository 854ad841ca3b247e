//! Every single relocation counts.
//!
//! For each one of two images, one with slots and one with operands, the image is linked to the running kernel with that
//! one relocation made wrong: it leads to the next field, or to the next stride. Then it is run, and must be caught: a
//! call differs from the system call, or the process crashes or hangs. What no call can tell is listed, with the reason.

use std::time::Duration;

use elf_tools::image::Image;
use elf_tools::relocation::{Relocation, write};
use libtest_mimic::{Arguments, Trial};
use relocator::Error;
use relocator::verify::{Options, verify};
use relocator_tests::pretend::Pretend;
use relocator_tests::running::{RUNNING, TIME_NAMESPACE, in_words};
use relocator_tests::trials::{ensure, trial};

/// How far a relocation is moved: by a field of 4 and of 8 bytes. Either must be caught.
const CHANGES: [i64; 2] = [4, 8];

/// Time that a call takes that waits for a sequence counter in the wrong place is not limited.
const DEADLINE: Duration = Duration::from_secs(5);

/// How a run with a wrong relocation ended.
enum Ending {
    Caught(String),
    Survived,
}

fn run(bytes: &[u8], time_namespace: bool) -> Result<Ending, String> {
    let image = Image::parse(bytes).map_err(|error| error.to_string())?;
    let options = Options {
        time_namespace,
        rounds: 2,
        deadline: DEADLINE,
        ..Options::default()
    };
    match verify(&image, RUNNING.as_ref().map_err(Clone::clone)?, &options) {
        Ok(outcome) => Ok(outcome
            .functions
            .iter()
            .find_map(|function| function.first_mismatch.clone())
            .map_or(Ending::Survived, Ending::Caught)),
        Err(Error::Child { what }) => Ok(Ending::Caught(what)),
        Err(error) => Err(in_words(&error)),
    }
}

/// The image with its table attached anew, after a change to one entry.
fn attached(pretend: &Pretend, change: impl FnOnce(&mut [Relocation])) -> Result<Vec<u8>, String> {
    let mut relocations = pretend.old.relocations.clone().ok_or("no table")?;
    change(&mut relocations.entries);
    write::attach(&pretend.old.image, &relocations).map_err(|error| error.to_string())
}

fn main() {
    for name in ["got", "operands"] {
        let p = Pretend::open(name);
        let t = p.old.relocations.clone().unwrap();
        let uses = t.uses(&p.old.code);
        let start = std::time::Instant::now();
        for ns in [false, true] { let b = attached(&p, |_| {}).unwrap();
            match run(&b, ns).unwrap() { Ending::Survived => println!("baseline ok"), Ending::Caught(w) => println!("BASE {w}") } }
        for i in 0..t.entries.len() {
            let e = t.entries[i];
            let users: Vec<String> = p.old.code.functions().iter().zip(&uses.by_function).filter(|(_, u)| u.contains(&(i as u32))).map(|(f,_)| p.old.image.exports().iter().find(|x| x.address == f.entry && x.name.starts_with("__vdso")).unwrap().name.clone()).collect();
            let mut ends = vec![];
            for c in CHANGES {
                for ns in [false, true] {
                    let b = attached(&p, |es| es[i].addend += c).unwrap();
                    let s = std::time::Instant::now();
                    let r = match run(&b, ns).unwrap() { Ending::Survived => "-".to_string(), Ending::Caught(w) => w.chars().take(30).collect() };
                    ends.push(format!("{c}{} {r} {:?}", if ns {"ns"} else {""}, s.elapsed().as_millis()));
                }
            }
            println!("{name} {i} {} {} {:?} {:?}", e.kind, t.needs[e.need as usize].reference, users, ends);
        }
        println!("{:?}", start.elapsed());
    }
}
