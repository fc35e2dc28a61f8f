//! Requests that share a commit: each is told the truth about its own readings, whatever its
//! neighbours brought along.

use std::pin::pin;

use futures_util::FutureExt;
use futures_util::future::join_all;
use sqlx::{PgPool, Postgres, Transaction};
use vitals::event::Event;
use vitals::intake::{Writers, WritersError, Written};
use vitals::log::Log;
use vitals::tasks::Tasks;

use crate::log::{reading, readings, somebody_waits_for_a_lock, time};
use crate::support::postgres::Database;

const PATIENT: &str = "p";

/// A shard whose writer waits, so that all that comes meanwhile gathers for one commit.
struct Gathering {
    writers: Writers,
    pool: PgPool,
    shard: i16,
}

impl Gathering {
    async fn new(log: &Log) -> Gathering {
        let writers = Writers::start(log, &Tasks::default());
        Gathering { writers, pool: log.pool().clone(), shard: log.shard_of("ward", PATIENT) }
    }

    async fn hold(&self) -> Transaction<'static, Postgres> {
        let mut held = self.pool.begin().await.unwrap();
        let hold = sqlx::query("select from shard_head where shard = $1 for update");
        hold.bind(self.shard).execute(&mut *held).await.unwrap();
        held
    }

    /// What each request is told, and how many readings their commits had.
    async fn together(
        &self,
        requests: Vec<Vec<Event>>,
    ) -> (Vec<Result<Written, WritersError>>, Vec<i32>) {
        let before = ["2026-02-01T00:00:00Z", "2026-02-02T00:00:00Z"];
        let [awake, first] = before.map(|at| vec![reading(PATIENT, time(at))]);
        // A writer begins with an append of nothing, which is not to be what waits.
        self.writers.store_events(awake).await.unwrap();
        let held = self.hold().await;
        let mut first = pin!(self.writers.store_events(first));
        assert!((&mut first).now_or_never().is_none());
        somebody_waits_for_a_lock(&self.pool).await;
        // Polled once: handed in, before anybody can be written.
        let mut all =
            pin!(join_all(requests.into_iter().map(|events| self.writers.store_events(events))));
        assert!((&mut all).now_or_never().is_none());
        held.rollback().await.unwrap();
        assert_eq!(first.await.unwrap(), Written { stored: 1, duplicates: Vec::new() });
        let told = all.await;
        let sql = "select events from log_commit where shard = $1 order by position_to offset 2";
        let commits = sqlx::query_scalar(sql).bind(self.shard).fetch_all(&self.pool).await;
        (told, commits.unwrap())
    }
}

async fn rows(pool: &PgPool) -> i64 {
    let sql = "select count(*) from event where occurred_at >= '2026-03-01'";
    sqlx::query_scalar(sql).fetch_one(pool).await.unwrap()
}

#[tokio::test]
async fn of_requests_in_one_commit_one_stores_what_all_of_them_bring() {
    let database = Database::new().await;
    let log = database.log().await;
    let all = Gathering::new(&log).await;
    // Each has one of its own, and twice the one that everybody has.
    let request = |n: i64| [readings(PATIENT, n, n + 1), readings(PATIENT, 0, 1)].concat();
    let requests = (1..6).map(|n| [request(n), readings(PATIENT, 0, 1)].concat()).collect();
    let (told, commits) = all.together(requests).await;
    let told: Vec<_> =
        told.into_iter().map(|t| t.map(|t| (t.stored, t.duplicates.len())).ok()).collect();
    assert_eq!(told, [Some((2, 1)), Some((1, 2)), Some((1, 2)), Some((1, 2)), Some((1, 2))]);
    assert_eq!(commits, [6], "they were one commit");
    assert_eq!(rows(&all.pool).await, 6);
}

#[tokio::test]
async fn a_request_that_postgres_refuses_does_not_take_those_of_its_commit_along() {
    let database = Database::new().await;
    let log = database.log().await;
    let all = Gathering::new(&log).await;
    let mut requests: Vec<_> = (0..5).map(|n| readings(PATIENT, n, n + 1)).collect();
    // Nothing that the door lets in: a text that PostgreSQL cannot keep.
    requests[2][0].source_id = "watch\0".to_owned();
    let (told, commits) = all.together(requests).await;
    let stored: Vec<_> = told.into_iter().map(|t| t.map(|t| t.stored).ok()).collect();
    assert_eq!(stored, [Some(1), Some(1), None, Some(1), Some(1)]);
    assert_eq!(commits, [1; 4], "each by itself");
    assert_eq!(rows(&all.pool).await, 4);
}
