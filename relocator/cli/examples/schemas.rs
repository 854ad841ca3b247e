//! Writes the JSON schemas of all commands into `docs/schemas`.

use std::fs;
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/schemas");
    fs::create_dir_all(&directory)?;
    for (name, schema) in relocator_cli::json::schemas() {
        let text = serde_json::to_string_pretty(&schema)? + "\n";
        fs::write(directory.join(format!("{name}.json")), text)?;
    }
    Ok(())
}
