//! Makes the list of projections from the folders of `projections/`.
//!
//! Guarantees that a folder is all that a projection takes: its SQL becomes part of the
//! binary, and the first lines of `apply.sql` say what it follows and its pace. A folder
//! that lacks something stops the build with one line that says what.

use std::error::Error;
use std::fmt::Write;
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=projections");
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("projections");
    let mut folders: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(&root)? {
        let path = entry?.path();
        if path.is_dir() {
            folders.push(path);
        }
    }
    folders.sort();
    let mut code = String::new();
    let mut constants = Vec::new();
    for folder in &folders {
        println!("cargo:rerun-if-changed={}", folder.display());
        let name = name(folder)?;
        let constant = name.to_uppercase();
        writeln!(code, "/// `projections/{name}`.")?;
        writeln!(code, "pub const {constant}: Projection = {};", projection(folder, &name)?)?;
        constants.push(constant);
    }
    let (count, all) = (constants.len(), constants.join(", "));
    writeln!(code, "/// Every projection, by name.")?;
    writeln!(code, "pub static ALL: [Projection; {count}] = [{all}];")?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?).join("projections.rs");
    std::fs::write(out, code)?;
    Ok(())
}

fn name(folder: &Path) -> Result<String, Box<dyn Error>> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let fits = name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    if name.is_empty() || !fits {
        return Err(format!("projections/{name}: a name is lower-case letters and _").into());
    }
    Ok(name)
}

fn projection(folder: &Path, name: &str) -> Result<String, Box<dyn Error>> {
    let text = |file: &str| {
        std::fs::read_to_string(folder.join(file))
            .map_err(|error| format!("projections/{name}/{file}: {error}"))
    };
    let apply = text("apply.sql")?;
    let says = |key: &str| {
        apply
            .lines()
            .take_while(|line| line.starts_with("--"))
            .find_map(|line| line.strip_prefix("-- ")?.strip_prefix(key)?.strip_prefix(": "))
            .ok_or_else(|| format!("projections/{name}/apply.sql begins without \"-- {key}: …\""))
    };
    let follows = match says("follows")? {
        "everything" => "Everything",
        "non-readings" => "NonReadings",
        other => {
            let wrong = format!("projections/{name} follows {other}: everything or non-readings");
            return Err(wrong.into());
        }
    };
    let pace = says("pace")?;
    let pace_ms: u64 = pace
        .strip_suffix(" ms")
        .and_then(|ms| ms.parse().ok())
        .ok_or_else(|| format!("projections/{name}: the pace \"{pace}\" is not as \"50 ms\""))?;
    let carry = match folder.join("carry.sql").exists() {
        true => format!("Some({:?})", text("carry.sql")?),
        false => "None".to_owned(),
    };
    let (schema, check) = (text("schema.sql")?, text("check.sql")?);
    let made = schema.lines().filter_map(|line| line.strip_prefix("create table "));
    let mut tables: Vec<&str> =
        made.map(|line| line.split([' ', '(']).next().unwrap_or_default()).collect();
    tables.sort_unstable();
    if tables.is_empty() {
        let wrong = "no line of it begins with \"create table NAME\"";
        return Err(format!("projections/{name}/schema.sql: {wrong}").into());
    }
    Ok(format!(
        "Projection {{ name: {name:?}, consumer: \"projection:{name}\", follows: \
         Follows::{follows}, pace_ms: {pace_ms}, tables: &{tables:?}, schema: {schema:?}, \
         apply: {apply:?}, check: {check:?}, carry: {carry} }}"
    ))
}
