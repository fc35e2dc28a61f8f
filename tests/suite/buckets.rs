//! A history in buckets: the same from the log and from what is folded already.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use vitals::clock::rfc3339;

use crate::hospital::{Hospital, heart_rate, now};
use crate::support::postgres::{Database, caught_up};
use crate::support::server::Server;

/// Count, smallest, largest and mean of a bucket.
type Sums = (i64, f64, f64, f64);

/// Every bucket of a question, by pages.
async fn asked(hospital: &Hospital, query: &str) -> BTreeMap<DateTime<Utc>, Sums> {
    let path = format!("/patients/101/readings?vital=heart_rate{query}");
    let (mut buckets, mut next) = (BTreeMap::new(), String::new());
    loop {
        let page = hospital.found(&format!("{path}{next}")).await;
        for bucket in page["items"].as_array().unwrap() {
            let number = |key: &str| bucket[key].as_f64().unwrap();
            let sums =
                (bucket["count"].as_i64().unwrap(), number("min"), number("max"), number("avg"));
            let start = bucket["start"].as_str().unwrap().parse().unwrap();
            assert!(buckets.insert(start, sums).is_none(), "{start} twice");
        }
        match page["next"].as_str() {
            Some(cursor) => next = format!("&cursor={cursor}"),
            None => return buckets,
        }
    }
}

/// The readings of the list.
async fn listed(hospital: &Hospital, range: &str) -> Vec<(DateTime<Utc>, f64)> {
    let path = format!("/patients/101/readings?vital=heart_rate&limit=10000{range}");
    let list = hospital.found(&path).await;
    let of = |item: &Value| {
        (item["measuredAt"].as_str().unwrap().parse().unwrap(), item["value"].as_f64().unwrap())
    };
    list["items"].as_array().unwrap().iter().map(of).collect()
}

/// The same buckets, added up from readings.
fn added_up(readings: &[(DateTime<Utc>, f64)], seconds: i64) -> BTreeMap<DateTime<Utc>, Sums> {
    let mut values: BTreeMap<DateTime<Utc>, Vec<f64>> = BTreeMap::new();
    for (at, value) in readings {
        let over = at.timestamp_micros().rem_euclid(seconds * 1_000_000);
        values.entry(*at - TimeDelta::microseconds(over)).or_default().push(*value);
    }
    let sums = |values: Vec<f64>| {
        let millionths: i64 = values.iter().map(|value| (value * 1e6).round() as i64).sum();
        let mean = millionths as f64 / values.len() as f64 / 1e6;
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        (values.len() as i64, least, most, mean)
    };
    values.into_iter().map(|(start, values)| (start, sums(values))).collect()
}

/// Asks in buckets of all kinds, whole and not.
async fn check(hospital: &Hospital, start: DateTime<Utc>, when: &str) {
    let at = |seconds: i64| rfc3339(start + TimeDelta::milliseconds(seconds * 1_000 + 123));
    let ranges = [
        String::new(),
        format!("&from={}&to={}", at(100), at(5_000)),
        format!("&from={}", at(3_601)),
    ];
    for range in &ranges {
        let readings = listed(hospital, range).await;
        for (every, seconds) in [
            ("1m&limit=50", 60),
            ("90s&limit=500", 90),
            ("5m&limit=7", 300),
            ("1h", 3_600),
            ("7s&limit=9999", 7),
        ] {
            let asked = asked(hospital, &format!("&every={every}{range}")).await;
            let expected = added_up(&readings, seconds);
            let starts =
                |of: &BTreeMap<DateTime<Utc>, Sums>| of.keys().copied().collect::<Vec<_>>();
            assert_eq!(starts(&asked), starts(&expected), "{when}: {every}{range}");
            for (start, sums) in asked {
                let other = expected[&start];
                let same = (sums.0, sums.1, sums.2) == (other.0, other.1, other.2);
                // The mean here is made of floats, that one of whole numbers.
                let near = (sums.3 - other.3).abs() < 1e-9;
                assert!(same && near, "{when}: {every}{range} at {start}: {sums:?} {other:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn buckets_are_the_same_before_and_after_they_are_folded() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "ward");
    let start = now() - TimeDelta::hours(4);
    let value = |n: i64| 60.0 + (n * 7_919 % 700) as f64 / 10.0;
    let reading = |n: i64| {
        let mut reading = heart_rate("101", value(n), start + TimeDelta::milliseconds(n * 10_600));
        reading["deviceId"] = format!("d{}", n % 3).into();
        reading
    };
    let retract = async |n: i64| {
        let of = reading(n);
        let body = json!({
            "vital": of["vital"], "deviceId": of["deviceId"], "measuredAt": of["measuredAt"],
            "reason": "the wrong patient",
        });
        let (status, body) = hospital.post("/patients/101/readings/retract", &body).await;
        assert_eq!(status, 201, "{body}");
    };
    hospital.store(&(0..600).map(reading).collect::<Vec<_>>()).await;
    check(&hospital, start, "at once").await;
    let pool = database.pool();
    caught_up(&pool).await;
    check(&hospital, start, "folded").await;
    // Late ones, and one that counts no more: with and without having been folded.
    hospital.store(&(750..850).map(reading).collect::<Vec<_>>()).await;
    hospital.store(&(650..655).map(reading).collect::<Vec<_>>()).await;
    check(&hospital, start, "late").await;
    retract(350).await;
    check(&hospital, start, "retracted").await;
    caught_up(&pool).await;
    check(&hospital, start, "retracted and folded").await;

    // It is the fold that was read, and nobody who is parked is answered from it.
    let question = "&every=1h";
    let before = asked(&hospital, question).await;
    for (table, add) in [("series_hour", 1_000_i64), ("series_minute", 5_000)] {
        let sql = format!("update {table} set count = count + {add}");
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&pool).await.unwrap();
    }
    let hours = asked(&hospital, question).await;
    assert!(hours.values().any(|sums| sums.0 > 1_000), "not from what is folded: {hours:?}");
    let minutes = asked(&hospital, "&every=5m").await;
    assert!(minutes.values().any(|sums| sums.0 >= 5_000), "not from what is folded: {minutes:?}");
    sqlx::query(
        "insert into parked (shard, consumer, tenant, patient_id, position, reason) \
         select shard, consumer, 'ward', '101', 1, 'a test' from checkpoint",
    )
    .execute(&pool)
    .await
    .unwrap();
    assert_eq!(asked(&hospital, question).await, before);
    assert_eq!(json!(before.len()), json!(hours.len()));
}
