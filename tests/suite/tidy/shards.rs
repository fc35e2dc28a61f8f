//! What lets the log be spread over several PostgreSQL by its shards: every key begins with
//! the shard, every statement of the hot path names one, and none asks for what only one
//! server has.

use super::{root, texts};

/// What is spread with the log.
const SPREAD: [&str; 15] = [
    "series",
    "reading",
    "reading_context",
    "non_reading",
    "shard_head",
    "log_commit",
    "checkpoint",
    "stopped",
    "parked",
    "rule_state",
    "rule_memory",
    "current_vitals",
    "patient",
    "series_minute",
    "device_hour",
];

/// Statements about all shards, or about none: lists of a tenant, what operators are told,
/// what is done once.
const OF_MANY: [&str; 20] = [
    "src/consumer/lag.sql",
    "src/export/put.sql",
    "src/export/sweep.sql",
    "src/limits/shared.sql",
    "src/log/faults.sql",
    "src/log/identity.sql",
    "src/log/incarnation/look.sql",
    "src/log/keep.sql",
    "src/log/make_roles.sql",
    "src/projection/caught_up.sql",
    "src/projection/caught_up_whole.sql",
    "src/query/devices.sql",
    "src/query/patients_as_of.sql",
    "src/query/shadow_alerts.sql",
    "src/log/lying_in.sql",
    "src/query/shadow_days.sql",
    "src/query/tenants.sql",
    "src/record/reassign/meets.sql",
    "src/rules/backtest/tables.sql",
    "src/rules/sweep_traces.sql",
];

#[test]
fn every_key_of_what_is_spread_begins_with_the_shard() {
    let mut seen = Vec::new();
    for (path, text) in [texts("migrations"), texts("projections")].concat() {
        let code = |line: &str| line.split("--").next().unwrap_or_default().to_lowercase();
        let text = text.lines().map(code).collect::<Vec<_>>().join("\n");
        for statement in text.split(';') {
            let words = statement.split_whitespace().collect::<Vec<_>>().join(" ");
            let Some(table) = SPREAD.into_iter().find(|table| {
                [" index ", "create table "].iter().any(|what| words.contains(what))
                    && (words.contains(&format!("create table {table} ("))
                        || words.contains(&format!(" on {table} (")))
            }) else {
                continue;
            };
            seen.push(table);
            let keys = ["primary key (", &format!(" on {table} (")].map(str::to_owned);
            for key in keys.iter().flat_map(|key| words.match_indices(&**key)) {
                let columns = &words[key.0 + key.1.len()..];
                assert!(columns.starts_with("shard"), "{path}: a key of {table} is {columns}");
            }
            let alone = words.contains(" shard smallint primary key");
            let has_key = words.contains("primary key (shard") || alone || table == "reading";
            let is_table = words.contains("create table ");
            assert!(!is_table || has_key, "{path}: {table} has no key that begins with the shard");
        }
    }
    for table in SPREAD {
        assert!(seen.contains(&table), "where is {table} made?");
    }
}

#[test]
fn every_statement_of_the_hot_path_names_its_shard() {
    let mut seen = 0;
    for (path, text) in [texts("src"), texts("projections")].concat() {
        let is_statement = path.ends_with(".sql") && !path.ends_with("schema.sql");
        // Deliveries are claimed by endpoint: they stay together.
        if !is_statement || path.starts_with("src/delivery/") || path.starts_with("src/jobs/") {
            continue;
        }
        if path.ends_with("carry.sql") || OF_MANY.contains(&&*path) {
            continue;
        }
        seen += 1;
        let names = ["shard = $1", "values ($1", "select $1", "any ($1)"];
        assert!(names.iter().any(|names| text.contains(names)), "{path} names no shard");
        // By what is another on each server, or is planned for a statement that is pushed down.
        for word in ["hashenum", "hashtext", "::regclass", "set_config('plan"] {
            assert!(!text.contains(word), "{path}: {word}");
        }
    }
    assert!(seen > 25, "only {seen} statements were looked at");
}

#[test]
fn an_append_is_one_bare_call_by_its_shard() {
    let append = std::fs::read_to_string(root().join("src/log/append.rs")).unwrap();
    assert!(append.contains("\"select * from append_events($1,"), "a bare call");
    let function = std::fs::read_to_string(root().join("migrations/0002_append.sql"));
    let function = function.unwrap();
    let from = function.find("create function append_events").unwrap();
    let body = &function[from..function[from..].find("\n$$;").unwrap() + from];
    for table in ["shard_head", "log_commit", "series"] {
        for at in body.match_indices(&format!("from {table} ")) {
            let near = &body[at.0..(at.0 + 160).min(body.len())];
            assert!(near.contains("shard = in_shard"), "without its shard: {near}");
        }
    }
}
