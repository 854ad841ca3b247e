//! JSON schemas of everything that commands print, as they are checked into `docs/schemas`.

use schemars::{Schema, schema_for};

use super::{Link, apply, check, compare, demo, derive, inspect, step_out, symtab, verify};

/// Each schema's file name and content.
pub fn all() -> Vec<(&'static str, Schema)> {
    vec![
        ("apply", schema_for!(apply::Apply)),
        ("check", schema_for!(check::Check)),
        ("compare", schema_for!(compare::Compare)),
        ("demo", schema_for!(demo::Demo)),
        ("derive", schema_for!(derive::Derive)),
        ("inspect", schema_for!(inspect::Inspect)),
        ("link", schema_for!(Link)),
        ("step-out", schema_for!(step_out::StepOut)),
        ("symtab", schema_for!(symtab::SymbolTable)),
        ("verify", schema_for!(verify::Verify)),
        ("verify-in-flight", schema_for!(verify::Sweep)),
    ]
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// `cargo run -p relocator-cli --example schemas` writes them.
    #[test]
    fn schemas_are_those_in_the_documentation() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/schemas");
        let mut names = Vec::new();
        for (name, schema) in all() {
            let path = directory.join(format!("{name}.json"));
            let written = fs::read_to_string(&path).unwrap_or_default();
            let schema = serde_json::to_string_pretty(&schema).unwrap() + "\n";
            assert!(written == schema, "{} is out of date", path.display());
            names.push(format!("{name}.json"));
        }
        let files = fs::read_dir(directory).unwrap();
        let files = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        let mut files: Vec<_> = files.collect();
        files.sort_unstable();
        names.sort_unstable();
        assert_eq!(files, names);
    }
}
