//! Trials of rules: what is refused before it begins, what is counted, and what is said
//! where there is nothing to count.

use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use std::sync::Arc;
use vitals::event::{Event, NO_PATIENT, READING, RULE_CHANGED};
use vitals::log::Log;
use vitals::rules::backtest::{self, BacktestQuery, JobHandle, Report};
use vitals::rules::{Rule, RuleSnapshot, RulesConsumer, silences, ticks};
use vitals::vital::Vital;

use crate::hospital::{Hospital, heart_rate, now};
use crate::log::time;
use crate::support::postgres::Database;
use crate::support::server::Server;
use crate::support::{cli, scratch_dir};

async fn scene() -> (Database, Server, Hospital) {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "ward");
    (database, server, hospital)
}

fn rule() -> Value {
    json!({
        "id": "mine", "event": "MINE", "priority": "medium",
        "when": { "vital": "heart_rate", "op": ">", "value": 120 },
    })
}

const RULE_TOML: &str = "id = \"mine\"\nevent = \"MINE\"\npriority = \"medium\"\n\
                         when = { vital = \"heart_rate\", op = \">\", value = 120 }\n";

async fn sent(hospital: &Hospital, kind: Option<&str>, body: impl Into<String>) -> (u16, Value) {
    let request = hospital.request(Method::PUT, "/rules/mine").body(body.into());
    let request = match kind {
        Some(kind) => request.header("content-type", kind),
        None => request,
    };
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

#[tokio::test]
async fn a_sweep_that_multiplies_to_nothing_or_digs_too_deep_is_refused_and_the_server_lives() {
    let (_database, _server, hospital) = scene().await;
    let many: Vec<&str> = vec!["when.value=110,120"; 64];
    let deep = format!("{}a=1", "a.".repeat(20_000));
    for (sweep, pointer) in [
        (json!(many), "/sweep"),
        (json!([deep]), "/sweep/0"),
        (json!({ "when.value": "110..140/5" }), "/sweep"),
        (json!("when.value=110..140/5"), "/sweep"),
        (json!([["when.value=1"]]), "/sweep/0"),
    ] {
        let body = json!({ "rule": rule(), "sweep": sweep });
        let (status, refused) = hospital.post("/rules/backtest", &body).await;
        let code = refused["code"].as_str().unwrap();
        assert_eq!((status, code, &refused["pointer"]), (422, "invalid_sweep", &json!(pointer)));
    }
    hospital.measure("101", 80.0).await;
}

#[tokio::test]
async fn a_rule_is_found_where_its_link_says() {
    let (_database, _server, hospital) = scene().await;
    let rules = hospital.found("/rules").await;
    let listed = &rules["items"][0];
    let path = listed["_links"]["self"].as_str().unwrap().strip_prefix("/api/v1").unwrap();
    assert_eq!(hospital.found(path).await, *listed);
    assert_eq!(hospital.get("/rules/nobodys").await.0, 404);
}

#[tokio::test]
async fn toml_is_known_by_itself_and_a_mistake_is_told_with_its_place() {
    let (_database, _server, hospital) = scene().await;
    // As curl sends a file, and as nobody says anything.
    for kind in [None, Some("application/x-www-form-urlencoded"), Some("application/toml")] {
        let (status, body) = sent(&hospital, kind, RULE_TOML).await;
        assert_eq!((status, &body["version"]), (200, &json!(1)), "{kind:?}: {body}");
    }
    assert_eq!(sent(&hospital, None, rule().to_string()).await.0, 200);
    let (status, refused) = sent(&hospital, Some("application/json"), RULE_TOML).await;
    assert_eq!((status, &refused["line"]), (400, &json!(1)), "{refused}");
    assert!(refused["detail"].as_str().unwrap().contains("application/toml"), "{refused}");
    let request = hospital.request(Method::POST, "/rules/backtest").body(RULE_TOML);
    let refused: Value = request.send().await.unwrap().json().await.unwrap();
    assert_eq!((&refused["code"], &refused["line"]), (&json!("unreadable_json"), &json!(1)));
    assert!(refused["detail"].as_str().unwrap().contains("{\"rule\":"), "{refused}");
    let wrong = RULE_TOML.replace("\"medium\"", "\"urgent\"");
    let (status, refused) = sent(&hospital, None, wrong).await;
    assert_eq!(
        (status, &refused["pointer"], &refused["line"]),
        (422, &json!("/priority"), &json!(3))
    );
    let mut long = rule();
    long["description"] = "x".repeat(2_001).into();
    let (status, refused) = sent(&hospital, None, long.to_string()).await;
    assert_eq!((status, &refused["pointer"]), (422, &json!("/description")));
    let mut long = rule();
    long["on_delay"] = "0s ".repeat(8_000).into();
    let (status, refused) = sent(&hospital, None, long.to_string()).await;
    assert_eq!((status, &refused["pointer"]), (422, &json!("/on_delay")), "{refused}");
}

/// Whoever reads before they append takes a turn, and no head.
#[tokio::test]
async fn readings_are_stored_while_rules_are_read_and_looked_up_to_be_changed() {
    let (database, _server, hospital) = scene().await;
    let at = hospital.measure("101", 80.0).await;
    // A change of a rule and a retraction stand still here, before they append.
    let mut other = PgConnection::connect(&database.url).await.unwrap();
    let turns = "begin; select pg_advisory_xact_lock(1953854062, hashtext(of)) \
                 from unnest(array['rules/ward', 'retract/ward/101']) of";
    sqlx::raw_sql(turns).execute(&mut other).await.unwrap();
    let (changing, retracting) = (hospital.clone(), hospital.clone());
    let changing = tokio::spawn(async move { sent(&changing, None, RULE_TOML).await.0 });
    let retracting = tokio::spawn(async move {
        let body = json!({
            "vital": "heart_rate", "deviceId": "watch-7",
            "measuredAt": vitals::clock::rfc3339(at), "reason": "a test",
        });
        retracting.post("/patients/101/readings/retract", &body).await.0
    });
    crate::support::eventually("both to wait", std::time::Duration::from_secs(60), || async {
        let mut connection = PgConnection::connect(&database.url).await.unwrap();
        let waiting: i64 = sqlx::query_scalar(
            "select count(*) from pg_locks where locktype = 'advisory' and not granted",
        )
        .fetch_one(&mut connection)
        .await
        .unwrap();
        (waiting == 2).then_some(())
    })
    .await;
    // In every shard, as far as chance goes.
    for patient in 0..12 {
        hospital.measure(&format!("other-{patient}"), 80.0).await;
    }
    sqlx::raw_sql("rollback").execute(&mut other).await.unwrap();
    assert_eq!((changing.await.unwrap(), retracting.await.unwrap()), (200, 201));
}

/// The rules' clock as well: it locks the head when it knows what to append.
#[tokio::test]
async fn readings_are_stored_while_the_rules_clock_works_out_what_is_due() {
    let database = Database::new().await;
    let log = database.log().await;
    let mut connection = PgConnection::connect(&database.url).await.unwrap();
    vitals::consumer::register(&mut connection, vitals::consumer::RULES, log.shards())
        .await
        .unwrap();
    let shard = log.shard_of("ward", "p1");
    let due = "insert into rule_state (shard, tenant, patient_id, rule, state, due_at) \
               values ($1, 'ward', 'p1', 'high-heart-rate', '{}', now())";
    sqlx::query(due).bind(shard).execute(&mut connection).await.unwrap();
    // It looks the rules up: here it stands still.
    let lock = "begin; lock table rule_memory in access exclusive mode";
    sqlx::raw_sql(lock).execute(&mut connection).await.unwrap();
    let rules = RulesConsumer::new(log.clone(), RuleSnapshot::new().unwrap());
    let pool = log.pool().clone();
    let tick = tokio::spawn(async move { ticks::tick(&rules, &pool, shard).await });
    let waits =
        "select count(*) from pg_locks where relation = 'rule_memory'::regclass and not granted";
    crate::support::eventually("the clock to wait", std::time::Duration::from_secs(60), || async {
        let waiting: i64 = sqlx::query_scalar(waits).fetch_one(log.pool()).await.unwrap();
        (waiting == 1).then_some(())
    })
    .await;
    store(&log, "ward", &[(1, now(), 80.0)]).await;
    sqlx::raw_sql("rollback").execute(&mut connection).await.unwrap();
    // What came in between is read first.
    assert!(!tick.await.unwrap().unwrap());
}

#[tokio::test]
async fn a_stored_rule_or_silence_that_cannot_be_read_is_an_error_and_not_left_out() {
    let (database, _server, hospital) = scene().await;
    let log = database.log().await;
    let put = async |kind: &str, data: &str| {
        let event = Event::non_reading(kind, ("ward", NO_PATIENT), "somebody", now(), data);
        log.ensure_partitions(std::iter::once(now())).await.unwrap();
        for shard in log.shards() {
            log.append(shard, std::slice::from_ref(&event)).await.unwrap();
        }
    };
    put("silence_set", r#"{"id":"of nobody"}"#).await;
    assert!(silences::all(&log, "ward").await.is_err());
    let (status, refused) = hospital.get("/silences").await;
    assert_eq!((status, &refused["code"]), (500, &json!("stored_unreadable")), "{refused}");
    // Of a rule that only another version understands: it can be written anew.
    put(RULE_CHANGED, r#"{"rule":{"id":"mine","moon":"full"},"version":1}"#).await;
    let mut other = rule();
    other["id"] = "other".into();
    let put_other = async || {
        let request = hospital.request(Method::PUT, "/rules/other").json(&other);
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };
    let (status, refused) = put_other().await;
    assert_eq!((status, &refused["code"]), (500, &json!("stored_unreadable")), "{refused}");
    assert!(refused["detail"].as_str().unwrap().contains("PUT /rules/mine"), "{refused}");
    assert_eq!(sent(&hospital, None, RULE_TOML).await.0, 200);
    assert_eq!(put_other().await.0, 200);
    put(RULE_CHANGED, "{}").await;
    let (status, refused) = hospital.get("/rules").await;
    assert_eq!((status, &refused["code"]), (500, &json!("stored_unreadable")), "{refused}");
}

#[tokio::test]
async fn a_silence_without_effect_is_refused() {
    let (_database, _server, hospital) = scene().await;
    hospital.measure("101", 80.0).await;
    let until = vitals::clock::rfc3339(now() + TimeDelta::hours(1));
    let silence = async |what: Value| {
        let mut body = json!({ "reason": "physiotherapy", "until": until });
        body.as_object_mut().unwrap().extend(what.as_object().unwrap().clone());
        let (status, body) = hospital.post("/silences", &body).await;
        (status, body["code"].clone(), body["pointer"].clone())
    };
    let refused = |pointer: &str| (422, json!("silence_has_no_effect"), json!(pointer));
    assert_eq!(silence(json!({ "rule": "high-heart-rate" })).await, refused("/rule"));
    assert_eq!(silence(json!({ "patientId": "101" })).await, refused(""), "all is high");
    let mut active = rule();
    active["mode"] = "active".into();
    assert_eq!(sent(&hospital, None, active.to_string()).await.0, 200);
    assert_eq!(silence(json!({ "patientId": "101" })).await.0, 201);
    assert_eq!(silence(json!({ "patientId": "1O1" })).await, refused("/patientId"));
    assert_eq!(silence(json!({ "rule": "mine", "ward": "4B" })).await.0, 201);
    assert_eq!(silence(json!({ "rule": "mien" })).await, refused("/rule"));
    assert_eq!(silence(json!({ "patientId": "101", "ward": "4B" })).await, refused("/ward"));
}

#[tokio::test]
async fn a_backtest_of_a_tenant_without_readings_says_who_has_some() {
    let database = Database::new().await;
    let file = scratch_dir().join("rule.toml");
    std::fs::write(&file, RULE_TOML).unwrap();
    let file = file.to_str().unwrap();
    let failed = async |arguments: &[&str]| {
        let output = cli(&database, &[&["backtest", "--rule", file], arguments].concat()).await;
        assert!(!output.status.success(), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let said = failed(&[]).await;
    assert!(said.contains("default has nothing in this log: the log is empty"), "{said}");
    let log = database.log().await;
    for tenant in ["ward-4b", "ward-5a"] {
        store(&log, tenant, &[(0, now() - TimeDelta::hours(3), 80.0)]).await;
    }
    let said = failed(&[]).await;
    assert!(said.contains("there is ward-4b, ward-5a (--tenant)"), "{said}");
    let said = failed(&["--tenant", "ward-4b", "--to", "2020-01-01T00:00:00Z"]).await;
    assert!(said.contains("ward-4b has no reading that this rule looks at"), "{said}");
    let found = cli(&database, &["backtest", "--rule", file, "--tenant", "ward-4b"]).await;
    let said = String::from_utf8(found.stdout).unwrap();
    assert!(said.contains("1 readings of 1 patients, 0.0 patient-days"), "{said}");
}

/// Heart rates of patients by number.
async fn store(log: &Log, tenant: &str, readings: &[(u8, DateTime<Utc>, f64)]) {
    log.ensure_partitions(readings.iter().map(|(_, at, _)| *at)).await.unwrap();
    for (patient, at, value) in readings {
        let event = Event {
            tenant: tenant.into(),
            patient_id: format!("p{patient}"),
            kind: READING.to_owned(),
            vital: Some(Vital::HeartRate),
            value: Some(*value),
            quality: None,
            suspect: false,
            occurred_at: *at,
            source_id: "d".to_owned(),
            data: None,
        };
        log.append(log.shard_of(tenant, &event.patient_id), &[event]).await.unwrap();
    }
}

/// What was observed, and how much of it in alarm, told from the readings alone: an alert
/// that is raised and cleared by single readings stands from one reading to the next.
fn by_hand(readings: &[(u8, DateTime<Utc>, f64)], patient: u8) -> (TimeDelta, TimeDelta) {
    let mine: Vec<_> = readings.iter().filter(|(of, ..)| *of == patient).collect();
    let (mut observed, mut alarm) = (TimeDelta::zero(), TimeDelta::zero());
    for two in mine.windows(2) {
        let gap = two[1].1 - two[0].1;
        if gap <= TimeDelta::hours(2) {
            observed += gap;
            alarm += if two[0].2 > 120.0 { gap } else { TimeDelta::zero() };
        }
    }
    (observed, alarm)
}

async fn is_as_by_hand(log: &Log, acts: &[(u8, u16, bool)]) {
    sqlx::raw_sql(
        "truncate reading, reading_context, non_reading, log_commit; update shard_head set position = 0, \
         recorded_at = '-infinity', hash = decode(repeat('00', 32), 'hex')",
    )
    .execute(log.pool())
    .await
    .unwrap();
    let mut at = time("2026-03-25T00:00:00Z");
    let mut readings = Vec::new();
    for (patient, minutes, high) in acts {
        at += TimeDelta::minutes(i64::from(*minutes));
        readings.push((*patient, at, if *high { 130.0 } else { 80.0 }));
    }
    store(log, "ward", &readings).await;
    let rule = Arc::new(Rule::parse(RULE_TOML, 1).unwrap());
    let question = BacktestQuery {
        tenant: "ward".to_owned(),
        from: DateTime::UNIX_EPOCH,
        to: now(),
        rules: vec![rule.clone()],
        keeps_times: false,
    };
    let progress = JobHandle::default();
    // In small slices, too: an alert stands over the border of two.
    for most in [24, 4_000] {
        let found = backtest::run_holding(most, log, question.clone(), &progress, None);
        let found = found.await.unwrap();
        for patient in &found.patients {
            let number = patient.id[1..].parse().unwrap();
            let (observed, alarm) = by_hand(&readings, number);
            let micros = patient.tallies[0].alarm_micros;
            assert_eq!(Some(micros), alarm.num_microseconds(), "of {observed}");
            assert!((patient.days - observed.as_seconds_f64() / 86_400.0).abs() < 1e-9);
        }
        let report = Report::of(&found, 0, &rule);
        assert!((0.0..=1.0).contains(&report.alarm_part), "{}", report.alarm_part);
        assert!(report.patient_days.is_sign_positive(), "{}", report.patient_days);
    }
}

#[test]
fn time_in_alarm_is_a_part_of_the_time_that_was_observed() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let database = runtime.block_on(Database::new());
    let log = runtime.block_on(database.log());
    // Some come minutes after each other, some after a silence of hours.
    let minutes = prop_oneof![3 => 1..60_u16, 1 => 100..140_u16, 1 => 200..3_000_u16];
    let acts = prop::collection::vec((0..2_u8, minutes, any::<bool>()), 0..40);
    let mut runner = TestRunner::new(Config { cases: 12, ..Config::default() });
    let tried = runner.run(&acts, |acts| {
        runtime.block_on(is_as_by_hand(&log, &acts));
        Ok(())
    });
    tried.unwrap();
}

#[tokio::test]
async fn a_patient_who_was_seen_once_was_observed_for_no_time() {
    let (_database, _server, hospital) = scene().await;
    hospital.store(&[heart_rate("101", 150.0, now() - TimeDelta::hours(30))]).await;
    hospital.store(&[heart_rate("101", 150.0, now() - TimeDelta::hours(3))]).await;
    let (_, started) = hospital.post("/rules/backtest", &json!({ "rule": rule() })).await;
    let job = format!("/jobs/{}", started["id"].as_str().unwrap());
    let done =
        crate::support::eventually("the end", std::time::Duration::from_secs(60), || async {
            let body = hospital.found(&job).await;
            (body["state"] == "done").then_some(body)
        })
        .await;
    let report = &done["result"]["report"];
    assert_eq!((&report["alerts"], &report["alarmPart"]), (&json!(1), &json!(0.0)), "{report}");
    let days = report["patientDays"].as_f64().unwrap();
    assert!(days == 0.0 && days.is_sign_positive(), "{report}");
}

#[tokio::test]
async fn a_rule_on_trial_can_be_looked_at_and_is_compared_with_what_was_paged() {
    let (_database, server, hospital) = scene().await;
    let with_mode = |mode: &str| {
        let mut rule = rule();
        rule["mode"] = mode.into();
        rule["when"]["value"] = 90.into();
        rule["event"] = "HIGH_HEART_RATE".into();
        rule.to_string()
    };
    assert_eq!(sent(&hospital, None, with_mode("shadow")).await.0, 200);
    // Twice over the limit on trial, once over that of the rule at work.
    for value in [100.0, 80.0, 130.0] {
        hospital.measure("101", value).await;
    }
    hospital.measure("102", 95.0).await;
    let tried = hospital.found("/alerts?mode=shadow").await;
    let items = tried["items"].as_array().unwrap();
    let shown: Vec<_> = items.iter().map(|a| (&a["patientId"], &a["state"], &a["value"])).collect();
    assert_eq!(
        shown,
        [
            (&json!("102"), &json!("active"), &json!(95)),
            (&json!("101"), &json!("active"), &json!(130)),
            (&json!("101"), &json!("cleared"), &json!(100)),
        ]
    );
    assert!(items.iter().all(|a| a["mode"] == "shadow" && a["_links"]["ack"].is_null()));
    let count = async |path: &str| hospital.found(path).await["items"].as_array().unwrap().len();
    assert_eq!(count("/alerts?mode=shadow&patientId=101").await, 2);
    assert_eq!(count("/alerts?mode=shadow&state=cleared").await, 1);
    assert_eq!(count("/alerts").await, 1, "what is tried is no alert");
    assert_eq!(count("/alerts?mode=active").await, 1);
    let first = hospital.found("/alerts?mode=shadow&limit=2").await;
    let next = first["_links"]["next"].as_str().unwrap().strip_prefix("/api/v1").unwrap();
    assert_eq!(count(next).await, 1);

    let report = hospital.found("/rules/mine/report").await;
    assert_eq!(report["shadow"], json!({ "version": 1, "pages": 3 }));
    assert_eq!(report["active"], json!({ "rules": ["mine", "high-heart-rate"], "pages": 1 }));
    let days: Vec<_> = report["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| (&d["patientId"], &d["shadow"], &d["active"]))
        .collect();
    assert_eq!(
        days,
        [(&json!("101"), &json!(2), &json!(1)), (&json!("102"), &json!(1), &json!(0))]
    );
    let first = hospital.found("/rules/mine/report?limit=1").await;
    let next = first["_links"]["next"].as_str().unwrap().strip_prefix("/api/v1").unwrap();
    assert_eq!(hospital.found(next).await["items"], json!([report["items"][1]]));
    assert_eq!(count("/rules/mine/report?to=2020-01-01T00:00:00Z").await, 0);
    let other = Hospital::new(&server, "other");
    assert_eq!(other.get("/rules/mine/report").await.0, 404);
    assert_eq!(other.found("/alerts?mode=shadow").await["items"], json!([]));

    // At work it is on trial no longer: what stood then has ended, and it pages now.
    assert_eq!(sent(&hospital, None, with_mode("active")).await.0, 200);
    assert_eq!(count("/alerts?mode=shadow&state=active").await, 0);
    assert_eq!(count("/alerts?mode=shadow&state=ended").await, 2);
    hospital.measure("102", 96.0).await;
    let report = hospital.found("/rules/mine/report").await;
    assert_eq!((&report["shadow"]["pages"], &report["active"]["pages"]), (&json!(3), &json!(2)));
}
