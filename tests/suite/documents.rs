//! The documents tell the truth: every command that they show is run, and what they show of
//! its output is what it prints.
//!
//! Guarantees that each `sh` block was run by one bash a document, in order, with the built
//! program, and that the `text` block after it agrees with what was printed, but for what is
//! another one each time (times, ids, tokens, signatures, durations) and for what the document
//! leaves out (`…`). Does not run the commands of `ELSEWHERE`, which the rest of a whole test
//! run does. Needs jq, curl, openssl and python3, as the reader does (`script/install`).

mod pages;
mod shell;

use std::collections::BTreeSet;
use std::path::Path;

use regex_lite::Regex;

use self::pages::{Block, blocks, normalised, paths, read};
use self::shell::Shell;
use crate::support::data;
use crate::support::postgres::Database;
use crate::support::server::of_service;

/// Where the guides begin: they go on in the shell of the reader who has read this.
const README: &str = "README.md";

/// Commands that a whole test run gives by itself, and where.
const ELSEWHERE: [(&str, &str); 15] = [
    ("git clone … vitals && cd vitals", "has been done"),
    ("cargo build --release", "cargo has built the program"),
    ("script/test", "is what runs this"),
    ("script/test --test suite webhooks", "is a part of it"),
    ("cargo test --lib intake::reading", "is a part of it"),
    ("script/outside webhooks", "script/test runs it"),
    ("script/deny", "script/test runs it"),
    ("script/chaos --for 2m", "tests/suite/chaos.rs, for some seconds"),
    ("script/demo --for 60s", "the demo runs below, for ten seconds"),
    ("cargo bench --bench ingest", "is measured and not tested"),
    ("cargo bench --bench journey", "is measured and not tested"),
    ("cargo bench --bench webhooks", "is measured and not tested"),
    ("cargo bench --bench rules", "is measured and not tested"),
    ("cargo bench --bench projections", "is measured and not tested"),
    ("cargo bench --bench temporal", "is measured and not tested"),
];

/// What only such commands begin with.
const BUILDS: [&str; 3] = ["cargo ", "git ", "script/"];

/// Recordings, by the name that documents have for them.
const RECORDINGS: [(&str, &str); 3] = [
    ("vitals_200.csv", "icu-vitals-physionet2012/vitals_200.csv"),
    ("vitals_all_4000.csv.gz", "icu-vitals-physionet2012/vitals_all_4000.csv.gz"),
    ("activity.fit", "wearable-fit/fit-no-gps/sample-activity-indoor-trainer.fit"),
];

/// A line without what is said of it.
fn command(line: &str) -> &str {
    line.split("  #").next().unwrap_or_default().trim()
}

/// A block without what runs elsewhere.
fn to_run(block: &Block) -> String {
    let mut kept = String::new();
    for line in block.text.lines() {
        let elsewhere = ELSEWHERE.iter().any(|(known, _)| *known == command(line));
        let builds = BUILDS.iter().any(|begin| line.starts_with(begin));
        assert!(elsewhere || !builds, "{}: who runs \"{line}\"?", block.place);
        if !elsewhere {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

/// Runs a document; a guide after what it goes on from.
async fn holds(path: &str) {
    holds_in(Shell::start().await, path).await;
}

async fn holds_in(mut shell: Shell, path: &str) {
    let before = if path.starts_with("docs/guide/") { &[README][..] } else { &[] };
    shell.link(&Path::new(env!("CARGO_MANIFEST_DIR")).join("examples"), "examples");
    for path in before.iter().chain(&[path]) {
        let text = read(path);
        for (name, recording) in RECORDINGS.iter().filter(|(name, _)| text.contains(name)) {
            shell.link(&data(recording), name);
        }
        let blocks = blocks(path, &text);
        for (n, block) in blocks.iter().enumerate().filter(|(_, block)| block.kind == "sh") {
            let commands = to_run(block);
            if commands.trim().is_empty() {
                continue;
            }
            let shown = blocks.get(n + 1).filter(|next| next.kind == "text");
            shell.run(&block.place, &commands, shown.map(|shown| &*shown.text)).await;
        }
    }
    shell.end().await;
}

#[tokio::test]
async fn the_readme_does_what_it_says() {
    holds(README).await;
}

/// Other numbers each time, and only some of the lines that say how far it is.
#[tokio::test]
async fn the_demo_says_what_the_readme_shows() {
    let blocks = blocks(README, &read(README));
    let demo = blocks.iter().position(|block| block.text.starts_with("script/demo"));
    let shown = &blocks[demo.expect("the demo") + 1];
    let numbers = Regex::new(r"\d+(\.\d+)?").expect("a pattern");
    let of_progress = |line: &str| line.contains("readings acknowledged, ");
    let mut lines = normalised(&shown.text);
    lines.retain(|line| !of_progress(line));
    let shape = numbers.replace_all(&lines.join("\n"), "…").into_owned();
    let mut shell = Shell::start().await;
    shell.run(&shown.place, "vitals demo --for 10s\n", Some(&shape)).await;
    shell.end().await;
}

#[tokio::test]
async fn the_guide_to_devices_does_what_it_says() {
    holds("docs/guide/devices.md").await;
}

#[tokio::test]
async fn the_guide_to_assignment_does_what_it_says() {
    holds("docs/guide/assignment.md").await;
}

#[tokio::test]
async fn the_guide_to_incident_review_does_what_it_says() {
    holds("docs/guide/incident-review.md").await;
}

#[tokio::test]
async fn the_guide_to_rules_does_what_it_says() {
    holds("docs/guide/rules.md").await;
}

#[tokio::test]
async fn the_guide_to_webhooks_does_what_it_says() {
    holds("docs/guide/webhooks.md").await;
}

#[tokio::test]
async fn the_guide_to_exports_does_what_it_says() {
    holds("docs/guide/exports.md").await;
}

#[tokio::test]
async fn the_guide_to_integrations_does_what_it_says() {
    holds("docs/guide/integrations.md").await;
}

#[tokio::test]
async fn the_guide_to_the_dashboard_does_what_it_says() {
    holds("docs/guide/dashboard.md").await;
}

#[tokio::test]
async fn the_operators_page_does_what_it_says() {
    let database = Database::new().await;
    let mut shell = Shell::start().await;
    shell.call("postgres://vitals_service:…@db/vitals", quoted(&of_service(&database.url)));
    shell.call("postgres://vitals_owner:…@db/vitals", quoted(&database.url));
    holds_in(shell, "docs/operations.md").await;
}

/// As one word of the shell.
fn quoted(text: &str) -> String {
    format!("'{text}'")
}

#[test]
fn every_document_with_commands_is_run() {
    let of_this = include_str!("documents.rs");
    for path in paths() {
        let blocks = blocks(&path, &read(&path));
        let runs = blocks.iter().any(|b| b.kind == "sh" && !to_run(b).trim().is_empty());
        let named = format!("\"{path}\")");
        let is_run = path == README || of_this.contains(&named);
        assert!(!runs || is_run, "{path} has commands, and no test here runs them");
    }
}

#[test]
fn what_runs_elsewhere_is_what_the_documents_name() {
    let mut named = BTreeSet::new();
    for path in paths() {
        for block in blocks(&path, &read(&path)).iter().filter(|block| block.kind == "sh") {
            named.extend(block.text.lines().map(|line| command(line).to_owned()));
        }
    }
    for (known, _) in ELSEWHERE {
        assert!(named.contains(known), "no document says \"{known}\" any more");
    }
}
