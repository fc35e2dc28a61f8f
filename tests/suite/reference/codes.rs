//! The codes of errors, by the API's description.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{header, row};

/// What is answered where the description has no operation, and by `/health/ready`.
const BESIDE: [(&str, &str, &str); 5] = [
    ("database_away", "503", "`/health/ready`"),
    ("database_slow", "503", "`/health/ready`"),
    ("invalid_path", "400", "any path"),
    ("method_not_allowed", "405", "any path"),
    ("no_such_route", "404", "any path"),
];

/// Where and with which statuses a code is answered.
#[derive(Default)]
struct Code {
    statuses: BTreeSet<String>,
    operations: BTreeSet<String>,
    resources: BTreeSet<String>,
}

/// The codes of an answer that is an error: `{"code": {"enum": […]}}` of its schema.
fn codes_of(response: &Value) -> Vec<&str> {
    let parts = response["content"]["application/problem+json"]["schema"]["allOf"].as_array();
    let codes = parts
        .into_iter()
        .flatten()
        .filter_map(|part| part["properties"]["code"]["enum"].as_array());
    codes.flatten().filter_map(Value::as_str).collect()
}

/// The codes, how many requests there are, and how many of them have a body.
fn all() -> (BTreeMap<String, Code>, usize, usize) {
    let document = vitals::adapter::http::openapi::document();
    let (mut codes, mut count, mut bodies) = (BTreeMap::<String, Code>::new(), 0, 0);
    for (path, item) in document["paths"].as_object().expect("paths") {
        let resource = path.split('/').nth(1).unwrap_or_default();
        for (method, operation) in item.as_object().expect("methods") {
            count += 1;
            bodies += usize::from(operation.get("requestBody").is_some());
            for (status, response) in operation["responses"].as_object().expect("answers") {
                for name in codes_of(response) {
                    let code = codes.entry(name.to_owned()).or_default();
                    code.statuses.insert(status.clone());
                    code.operations.insert(format!("{method} {path}"));
                    code.resources.insert(format!("`/{resource}`"));
                }
            }
        }
    }
    for (name, status, of) in BESIDE {
        let code = codes.entry(name.to_owned()).or_default();
        code.statuses.insert(status.to_owned());
        code.resources.insert(of.to_owned());
    }
    (codes, count, bodies)
}

/// Where the parenthesis closes that was open before.
fn end_of_call(text: &str) -> usize {
    let mut depth = 1;
    let closes = text.char_indices().find(|(_, c)| {
        depth += i32::from(*c == '(') - i32::from(*c == ')');
        depth == 0
    });
    closes.map_or(text.len(), |(at, _)| at)
}

/// The code of each problem that a source makes with one written beside it.
fn written(source: &str) -> impl Iterator<Item = &str> {
    source.split("Problem::").skip(1).filter_map(|made| {
        let (kind, made) = made.split_once('(')?;
        let made = &made[..end_of_call(made)];
        // What was not found is named; its code is one for all.
        let code = made.split('"').nth(1).filter(|_| kind != "not_found")?;
        let is_code = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        (code.starts_with(char::is_alphabetic) && code.chars().all(is_code)).then_some(code)
    })
}

#[test]
fn every_code_of_the_sources_is_in_the_table() {
    let (known, _, _) = all();
    let mut found = 0;
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/adapter/http");
    let mut folders = vec![root];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let text = text.split("#[cfg(test)]").next().unwrap_or_default();
            for code in written(text) {
                assert!(known.contains_key(code), "{}: {code} is told nowhere", path.display());
                found += 1;
            }
        }
    }
    assert!(found > 40, "only {found} codes");
}

/// What the table that stands there says is to be done, by code.
fn said(stands: &str) -> BTreeMap<String, String> {
    let cells = stands.lines().filter_map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [code, _, _, says] = cells[..] else { return None };
        Some((code.trim_matches('`').to_owned(), says.to_owned()))
    });
    cells.collect()
}

/// The table, with what is said by hand in the one that stands there.
pub fn table(stands: &str) -> String {
    let (said, (codes, requests, bodies)) = (said(stands), all());
    assert!(codes.len() > 50, "the codes were not found");
    let mut text = header(&["code", "status", "of", "what it means, and what to do"]);
    for (name, code) in codes {
        let statuses: Vec<&str> = code.statuses.iter().map(String::as_str).collect();
        let resources: Vec<&str> = code.resources.iter().map(String::as_str).collect();
        let of = match code.operations.len() {
            all if all == requests => "every request".to_owned(),
            all if all == bodies => "every body".to_owned(),
            _ => resources.join(", "),
        };
        let says = said.get(&name).map(String::as_str).unwrap_or_default();
        let updating = std::env::var_os("UPDATE_DOCS").is_some();
        assert!(updating || !says.is_empty(), "errors.md does not say what {name} means");
        text.push_str(&row([&*format!("`{name}`"), &statuses.join(", "), &of, says]));
    }
    text
}
