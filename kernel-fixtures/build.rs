//! Builds the pretend kernels of `fixtures/`: for each generation an image, its symbol table and its debug information.
//!
//! Needs a C compiler (`CC`, by default `cc`; GCC and clang will do) and the GNU binutils. What is made ends up in
//! `OUT_DIR/NAME/`, and `OUT_DIR/built.rs` embeds it. Only x86-64 images are made; for other targets the list is empty.

use std::env;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use elf_tools::relocation::postlink::{PostlinkOptions, postlink};

#[path = "src/fixture/generation.rs"]
#[allow(
    unreachable_pub,
    reason = "public in the library, which includes it as well"
)]
mod generation;

use generation::{GENERATIONS, Generation, Style};

/// Room that every layout leaves for the symbol table in `[vvar]`.
const SYMTAB_ROOM: usize = 0x3000;
const PAGE_SIZE: usize = 0x1000;
const BUILD_ID_LEN: usize = 20;

/// Code as a vDSO must be: it cannot call, it keeps no data, and a thread's vector registers are not its own to use.
const CODE_FLAGS: &[&str] = &[
    "-O2",
    "-fPIC",
    "-ffreestanding",
    "-fno-builtin",
    "-fno-common",
    "-fno-ident",
    "-fno-jump-tables",
    "-fno-lto",
    "-fno-stack-protector",
    "-fasynchronous-unwind-tables",
    "-fcf-protection=none",
    "-fomit-frame-pointer",
    "-fvisibility=hidden",
    "-march=x86-64",
    "-mno-80387",
    "-mno-mmx",
    "-mno-sse",
];

/// Only the GNU linker follows our scripts to the letter and can emit the relocations it has applied.
const LINK_FLAGS: &[&str] = &[
    "-shared",
    "-nostdlib",
    "-fuse-ld=bfd",
    "-Wl,-z,norelro",
    "-Wl,-z,max-page-size=4096",
];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=fixtures");
    println!("cargo::rerun-if-changed=src/fixture/generation.rs");
    println!("cargo::rerun-if-env-changed=CC");
    println!("cargo::rerun-if-env-changed=OBJCOPY");

    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let x86_64 = env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64");
    let mut built = String::from("&[\n");
    for generation in GENERATIONS.iter().filter(|_| x86_64) {
        let directory = out.join(generation.name);
        fs::create_dir_all(&directory).expect("OUT_DIR is writable");
        Build {
            generation,
            directory,
        }
        .run();
        let file = |name| {
            format!(
                "include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{}/{name}\"))",
                generation.name
            )
        };
        let table = |name| {
            if generation.tables {
                format!("Some({})", file(name))
            } else {
                "None".into()
            }
        };
        let (image, symtab, debug) = (file("vdso.so"), table("vvar.so"), table("debug.so"));
        writeln!(
            built,
            "    Built {{ image: {image}, symtab: {symtab}, debug: {debug} }},"
        )
        .expect("a string grows");
    }
    built.push_str("]\n");
    fs::write(out.join("built.rs"), built).expect("OUT_DIR is writable");
}

/// One generation in the making.
struct Build<'a> {
    generation: &'a Generation,
    directory: PathBuf,
}

impl Build<'_> {
    fn run(&self) {
        let image = if self.generation.tables {
            // The image states how large the symbol table is, and the table states the image's build-id: but the size
            // does not depend on which build-id that is.
            let draft = self.link_symtab(&[0; BUILD_ID_LEN], PAGE_SIZE);
            let image = self.image(draft.len());
            let symtab = self.link_symtab(build_id(&image), image.len());
            assert_eq!(
                symtab.len(),
                draft.len(),
                "{}: a symbol table that grew",
                self.generation.name
            );
            assert!(
                symtab.len() <= SYMTAB_ROOM,
                "{}: no room for its symbol table",
                self.generation.name
            );
            self.link_debug();
            image
        } else {
            self.image(0)
        };
        self.write("vdso.so", &image);
    }

    /// The image, with tables if the generation has any.
    fn image(&self, symtab_size: usize) -> Vec<u8> {
        let linked = self.link_image(symtab_size);
        match self.generation.style {
            Style::Operands if self.generation.is_relocation_capable() => {
                let options = PostlinkOptions {
                    defaults: self.generation.defaults,
                    ..Default::default()
                };
                postlink(&linked, &options)
                    .unwrap_or_else(|error| panic!("{}: {error}", self.generation.name))
            }
            _ => linked,
        }
    }

    /// The image as the linker leaves it: slots with dynamic relocations, operands with emitted ones.
    fn link_image(&self, symtab_size: usize) -> Vec<u8> {
        let mut definitions = vec![
            self.linux_version_code(),
            format!("-DSYMTAB_SIZE={symtab_size}"),
        ];
        definitions.push(match self.generation.style {
            Style::Got => "-DSTYLE_GOT".into(),
            Style::Operands => "-DSTYLE_OPERANDS".into(),
            Style::Stock => "-DSTYLE_STOCK".into(),
        });
        if self.generation.name == "hidden" {
            definitions.push("-DHIDDEN_ACCESSES".into());
        }
        if !self.generation.is_relocation_capable() {
            definitions.push("-DBARE".into());
        }
        if self
            .generation
            .defaults
            .iter()
            .any(|(name, _)| name.ends_with("leap_smear"))
        {
            definitions.push("-DLEAP_SMEAR_DEFAULT".into());
        }
        let mut objects = vec![
            self.compile("vdso/vdso.c", "vdso.o", &definitions),
            self.compile("vdso/notes.c", "notes.o", &definitions),
        ];
        let mut flags = vec![
            "-Wl,-soname=linux-vdso.so.1",
            "-Wl,--build-id=sha1",
            "-Wl,--eh-frame-hdr",
            "-Wl,--hash-style=both",
        ];
        match self.generation.style {
            Style::Got => flags.push("-Wl,--strip-all"),
            // A shared object cannot have relocations of 8 bits, or absolute ones of 32, against an address. Ours are
            // against constants, and the linker applies them if told not to ask whether the relocation may overflow.
            Style::Operands | Style::Stock => {
                let home = self.compile("vdso/home.c", "home.o", &definitions);
                objcopy(&["--rename-section", ".text=.discarded"], &home);
                objects.push(home);
                flags.extend(["-Wl,--emit-relocs", "-Wl,-z,noreloc-overflow"]);
            }
        }
        let linked = self.link(
            "vdso/vdso.lds.S",
            "linked.so",
            &definitions,
            &flags,
            &objects,
        );
        if !self.generation.is_relocation_capable() {
            objcopy(&["--strip-all", "--remove-section=.vvar_home"], &linked);
        }
        fs::read(linked).expect("the linker has written its output")
    }

    /// The symbol table of the kernel that ships the image with this build-id.
    fn link_symtab(&self, build_id: &[u8], image_size: usize) -> Vec<u8> {
        let build_id: Vec<String> = build_id.iter().map(u8::to_string).collect();
        let definitions = [
            self.linux_version_code(),
            format!("-DIMAGE_BUILD_ID=\"{}\"", build_id.join(",")),
            format!("-DVDSO_SIZE={}", image_size.next_multiple_of(PAGE_SIZE)),
        ];
        let object = self.compile("symtab/symtab.c", "symtab.o", &definitions);
        let flags = [
            "-Wl,--hash-style=gnu",
            "-Wl,--build-id=none",
            "-Wl,--strip-all",
        ];
        let linked = self.link(
            "symtab/symtab.lds.S",
            "vvar.so",
            &definitions,
            &flags,
            &[object],
        );
        fs::read(linked).expect("the linker has written its output")
    }

    /// The structures of the layout as DWARF.
    fn link_debug(&self) {
        let object = self.compile("layouts/debug.c", "debug.o", &["-g".into()]);
        let mut cc = compiler();
        cc.args(LINK_FLAGS)
            .arg("-Wl,--build-id=none")
            .arg("-o")
            .arg(self.directory.join("debug.so"))
            .arg(object);
        run(cc);
    }

    fn linux_version_code(&self) -> String {
        let (major, minor, patch) = self.generation.linux_version;
        format!(
            "-DLINUX_VERSION_CODE={}",
            u32::from_be_bytes([0, major, minor, patch])
        )
    }

    fn compile(&self, source: &str, object: &str, definitions: &[String]) -> PathBuf {
        let object = self.directory.join(object);
        // Sources are named relative to `fixtures`, so that no path of the build machine gets into debug information.
        let mut cc = self.compiler(definitions);
        cc.args(["-c", "-std=gnu11", "-Wall", "-Wextra"])
            .args(CODE_FLAGS);
        cc.arg(format!(
            "-ffile-prefix-map={}=fixtures",
            fixtures().display()
        ));
        cc.args([OsStr::new("-o"), object.as_ref(), source.as_ref()]);
        run(cc);
        object
    }

    fn link(
        &self,
        script: &str,
        output: &str,
        definitions: &[String],
        flags: &[&str],
        objects: &[PathBuf],
    ) -> PathBuf {
        let output = self.directory.join(output);
        let preprocessed = output.with_extension("lds");
        // The layout has C in it as well, of which a script wants the macros only.
        let mut cc = self.compiler(definitions);
        cc.args(["-E", "-P", "-x", "assembler-with-cpp", "-imacros"]);
        cc.arg(format!("layouts/{}.h", self.generation.layout));
        cc.args([OsStr::new("-o"), preprocessed.as_ref(), script.as_ref()]);
        run(cc);

        let mut cc = compiler();
        cc.args(LINK_FLAGS).args(flags);
        cc.arg(format!("-Wl,--script={}", preprocessed.display()));
        cc.arg("-o").arg(&output).args(objects);
        run(cc);
        output
    }

    /// A compiler that knows the layout and stands in `fixtures`.
    fn compiler(&self, definitions: &[String]) -> Command {
        let mut cc = compiler();
        cc.current_dir(fixtures());
        cc.arg("-Ilayouts")
            .arg(format!("-DLAYOUT=\"{}.h\"", self.generation.layout))
            .args(definitions);
        cc
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.directory.join(name), bytes).expect("OUT_DIR is writable");
    }
}

fn fixtures() -> PathBuf {
    Path::new(&env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"))
        .join("fixtures")
}

fn compiler() -> Command {
    let mut cc = Command::new(env::var_os("CC").unwrap_or_else(|| "cc".into()));
    cc.arg("-m64");
    cc
}

fn objcopy(arguments: &[&str], file: &Path) {
    let mut objcopy = Command::new(env::var_os("OBJCOPY").unwrap_or_else(|| "objcopy".into()));
    objcopy.args(arguments).arg(file);
    run(objcopy);
}

/// Runs a tool; a failure ends the build and what it prints besides becomes a warning of the build.
fn run(mut command: Command) {
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => {
            panic!("the fixtures need a C compiler and the GNU binutils: {command:?}: {error}")
        }
    };
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{messages}",
        output.status
    );
    for message in messages.lines() {
        println!("cargo::warning={message}");
    }
}

/// The build-id note of an image: found by its fixed header, so that nothing else needs to be understood here.
fn build_id(image: &[u8]) -> &[u8] {
    let header = [
        &4u32.to_le_bytes()[..],
        &(BUILD_ID_LEN as u32).to_le_bytes(),
        &3u32.to_le_bytes(),
        b"GNU\0",
    ]
    .concat();
    let at = image
        .windows(header.len())
        .position(|window| window == header)
        .expect("the image has a build-id");
    &image[at + header.len()..][..BUILD_ID_LEN]
}
