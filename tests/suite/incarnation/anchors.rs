//! The log itself, and what is published of it: a tail that was cut off is noticed and proved.

use std::path::Path;

use chrono::{TimeDelta, Utc};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};
use vitals::event::{Event, READING};
use vitals::vital::Vital;

use super::{OPTIONS, SOON, page_of, restored, warnings, warns_of_restore};
use crate::hospital::{Hospital, now};
use crate::support::postgres::{Database, caught_up};
use crate::support::receiver::{Delivery, Receiver};
use crate::support::server::{Server, scratch_dir};
use crate::support::{cli, eventually};

/// The last position of each shard.
async fn heads(pool: &PgPool) -> Vec<(i16, i64)> {
    sqlx::query_as("select shard, position from shard_head order by shard")
        .fetch_all(pool)
        .await
        .unwrap()
}

/// Takes what comes after these positions out of the log, and out of nothing else.
async fn cut_after(pool: &PgPool, heads: &[(i16, i64)]) {
    for (shard, head) in heads {
        let sql = format!(
            "delete from reading where shard = {shard} and position > {head}; \
             delete from non_reading where shard = {shard} and position > {head}; \
             delete from log_commit where shard = {shard} and position_to > {head}; \
             delete from series where shard = {shard} and series > coalesce((select series_to from log_commit \
                 where shard = {shard} and position_to = {head}), 0); \
             update shard_head set (series, series_committed) = (select n, n from (select coalesce(max(series), 0) as n \
                 from series where shard = {shard}) s) where shard = {shard}; \
             update shard_head set position = {head}, hash = coalesce((select hash from log_commit \
                 where shard = {shard} and position_to = {head}), decode(repeat('00', 32), 'hex')) \
             where shard = {shard}"
        );
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await.unwrap();
    }
}

/// A ward whose vitals publishes its heads in a file, stopped, and what it had: the heads
/// that are kept, and a page of what comes after them.
async fn anchored(
    database: &Database,
    options: &[&str],
    anchors: &Path,
    receiver: &Receiver,
) -> (Hospital, Vec<(i16, i64)>, Delivery) {
    let (pool, dir) = (database.pool(), scratch_dir());
    let server = Server::start_in(&dir, Some(&database.url), options).await;
    let hospital = Hospital::new(&server, "ward");
    hospital.endpoint(receiver, &["*"]).await;
    hospital.measure("a", 130.0).await;
    page_of(receiver, "a").await;
    caught_up(&pool).await;
    let kept = heads(&pool).await;
    hospital.measure("lost", 130.0).await;
    let lost = page_of(receiver, "lost").await;
    caught_up(&pool).await;
    eventually("the heads to be published", SOON, async || {
        let text = std::fs::read_to_string(anchors).ok()?;
        let last: Value = serde_json::from_str(text.lines().last()?).ok()?;
        let published = last["heads"].as_array()?.iter().map(|head| head["position"].as_i64());
        let sum: i64 = published.flatten().sum();
        (sum == heads(&pool).await.iter().map(|(_, head)| head).sum::<i64>()).then_some(())
    })
    .await;
    assert!(server.terminate().await.0.success());
    (hospital, kept, lost)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tail_that_was_cut_off_is_proved_by_an_anchor_and_who_stood_ahead_goes_on() {
    let database = Database::new().await;
    let (dir, pool, receiver) = (scratch_dir(), database.pool(), Receiver::start().await);
    let anchors = dir.join("anchors.ndjson");
    let anchor = anchors.to_str().unwrap();
    let options = [&OPTIONS[..], &["--anchor", anchor]].concat();
    let (hospital, kept, lost) = anchored(&database, &options, &anchors, &receiver).await;
    let verify = async || {
        let output = cli(&database, &["verify", "--anchor", anchor]).await;
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (sound, said) = verify().await;
    assert!(sound && said.contains("all there"), "{said}");

    // Whole in itself, and shorter: only who was told elsewhere can know.
    cut_after(&pool, &kept).await;
    let (sound, said) = verify().await;
    assert!(!sound && said.contains("its tail was cut off or changed"), "{said}");
    assert!(!said.contains("BROKEN"), "{said}");

    // A start that knows the last anchor does know, and nobody passes over what comes next.
    let server = Server::start_in(&dir, Some(&database.url), &options).await;
    let hospital = hospital.after_restart(&server);
    let warnings = warnings(&server).await;
    assert!(warns_of_restore(&warnings).is_some_and(|said| said.contains("gone")), "{warnings:?}");
    let event = &restored(&pool).await[0];
    assert!(event["setBack"].as_str().unwrap().contains("webhook-fanout on shard"), "{event}");
    hospital.measure("lost", 131.0).await;
    let again = eventually("a page of what came next", SOON, async || {
        receiver.deliveries().into_iter().find(|page| page.body["value"] == 131)
    })
    .await;
    assert!(again.id != lost.id && again.sequence > lost.sequence);
    eventually("what was folded from it to be rebuilt", SOON, async || {
        let sql = "select count(*) from projection where sql_hash = 'ahead of the log'";
        (sqlx::query_scalar::<_, i64>(sql).fetch_one(&pool).await.unwrap() == 0).then_some(())
    })
    .await;
    caught_up(&pool).await;
    assert!(server.terminate().await.0.success());
    let output = cli(&database, &["verify"]).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

fn reading(patient: &str, at: chrono::DateTime<Utc>) -> Event {
    Event {
        tenant: "ward".into(),
        patient_id: patient.to_owned(),
        kind: READING.to_owned(),
        vital: Some(Vital::HeartRate),
        value: Some(80.0),
        quality: None,
        suspect: false,
        occurred_at: at,
        source_id: "d".to_owned(),
        data: None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_and_is_not_there_begins_a_new_incarnation_once() {
    let database = Database::new().await;
    let (log, other) = (database.log().await, database.log().await);
    let shard = log.shard_of("ward", "p");
    let mut last = 0;
    for n in 0..3 {
        let at = now() - TimeDelta::seconds(n);
        let appended = log.append(shard, &[reading("p", at)]).await.unwrap();
        last = appended.positions[0].unwrap();
    }
    log.check_incarnation().await.unwrap();
    assert!(log.restored().await.unwrap().is_none());
    let first = log.incarnations().number();
    cut_after(log.pool(), &[(shard, last - 1)]).await;
    log.check_incarnation().await.unwrap();
    let now = log.restored().await.unwrap().expect("a new incarnation");
    assert!(now.number > first && now.number == log.incarnations().number());
    let of = usize::try_from(shard).unwrap();
    assert_eq!((now.heads[of], now.acknowledged[of], now.lost()), (last - 1, last, 1));
    // Who comes later takes it over, and who looks again finds nothing new.
    other.check_incarnation().await.unwrap();
    log.check_incarnation().await.unwrap();
    assert_eq!([log.incarnations().number(), other.incarnations().number()], [now.number; 2]);
    assert_eq!(restored(log.pool()).await.len(), log.shards().count());
    assert_eq!(log.incarnations().common_with(first).unwrap()[of], last - 1);
    assert_eq!(log.incarnations().common_with(first + 1), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_months_partition_that_is_gone_is_made_again() {
    let database = Database::new().await;
    let log = database.log().await;
    let at = now() - TimeDelta::days(150);
    let shard = log.shard_of("ward", "p");
    log.append(shard, &[reading("p", at)]).await.unwrap();
    let table = at.format("reading_%Y_%m").to_string();
    let mut connection = PgConnection::connect(&database.url).await.unwrap();
    let drop = AssertSqlSafe(format!("drop table {table}"));
    sqlx::raw_sql(drop).execute(&mut connection).await.unwrap();
    let appended = log.append(shard, &[reading("p", at)]).await.unwrap();
    assert_eq!(appended.stored(), 1);
}
