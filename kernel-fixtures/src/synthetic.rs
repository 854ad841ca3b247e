//! Images of any size, to see how linking scales.
//!
//! They are what the tools of `docs/abi.md` section 5.1 make of a list of slots: assembler and linker, nothing of ours.

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

/// A relocation-capable image with `count` slots and one function, `__vdso_time`, that refers to the first.
///
/// Needs a C compiler (`CC`, or `cc`) with the GNU assembler and linker.
pub fn image(count: usize) -> Result<Vec<u8>> {
    let directory = tempfile::tempdir()?;
    let [source, script, output] =
        ["slots.s", "slots.lds", "slots.so"].map(|name| directory.path().join(name));
    let mut text = String::from(HEAD);
    let whole = SLOTS.join("\n");
    text.push_str(&format!(".rept {}\n{whole}\n.endr\n", count / SLOTS.len()));
    text.push_str(&SLOTS[..count % SLOTS.len()].join("\n"));
    text.push('\n');
    std::fs::write(&source, text)?;
    std::fs::write(&script, SCRIPT)?;
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let result = Command::new(&compiler)
        .args([
            "-shared",
            "-nostdlib",
            "-Wl,--hash-style=sysv",
            "-Wl,-z,noexecstack",
            "-Wl,--build-id=none",
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
