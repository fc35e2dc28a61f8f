//! The pages of this project: their blocks, and what two prints of the same have in common.

use std::path::{Path, PathBuf};

use regex_lite::Regex;

/// What is another one each time, and what stands for it.
const CHANGING: [(&str, &str); 8] = [
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "TIME"),
    (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID"),
    (r"eyJ[A-Za-z0-9_.-]+", "TOKEN"),
    (r#"link=[^"\s]+"#, "link=SIGNATURE"),
    (r"wh(sec|sk|pk)_[A-Za-z0-9+/=]+", "KEY"),
    (r"\d+(\.\d+)? ?(µs|ms|readings/s)\b", "# $2"),
    (r"\d+(\.\d+)? (s|MB|bytes)\b", "# $2"),
    (r#""(ageSeconds|delaySeconds|latencyMs)":-?\d+(\.\d+)?"#, r#""$1":#"#),
];

/// A fenced block.
pub struct Block {
    /// Document and line, for people.
    pub place: String,
    /// `sh`, `text`, …
    pub kind: String,
    pub text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A document of this project.
pub fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every document, by its path from the root.
pub fn paths() -> Vec<String> {
    let mut paths = Vec::new();
    let mut dirs = vec![root().join("docs")];
    let mut found: Vec<PathBuf> = entries(root());
    while let Some(dir) = dirs.pop() {
        let (inner, files): (Vec<_>, Vec<_>) =
            entries(&dir).into_iter().partition(|path| path.is_dir());
        dirs.extend(inner);
        found.extend(files);
    }
    for path in found.into_iter().filter(|path| path.extension().is_some_and(|e| e == "md")) {
        let path = path.strip_prefix(root()).expect("under the root");
        paths.push(path.to_string_lossy().into_owned());
    }
    assert!(paths.len() > 3, "the documents were not found");
    paths
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).expect("a directory");
    entries.map(|entry| entry.expect("an entry").path()).collect()
}

/// The fenced blocks of a document.
pub fn blocks(path: &str, text: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut is_open = false;
    for (n, line) in text.lines().enumerate() {
        match line.strip_prefix("```") {
            Some(_) if is_open => is_open = false,
            Some(kind) => {
                is_open = true;
                let place = format!("{path}:{}", n + 1);
                blocks.push(Block { place, kind: kind.to_owned(), text: String::new() });
            }
            None if is_open => {
                let block = blocks.last_mut().expect("an open block");
                block.text.push_str(line);
                block.text.push('\n');
            }
            None => {}
        }
    }
    assert!(!is_open, "{path}: a block without an end");
    blocks
}

/// A text with placeholders for what changes, in lines.
pub fn normalised(text: &str) -> Vec<String> {
    let mut text = text.trim_end().to_owned();
    for (pattern, name) in CHANGING {
        let pattern = Regex::new(pattern).expect("a pattern");
        text = pattern.replace_all(&text, name).into_owned();
    }
    text.lines().map(|line| line.trim_end().to_owned()).collect()
}

/// Whether what is shown is what was printed: a line `…` stands for any lines, and `…` within
/// a line for anything.
pub fn agree(shown: &[String], printed: &[String]) -> bool {
    match shown.split_first() {
        None => printed.is_empty(),
        Some((line, rest)) if line.trim() == "…" => {
            (0..=printed.len()).any(|n| agree(rest, &printed[n..]))
        }
        Some((line, rest)) => printed
            .split_first()
            .is_some_and(|(first, others)| lines_agree(line, first) && agree(rest, others)),
    }
}

fn lines_agree(shown: &str, printed: &str) -> bool {
    let mut parts = shown.split('…');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = printed.strip_prefix(first) else { return false };
    let mut last = None;
    for part in parts {
        if let Some(middle) = last.replace(part) {
            match rest.split_once(middle) {
                Some((_, after)) => rest = after,
                None => return false,
            }
        }
    }
    last.map_or(rest.is_empty(), |last| rest.ends_with(last))
}

#[test]
fn what_is_shown_agrees_with_what_is_printed_and_with_nothing_else() {
    let check = |shown: &str, printed: &str| agree(&normalised(shown), &normalised(printed));
    assert!(check("stored=1\n", "stored=1"));
    assert!(!check("stored=1", "stored=2") && !check("stored=1", "stored=1\nmore"));
    assert!(!check("stored=1\nmore", "stored=1"));
    assert!(check("{\"at\":\"2026-01-01T00:00:00Z\"}", "{\"at\":\"2027-02-02T01:02:03.456Z\"}"));
    assert!(!check("{\"at\":\"2026-01-01T00:00:00Z\"}", "{\"at\":null}"));
    assert!(check("a\n…\nz", "a\nb\nc\nz") && check("a\n…\nz", "a\nz"));
    assert!(!check("a\n…\nz", "a\nb\nc"));
    assert!(check("in … commits, intact", "in 23 commits, intact"));
    assert!(!check("in … commits, intact", "in 23 commits, broken"));
    assert!(check("a … b … c", "a 1 b 2 c") && !check("a … b … c", "a 1 c"));
    assert!(check("took 1.0 s", "took 23.45 s") && !check("took 1 readings", "took 2 readings"));
}
