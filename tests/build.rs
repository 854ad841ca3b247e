//! Says which machine tests are built for.

fn main() {
    let target = std::env::var("TARGET").unwrap_or_default();
    println!("cargo:rustc-env=RELOCATOR_TESTS_TARGET={target}");
    println!("cargo:rerun-if-changed=build.rs");
}
