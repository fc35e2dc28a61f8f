//! The hash chain: sound after honest work, broken by any hand on the rows.

use futures_util::future::join_all;
use sqlx::{AssertSqlSafe, PgPool};
use vitals::event::Event;
use vitals::log::{Log, chain};

use crate::log::{readings, time};
use crate::support::postgres::Database;

/// What the walk along every chain says; empty when all is well.
async fn broken(log: &Log) -> Vec<chain::ChainFault> {
    let mut broken = Vec::new();
    for shard in log.shards() {
        broken.extend(chain::verify(log.pool(), shard, |_| {}).await.unwrap().broken);
    }
    broken
}

async fn run(pool: &PgPool, sql: impl Into<String>) -> u64 {
    let sql = sql.into();
    let done = sqlx::raw_sql(AssertSqlSafe(sql.clone())).execute(pool).await;
    done.unwrap_or_else(|error| panic!("{sql}: {error}")).rows_affected()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_appends_at_once_leave_chains_that_verify() {
    let database = Database::new().await;
    let logs = [database.log().await, database.log().await];
    let writers = (0..8_usize).map(|n| {
        let log = logs[n % 2].clone();
        tokio::spawn(async move {
            let mut stored = 0;
            for round in 0..25 {
                // Patients are shared by the writers, and the readings overlap.
                let patient = format!("p{}", rand::random_range(0..6));
                let from = rand::random_range(0..200);
                let mut events = readings(&patient, from, from + rand::random_range(1..20));
                if round % 5 == 0 {
                    events[0].data = Some("{ \"as\" :  \"it came\" }".to_owned());
                    events[0].quality = Some(0.3);
                }
                let shard = log.shard_of("ward", &patient);
                stored += log.append(shard, &events).await.unwrap().stored();
            }
            stored
        })
    });
    let stored: usize = join_all(writers).await.into_iter().map(Result::unwrap).sum();
    assert_eq!(broken(&logs[0]).await, []);
    let mut walked = 0;
    for shard in logs[0].shards() {
        walked += chain::verify(logs[0].pool(), shard, |_| {}).await.unwrap().events;
    }
    assert_eq!(walked, stored as u64);
}

/// Where what is no reading lies in it.
const NOTE: i64 = 13;

/// A log with gaps, several commits, two months and two shards; the other shard.
async fn a_log_to_tamper_with(database: &Database) -> (Log, i16, i16) {
    let log = database.log().await;
    let shard = log.shard_of("ward", "p");
    let stranger = (0..).map(|n| format!("q{n}")).find(|q| log.shard_of("ward", q) != shard);
    let stranger = stranger.unwrap();
    let mut first = readings("p", 0, 5);
    first[2].data = Some("{\"note\": 1}".to_owned());
    first[2].quality = Some(0.5);
    // Positions 1 to 5; then 6 is a duplicate and 7 to 9 are new; then two months.
    log.append(shard, &first).await.unwrap();
    let mut second = readings("p", 4, 8);
    second.insert(2, first[0].clone());
    log.append(shard, &second).await.unwrap();
    let later = Event { occurred_at: time("2026-05-01T00:00:00Z"), ..first[0].clone() };
    log.append(shard, &[later, readings("p", 9, 10).remove(0)]).await.unwrap();
    let why = "{\"why\": 1}";
    let at = time("2026-05-01T00:00:00Z");
    let note = Event::non_reading("note", ("ward", "p"), "nurse", at, why);
    assert_eq!(log.append(shard, &[note]).await.unwrap().positions, [Some(NOTE)]);
    let other = log.shard_of("ward", &stranger);
    log.append(other, &readings(&stranger, 0, 3)).await.unwrap();
    // Months that a row could be moved to.
    let times = ["1990-01-01T00:00:00Z", "2026-04-01T00:00:00Z", "2040-01-01T00:00:00Z"];
    log.ensure_partitions(times.into_iter().map(time)).await.unwrap();
    (log, shard, other)
}

/// Whether a position of a shard is named, as a stray or within its commit.
fn is_named(broken: &[chain::ChainFault], (of, at): (i16, i64)) -> bool {
    broken.iter().any(|broken| match *broken {
        chain::ChainFault::Commit { shard, from, to, .. } => {
            shard == of && (from..=to).contains(&at)
        }
        chain::ChainFault::Stray { shard, position } => (shard, position) == (of, at),
        _ => false,
    })
}

/// What the log is made of.
const TABLES: [&str; 6] =
    ["series", "reading", "reading_context", "non_reading", "log_commit", "shard_head"];

/// Does every deed to a fresh copy of the log, and wants each to be noticed.
async fn check_each(deeds: impl Fn(i16, i16) -> Vec<(&'static str, String)>) {
    check_each_at(|shard, other| {
        deeds(shard, other).into_iter().map(|(deed, sql)| (deed, sql, None)).collect()
    })
    .await;
}

/// A deed, its SQL, and the shard and position that must be named, if one must.
type Deed = (&'static str, String, Option<(i16, i64)>);

/// The same, and where.
async fn check_each_at(deeds: impl Fn(i16, i16) -> Vec<Deed>) {
    let database = Database::new().await;
    let (log, shard, other) = a_log_to_tamper_with(&database).await;
    let pool = log.pool();
    assert_eq!(broken(&log).await, []);
    for table in TABLES {
        run(pool, format!("create table kept_{table} as table {table}")).await;
    }
    let mut unnoticed = Vec::new();
    for (deed, sql, place) in deeds(shard, other) {
        assert!(run(pool, sql).await > 0, "{deed}: no row was touched");
        let broken_now = broken(&log).await;
        if broken_now.is_empty() || place.is_some_and(|place| !is_named(&broken_now, place)) {
            unnoticed.push((deed, broken_now));
        }
        for table in TABLES {
            run(pool, format!("truncate {table}; insert into {table} table kept_{table}")).await;
        }
        assert_eq!(broken(&log).await, [], "{deed}: the copy was not put back");
    }
    assert!(unnoticed.is_empty(), "nobody noticed: {unnoticed:#?}");
}

#[tokio::test]
async fn a_row_that_was_changed_in_any_column_breaks_the_chain() {
    check_each_at(|shard, _| {
        let reading = [
            ("series", "series = series + 1"),
            ("value, by the least there is", "value = value + 0.00000000000001"),
            ("quality", "quality = 0.50001"),
            ("quality taken away", "quality = null"),
            ("suspect", "suspect = not suspect"),
            ("time, by a microsecond", "occurred_at = occurred_at + interval '1 microsecond'"),
            ("time, to another month", "occurred_at = '2026-04-01T00:00:00Z'"),
            ("time, to long ago", "occurred_at = '1990-01-01T00:00:00Z'"),
            ("time of recording", "recorded_at = recorded_at - interval '1 microsecond'"),
        ];
        let other = [
            ("tenant", "tenant = 'other'"),
            ("patient", "patient_id = 'x'"),
            ("type", "type = 'remark'"),
            ("when it was", "occurred_at = occurred_at + interval '1 microsecond'"),
            ("when it was recorded", "recorded_at = recorded_at - interval '1 microsecond'"),
            ("source", "source_id = 'other'"),
            ("data, by a space", "data = '{\"why\":1}'"),
            ("data taken away", "data = null"),
        ];
        let context = [("context, by a space", "context = '{\"note\":1}'")];
        let of = |table: &str, set: &str, position: i64| {
            format!("update {table} set {set} where shard = {shard} and position = {position}")
        };
        let mut deeds = Vec::new();
        for (what, set) in reading {
            deeds.push((what, of("reading", set, 3), Some((shard, 3))));
        }
        for (what, set) in other {
            deeds.push((what, of("non_reading", set, NOTE), Some((shard, NOTE))));
        }
        for (what, set) in context {
            deeds.push((what, of("reading_context", set, 3), Some((shard, 3))));
        }
        let taken = format!("delete from reading_context where shard = {shard} and position = 3");
        deeds.push(("context taken away", taken, Some((shard, 3))));
        let given = format!("insert into reading_context values ({shard}, 4, '{{}}')");
        deeds.push(("context given", given, Some((shard, 4))));
        deeds
    })
    .await;
}

#[tokio::test]
async fn a_series_that_was_changed_in_any_column_breaks_the_chain() {
    check_each_at(|shard, other| {
        let set =
            |set: &str| format!("update series set {set} where shard = {shard} and series = 1");
        let forged = |series: i32| {
            format!(
                "insert into series select shard, {series}, tenant, 'forged', vital, source_id \
                 from series where shard = {shard} and series = 1"
            )
        };
        vec![
            ("tenant", set("tenant = 'other'"), Some((shard, 1))),
            ("patient", set("patient_id = 'x'"), Some((shard, 1))),
            ("vital", set("vital = 'spo2'"), Some((shard, 1))),
            ("device", set("source_id = 'other'"), Some((shard, 1))),
            ("number", set("series = 77"), Some((shard, 1))),
            ("to another shard", set(&format!("shard = {other}, series = 78")), Some((shard, 1))),
            ("removed", format!("delete from series where shard = {shard}"), Some((shard, 1))),
            ("one more", forged(99), None),
            ("one more, at zero", forged(0), None),
            (
                "as if there were more",
                format!("update shard_head set series_committed = 9 where shard = {shard}"),
                None,
            ),
            (
                "as if a commit had made it",
                format!("{}; update log_commit set series_to = 9 where shard = {shard}", forged(9)),
                None,
            ),
        ]
    })
    .await;
}

#[tokio::test]
async fn a_row_that_was_removed_breaks_the_chain() {
    check_each_at(|shard, _| {
        let at = |position| Some((shard, position));
        let delete = |what: &str| format!("delete from reading where shard = {shard} and {what}");
        vec![
            ("the first", delete("position = 1"), at(1)),
            ("one in the middle", delete("position = 4"), at(4)),
            ("the last", delete("position = (select max(position) from reading)"), None),
            ("a whole commit", delete("position between 6 and 10"), at(7)),
            (
                "a whole commit with its record",
                format!(
                    "{}; delete from log_commit where shard = {shard} and position_from between 6 and 10",
                    delete("position between 6 and 10")
                ),
                None,
            ),
            ("all", delete("true"), at(1)),
        ]
    })
    .await;
}

#[tokio::test]
async fn a_row_that_was_inserted_breaks_the_chain() {
    // A copy of the row at position 3, as another reading, somewhere.
    let insert = |shard: &str, position: &str, at: &str| {
        format!(
            "insert into reading select {position}, {at}, recorded_at, value, 77, quality, {shard}, suspect \
             from event where patient_id = 'p' and position = 3"
        )
    };
    check_each_at(|shard, _| {
        let forged = |what, position: i64, at: &str| {
            let sql = insert(&shard.to_string(), &position.to_string(), at);
            (what, sql, Some((shard, position)))
        };
        vec![
            forged("into a gap of a commit", 8, "occurred_at"),
            forged("into a gap between commits", 6, "occurred_at"),
            forged("beside another, at its position", 2, "occurred_at"),
            forged("before the first", 0, "occurred_at"),
            forged("below zero", -5, "occurred_at"),
            forged("beyond the head", 1000, "occurred_at"),
            forged("into a gap, long ago", 8, "'1990-01-01T00:00:00Z'"),
            forged("into a gap, in another month", 8, "'2026-04-01T00:00:00Z'"),
            forged("beside another, in times to come", 2, "'2040-01-01T00:00:00Z'"),
            forged("beyond the head, long ago", 1000, "'1990-01-01T00:00:00Z'"),
        ]
    })
    .await;
}

#[tokio::test]
async fn a_row_that_was_moved_breaks_the_chain() {
    check_each_at(|shard, other| {
        let at = |position| Some((shard, position));
        let set = |what: &str, row: &str| {
            format!("update reading set {what} where shard = {shard} and {row}")
        };
        vec![
            (
                "two rows of a commit that changed places",
                set("position = 5 - position", "position in (2, 3)"),
                at(2),
            ),
            (
                "two rows of two commits that changed places",
                set("position = 12 - position", "position in (5, 7)"),
                at(5),
            ),
            ("into a gap", set("position = 8", "position = 7"), at(8)),
            ("beyond the head", set("position = 500", "position = 3"), at(3)),
            (
                "to another shard",
                set(&format!("shard = {other}, series = 77"), "position = 3"),
                at(3),
            ),
            ("to a shard that does not exist", set("shard = 63", "position = 3"), at(3)),
        ]
    })
    .await;
}

#[tokio::test]
async fn a_record_or_a_head_that_was_changed_breaks_the_chain() {
    check_each(|shard, other| {
        let commit = |set: &str| {
            format!("update log_commit set {set} where shard = {shard} and position_from = 1")
        };
        let head = |set: &str| format!("update shard_head set {set} where shard = {shard}");
        vec![
            ("the hash of a commit", commit("hash = sha256('x')")),
            ("the time of a commit", commit("recorded_at = recorded_at + interval '1 second'")),
            ("the number of events of a commit", commit("events = events + 1")),
            ("the reach of a commit", commit("position_to = position_to - 1")),
            ("the times of a commit", commit("occurred_max = occurred_min")),
            ("the hash of the head", head("hash = sha256('x')")),
            ("the position of the head, back", head("position = position - 1")),
            ("the position of the head, on", head("position = position + 7")),
            ("the head to before everything", head("position = 0")),
            (
                "the hash of another shard's head",
                format!("update shard_head h set hash = o.hash from shard_head o where h.shard = {shard} and o.shard = {other}"),
            ),
        ]
    })
    .await;
}
