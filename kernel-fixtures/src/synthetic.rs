//! Images to order: of any size, to see how linking scales, or with code that is written in a test.
//!
//! They are what the assembler and the linker make of their input, as in `docs/abi.md` section 5.1; nothing of ours.

use std::io::{Error, Result};
use std::process::Command;

/// The symbols that slots refer to in turn, each in one of the ways a slot can.
const SLOTS: [&str; 4] = [
    r#".quad "time.clock[]" - ."#,
    r#".quad "offsetof(time.clock[],time.clock[].seq)""#,
    r#".quad "time.clock[]"@SIZE"#,
    r#".quad "time.hrtimer_res" - ."#,
];

const SCRIPT: &str = "
PHDRS { load PT_LOAD FLAGS(5) FILEHDR PHDRS; dynamic PT_DYNAMIC FLAGS(4); note PT_NOTE FLAGS(4); }
SECTIONS {
  . = SIZEOF_HEADERS;
  .hash : { *(.hash) } :load
  .dynsym : { *(.dynsym) }
  .dynstr : { *(.dynstr) }
  .rela.dyn : { *(.rela.*) }
  .dynamic : { *(.dynamic) } :load :dynamic
  .note : { *(.note.*) } :load :note
  .text : { *(.text) } :load
  .slots : { *(.slots) }
  /DISCARD/ : { *(.comment) *(.gnu.hash) *(.eh_frame*) }
}
";

const HEAD: &str = r#"
	.section .note.vdso,"a",@note
	.long 5, 72, 1
	.asciz "vDSO"
	.balign 4
	.long 1, 0
	.fill 8, 8, 0
	.text
	.globl __vdso_time
	.type __vdso_time,@function
__vdso_time:
	lea slots(%rip), %rax
	add (%rax), %rax
	mov $201, %eax
	syscall
	ret
	.size __vdso_time, . - __vdso_time
	.section .slots,"aw"
	.balign 8
slots:
"#;

/// Before the code of [`assembled`]: distances from the image can be written as `image - 0x4000`.
const CODE_HEAD: &str = "
	.intel_syntax noprefix
	.text
	.set image, . - 0x1000
.macro function name
	.balign 16
	.globl \\name
	.type \\name,@function
\\name:
.endm
.macro end name
	.size \\name, . - \\name
.endm
";

const CODE_SCRIPT: &str = "
PHDRS {
  load PT_LOAD FLAGS(5) FILEHDR PHDRS; dynamic PT_DYNAMIC FLAGS(4); frames PT_GNU_EH_FRAME FLAGS(4);
}
SECTIONS {
  . = SIZEOF_HEADERS;
  .hash : { *(.hash) } :load
  .dynsym : { *(.dynsym) }
  .dynstr : { *(.dynstr) }
  .dynamic : { *(.dynamic) } :load :dynamic
  .rodata : { *(.rodata) } :load
  .eh_frame_hdr : { *(.eh_frame_hdr) } :load :frames
  .eh_frame : { *(.eh_frame) } :load
  .text 0x1000 : { *(.text) } :load
  /DISCARD/ : { *(.comment) *(.gnu.hash) *(.note*) }
}
";

/// A stock image, without tables or build-id, whose code is `text` in the syntax of Intel.
///
/// `function NAME` and `end NAME` stand around an exported function, and `image` is the image's address. Call frame
/// information is what directives in the text ask for. Needs a C
/// compiler (`CC`, or `cc`) with the GNU assembler and linker.
pub fn assembled(text: &str) -> Result<Vec<u8>> {
    linked(&format!("{CODE_HEAD}{text}\n"), CODE_SCRIPT)
}

/// A relocation-capable image with `count` slots and one function, `__vdso_time`, that refers to the first.
///
/// Needs a C compiler (`CC`, or `cc`) with the GNU assembler and linker.
pub fn image(count: usize) -> Result<Vec<u8>> {
    let mut text = String::from(HEAD);
    let whole = SLOTS.join("\n");
    text.push_str(&format!(".rept {}\n{whole}\n.endr\n", count / SLOTS.len()));
    text.push_str(&SLOTS[..count % SLOTS.len()].join("\n"));
    text.push('\n');
    linked(&text, SCRIPT)
}

/// What the compiler driver makes of a source in assembly and a linker script.
fn linked(text: &str, script_text: &str) -> Result<Vec<u8>> {
    let directory = tempfile::tempdir()?;
    let [source, script, output] =
        ["image.s", "image.lds", "image.so"].map(|name| directory.path().join(name));
    std::fs::write(&source, text)?;
    std::fs::write(&script, script_text)?;
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let result = Command::new(&compiler)
        .args([
            "-shared",
            "-nostdlib",
            "-Wl,--hash-style=sysv",
            "-Wl,-z,noexecstack",
            "-Wl,--build-id=none",
            "-Wl,--eh-frame-hdr",
        ])
        .arg(format!("-Wl,-T,{}", script.display()))
        .arg("-o")
        .args([&output, &source])
        .output()?;
    if !result.status.success() {
        let reason = format!(
            "{compiler} failed: {}",
            String::from_utf8_lossy(&result.stderr)
        );
        return Err(Error::other(reason));
    }
    std::fs::read(output)
}
