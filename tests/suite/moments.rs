//! Two axes of time: an answer about a settled moment is the fold of what the log says,
//! and stays what it was, whatever is being written while it is asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use reqwest::Method;
use serde_json::{Value, json};
use vitals::clock::rfc3339;
use vitals::log::{self, Log};
use vitals::query::moment::Moment;
use vitals::query::state::{Newest, state};

use crate::hospital::{Hospital, heart_rate, now};
use crate::log::{reading, somebody_waits_for_a_lock};
use crate::return_trips::replayed;
use crate::support::pass_time;
use crate::support::postgres::{Database, caught_up};
use crate::support::server::Server;

const TENANT: &str = "ward";

async fn known(log: &Log, known_at: DateTime<Utc>) -> (DateTime<Utc>, Vec<Newest>) {
    let moment = Moment { as_of: None, known_at: Some(known_at) };
    let state = state(log, TENANT, "p", moment, None).await.unwrap().expect("a patient");
    (state.moment.known_at.unwrap(), state.vitals)
}

/// The clock that `recorded_at` is taken from.
async fn clock(log: &Log) -> DateTime<Utc> {
    sqlx::query_scalar("select clock_timestamp()").fetch_one(log.pool()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_known_at_a_moment_stays_while_others_are_being_committed() {
    const WRITERS: i64 = 4;
    const APPENDS: i64 = 60;
    let database = Database::new().await;
    let log = database.log().await;
    let shard = log.shard_of(TENANT, "p");
    let start = now() - TimeDelta::hours(1);
    log.append(shard, &[reading("p", start)]).await.unwrap();

    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let log = log.clone();
            tokio::spawn(async move {
                for n in 0..APPENDS {
                    let at = start + TimeDelta::seconds(1 + n * WRITERS + writer);
                    let mut tx = log.pool().begin().await.unwrap();
                    log::append(&mut tx, shard, &[reading("p", at)]).await.unwrap();
                    // Its time is taken, and nobody can see it yet.
                    pass_time(Duration::from_millis((n % 4) as u64)).await;
                    tx.commit().await.unwrap();
                }
            })
        })
        .collect();
    let mut answers = Vec::new();
    while !writers.iter().all(|writer| writer.is_finished()) {
        answers.push(known(&log, clock(&log).await).await);
    }
    for writer in writers {
        writer.await.unwrap();
    }
    let different: BTreeSet<_> = answers.iter().map(|(_, vitals)| vitals[0].measured_at).collect();
    assert!(different.len() > 10, "hardly anything was written meanwhile: {}", different.len());
    for (known_at, before) in answers {
        assert_eq!(known(&log, known_at).await, (known_at, before), "known at {known_at}");
    }
}

/// The lock is the point: what is being written is waited for, and not overlooked.
#[tokio::test]
async fn what_is_being_written_is_waited_for() {
    let database = Database::new().await;
    let log = database.log().await;
    let shard = log.shard_of(TENANT, "p");
    log.append(shard, &[reading("p", now() - TimeDelta::hours(1))]).await.unwrap();
    let at = now() - TimeDelta::minutes(1);
    let mut tx = log.pool().begin().await.unwrap();
    log::append(&mut tx, shard, &[reading("p", at)]).await.unwrap();
    let known_at = clock(&log).await;
    let asked = tokio::spawn({
        let log = log.clone();
        async move { known(&log, known_at).await }
    });
    somebody_waits_for_a_lock(log.pool()).await;
    assert!(!asked.is_finished(), "it was answered before it could be known");
    tx.commit().await.unwrap();
    let (settled, vitals) = asked.await.unwrap();
    assert_eq!((settled, vitals[0].measured_at), (known_at, at));
}

#[tokio::test]
async fn a_clock_that_goes_back_changes_no_answer() {
    let database = Database::new().await;
    let log = database.log().await;
    let shard = log.shard_of(TENANT, "p");
    let at = |n| now() - TimeDelta::hours(1) + TimeDelta::minutes(n);
    // As if the clock had been an hour ahead, and then put right.
    sqlx::query("update shard_head set recorded_at = clock_timestamp() + interval '1 hour'")
        .execute(log.pool())
        .await
        .unwrap();
    let ahead = log.append(shard, &[reading("p", at(0))]).await.unwrap().recorded_at;
    for n in 1..5 {
        let asked = [ahead, ahead + TimeDelta::hours(1), now()];
        let mut answers = Vec::new();
        for known_at in asked {
            answers.push(known(&log, known_at).await);
        }
        // A moment still to come is answered as of the latest that is settled.
        assert!(answers[1].0 < ahead + TimeDelta::minutes(1), "{:?}", answers[1].0);
        let appended = log.append(shard, &[reading("p", at(n))]).await.unwrap();
        assert!(appended.recorded_at > ahead);
        for (known_at, before) in answers {
            assert_eq!(known(&log, known_at).await, (known_at, before));
        }
    }
    // The same the other way round: what was answered is a floor for what comes.
    let answered = clock(&log).await;
    sqlx::query("update shard_head set recorded_at = $1 - interval '1 hour'")
        .bind(answered)
        .execute(log.pool())
        .await
        .unwrap();
    let (settled, _) = known(&log, answered).await;
    let floor: DateTime<Utc> =
        sqlx::query_scalar("select recorded_at from shard_head where shard = $1")
            .bind(shard)
            .fetch_one(log.pool())
            .await
            .unwrap();
    assert!(settled == answered && floor >= answered, "{settled} {floor}");
}

#[tokio::test]
async fn what_will_be_known_is_told_as_what_is_known() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, TENANT);
    hospital.measure("p", 80.0).await;
    let asked = now() + TimeDelta::hours(1);
    let state = hospital.found(&format!("/patients/p?knownAt={}", rfc3339(asked))).await;
    let settled: DateTime<Utc> = state["knownAt"].as_str().unwrap().parse().unwrap();
    assert!(settled <= now(), "{settled}");
    hospital.measure("p", 90.0).await;
    let again = hospital.found(&format!("/patients/p?knownAt={}", rfc3339(settled))).await;
    assert_eq!(again["vitals"]["heart_rate"]["value"], state["vitals"]["heart_rate"]["value"]);
    assert_eq!(again["knownAt"], state["knownAt"]);
    let later = hospital.found(&format!("/patients/p?knownAt={}", rfc3339(asked))).await;
    assert_eq!(later["vitals"]["heart_rate"]["value"], 90);
}

fn time(value: &Value) -> DateTime<Utc> {
    value.as_str().unwrap_or_else(|| panic!("no time: {value}")).parse().unwrap()
}

/// A vital's value, device and time.
type Shown = (Value, Value, Value);

/// What the lines of a replay say of a moment, in the plainest way there is.
fn fold(
    lines: &[Value],
    as_of: DateTime<Utc>,
    known_at: DateTime<Utc>,
) -> (BTreeMap<String, Shown>, BTreeSet<String>) {
    let told = |line: &&Value| time(&line["recordedAt"]) <= known_at;
    let named = |line: &Value| {
        ["vital", "deviceId", "measuredAt"].map(|key| line[key].as_str().unwrap().to_owned())
    };
    let of = lines.iter().filter(|line| line["type"] == "reading_retracted");
    let said: BTreeMap<_, _> = of.map(|line| (named(line), time(&line["recordedAt"]))).collect();
    let retracted = |line: &Value| said.get(&named(line)).is_some_and(|at| *at <= known_at);
    // An alert is taken back when its reading was, and measured when that was.
    // One that a retraction brought about was not true before what was retracted.
    let at = |line: &Value| match (line["state"].as_str(), &line["because"]["retracted"]) {
        (Some("retracted"), _) => said[&named(line)],
        (_, Value::Null) => time(&line["measuredAt"]),
        (_, retracted) => time(&line["measuredAt"]).max(time(retracted)),
    };
    let mut vitals: BTreeMap<String, (DateTime<Utc>, Value, Value, Value)> = BTreeMap::new();
    let mut standing = BTreeSet::new();
    let mut ended = BTreeSet::new();
    for line in lines.iter().filter(told).filter(|line| at(line) <= as_of) {
        if line["type"] == "reading" && !retracted(line) {
            let (at, vital) = (time(&line["measuredAt"]), line["vital"].as_str().unwrap());
            let newest = vitals.get(vital);
            // Of one instant the lines come in the order in which they were recorded.
            if newest.is_none_or(|newest| newest.0 <= at) {
                let said =
                    [&line["value"], &line["deviceId"], &line["measuredAt"]].map(Clone::clone);
                let [value, device, measured] = said;
                vitals.insert(vital.to_owned(), (at, value, device, measured));
            }
        }
        if let (Some(state), Some(id)) = (line["state"].as_str(), line["alertId"].as_str()) {
            match state {
                "raised" => drop(standing.insert(id.to_owned())),
                "cleared" | "retracted" => drop(ended.insert(id.to_owned())),
                _ => {}
            }
        }
    }
    let vitals = vitals.into_iter().map(|(vital, (_, v, d, m))| (vital, (v, d, m))).collect();
    (vitals, &standing - &ended)
}

/// Most measured at few instants, so that devices meet at one; some hours late.
fn some_readings(random: &mut StdRng, end: DateTime<Utc>) -> Vec<Value> {
    let mut batch: BTreeMap<String, Value> = BTreeMap::new();
    for _ in 0..random.random_range(1..8) {
        let back = match random.random_range(0..3) {
            0 => TimeDelta::minutes(random.random_range(0..300)),
            _ => TimeDelta::seconds(random.random_range(0..40)),
        };
        let high = random.random_bool(0.3);
        let value = if high { 121 } else { 60 } + random.random_range(0..40);
        let mut one = heart_rate("p", f64::from(value), end - back);
        one["deviceId"] = format!("d{}", random.random_range(0..3)).into();
        if random.random_bool(0.3) {
            one["vital"] = "respiratory_rate".into();
            one["value"] = random.random_range(0..40).into();
        }
        let key = ["vital", "deviceId", "measuredAt"].map(|k| one[k].to_string()).join(" ");
        batch.insert(key, one);
    }
    batch.into_values().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_state_of_any_moment_is_the_fold_of_what_a_replay_tells() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, TENANT);
    let seed: u64 = rand::rng().random();
    eprintln!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let end = now();
    for _ in 0..40 {
        let batch = some_readings(&mut random, end);
        let (status, body) = hospital.post("/readings", &json!(batch)).await;
        assert_eq!(status, 201, "{body}");
        retract_sometimes(&hospital, &mut random, &batch).await;
    }
    // Nothing is raised or cleared any more between the replay and the questions.
    caught_up(&database.pool()).await;
    let alerts = hospital.found("/alerts?patientId=p").await;
    assert!(!alerts["items"].as_array().unwrap().is_empty(), "seed {seed}");

    let text = replayed(&database, TENANT, "p").await;
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let times: Vec<DateTime<Utc>> = lines
        .iter()
        .flat_map(|line| [time(&line["measuredAt"]), time(&line["recordedAt"])])
        .collect();
    let mut different = BTreeSet::new();
    for n in 0..150 {
        let mut pick = || {
            let nudge = TimeDelta::microseconds(random.random_range(-1..2));
            times[random.random_range(0..times.len())] + nudge
        };
        let (as_of, known_at) = (pick(), pick());
        // Also one axis alone: the other one is open.
        let (as_of, known_at) = match n % 4 {
            0 => (Some(as_of), None),
            1 => (None, Some(known_at)),
            _ => (Some(as_of), Some(known_at)),
        };
        let part =
            |key: &str, time: Option<DateTime<Utc>>| time.map(|t| format!("{key}={}", rfc3339(t)));
        let query = [part("asOf", as_of), part("knownAt", known_at)];
        let query: Vec<String> = query.into_iter().flatten().collect();
        let state = hospital.found(&format!("/patients/p?{}", query.join("&"))).await;
        let far = now() + TimeDelta::days(1);
        let (vitals, standing) = fold(&lines, as_of.unwrap_or(far), known_at.unwrap_or(far));
        let shown: BTreeMap<String, Shown> = state["vitals"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(vital, v)| {
                (
                    vital.clone(),
                    (v["value"].clone(), v["deviceId"].clone(), v["measuredAt"].clone()),
                )
            })
            .collect();
        assert_eq!(shown, vitals, "seed {seed}: {query:?}");
        let alerts = state["alerts"].as_array().unwrap();
        let shown: BTreeSet<String> =
            alerts.iter().map(|alert| alert["id"].as_str().unwrap().to_owned()).collect();
        assert_eq!(shown, standing, "seed {seed}: {query:?}");
        // NEWS2 is made of exactly these values.
        let parts = state["news2"]["parts"].as_object().unwrap();
        assert!(parts.keys().all(|part| vitals.contains_key(part)), "seed {seed}: {state}");
        different.insert(format!("{vitals:?}{standing:?}"));
    }
    assert!(different.len() > 30, "seed {seed}: only {} different answers", different.len());
}

/// What the rules have not read yet they have said nothing of.
#[tokio::test]
async fn a_moment_says_when_the_rules_are_behind_and_a_known_one_is_never_behind() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, TENANT);
    let pool = database.pool();
    let mut held = pool.begin().await.unwrap();
    let hold = "select from checkpoint where consumer = 'rules' for update";
    sqlx::query(hold).execute(&mut *held).await.unwrap();
    let at = rfc3339(hospital.measure("p", 130.0).await);
    let path = format!("/patients/p?asOf={at}");
    let behind = async |path: &str| {
        let answer = hospital.request(Method::GET, path).send().await.unwrap();
        let behind = answer.headers().contains_key("vitals-behind");
        let state: Value = answer.json().await.unwrap();
        (behind, state["alerts"].as_array().unwrap().len())
    };
    assert_eq!(behind(&path).await, (true, 0));
    assert_eq!(behind(&format!("{path}&knownAt={}", rfc3339(now()))).await, (false, 0));
    held.rollback().await.unwrap();
    assert_eq!(hospital.found(&path).await["alerts"].as_array().unwrap().len(), 1);
}

/// Some readings turn out to have been entered in error.
async fn retract_sometimes(hospital: &Hospital, random: &mut StdRng, batch: &[Value]) {
    if random.random_bool(0.5) {
        retract(hospital, &batch[random.random_range(0..batch.len())]).await;
    }
}

async fn retract(hospital: &Hospital, reading: &Value) {
    let patient = reading["patientId"].as_str().unwrap();
    let body = json!({
        "vital": reading["vital"], "deviceId": reading["deviceId"],
        "measuredAt": reading["measuredAt"], "reason": "the wrong wrist",
    });
    let (status, body) =
        hospital.post(&format!("/patients/{patient}/readings/retract"), &body).await;
    // Some are drawn twice.
    assert!([200, 201].contains(&status), "{body}");
}

/// A quiet evening as the screen showed it, and what a watch brought that had been out of
/// reach.
async fn incident(hospital: &Hospital) -> (DateTime<Utc>, DateTime<Utc>) {
    let start = now() - TimeDelta::hours(2);
    let minute = |n: i64| start + TimeDelta::minutes(n);
    for n in 0..4 {
        hospital.store(&[heart_rate("101", 80.0 + n as f64, minute(n))]).await;
    }
    let newest = hospital.found("/patients/101").await;
    let known_at = time(&newest["vitals"]["heart_rate"]["recordedAt"]) + TimeDelta::microseconds(1);
    let mut late: Vec<Value> = [(5, 140.0), (6, 151.0), (7, 90.0)]
        .map(|(n, value)| heart_rate("101", value, minute(n)))
        .into();
    late[0]["deviceId"] = "watch-8".into();
    // Measured after the moment: no difference to it.
    late.push(heart_rate("101", 200.0, minute(30)));
    // Came and went in between: it made no difference then, and makes none now.
    late.push(heart_rate("101", 100.0, minute(8)));
    hospital.store(&late).await;
    retract(hospital, &late[4]).await;
    // The screen believed this one.
    retract(hospital, &heart_rate("101", 82.0, minute(2))).await;
    (minute(10), known_at)
}

#[tokio::test]
async fn a_diff_tells_what_was_not_known_and_what_it_changes() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, TENANT);
    let (as_of, known_at) = incident(&hospital).await;
    let question = format!("asOf={}&knownAt={}", rfc3339(as_of), rfc3339(known_at));
    let diff = hospital.found(&format!("/patients/101/diff?{question}")).await;
    let items = |of: &Value| -> Vec<(Value, Value)> {
        let items = of.as_array().unwrap().iter();
        items.map(|item| (item["value"].clone(), item["change"].clone())).collect()
    };
    let late = || json!("late");
    let retracted = (json!(82), json!("retracted"));
    let expected = [retracted, (json!(140), late()), (json!(151), late()), (json!(90), late())];
    assert_eq!(items(&diff["readings"]), expected);
    assert_eq!(diff["readings"][0]["reason"], "the wrong wrist");
    assert!(time(&diff["readings"][0]["retractedAt"]) > known_at, "{diff}");
    assert_eq!(items(&diff["alerts"]), [(json!(140), json!("missed"))]);
    assert_eq!(
        (&diff["asOf"], &diff["knownAt"]),
        (&json!(rfc3339(as_of)), &json!(rfc3339(known_at)))
    );
    // Each side is what the state says of that moment.
    assert_eq!(diff["then"], hospital.found(&format!("/patients/101?{question}")).await);
    let now_question = format!("/patients/101?asOf={}", rfc3339(as_of));
    assert_eq!(diff["now"], hospital.found(&now_question).await);
    let value = |side: &str| diff[side]["vitals"]["heart_rate"]["value"].clone();
    assert_eq!((value("then"), value("now")), (json!(83), json!(90)));
    assert_ne!(diff["then"]["news2"]["score"], Value::Null);

    // By pages, and by links.
    let mut path = format!("/patients/101/diff?{question}&limit=2");
    let mut seen = Vec::new();
    loop {
        let page = hospital.found(&path).await;
        seen.extend(items(&page["readings"]));
        let Some(next) = page["_links"]["next"].as_str() else { break };
        path = next.strip_prefix("/api/v1").unwrap().to_owned();
    }
    assert_eq!(seen, expected);
    // Nothing that was measured before is looked at.
    let from = rfc3339(as_of - TimeDelta::minutes(4));
    let part = hospital.found(&format!("/patients/101/diff?{question}&from={from}")).await;
    assert_eq!(items(&part["readings"]), expected[2..]);
    // By now everything is known.
    let same = hospital
        .found(&format!("/patients/101/diff?asOf={}&knownAt={}", rfc3339(as_of), rfc3339(now())))
        .await;
    assert_eq!((&same["readings"], &same["alerts"]), (&json!([]), &json!([])));
    assert_eq!(same["then"]["vitals"], same["now"]["vitals"]);

    for (path, expect, code) in [
        ("/patients/101/diff", 400, "as_of_required"),
        ("/patients/101/diff?asOf=noon", 400, "invalid_query"),
        ("/patients/101/diff?asOf=2026-01-01T00:00:00Z&limit=0", 400, "invalid_limit"),
        ("/patients/nobody/diff?asOf=2026-01-01T00:00:00Z", 404, "not_found"),
    ] {
        let (status, problem) = hospital.get(path).await;
        assert_eq!((status, &problem["code"]), (expect, &json!(code)), "{path}: {problem}");
    }
    let stranger = Hospital::new(&server, "elsewhere");
    let (status, _) = stranger.get(&format!("/patients/101/diff?{question}")).await;
    assert_eq!(status, 404);
}

#[tokio::test]
async fn a_diff_without_known_at_is_against_what_the_screen_could_show() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, TENANT);
    let (as_of, _) = incident(&hospital).await;
    // Everything was recorded after the moment: nothing was known at it.
    let diff = hospital.found(&format!("/patients/101/diff?asOf={}", rfc3339(as_of))).await;
    assert_eq!(diff["knownAt"], diff["asOf"]);
    assert_eq!(diff["readings"].as_array().unwrap().len(), 6);
    assert_eq!(diff["then"]["vitals"], json!({}));
}
