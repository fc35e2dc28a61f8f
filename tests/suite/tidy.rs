//! Style is a test: who may import whom, where SQL may stand, and what no file holds.
//!
//! Reads the sources as text, for what the compiler and clippy cannot know.

// With its path, so that this file can be compiled alone as well.
#[path = "tidy/circles.rs"]
mod circles;
#[path = "tidy/documents.rs"]
mod documents;
#[path = "tidy/shards.rs"]
mod shards;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The ground that every room above the log stands on.
const GROUND: [&str; 5] = ["clock", "event", "tasks", "trace", "vital"];

/// The rooms of `src/lib.rs`, and which rooms each may enter beside the ground.
#[rustfmt::skip]
const ROOMS: [(&str, &[&str]); 27] = [
    ("clock", &[]),
    ("tasks", &[]),
    ("vital", &[]),
    ("trace", &["clock"]),
    ("event", &["trace", "vital"]),
    ("wire", &[]),
    ("auth", &[]),
    ("limits", &["auth", "log"]),
    ("log", &[]),
    ("consumer", &["log"]),
    ("devices", &["log"]),
    ("jobs", &["log"]),
    ("projection", &["consumer", "log"]),
    ("archive", &["consumer", "log"]),
    ("intake", &["auth", "devices", "limits", "log", "wire"]),
    ("query", &["consumer", "log", "projection", "wire"]),
    ("rules", &["consumer", "jobs", "log", "projection", "wire"]),
    ("delivery", &["auth", "consumer", "log", "projection", "wire"]),
    ("audit", &["log"]),
    ("export", &["jobs", "log", "query", "wire"]),
    ("record", &["devices", "jobs", "log", "query"]),
    ("adapter", &[
        "audit", "auth", "limits", "consumer", "devices", "export", "intake", "jobs", "log", "projection",
        "query", "record", "rules", "delivery", "wire",
    ]),
    ("embedded", &[]),
    // Two: networks and issuers are options, and only webhooks and sign-ins know what they are.
    ("config", &["auth", "delivery"]),
    ("telemetry", &["config"]),
    // It uses the platform from outside, as a hospital does; signatures it verifies.
    ("demo", &["delivery"]),
    (
        "command",
        &[
            "adapter",
            "archive",
            "audit",
            "auth",
            "config",
            "consumer",
            "demo",
            "embedded",
            "export",
            "intake",
            "jobs",
            "limits",
            "log",
            "projection",
            "query",
            "record",
            "rules",
            "telemetry",
            "delivery",
        ],
    ),
];

/// Whether a room may enter another.
fn may_enter(room: &str, other: &str) -> bool {
    let (_, rooms) = ROOMS
        .iter()
        .find(|(name, _)| *name == room)
        .unwrap_or_else(|| panic!("give the room {room} its place in ROOMS"));
    let stands_on_ground = !GROUND.contains(&room);
    room == other || rooms.contains(&other) || (stands_on_ground && GROUND.contains(&other))
}

/// Where SQL may be asked. `embedded` asks its own server whether it lives.
const ROOMS_WITH_SQL: &str = "auth log consumer devices jobs limits projection query export record \
                              rules delivery audit embedded";

/// The most lines of a file. Most have far fewer.
const LINES_MAX: usize = 450;

/// What is not ours, or not source.
const NOT_WALKED: [&str; 4] = ["target", ".git", ".vitals", "__pycache__"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy();
        match path.is_dir() {
            true if NOT_WALKED.contains(&&*name) => {}
            true => walk(&path, found),
            false => found.push(path),
        }
    }
}

/// The files under a directory of the project, with their paths from its root.
fn texts(under: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    walk(&root().join(under), &mut found);
    found.sort();
    let read = |path: PathBuf| {
        let text = String::from_utf8(std::fs::read(&path).expect("a file")).ok()?;
        let path = path.strip_prefix(root()).expect("under the root");
        Some((path.to_string_lossy().into_owned(), text))
    };
    found.into_iter().filter_map(read).collect()
}

/// The Rust files under a directory of the project.
pub fn sources(under: &str) -> Vec<(String, String)> {
    let sources: Vec<_> =
        texts(under).into_iter().filter(|(path, _)| path.ends_with(".rs")).collect();
    assert!(sources.len() > 5, "the sources were not found");
    sources
}

/// `src/log/append.rs` is in the room `log`.
fn room_of(path: &str) -> &str {
    let path = path.strip_prefix("src/").expect("a source");
    path.split(['/', '.']).next().expect("a name")
}

/// Which rooms a text names after `crate::`, also inside braces.
fn rooms_named(text: &str) -> BTreeSet<&str> {
    let word = |text: &'_ str| text.find(|c: char| !c.is_ascii_lowercase() && c != '_');
    let mut rooms = BTreeSet::new();
    for after in text.split("crate::").skip(1) {
        if let Some(list) = after.strip_prefix('{') {
            let list = list.split("};").next().unwrap_or_default();
            rooms.extend(list.split(',').map(|part| {
                let part = part.trim();
                &part[..word(part).unwrap_or(part.len())]
            }));
        } else {
            rooms.insert(&after[..word(after).unwrap_or(after.len())]);
        }
    }
    rooms.remove("");
    rooms
}

#[test]
fn rooms_are_entered_one_way_only() {
    for (path, text) in sources("src") {
        let room = room_of(&path);
        if ["lib", "main"].contains(&room) {
            continue;
        }
        for named in rooms_named(&text) {
            assert!(may_enter(room, named), "{path}: {room} may not use {named}");
        }
        assert!(!text.contains("super::super::super"), "{path}: a way around the rooms");
    }
}

#[test]
fn the_table_of_rooms_has_no_circle_and_no_room_that_is_gone() {
    let library = std::fs::read_to_string(root().join("src/lib.rs")).expect("the library");
    let rooms = ROOMS.map(|(room, _)| room);
    for room in rooms {
        assert!(library.contains(&format!("pub mod {room};")), "{room} is no room");
        // Whatever can be reached from a room must not lead back.
        let enters = |from: &str| {
            rooms.into_iter().filter(|to| *to != from && may_enter(from, to)).collect()
        };
        let mut reached: BTreeSet<&str> = enters(room);
        for _ in rooms {
            let next: BTreeSet<&str> = reached.iter().flat_map(|from| enters(from)).collect();
            reached.extend(next);
        }
        assert!(!reached.contains(room), "{room} leads back to itself");
    }
    assert_eq!(rooms_named("use crate::log::Log; use crate::{event::Event, adapter};").len(), 3);
    assert!(
        may_enter("adapter", "log") && !may_enter("log", "adapter") && !may_enter("query", "rules")
    );
}

#[test]
fn the_library_lists_each_room_below_all_that_it_may_enter() {
    let library = std::fs::read_to_string(root().join("src/lib.rs")).expect("the library");
    // In which paragraph a room stands, counted from above.
    let mut listed: Vec<(&str, usize)> = Vec::new();
    for (paragraph, text) in library.split("\n\n").enumerate() {
        let named = text.lines().filter_map(|line| line.strip_prefix("pub mod "));
        listed.extend(named.map(|line| (line.trim_end_matches(';'), paragraph)));
    }
    let place = |room: &str| listed.iter().find(|(listed, _)| *listed == room).map(|(_, at)| *at);
    assert_eq!(listed.len(), ROOMS.len(), "a room of the library is not in ROOMS");
    for (room, _) in ROOMS {
        let below = place(room).unwrap_or_else(|| panic!("{room} is not in the library"));
        for (other, _) in ROOMS.iter().filter(|(other, _)| *other != room) {
            let stands_above = place(other).is_some_and(|above| above < below);
            assert!(stands_above || !may_enter(room, other), "{room} uses {other} from beside it");
        }
    }
}

#[test]
fn questions_only_read_and_shipped_rules_lie_with_the_rules() {
    for (path, text) in texts("src").into_iter().filter(|(path, _)| room_of(path) == "query") {
        let text = text.to_lowercase();
        for word in ["append(", "insert into ", "update ", "delete from ", "for update", "in_turn("]
        {
            assert!(!text.contains(word), "{path} writes: {word}");
        }
    }
    let registry = std::fs::read_to_string(root().join("src/rules/registry.rs")).expect("rules");
    let shipped = texts("src/rules/shipped");
    assert!(shipped.len() > 5, "the shipped rules were not found");
    for (path, _) in shipped {
        let path = path.trim_start_matches("src/rules/");
        assert!(registry.contains(&format!("include_str!(\"{path}\")")), "{path} is not shipped");
    }
}

#[test]
fn protocols_are_known_to_adapters_only() {
    for (path, text) in sources("src") {
        let knows = ["axum::", "hyper::"].iter().any(|word| text.contains(word));
        // The demo has a receiver, which is a server.
        let may = ["adapter", "demo"].contains(&room_of(&path));
        assert!(may || !knows, "{path} knows a protocol");
    }
}

#[test]
fn readings_have_one_way_in() {
    for (path, text) in sources("src") {
        // One judge, and one caller of the writers.
        for (word, at) in [
            ("store_events(", "src/intake/"),
            ("store_when_room(", "src/intake/"),
            ("accept(draft", "src/intake/submit.rs"),
        ] {
            assert!(path.starts_with(at) || !text.contains(word), "{path}: {word}");
        }
    }
    let mut ways_in = 0;
    for (path, text) in [sources("src/adapter"), sources("src/command")].concat() {
        let (begins, ends) = (text.contains("intake.batch("), text.contains("intake.submit("));
        assert_eq!(begins, ends, "{path}: what an intake begins is submitted to it");
        ways_in += usize::from(ends);
    }
    assert!(ways_in >= 3, "the array, lines and import were not found");
}

#[test]
fn sql_stands_only_where_it_may() {
    let asks = ["sqlx::query", "query_as(", "query_scalar(", "raw_sql("];
    for (path, text) in sources("src") {
        let may = ROOMS_WITH_SQL.contains(room_of(&path));
        assert!(may || !asks.iter().any(|ask| text.contains(ask)), "{path} asks the database");
    }
    for (path, _) in texts("src").into_iter().filter(|(path, _)| path.ends_with(".sql")) {
        assert!(ROOMS_WITH_SQL.contains(room_of(&path)), "{path}: SQL in a room without");
    }
}

#[test]
fn only_the_webhook_knows_http_and_deliveries_know_no_transport() {
    for (path, text) in sources("src/delivery") {
        let stores = ["endpoint.rs", "mod.rs", "secrets.rs"].iter().any(|own| path.ends_with(own));
        let words = ["reqwest", "hyper", if stores { "http::" } else { "webhook::" }];
        let named = |w: &&str| text.lines().any(|l| l.contains(*w) && !l.trim().starts_with("//"));
        assert!(path.contains("/webhook/") || !words.iter().any(named), "{path} names a transport");
    }
}

#[test]
fn the_log_is_only_ever_appended_to_and_only_by_itself() {
    let texts = [texts("src"), texts("projections"), texts("migrations")].concat();
    for table in ["reading", "reading_context", "non_reading", "series"] {
        let insert = format!("insert into {table} ");
        let appends = texts.iter().any(|(_, text)| text.contains(&insert));
        assert!(appends, "{table}: is it still there?");
        for (path, text) in &texts {
            let words = text.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ");
            // Contexts of readings that are in an archive leave with them.
            let leaves = table == "reading_context" && path == "src/log/exchange.rs";
            for change in ["update ", "delete from ", "truncate ", "merge into "] {
                let change = format!("{change}{table} ");
                assert!(!words.contains(&change) || leaves, "{path}: {change}");
            }
            let appends = words.contains(&insert) || words.contains(&format!("copy {table} "));
            let log = path.starts_with("src/log/") || path == "migrations/0002_append.sql";
            assert!(!appends || log, "{path} writes into {table}");
        }
    }
}

/// Statements that compare a checkpoint with its head, which takes one snapshot of both.
const COMPARES_WITH_HEADS: [&str; 5] = [
    "src/consumer/claim.sql",
    "src/consumer/lag.sql",
    "src/projection/caught_up.sql",
    "src/projection/caught_up_whole.sql",
    "src/query/rollup_place.sql",
];

#[test]
fn heads_and_commits_are_read_and_locked_by_the_log_alone() {
    let mut compare = Vec::new();
    for (path, text) in [texts("src"), texts("projections")].concat() {
        if path.starts_with("src/log/")
            || !["shard_head", "log_commit"].iter().any(|t| text.contains(t))
        {
            continue;
        }
        assert!(COMPARES_WITH_HEADS.contains(&&*path), "{path} reads heads: src/log/head.rs does");
        // Whoever locks a head holds up who appends: of these only the checkpoint is locked.
        for lock in ["for update", "for no key update", "for share"] {
            let mut locks = text.match_indices(lock).map(|(at, _)| &text[at + lock.len()..]);
            assert!(locks.all(|of| of.starts_with(" of c ")), "{path} locks more than checkpoints");
        }
        compare.push(path);
    }
    assert_eq!(compare, COMPARES_WITH_HEADS, "one of them does no longer");
}

#[test]
fn an_event_is_made_by_its_constructors_or_read_as_it_lies() {
    let reads =
        ["src/archive/columns.rs", "src/event.rs", "src/log/read.rs", "src/query/export.rs"];
    let is_written_out = |text: &str| text.contains("Event {\n") && text.contains("source_id:");
    let written = sources("src").into_iter().filter(|(_, text)| is_written_out(text));
    assert_eq!(written.map(|(path, _)| path).collect::<Vec<_>>(), reads);
}

#[test]
fn each_file_says_what_it_is_and_fits_a_head() {
    for (path, text) in [sources("src"), sources("tests")].concat() {
        assert!(text.starts_with("//! "), "{path} does not say what it guarantees");
        let lines = text.lines().count();
        assert!(lines <= LINES_MAX, "{path} has {lines} lines, {LINES_MAX} at most");
        let name = Path::new(&path).file_stem().expect("a name").to_string_lossy().into_owned();
        for vague in ["util", "utils", "common", "helper", "helpers", "manager", "service", "misc"]
        {
            assert_ne!(name, vague, "{path}: a name that says nothing");
        }
    }
}

#[test]
fn nothing_is_left_for_later() {
    // In two halves, so that this file does not find itself.
    let later = [["TO", "DO"], ["FIX", "ME"], ["to", "do!("], ["unimplemented", "!("]];
    for (path, text) in [sources("src"), sources("tests")].concat() {
        for halves in later {
            let word = halves.concat();
            assert!(!text.contains(&word), "{path}: {word}");
        }
    }
}

#[test]
fn every_test_runs_and_none_sleeps() {
    let (ignored, sleeps) = (["#[ig", "nore"].concat(), ["sle", "ep("].concat());
    for (path, text) in [sources("src"), sources("tests")].concat() {
        assert!(!text.contains(&ignored), "{path}: a test that does not run");
        let tests = match path.starts_with("tests/") {
            true => &*text,
            false => text.split_once("#[cfg(test)]").map_or("", |(_, tests)| tests),
        };
        // It waits for conditions, and needs a pause between two looks.
        if path != "tests/suite/support/mod.rs" {
            assert!(!tests.contains(&sleeps), "{path}: wait for a condition instead");
        }
    }
    // A file that nobody declares compiles nowhere and fails never.
    let main = std::fs::read_to_string(root().join("tests/suite/main.rs")).expect("the suite");
    for (path, _) in sources("tests/suite") {
        let name = path.trim_start_matches("tests/suite/").trim_end_matches(".rs");
        if !name.contains('/') && name != "main" {
            assert!(main.contains(&format!("mod {name};")), "{path} is not in the suite");
        }
    }
}

/// Whether `text` names this path, and not one that only contains its words.
fn names_path(text: &str, path: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    text.match_indices(path).any(|(at, _)| {
        let after = text[at + path.len()..].chars().next();
        !text[..at].ends_with(word) && !after.is_some_and(word)
    })
}

#[test]
fn no_file_knows_the_machine_that_it_was_written_on() {
    let mut here = vec![root().to_string_lossy().into_owned()];
    if let Some(home) = std::env::home_dir() {
        here.extend(
            [".cargo/registry", ".cache", ".config"]
                .map(|dir| home.join(dir).display().to_string()),
        );
    }
    assert!(names_path("see \"/a/b\".", "/a/b") && !names_path("/x/a/b", "/a/b"));
    for (path, text) in texts("") {
        for known in &here {
            assert!(!names_path(&text, known), "{path} names {known}");
        }
    }
}

#[test]
fn dependencies_come_from_the_public_index_and_nowhere_else() {
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).expect("a lock file");
    let sources: BTreeSet<&str> =
        lock.lines().filter_map(|line| line.strip_prefix("source = ")).collect();
    let index = ["\"registry+https://github.com/rust-lang/crates", "io-index\""].join(".");
    assert_eq!(sources.into_iter().collect::<Vec<_>>(), [index]);
    // A mirror that only one company sees would be written into one of these.
    let mirrors =
        [["replace-", "with"], ["index-", "url"], ["--", "registry"], ["[regis", "tries"]];
    for (path, text) in texts("") {
        for halves in mirrors {
            let mirror = halves.concat();
            assert!(!text.contains(&mirror), "{path}: {mirror}");
        }
    }
}
