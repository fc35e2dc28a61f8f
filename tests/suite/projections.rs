//! Projections: the same tables whatever the windows, and a check that sees.
//!
//! The property is tried on generated events with few patients, devices and
//! moments, so that readings out of order, two devices at one instant and alerts
//! that span windows come up in every case and not now and then.

mod acts;

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::Value;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, PgPool};
use uuid::Uuid;
use vitals::event::{Event, READING, READING_RETRACTED};
use vitals::log::{Log, Window};
use vitals::projection::{self, Projection};
use vitals::vital::Vital;

use self::acts::{Act, Alerts, act, alert_id, as_event};
use crate::support::postgres::Database;

const CASES: u32 = 12;

/// How the events are cut into commits and into windows.
#[derive(Clone, Debug)]
struct Cuts {
    commits: Vec<u8>,
    windows: Vec<u8>,
}

fn cuts() -> impl Strategy<Value = Cuts> {
    let sizes = || prop::collection::vec(1..12u8, 1..8);
    (sizes(), sizes()).prop_map(|(commits, windows)| Cuts { commits, windows })
}

/// Tables of their own for one way of cutting the windows.
struct Fold {
    pool: PgPool,
    tables: Vec<String>,
    windows: Vec<i64>,
    /// Also compare with the log after every window, not only at the end.
    check_always: bool,
}

impl Fold {
    async fn new(database: &Database, schema: &str, windows: Vec<i64>) -> Fold {
        let options: PgConnectOptions = database.url.parse().unwrap();
        let options = options.options([("search_path", format!("{schema},public"))]);
        let pool = PgPoolOptions::new().max_connections(1).connect_with(options).await.unwrap();
        run(&pool, &format!("create schema {schema}")).await;
        for projection in &projection::ALL {
            run(&pool, projection.schema).await;
        }
        run(&pool, &format!("create table {schema}.checkpoint as table public.checkpoint")).await;
        let tables = sqlx::query_scalar(
            "select relname::text from pg_class where relkind = 'r' \
             and relnamespace = to_regnamespace($1) and relname <> 'checkpoint' order by 1",
        );
        let tables = tables.bind(schema).fetch_all(&pool).await.unwrap();
        Fold { pool, tables, windows, check_always: false }
    }

    async fn empty(&self) {
        run(
            &self.pool,
            &format!("truncate {}; update checkpoint set position = 0", self.tables.join(", ")),
        )
        .await;
    }

    /// Folds everything, shard by shard, and wants the check to find nothing.
    async fn fold(&self, log: &Log) {
        for shard in log.shards() {
            let head: i64 = sqlx::query_scalar("select position from shard_head where shard = $1")
                .bind(shard)
                .fetch_one(&self.pool)
                .await
                .unwrap();
            let mut sizes = self.windows.iter().cycle();
            let mut after = 0;
            while after < head {
                let to = head.min(after + sizes.next().unwrap());
                self.step(shard, after, to).await;
                after = to;
                if self.check_always || after == head {
                    for projection in &projection::ALL {
                        assert_eq!(differences(&self.pool, projection, shard).await, []);
                    }
                }
            }
        }
    }

    async fn step(&self, shard: i16, after: i64, to: i64) {
        let mut connection = self.pool.acquire().await.unwrap();
        let window = Window::between(&mut connection, shard, after, to).await.unwrap();
        for projection in &projection::ALL {
            projection.apply(&mut connection, &window).await.unwrap();
        }
        sqlx::query("update checkpoint set position = $2 where shard = $1")
            .bind(shard)
            .bind(to)
            .execute(&mut *connection)
            .await
            .unwrap();
    }

    /// Every row of every table, as text.
    async fn rows(&self) -> Vec<Vec<String>> {
        let mut tables = Vec::new();
        for table in &self.tables {
            let sql = format!("select x::text from {table} x order by 1");
            let rows = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&self.pool).await;
            tables.push(rows.unwrap());
        }
        tables
    }
}

async fn run(pool: &PgPool, sql: &str) {
    let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(pool).await;
    done.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

async fn differences(
    pool: &PgPool,
    projection: &Projection,
    shard: i16,
) -> Vec<projection::Difference> {
    projection::check(pool, projection, shard).await.unwrap().1
}

/// The natural key of the reading that an event is, or retracts.
type Key = (String, Vital, DateTime<Utc>, String);

fn key_of(event: &Event) -> Option<Key> {
    let (vital, device) = match (event.vital, &*event.kind) {
        (Some(vital), _) => (vital, event.source_id.clone()),
        (None, READING_RETRACTED) => {
            let data: Value = serde_json::from_str(event.data.as_ref().unwrap()).unwrap();
            let text = |key: &str| data[key].as_str().unwrap().to_owned();
            (text("vital").parse().unwrap(), text("deviceId"))
        }
        _ => return None,
    };
    Some((event.patient_id.clone(), vital, event.occurred_at, device))
}

/// Appends the events, each patient's in order, in commits of these sizes. What is
/// retracted was committed before.
async fn append(log: &Log, events: &[Event], commits: &[u8]) {
    run(
        log.pool(),
        "truncate reading, reading_context, non_reading, log_commit; update shard_head set position = 0, \
         recorded_at = '-infinity', hash = decode(repeat('00', 32), 'hex')",
    )
    .await;
    for shard in log.shards() {
        let mine = |e: &&Event| log.shard_of(&e.tenant, &e.patient_id) == shard;
        let mine: Vec<&Event> = events.iter().filter(mine).collect();
        let mut sizes = commits.iter().cycle();
        let mut known = BTreeMap::<Key, i64>::new();
        let mut rest = &*mine;
        while !rest.is_empty() {
            let size = usize::from(*sizes.next().unwrap()).min(rest.len());
            let mut batch: Vec<Event> = Vec::new();
            for event in &rest[..size] {
                let mut event = Event::clone(event);
                if event.kind == READING_RETRACTED {
                    let Some(position) = known.get(&key_of(&event).unwrap()) else { break };
                    let mut data: Value =
                        serde_json::from_str(event.data.as_ref().unwrap()).unwrap();
                    data["readingPosition"] = (*position).into();
                    event.data = Some(data.to_string());
                }
                batch.push(event);
            }
            let appended = log.append(shard, &batch).await.unwrap();
            for (event, position) in batch.iter().zip(&appended.positions) {
                if let (Some(key), Some(position), READING) =
                    (key_of(event), position, &*event.kind)
                {
                    known.insert(key, *position);
                }
            }
            rest = &rest[batch.len()..];
        }
    }
}

/// The newest reading of each patient and vital, told by the first of equal keys, of
/// those that were not retracted.
fn newest(events: &[Event]) -> BTreeMap<(String, Vital), (DateTime<Utc>, f64, String)> {
    let retracted: BTreeSet<Key> =
        events.iter().filter(|e| e.kind == READING_RETRACTED).filter_map(key_of).collect();
    let (mut newest, mut known) = (BTreeMap::new(), std::collections::HashSet::new());
    for event in events {
        if key_of(event).is_none_or(|key| retracted.contains(&key)) {
            continue;
        }
        let (Some(vital), Some(value)) = (event.vital, event.value) else { continue };
        let key = (event.patient_id.clone(), vital);
        let device = event.source_id.clone();
        if !known.insert((key.clone(), event.occurred_at, device.clone())) {
            continue;
        }
        let found = newest.entry(key).or_insert((event.occurred_at, value, device.clone()));
        if event.occurred_at >= found.0 {
            *found = (event.occurred_at, value, device);
        }
    }
    newest
}

async fn check_case(log: &Log, folds: &[Fold], acts: &[Act], commits: &[u8]) {
    let mut alerts = Alerts::default();
    let mut events: Vec<Event> = Vec::new();
    for act in acts {
        events.extend(as_event(act, &events, &mut alerts));
    }
    append(log, &events, commits).await;
    let mut before: Option<Vec<Vec<String>>> = None;
    for fold in folds {
        fold.empty().await;
        fold.fold(log).await;
        let rows = fold.rows().await;
        if let Some(before) = &before {
            assert_eq!(before, &rows, "windows of {:?}", fold.windows);
        }
        before = Some(rows);
    }
    let pool = &folds[0].pool;
    let found: Vec<(String, String, DateTime<Utc>, f64, String)> = sqlx::query_as(
        "select patient_id, vital::text, occurred_at, value, source_id from current_vitals",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    let found = found.into_iter().map(|(p, v, t, x, d)| ((p, v.parse().unwrap()), (t, x, d)));
    assert_eq!(found.collect::<BTreeMap<_, _>>(), newest(&events));
    let both = "select id, state from alert union all select id, state from shadow_alert";
    let found: Vec<(Uuid, String)> = sqlx::query_as(both).fetch_all(pool).await.unwrap();
    let said = alerts.0.iter().map(|(&(patient, alert), state)| {
        (alert_id(patient, alert), if *state == "raised" { "active" } else { state }.to_owned())
    });
    assert_eq!(found.into_iter().collect::<BTreeMap<_, _>>(), said.collect());
    let paged = "select coalesce(sum(pages), 0)::bigint from page_day";
    let paged: i64 = sqlx::query_scalar(paged).fetch_one(pool).await.unwrap();
    let is_page = |data: &&str| {
        let state = ["raised", "escalated"].map(|state| format!("\"state\":\"{state}\""));
        state.iter().any(|state| data.contains(state)) && data.contains("\"silencedBy\":null")
    };
    let pages = events.iter().filter_map(|event| event.data.as_deref()).filter(is_page);
    assert_eq!(paged, pages.count() as i64);
}

#[test]
fn any_cut_of_the_same_events_into_windows_gives_the_same_tables() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (database, log, mut folds) = runtime.block_on(async {
        let database = Database::new().await;
        let log = database.log().await;
        let mut folds = Vec::new();
        for (schema, size) in [("by_1", 1), ("by_7", 7), ("by_1000", 1000), ("by_chance", 0)] {
            folds.push(Fold::new(&database, schema, vec![size]).await);
        }
        (database, log, folds)
    });
    folds[3].check_always = true;
    let folds = std::cell::RefCell::new(folds);
    let config = Config {
        cases: CASES,
        failure_persistence: None,
        max_shrink_iters: 100,
        ..Config::default()
    };
    let cases = (prop::collection::vec(act(), 0..50), cuts());
    let tried = TestRunner::new(config).run(&cases, |(acts, cuts)| {
        let mut folds = folds.borrow_mut();
        folds[3].windows = cuts.windows.iter().map(|size| i64::from(*size)).collect();
        runtime.block_on(check_case(&log, &folds, &acts, &cuts.commits));
        Ok(())
    });
    drop(folds);
    drop(log);
    drop(database);
    if let Err(failure) = tried {
        panic!("{failure}");
    }
}
