//! Series: one number for who measures what of whom, whoever names it first, and never
//! another's.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use futures_util::future::join_all;
use sqlx::{Connection, PgConnection, PgPool};
use vitals::event::Event;
use vitals::log::{Log, append, chain};

use crate::log::{reading, time};
use crate::support::postgres::Database;

/// A reading of a patient, by a device, so many minutes into a day.
fn by(patient: &str, device: &str, minute: i64) -> Event {
    let at = time("2026-03-01T00:00:00Z") + TimeDelta::minutes(minute);
    Event { source_id: device.to_owned(), ..reading(patient, at) }
}

/// Whose a reading is.
async fn whose(pool: &PgPool, shard: i16, position: i64) -> (String, String) {
    sqlx::query_as("select patient_id, source_id from event where shard = $1 and position = $2")
        .bind(shard)
        .bind(position)
        .fetch_one(pool)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_names_a_series_first_all_name_it_the_same() {
    let database = Database::new().await;
    let logs = [database.log().await, database.log().await, database.log().await];
    let writers = (0..9_i64).map(|n| {
        let log = logs[n as usize % 3].clone();
        tokio::spawn(async move {
            for round in 0..20 {
                let shard = log.shard_of("ward", "p");
                // Each round is of devices that nobody has heard of.
                let events: Vec<Event> = (0..5)
                    .map(|d| by("p", &format!("d{}", (n + d) % 5 + round * 5), n * 100 + round))
                    .collect();
                assert_eq!(log.append(shard, &events).await.unwrap().stored(), 5);
            }
        })
    });
    for writer in join_all(writers).await {
        writer.unwrap();
    }
    let (log, shard) = (&logs[0], logs[0].shard_of("ward", "p"));
    let series: Vec<(i32, String)> =
        sqlx::query_as("select series, source_id from series where shard = $1 order by series")
            .bind(shard)
            .fetch_all(log.pool())
            .await
            .unwrap();
    let devices: BTreeSet<&String> = series.iter().map(|(_, device)| device).collect();
    assert_eq!((series.len(), devices.len()), (100, 100));
    assert!(series.iter().zip(1..).all(|((number, _), nth)| *number == nth), "{series:?}");
    let walk = chain::verify(log.pool(), shard, |_| {}).await.unwrap();
    assert!(walk.broken.is_none() && walk.events == 900, "{walk:?}");
}

#[tokio::test]
async fn what_was_not_committed_names_nothing() {
    let database = Database::new().await;
    let log = database.log().await;
    let shard = log.shard_of("ward", "p");
    log.ensure_partitions([time("2026-03-01T00:00:00Z")].into_iter()).await.unwrap();
    let mut tx = log.pool().begin().await.unwrap();
    append(&mut tx, shard, &[by("p", "lost", 1)]).await.unwrap();
    tx.rollback().await.unwrap();
    let first = log.append(shard, &[by("p", "kept", 2)]).await.unwrap().positions[0].unwrap();
    assert_eq!(whose(log.pool(), shard, first).await, ("p".to_owned(), "kept".to_owned()));
    let series: Vec<(i32, String)> =
        sqlx::query_as("select series, source_id from series").fetch_all(log.pool()).await.unwrap();
    assert_eq!(series, [(1, "kept".to_owned())]);
}

/// A process that lives on while its database is put back, and does not notice.
#[tokio::test]
async fn a_number_that_was_learned_before_a_restore_is_nobody_elses_after_it() {
    let database = Database::new().await;
    let log = database.log().await;
    let shard = log.shard_of("ward", "p");
    let other = (0..).map(|n| format!("q{n}")).find(|q| log.shard_of("ward", q) == shard).unwrap();
    log.append(shard, &[by("p", "watch", 1)]).await.unwrap();
    let put_back = "truncate reading, series, log_commit; \
                    update shard_head set position = 0, series = 0, series_committed = 0, \
                           hash = decode(repeat('00', 32), 'hex')";
    sqlx::raw_sql(put_back).execute(log.pool()).await.unwrap();
    let elsewhere = database.log().await;
    let theirs = elsewhere.append(shard, &[by(&other, "monitor", 1)]).await.unwrap().positions[0];
    let ours = log.append(shard, &[by("p", "watch", 2)]).await.unwrap().positions[0].unwrap();
    assert_eq!(whose(log.pool(), shard, theirs.unwrap()).await, (other, "monitor".to_owned()));
    assert_eq!(whose(log.pool(), shard, ours).await, ("p".to_owned(), "watch".to_owned()));
    assert!(chain::verify(log.pool(), shard, |_| {}).await.unwrap().broken.is_none());
}

#[tokio::test]
async fn a_database_of_before_the_first_release_is_refused_in_one_sentence() {
    let database = Database::new().await;
    let mut connection = PgConnection::connect(&database.url).await.unwrap();
    let of_before = "drop schema public cascade; create schema public; \
                     create table event (occurred_at timestamptz) partition by range (occurred_at)";
    sqlx::raw_sql(of_before).execute(&mut connection).await.unwrap();
    let refused = Log::open(database.pool(), None).await.err().expect("it opens").to_string();
    assert!(refused.contains("before the first release") && refused.contains("empty"), "{refused}");
    assert!(!refused.contains('\n'));
}

#[tokio::test]
async fn what_is_neither_a_reading_nor_none_is_refused_and_nothing_beside_it_is_stored() {
    let database = Database::new().await;
    let log = database.log().await;
    let shard = log.shard_of("ward", "p");
    for odd in [
        Event { value: None, ..by("p", "d", 1) },
        Event { vital: None, ..by("p", "d", 1) },
        Event { kind: "note".to_owned(), ..by("p", "d", 1) },
    ] {
        let said = log.append(shard, &[by("p", "d", 0), odd]).await.expect_err("it is stored");
        assert!(said.to_string().contains("event 1 of an append"), "{said}");
    }
    let events: i64 =
        sqlx::query_scalar("select count(*) from event").fetch_one(log.pool()).await.unwrap();
    assert_eq!(events, 0);
}
