//! Poison: an event that cannot be acted on holds up its patient and nobody else, and
//! taking the patient up again leaves nothing out.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use serde_json::json;
use sqlx::{AssertSqlSafe, PgConnection, PgPool};
use tokio_util::sync::CancellationToken;
use vitals::consumer::{self, Consumer, ConsumerError, Follows, Parked};
use vitals::event::{Event, READING_RETRACTED};
use vitals::log::{Log, Window};
use vitals::projection::{self, Apply, Projection};

use crate::hospital::{Hospital, heart_rate, now};
use crate::log::{reading, time};
use crate::support::postgres::Database;
use crate::support::server::Server;
use crate::support::{cli, eventually};

const SOON: Duration = Duration::from_secs(30);

/// A retraction that no fold can read.
fn poison(patient: &str, n: i64) -> Event {
    let at = time("2026-03-01T00:00:00Z") + TimeDelta::seconds(n);
    let data = json!({
        "v": 1, "vital": "heart_rate", "deviceId": "nobody", "measuredAt": at, "reason": "?",
        "readingPosition": "no number",
    });
    Event {
        kind: READING_RETRACTED.to_owned(),
        vital: None,
        value: None,
        data: Some(data.to_string()),
        ..reading(patient, at)
    }
}

/// A fold that takes a few positions at a time.
struct Narrow(Apply);

impl Consumer for Narrow {
    type Done = ();

    fn name(&self) -> &str {
        self.0.name()
    }

    fn follows(&self) -> Follows {
        self.0.follows()
    }

    fn window_positions_max(&self) -> i64 {
        7
    }

    fn pace(&self) -> Duration {
        Duration::ZERO
    }

    async fn act(&self, tx: &mut PgConnection, window: &Window) -> Result<(), ConsumerError> {
        assert!(window.to - window.after <= self.window_positions_max());
        self.0.act(tx, window).await
    }
}

/// Readings of four patients of every shard that they fall into, and poison for one.
async fn poisoned(log: &Log) {
    for n in 0..30 {
        for patient in ["a", "b", "c", "d"] {
            let at = time("2026-03-01T00:00:00Z") + TimeDelta::seconds(n);
            let shard = log.shard_of("ward", patient);
            log.append(shard, &[reading(patient, at)]).await.unwrap();
            if patient == "a" && n == 12 {
                log.append(shard, &[poison("a", n)]).await.unwrap();
            }
        }
    }
}

async fn fold(log: &Log, projection: &'static Projection) {
    for shard in log.shards() {
        // A step that met poison may find its own claim, not given back yet, and be idle.
        eventually("the shard to be folded", SOON, || async {
            consumer::step(log.pool(), &Apply(projection), shard).await.unwrap();
            let behind = "select h.position - c.position from checkpoint c \
                          join shard_head h using (shard) where c.consumer = $1 and shard = $2";
            let behind: i64 = sqlx::query_scalar(behind)
                .bind(projection.consumer)
                .bind(shard)
                .fetch_one(log.pool())
                .await
                .unwrap();
            (behind == 0).then_some(())
        })
        .await;
    }
}

async fn rows(pool: &PgPool, table: &str) -> Vec<String> {
    let sql = format!("select x::text from {table} x order by 1");
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(pool).await.unwrap()
}

async fn newest_of(pool: &PgPool, patient: &str) -> i64 {
    let sql =
        "select extract(second from occurred_at)::bigint from current_vitals where patient_id = $1";
    sqlx::query_scalar(sql).bind(patient).fetch_one(pool).await.unwrap()
}

/// Makes the poison readable, as a new version would: behind the program's back.
async fn mend(pool: &PgPool) {
    let sql = "update non_reading set data = replace(data::text, '\"no number\"', '-1')::json \
               where type = 'reading_retracted'";
    sqlx::raw_sql(sql).execute(pool).await.unwrap();
}

#[tokio::test]
async fn poison_parks_its_patient_and_taking_them_up_again_is_as_if_they_never_were() {
    let database = Database::new().await;
    let (log, pool) = (database.log().await, database.pool());
    poisoned(&log).await;
    for (projection, table) in
        [(&projection::CURRENT_VITALS, "current_vitals"), (&projection::ROLLUP, "series_hour")]
    {
        fold(&log, projection).await;
        let parked: Vec<Parked> = consumer::parked(&pool).await.unwrap();
        let [parked] = &*parked else { panic!("{}: {parked:?}", projection.name) };
        assert_eq!((&*parked.patient_id, &*parked.consumer), ("a", projection.consumer));
        assert!(parked.reason.contains("no number"), "{}", parked.reason);
        // Others went on, also those of the same shard; the check leaves out who is parked.
        assert!(consumer::lag(&pool).await.unwrap().iter().any(|(_, behind)| *behind == 0));
        for shard in log.shards() {
            assert_eq!(projection::check(&pool, projection, shard).await.unwrap().1, []);
        }
        if projection.name == "current_vitals" {
            assert_eq!((newest_of(&pool, "a").await, newest_of(&pool, "b").await), (12, 29));
        }
        // Not mended, they stay parked.
        assert!(consumer::resume(&pool, &Apply(projection), parked).await.is_err());
        assert_eq!(consumer::parked(&pool).await.unwrap().len(), 1);
        // What comes meanwhile waits, too.
        let later = time("2026-03-01T00:00:40Z");
        log.append(log.shard_of("ward", "a"), &[reading("a", later)]).await.unwrap();
        fold(&log, projection).await;
        if projection.name == "current_vitals" {
            assert_eq!(newest_of(&pool, "a").await, 12);
        }
        mend(&pool).await;
        // In windows, as whoever was parked for long is.
        consumer::resume(&pool, &Narrow(Apply(projection)), parked).await.unwrap();
        assert_eq!(consumer::parked(&pool).await.unwrap(), []);
        for shard in log.shards() {
            assert_eq!(projection::check(&pool, projection, shard).await.unwrap().1, []);
        }
        let taken_up = rows(&pool, table).await;
        let rebuilt = projection::rebuild(&log, projection, |_, _| {}).await.unwrap();
        assert_eq!(rebuilt.differing, Some(0), "{}", projection.name);
        assert_eq!(rows(&pool, table).await, taken_up);
        // Poison again for the next one.
        let sql = "update non_reading set data = replace(data::text, '-1', '\"no number\"')::json \
                   where type = 'reading_retracted'";
        sqlx::raw_sql(sql).execute(&pool).await.unwrap();
    }
}

#[tokio::test]
async fn a_rebuild_parks_whom_it_cannot_fold_and_releases_whom_it_can() {
    let database = Database::new().await;
    let (log, pool) = (database.log().await, database.pool());
    poisoned(&log).await;
    let projection = &projection::CURRENT_VITALS;
    let rebuilt = projection::rebuild(&log, projection, |_, _| {}).await.unwrap();
    assert_eq!(rebuilt.differing, Some(0));
    let parked = consumer::parked(&pool).await.unwrap();
    assert_eq!(parked.len(), 1, "{parked:?}");
    assert_eq!((&*parked[0].consumer, newest_of(&pool, "b").await), (projection.consumer, 29));
    mend(&pool).await;
    projection::rebuild(&log, projection, |_, _| {}).await.unwrap();
    assert_eq!(consumer::parked(&pool).await.unwrap(), []);
    assert_eq!(newest_of(&pool, "a").await, 29);
}

#[tokio::test]
async fn what_is_wrong_with_a_fold_and_not_with_an_event_parks_nobody() {
    let database = Database::new().await;
    let (log, pool) = (database.log().await, database.pool());
    poisoned(&log).await;
    sqlx::raw_sql("drop table current_vitals").execute(&pool).await.unwrap();
    let shard = log.shard_of("ward", "a");
    let stepped = consumer::step(&pool, &Apply(&projection::CURRENT_VITALS), shard).await;
    assert!(stepped.is_err());
    assert_eq!(consumer::parked(&pool).await.unwrap(), []);
}

#[tokio::test]
async fn an_alert_that_cannot_be_read_holds_up_no_other_page_and_resume_sends_what_was_held_back() {
    let database = Database::new().await;
    let pool = database.pool();
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "h");
    hospital.measure("p", 80.0).await;
    // Behind the program's back: what no version of it has ever written.
    let log = database.log().await;
    let broken = Event {
        tenant: "h".into(),
        kind: "HIGH_HEART_RATE".to_owned(),
        vital: None,
        value: None,
        data: Some("{\"v\":1,\"alertId\":\"no id\",\"state\":\"raised\"}".to_owned()),
        ..reading("p", now())
    };
    log.append(log.shard_of("h", "p"), &[broken]).await.unwrap();
    let names = eventually("the patient to be parked", SOON, || async {
        let parked = consumer::parked(&pool).await.unwrap();
        let names: Vec<String> = parked.into_iter().map(|p| p.consumer).collect();
        (names.len() == 3).then_some(names)
    })
    .await;
    assert!(names.contains(&"webhook-fanout".to_owned()), "{names:?}");
    assert!(names.contains(&"projection:alert".to_owned()), "{names:?}");
    assert!(names.contains(&"projection:shadow".to_owned()), "{names:?}");
    // Everybody of the shard goes on, and the ward's own view of the patient, too.
    hospital.measure("p", 81.0).await;
    assert_eq!(hospital.found("/patients/p/heart-rate").await["heartRate"], 81);
    hospital.store(&[heart_rate("q", 130.0, now())]).await;
    eventually("the alert of another patient", SOON, || async {
        let alerts = hospital.found("/alerts?state=active&patientId=q").await;
        (alerts["items"].as_array().unwrap().len() == 1).then_some(())
    })
    .await;
    // Said by the command, by the metric and by the health check, which is still ready.
    let listed = cli(&database, &["parked"]).await;
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains("h/p") && listed.contains("webhook-fanout"), "{listed}");
    let ready = reqwest::get(server.url("/health/ready")).await.unwrap();
    assert_eq!(ready.status(), 200);
    let ready: serde_json::Value = ready.json().await.unwrap();
    assert!(ready["warnings"].to_string().contains("parked"), "{ready}");
    let metrics = reqwest::get(server.url("/metrics")).await.unwrap().text().await.unwrap();
    assert!(metrics.contains("vitals_parked_patients{consumer=\"webhook-fanout\"} 1"), "{metrics}");
    // Not mended it is said so; mended they are taken up.
    let refused = cli(&database, &["resume", "p"]).await;
    assert!(!refused.status.success(), "{refused:?}");
    let still = consumer::parked(&pool).await.unwrap();
    assert!(still.len() == 3 && still.iter().all(|parked| !parked.resume), "{still:?}");
    let id = uuid::Uuid::new_v4().to_string();
    let whole = json!({
        "v": 1, "alertId": id, "state": "raised", "rule": "r", "ruleVersion": 1,
        "event": "HIGH_HEART_RATE", "priority": "high", "vital": "heart_rate", "value": 131,
        "unit": "/min", "measuredAt": now(), "deviceId": "watch", "readingPosition": 1,
        "since": now(),
    });
    let mended = "update non_reading set data = $1::json where data ->> 'alertId' = 'no id'";
    sqlx::query(mended).bind(whole.to_string()).execute(&pool).await.unwrap();
    let resumed = cli(&database, &["resume", "p"]).await;
    assert!(resumed.status.success(), "{resumed:?}");
    assert_eq!(consumer::parked(&pool).await.unwrap(), []);
    let alert = hospital.found(&format!("/alerts/{id}")).await;
    assert_eq!(alert["value"], 131);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_goes_on_by_itself_past_poison() {
    let database = Database::new().await;
    let log = database.log().await;
    let stop = CancellationToken::new();
    let mut workers = tokio::task::JoinSet::new();
    for shard in log.shards() {
        let apply = Arc::new(Apply(&projection::CURRENT_VITALS));
        workers.spawn(consumer::run(
            log.clone(),
            log.pool().clone(),
            apply,
            shard,
            None,
            stop.clone(),
        ));
    }
    poisoned(&log).await;
    eventually("the patients who are not poisoned to be folded", SOON, || async {
        let sql = "select count(*) from current_vitals \
                   where extract(second from occurred_at) = 29 and patient_id <> 'a'";
        let folded: i64 = sqlx::query_scalar(sql).fetch_one(log.pool()).await.unwrap();
        (folded == 3).then_some(())
    })
    .await;
    stop.cancel();
    workers.join_all().await;
}
