//! `docs/reference` says what the program does: its tables are made of the constants, of the
//! options and of the API's description.
//!
//! `UPDATE_DOCS=1 cargo test --test suite reference` writes them; without that they are
//! compared. What stands above the mark in a file is written by hand and left alone, and so is
//! what a code of an error asks to be done.

mod codes;
mod compat;
mod constants;
mod metrics;
mod options;
mod scopes;

use std::path::Path;

/// What follows in a file is generated.
const MARK: &str = "<!-- From here on it is generated: UPDATE_DOCS=1 cargo test --test suite \
                    reference -->\n";

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Holds the generated part of a file, or writes it when that was asked for. `table` is given
/// what stands there now.
fn holds(name: &str, table: impl FnOnce(&str) -> String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference").join(name);
    let text = read(&path);
    let (head, stands) = text.split_once(MARK).expect("the mark");
    let table = table(stands);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, format!("{head}{MARK}{table}")).expect("written");
    } else {
        let differs = stands.lines().zip(table.lines()).find(|(stands, should)| stands != should);
        assert!(stands == table, "{name} is old, first at {differs:?}: run it with UPDATE_DOCS=1");
    }
}

/// A row of a table.
fn row<'a>(cells: impl IntoIterator<Item = &'a str>) -> String {
    let cells: Vec<String> = cells.into_iter().map(|cell| cell.replace('|', "\\|")).collect();
    format!("| {} |\n", cells.join(" | "))
}

fn header(cells: &[&str]) -> String {
    row(cells.iter().copied()) + &"|---".repeat(cells.len()) + "|\n"
}

#[test]
fn the_limits_are_the_constants() {
    holds("limits.md", |_| constants::tables());
}

#[test]
fn the_options_are_those_of_the_program() {
    holds("configuration.md", |_| options::tables());
}

#[test]
fn the_codes_are_those_of_the_description_and_each_says_what_to_do() {
    holds("errors.md", codes::table);
}

#[test]
fn the_scopes_and_roles_are_those_of_the_routes() {
    holds("scopes.md", |_| scopes::tables());
}

#[test]
fn the_metrics_are_those_that_the_program_counts() {
    metrics::agree();
    holds("metrics.md", |_| metrics::table());
}

/// `docs/reference/v1.json` is what callers of version 1 were promised. What is added goes into it
/// with `UPDATE_DOCS=1`; what is taken away does not, unless the file is removed first.
#[test]
fn what_callers_of_version_1_stand_on_stays() {
    let document = vitals::adapter::http::openapi::document();
    let text = compat::promise(&document);
    let today = serde_json::from_str(&text).expect("JSON");
    compat::finds(&today);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/v1.json");
    let is_updating = std::env::var_os("UPDATE_DOCS").is_some();
    let promised = match std::fs::read_to_string(&path) {
        Err(_) if is_updating => text.clone(),
        read => read.unwrap_or_else(|error| panic!("{}: {error}", path.display())),
    };
    let broken = compat::broken(&serde_json::from_str(&promised).expect("JSON"), &today);
    assert!(broken.is_empty(), "this breaks who calls version 1:\n{}", broken.join("\n"));
    if is_updating {
        std::fs::write(&path, text).expect("written");
    } else {
        assert!(promised == text, "v1.json is old: run it with UPDATE_DOCS=1");
    }
}
