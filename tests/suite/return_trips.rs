//! What goes out comes back in: every export, read again by every way in that takes it, into
//! a tenant of its own, and the two logs compared.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;
use vitals::clock::rfc3339;

use crate::hospital::{Hospital, now};
use crate::support::postgres::Database;
use crate::support::server::Server;
use crate::support::{cli, scratch_dir};

const READINGS: usize = 400;
/// JSON over HTTP reads numbers of so many digits to the last bit; files any.
const DIGITS: i32 = 11;
/// Whose values have all digits that there are, and go by files only.
const LONG: &str = "long";

/// A vital in a unit, and values that are stored, plausible or not.
fn measured() -> impl Strategy<Value = (&'static str, Option<&'static str>, f64)> {
    prop_oneof![
        (0.0..400.0).prop_map(|v| ("heart_rate", None, v)),
        (0.0..100.0).prop_map(|v| ("spo2", Some("%"), v)),
        (95.0..110.0).prop_map(|v| ("body_temperature", Some("[degF]"), v)),
        (1.0..40.0).prop_map(|v| ("systolic_bp", Some("kPa"), v)),
        (0.0..100.0).prop_map(|v| ("blood_glucose", Some("mmol/L"), v)),
        (0_i32..5).prop_map(|v| ("consciousness", None, f64::from(v))),
        Just(("oxygen_flow", None, -0.0)),
    ]
}

/// Contexts that quoting, commas, line breaks and other scripts could break.
fn context() -> impl Strategy<Value = String> {
    let texts = [
        r#"{}"#,
        r#"{"posture": "sitting", "n": 1.0}"#,
        r#"{"said":"\"stop\", he\nsaid","more":[1e2,null,true]}"#,
        r#"{"größe":"日本, ok","b":12345678901234567890}"#,
        "{\"pretty\":\n  1}",
    ];
    prop::sample::select(texts.map(str::to_owned).to_vec())
}

fn readings(start: DateTime<Utc>) -> Vec<Value> {
    let mut runner = TestRunner::deterministic();
    let strategy = (
        measured(),
        prop::sample::select(vec!["p.1", "p-2", LONG]),
        prop::sample::select(vec!["w", "b-2"]),
        prop::option::of(prop_oneof![0.0..1.0, Just(0.9), Just(1.0), Just(0.0)]),
        prop::option::weighted(0.3, context()),
        0_i64..1_000_000,
    );
    (0..READINGS)
        .map(|n| {
            let ((vital, unit, value), patient, device, quality, context, micros) =
                strategy.new_tree(&mut runner).unwrap().current();
            let grain = 10_f64.powi(DIGITS);
            let value = if patient == LONG { value } else { (value * grain).round() / grain };
            let micros = micros - micros % [1, 1_000, 1_000_000][n % 3];
            let at = start + TimeDelta::seconds(n as i64) + TimeDelta::microseconds(micros);
            let mut reading = json!({
                "patientId": patient, "deviceId": device, "vital": vital, "value": value,
                "measuredAt": rfc3339(at),
            });
            let context = context.map(|json| serde_json::from_str(&json).unwrap());
            let more = [("unit", unit.map(Value::from)), ("quality", quality.map(Value::from))];
            for (key, value) in more.into_iter().chain([("context", context)]) {
                if let Some(value) = value {
                    reading[key] = value;
                }
            }
            reading
        })
        .collect()
}

/// A row of the log without its place and its time in it.
type Row = (String, String, String, f64, Option<f32>, bool, DateTime<Utc>, String, Option<String>);

async fn log(pool: &PgPool, tenant: &str) -> Vec<Row> {
    sqlx::query_as(
        "select type, patient_id, coalesce(vital::text, ''), coalesce(value, 0), quality, suspect, \
                occurred_at, source_id, \
                regexp_replace(data::text, '\"readingPosition\":[0-9]+', '\"readingPosition\":0') \
         from event where tenant = $1 and type in ('reading', 'reading_retracted') \
         order by type, patient_id, occurred_at, source_id, vital",
    )
    .bind(tenant)
    .fetch_all(pool)
    .await
    .unwrap()
}

async fn export(hospital: &Hospital, patient: &str, accept: &str) -> String {
    let path = format!("/patients/{patient}/readings");
    let answer = hospital.request(Method::GET, &path).header("accept", accept).send().await;
    let answer = answer.unwrap();
    assert_eq!(answer.status(), 200);
    answer.text().await.unwrap()
}

/// Imports a text; what it says last.
async fn import(database: &Database, format: &str, tenant: &str, text: &str) -> String {
    let path = scratch_dir().join("export");
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap();
    let output = cli(database, &["import", "--format", format, "--tenant", tenant, path]).await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    said.lines().last().unwrap_or_default().to_owned()
}

/// A patient's events by the command line, a line each.
pub async fn replayed(database: &Database, tenant: &str, patient: &str) -> String {
    let output = cli(database, &["replay", "--tenant", tenant, "--patient", patient]).await;
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Posts lines or an array; all of them must be new and fine.
async fn post(hospital: &Hospital, content_type: &str, body: String, count: usize) {
    let request = hospital.request(Method::POST, "/readings").header("content-type", content_type);
    let answer: Value = request.body(body).send().await.unwrap().json().await.unwrap();
    assert_eq!((&answer["stored"], &answer["rejected"]), (&json!(count), &json!([])), "{answer}");
}

/// The lines of a replay without what the rules said meanwhile.
fn said_of_readings(events: &str) -> String {
    let is_said =
        |line: &&str| line.starts_with("{\"type\":\"reading\"") || line.contains("_retracted");
    events.lines().filter(is_said).map(|line| format!("{line}\n")).collect()
}

/// The source's log: all of it, and the readings that count.
async fn source_log(pool: &PgPool) -> (Vec<Row>, Vec<Row>) {
    let whole = log(pool, "source").await;
    assert_eq!(whole.len(), READINGS + 3);
    // A context has its line breaks as spaces where a line is a reading; all else to the letter.
    let lined = |rows: &[Row]| -> Vec<Row> {
        let lined = |row: &Row| {
            let mut row = row.clone();
            row.8 = row.8.map(|data| data.replace('\n', " "));
            row
        };
        rows.iter().map(lined).collect()
    };
    let whole = lined(&whole);
    let counts = |row: &&Row| {
        let gone =
            |other: &&Row| other.0 == "reading_retracted" && other.6 == row.6 && other.1 == row.1;
        row.0 == "reading" && !whole.iter().any(|other| gone(&other))
    };
    let counting: Vec<Row> = whole.iter().filter(counts).cloned().collect();
    assert_eq!(counting.len(), READINGS - 3);
    (whole, counting)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_any_export_gives_any_import_takes_and_the_log_is_the_same() {
    let database = Database::new().await;
    let pool = database.pool();
    let server = Server::start(&database).await;
    let hospital = |tenant: &str| Hospital::new(&server, tenant);
    let source = hospital("source");
    // In two halves: letters of a context that only a pretty body has.
    let all = readings(now() - TimeDelta::hours(2));
    source.store(&all[..READINGS / 2]).await;
    let pretty = serde_json::to_string_pretty(&all[READINGS / 2..]).unwrap();
    post(&source, "application/json", pretty, READINGS / 2).await;
    let mut retracted = BTreeMap::new();
    for reading in [&all[3], &all[77], &all[301]] {
        let patient = reading["patientId"].as_str().unwrap();
        let path = format!("/patients/{patient}/readings/retract");
        let (status, said) = source
            .post(
                &path,
                &json!({ "vital": reading["vital"], "deviceId": reading["deviceId"],
                         "measuredAt": reading["measuredAt"], "reason": "\"off\",\nhe said" }),
            )
            .await;
        assert_eq!(status, 201, "{said}");
        *retracted.entry(patient).or_insert(0) += 1;
    }

    let (whole, counting) = source_log(&pool).await;

    for patient in ["p.1", "p-2", LONG] {
        let mine = |rows: &[Row]| -> Vec<Row> {
            rows.iter().filter(|row| row.1 == patient).cloned().collect()
        };
        let (whole, counting) = (mine(&whole), mine(&counting));
        let sums = |stored: usize, duplicates: usize| {
            format!("stored={stored} duplicates={duplicates} rejected=0 skipped=0")
        };
        for (format, accept) in [("csv", "text/csv"), ("ndjson", "application/x-ndjson")] {
            let tenant = format!("by-{format}-{patient}");
            let exported = export(&source, patient, accept).await;
            let said = import(&database, format, &tenant, &exported).await;
            assert_eq!(said, sums(counting.len(), 0), "{format}");
            assert_eq!(log(&pool, &tenant).await, counting, "{format}");
            // And it is an export like the one before, but for when it was recorded.
            let said = import(&database, format, "source", &exported).await;
            assert_eq!(said, sums(0, counting.len()), "{format}");
            if format == "ndjson" && patient != LONG {
                let other = hospital(&format!("posted-{patient}"));
                post(&other, accept, exported, counting.len()).await;
                assert_eq!(log(&pool, &other.tenant).await, counting);
            }
        }
        let tenant = format!("replayed-{patient}");
        let events = said_of_readings(&replayed(&database, "source", patient).await);
        let said = import(&database, "ndjson", &tenant, &events).await;
        assert_eq!(said, sums(whole.len(), 0));
        assert_eq!(log(&pool, &tenant).await, whole);
        // Again nothing is new, retractions neither.
        assert_eq!(import(&database, "ndjson", &tenant, &events).await, sums(0, whole.len()));
        let again = said_of_readings(&replayed(&database, &tenant, patient).await);
        assert_eq!(again.lines().count(), whole.len());

        if patient != LONG {
            let path = format!("/patients/{patient}/readings?limit=1000");
            let items = source.found(&path).await["items"].clone();
            let other = hospital(&format!("page-{patient}"));
            post(&other, "application/json", items.to_string(), counting.len()).await;
            let texts = |rows: Vec<Row>| rows.into_iter().map(|row| (row.3, row.4, row.6, row.7));
            assert!(texts(log(&pool, &other.tenant).await).eq(texts(counting)));
        }
    }
    println!("{retracted:?}");
}

#[tokio::test]
async fn what_is_no_reading_is_passed_over_by_its_name() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let source = Hospital::new(&server, "source");
    source.measure("p", 130.0).await;
    source.measure("p", 80.0).await;
    source.found("/alerts").await;
    let events = replayed(&database, "source", "p").await;
    assert_eq!(events.lines().count(), 4, "{events}");
    let path = scratch_dir().join("events");
    std::fs::write(&path, &events).unwrap();
    let arguments = ["import", "--format", "ndjson", "--tenant", "other", path.to_str().unwrap()];
    let output = cli(&database, &arguments).await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(said, "tenant=other\nstored=2 duplicates=0 rejected=0 skipped=2\n");
    let named = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(named.contains("passed over: 2 HIGH_HEART_RATE"), "{named}");
}
