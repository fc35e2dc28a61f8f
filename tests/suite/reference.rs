//! `docs/reference` says what the program does: its tables are made of the constants, of the
//! options and of the API's description.
//!
//! `UPDATE_DOCS=1 cargo test --test suite reference` writes them; without that they are
//! compared. What stands above the mark in a file is written by hand and left alone, and so is
//! what a code of an error asks to be done.

mod codes;
mod constants;
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
