//! Documents: where they lie, how long they may be, and that what they name is there.
//!
//! Does not read what they say: `tests/suite/documents.rs` runs their commands.

use std::collections::BTreeSet;

use super::{root, texts};

/// How long a document may be, by where it is: whoever looks something up at night reads it
/// once. What is generated, and the changelog, may be as long as they are.
const KILOBYTES_MAX: [(&str, usize); 9] = [
    ("README.md", 8),
    ("ARCHITECTURE.md", 18),
    ("CONTRIBUTING.md", 14),
    ("CHANGELOG.md", usize::MAX >> 10),
    ("docs/operations.md", 20),
    ("docs/benchmarks.md", 6),
    ("docs/guide/", 6),
    ("docs/decisions/", 2),
    ("docs/reference/", usize::MAX >> 10),
];

fn documents() -> Vec<(String, String)> {
    let documents: Vec<_> =
        texts("").into_iter().filter(|(path, _)| path.ends_with(".md")).collect();
    assert!(documents.len() > 40, "the documents were not found");
    documents
}

#[test]
fn documents_have_their_places_and_their_sizes() {
    for (path, text) in documents() {
        let known = KILOBYTES_MAX.iter().find(|(begin, _)| path.starts_with(begin));
        let (_, most) = known.unwrap_or_else(|| panic!("{path} has no place in KILOBYTES_MAX"));
        let bytes = text.len();
        assert!(bytes <= most << 10, "{path} has {bytes} bytes, {most} kB at most");
    }
}

/// What a heading is called in a link, as GitHub does it.
fn anchor(heading: &str) -> String {
    let heading = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// The lines that are no code.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut is_code = false;
    text.lines().filter(move |line| {
        let fence = line.starts_with("```");
        is_code ^= fence;
        !is_code && !fence
    })
}

#[test]
fn links_of_documents_lead_somewhere() {
    assert_eq!(anchor("## Crash here → what happens"), "crash-here--what-happens");
    let mut followed = 0;
    for (path, text) in documents() {
        let links = prose(&text).flat_map(|line| line.split("](").skip(1));
        for link in links.filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("http") {
                continue;
            }
            let (file, place) = link.split_once('#').unwrap_or((link, ""));
            let beside = root().join(&path).parent().expect("a directory").join(file);
            let target = if file.is_empty() { root().join(&path) } else { beside };
            assert!(target.exists(), "{path}: {link} leads nowhere");
            if !place.is_empty() {
                let text = std::fs::read_to_string(&target).expect("a document");
                let mut headings = prose(&text).filter(|line| line.starts_with('#'));
                assert!(headings.any(|line| anchor(line) == place), "{path}: {link} is gone");
            }
            followed += 1;
        }
    }
    assert!(followed > 50, "only {followed} links");
}

#[test]
fn documents_that_sources_name_are_there() {
    let decisions: Vec<String> = documents().into_iter().map(|(path, _)| path).collect();
    // Migrations are never changed, also where they name what has moved.
    for (path, text) in ["src", "tests", "script", "benches"].map(texts).concat() {
        for (at, _) in text.match_indices("docs/") {
            let named = &text[at..];
            let word = |c: char| c.is_ascii_alphanumeric() || "/-_.".contains(c);
            let named = &named[..named.find(|c| !word(c)).unwrap_or(named.len())];
            let named = named.trim_end_matches('.');
            let is_there = !named.ends_with(".md") || root().join(named).exists();
            assert!(is_there, "{path} names {named}, which is not there");
        }
        for number in text.split("(decision ").skip(1).filter_map(|after| after.get(..4)) {
            let named = format!("docs/decisions/{number}-");
            let is_one = number.bytes().all(|b| b.is_ascii_digit());
            let is_there = decisions.iter().any(|decision| decision.starts_with(&named));
            assert!(!is_one || is_there, "{path} names {named}…, which is not there");
        }
    }
}

#[test]
fn sources_that_documents_name_are_there() {
    let files: Vec<String> = texts("").into_iter().map(|(path, _)| format!("/{path}")).collect();
    let mut looked_up = 0;
    for (path, text) in documents().into_iter().filter(|(path, _)| path != "CHANGELOG.md") {
        for named in text.split('`').skip(1).step_by(2) {
            let is_path = named.chars().all(|c| c.is_ascii_alphanumeric() || "/-_.".contains(c));
            let is_source = [".rs", ".sql", ".js"].iter().any(|end| named.ends_with(end));
            // `projections/NAME/apply.sql` is any of them.
            if !is_path || !is_source || named.contains("NAME") || named.starts_with(".") {
                continue;
            }
            let end = format!("/{}", named.trim_start_matches('/'));
            assert!(files.iter().any(|file| file.ends_with(&end)), "{path}: no file is {named}");
            looked_up += 1;
        }
    }
    assert!(looked_up > 300, "only {looked_up} names");
}

#[test]
fn types_and_functions_that_documents_name_are_there() {
    let sources = ["src", "tests", "migrations", "projections"].map(texts).concat();
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words: BTreeSet<&str> =
        sources.iter().flat_map(|(_, text)| text.split(|c| !word(c))).collect();
    let not_ours = ["SystemTime", "VITALS_ADVISORY_DB", "fitparser"];
    let mut looked_up = 0;
    for path in ["ARCHITECTURE.md", "CONTRIBUTING.md"] {
        let text = std::fs::read_to_string(root().join(path)).expect("a document");
        for named in text.split('`').skip(1).step_by(2) {
            let named = named.trim_end_matches("()");
            let parts: Vec<&str> = named.split("::").collect();
            let is_name = parts.iter().all(|part| !part.is_empty() && part.chars().all(word));
            let looks_so = parts.len() > 1 || named.contains('_') || named != named.to_lowercase();
            if !is_name || !looks_so || parts.iter().any(|part| not_ours.contains(part)) {
                continue;
            }
            assert!(parts.iter().all(|part| words.contains(part)), "{path}: nothing is {named}");
            looked_up += 1;
        }
    }
    assert!(looked_up > 60, "only {looked_up} names");
}
