//! The limits: constants of the sources whose names end with a unit or a bound.

use std::path::{Path, PathBuf};

use super::{header, read, row};

/// The last words of names that are limits: house rule 6.
const LAST_WORDS: [&str; 21] = [
    "MAX",
    "MIN",
    "MS",
    "SECONDS",
    "S",
    "HOURS",
    "DAYS",
    "WAIT",
    "DEFAULT",
    "MINUTE",
    "PERCENT",
    "GUARANTEED",
    "FREE",
    "AHEAD",
    "PART",
    "OPEN",
    "CHECK",
    "CHUNK",
    "PAGE",
    "GROUP",
    "HELD",
];
/// What is no limit of the platform.
const LEFT_OUT: [&str; 2] = ["demo/", "vital.rs"];

/// A constant, as it stands in the source.
struct Constant {
    name: String,
    value: String,
    says: String,
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => files(&path, found),
            false if path.extension().is_some_and(|extension| extension == "rs") => {
                found.push(path);
            }
            false => {}
        }
    }
}

/// `name` and `value` of a line `pub const NAME: u64 = 5;`, which may go on on further lines.
fn constant(line: &str) -> Option<(&str, &str)> {
    let line = line.trim_start();
    let after = line
        .strip_prefix("pub")
        .map_or(line, |after| after.trim_start_matches(|c| c != ' ').trim_start());
    let (name, typed) = after.strip_prefix("const ")?.split_once(": ")?;
    let (kind, value) = typed.split_once(" =")?;
    // A range has bounds, whatever it is called.
    let is_range = kind.contains("RangeInclusive");
    let is_number = kind.starts_with(['u', 'i', 'f'])
        || ["Duration", "TimeDelta", "NonZero", "[u64"].iter().any(|of| kind.starts_with(of));
    let last = name.rsplit('_').next()?;
    let is_limit = is_range || is_number && LAST_WORDS.contains(&last);
    is_limit.then_some((name, value.trim()))
}

/// The first sentence of a comment.
fn sentence(comment: &str) -> String {
    let text = comment.replace(['[', ']'], "");
    let end = text.match_indices(". ").map(|(at, _)| at).next();
    text[..end.unwrap_or(text.len())].trim().trim_end_matches('.').to_owned()
}

fn constants(text: &str) -> Vec<Constant> {
    let mut found: Vec<Constant> = Vec::new();
    let (mut comment, mut follows) = (String::new(), false);
    let mut lines = text.lines().take_while(|line| !line.starts_with("mod tests"));
    while let Some(line) = lines.next() {
        if let Some(more) = line.trim_start().strip_prefix("///") {
            comment = format!("{comment} {}", more.trim());
        } else if let Some((name, value)) = constant(line) {
            let mut value = value.to_owned();
            while !value.ends_with(';') {
                value.push_str(lines.next().expect("the end of a constant").trim());
            }
            // One comment may stand above several.
            let said = match comment.is_empty() && follows {
                true => found.last().map(|last| last.says.clone()).unwrap_or_default(),
                false => sentence(&comment),
            };
            found.push(Constant { name: name.to_owned(), value: shown(&value), says: said });
            (comment, follows) = (String::new(), true);
        } else if !line.trim_start().starts_with("#[") {
            (comment, follows) = (String::new(), false);
        }
    }
    found
}

/// `16 * 1024` and `Duration::from_secs(60)` as people write them.
fn shown(value: &str) -> String {
    let mut value = value.trim_end_matches(';').replace(" * ", " × ").replace(".unwrap()", "");
    for (made, unit) in [
        ("Duration::from_secs(", " s"),
        ("Duration::from_millis(", " ms"),
        ("TimeDelta::seconds(", " s"),
        ("TimeDelta::minutes(", " min"),
        ("TimeDelta::hours(", " h"),
        ("TimeDelta::days(", " days"),
        ("NonZeroU32::new(", ""),
    ] {
        if let Some(inner) = value.strip_prefix(made).and_then(|rest| rest.strip_suffix(')')) {
            value = format!("{inner}{unit}");
        }
    }
    value.replace('_', ",").replace("..=", " to ")
}

/// A table for each room of `src`.
pub fn tables() -> String {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    files(&src, &mut paths);
    paths.sort();
    let (mut text, mut room, mut count) = (String::new(), String::new(), 0);
    for path in paths {
        let name = path.strip_prefix(&src).expect("a source").to_string_lossy().into_owned();
        if LEFT_OUT.iter().any(|out| name.starts_with(out)) || name.ends_with("tests.rs") {
            continue;
        }
        let of_room = name.split(['/', '.']).next().expect("a room").to_owned();
        for Constant { name: constant, value, says } in constants(&read(&path)) {
            if room != of_room {
                room.clone_from(&of_room);
                text.push_str(&format!("\n## `{room}`\n\n"));
                text.push_str(&header(&["what", "constant", "value", "file"]));
            }
            let cells = [&*says, &format!("`{constant}`"), &value, &format!("`{name}`")];
            text.push_str(&row(cells));
            count += 1;
        }
    }
    assert!(count > 200, "only {count} constants: were they not understood?");
    text
}

#[test]
fn a_constant_is_found_with_what_is_said_of_it() {
    let text = "/// The longest wait. Longer ones end.\npub const WAIT_MS_MAX: u64 = 5_000;\n\
                const WAIT_MS_MIN: u64 = 10;\n/// No limit.\nconst NAME: &str = \"x\";\n\
                const A_MAX: usize =\n    2 * 1024;\n";
    let found: Vec<_> = constants(text).into_iter().map(|c| (c.name, c.value, c.says)).collect();
    let all = [
        ("WAIT_MS_MAX", "5,000", "The longest wait"),
        ("WAIT_MS_MIN", "10", "The longest wait"),
        ("A_MAX", "2 × 1024", ""),
    ];
    let all = all.map(|(a, b, c)| (a.to_owned(), b.to_owned(), c.to_owned()));
    assert_eq!(found, all);
}
