//! Real recordings through the real binary, counted again by other means.
//!
//! The recordings are not part of the repository; without them these tests fail
//! and say where they come from. Nothing here uses the program's parsers or rules.

use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use sqlx::PgPool;

use crate::hospital::Hospital;
use crate::support::postgres::{Database, caught_up};
use crate::support::receiver::{Delivery, Receiver};
use crate::support::server::{Server, scratch_dir};
use crate::support::{cli, data};

const ICU: &str = "icu-vitals-physionet2012/vitals_200.csv";
const E4: &str = "wearable-e4-exam/hr_1hz_sample_2sessions.csv";

/// Parameter, vital, device, what is stored, what is plausible: from the contract.
type Parameter = (&'static str, &'static str, &'static str, [f64; 2], [f64; 2]);

#[rustfmt::skip]
const PARAMETERS: [Parameter; 10] = [
    ("HR", "heart_rate", "bedside", [0.0, 400.0], [20.0, 300.0]),
    ("RespRate", "respiratory_rate", "bedside", [0.0, 150.0], [3.0, 80.0]),
    ("Temp", "body_temperature", "bedside", [10.0, 46.0], [30.0, 43.0]),
    ("SaO2", "spo2", "blood-gas", [0.0, 100.0], [50.0, 100.0]),
    ("SysABP", "systolic_bp", "arterial-line", [0.0, 400.0], [40.0, 300.0]),
    ("DiasABP", "diastolic_bp", "arterial-line", [0.0, 300.0], [20.0, 200.0]),
    ("MAP", "mean_bp", "arterial-line", [0.0, 350.0], [25.0, 250.0]),
    ("NISysABP", "systolic_bp", "cuff", [0.0, 400.0], [40.0, 300.0]),
    ("NIDiasABP", "diastolic_bp", "cuff", [0.0, 300.0], [20.0, 200.0]),
    ("NIMAP", "mean_bp", "cuff", [0.0, 350.0], [25.0, 250.0]),
];

fn within(value: f64, range: [f64; 2]) -> bool {
    range[0] <= value && value <= range[1]
}

/// The rows of a CSV file after its header, which must be this one.
fn rows<const N: usize>(path: &Path, header: &str) -> Vec<[String; N]> {
    let text = std::fs::read_to_string(path).unwrap();
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some(header), "{}", path.display());
    let row = |line: &str| {
        let columns: Vec<String> = line.split(',').map(str::to_owned).collect();
        columns.try_into().unwrap_or_else(|_| panic!("{}: {line}", path.display()))
    };
    lines.map(row).collect()
}

/// What an import of the ICU recording has to come to.
#[derive(Default)]
struct Expected {
    stored: usize,
    duplicates: usize,
    rejected: usize,
    skipped: usize,
    /// Stored and suspect, by vital.
    by_vital: BTreeMap<String, (i64, i64)>,
    /// Plausible heart rates by patient and minute.
    heart_rates: BTreeMap<String, BTreeMap<i64, f64>>,
}

fn expected() -> Expected {
    let (mut expected, mut known) = (Expected::default(), HashSet::new());
    for [patient, minute, parameter, value] in
        rows::<4>(&data(ICU), "record_id,minute,parameter,value")
    {
        let (minute, value): (i64, f64) = (minute.parse().unwrap(), value.parse().unwrap());
        let Some((_, vital, device, stored, plausible)) =
            PARAMETERS.iter().find(|p| p.0 == parameter)
        else {
            expected.skipped += 1;
            continue;
        };
        if !within(value, *stored) {
            expected.rejected += 1;
        } else if !known.insert((patient.clone(), *vital, *device, minute)) {
            expected.duplicates += 1;
        } else {
            expected.stored += 1;
            let counts = expected.by_vital.entry((*vital).to_owned()).or_default();
            counts.0 += 1;
            counts.1 += i64::from(!within(value, *plausible));
            if *vital == "heart_rate" && within(value, *plausible) {
                expected.heart_rates.entry(patient).or_default().insert(minute, value);
            }
        }
    }
    expected
}

/// The default rule, told again: the values that raise and clear, in turn.
fn transitions(heart_rates: impl IntoIterator<Item = f64>) -> Vec<(&'static str, f64)> {
    let mut transitions = Vec::new();
    for value in heart_rates.into_iter().filter(|v| within(*v, [20.0, 300.0])) {
        let standing = matches!(transitions.last(), Some(("raised", _)));
        if !standing && value > 120.0 {
            transitions.push(("raised", value));
        } else if standing && value <= 120.0 {
            transitions.push(("cleared", value));
        }
    }
    transitions
}

async fn import(database: &Database, arguments: &[&str]) -> String {
    let arguments = [&["import"], arguments].concat();
    let output = cli(database, &arguments).await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    said.lines().last().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn an_icus_history_is_counted_stored_once_verified_and_pages_nobody() {
    let expected = expected();
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "icu");
    let receiver = Receiver::start().await;
    hospital.endpoint(&receiver, &["HIGH_HEART_RATE", "*"]).await;
    let (path, pool) = (data(ICU), database.pool());
    let arguments = ["--format", "icu-csv", "--tenant", "icu", path.to_str().unwrap()];

    let Expected { stored, duplicates, rejected, skipped, .. } = expected;
    // Counted once by hand; the test's own count has to agree before the program's may.
    assert_eq!([stored, duplicates, rejected, skipped], [69_329, 100, 46, 4_692]);
    assert_eq!(
        import(&database, &arguments).await,
        format!("stored={stored} duplicates={duplicates} rejected={rejected} skipped={skipped}")
    );
    caught_up(&pool).await;
    check_stored(&pool, &expected).await;
    check_missed(&pool, &expected).await;
    // Had anything of it been on its way, it would have come before this.
    hospital.measure("101", 130.0).await;
    let deliveries = crate::webhooks::received(&receiver, 1).await;
    assert_eq!(deliveries[0].body["patientId"], "101");

    let again = import(&database, &arguments).await;
    let duplicates = stored + duplicates;
    assert_eq!(
        again,
        format!("stored=0 duplicates={duplicates} rejected={rejected} skipped={skipped}")
    );
    caught_up(&pool).await;
    let verified = cli(&database, &["verify"]).await;
    let said = String::from_utf8_lossy(&verified.stdout);
    assert!(verified.status.success(), "{said}");
    assert!(said.lines().any(|line| line == "verified"), "{said}");
    assert_eq!(receiver.deliveries().len(), 1);
}

/// What another decoder (fitdecode) found in these files, moment by moment.
#[tokio::test]
async fn the_heart_rates_of_fit_files_are_those_that_another_decoder_finds() {
    let database = Database::new().await;
    let pool = database.pool();
    let mut reference: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    let all =
        rows::<4>(&data("wearable-fit/heart_rate_from_fit.csv"), "recording,device,ts_utc,hr_bpm");
    for [recording, _, at, rate] in all {
        reference.entry(recording).or_default().insert(at, rate);
    }
    let fit = |name: &str| data(&format!("wearable-fit/{name}.fit")).to_str().unwrap().to_owned();
    let names = ["antfs-dump.63", "compressed-speed-distance", "sample-activity-indoor-trainer"];
    for name in names {
        let file = fit(&format!("fit-no-gps/{name}"));
        let arguments = ["--format", "fit", "--patient", name, "--device", "watch", &file];
        let said = import(&database, &arguments).await;
        let found: Vec<(String, String)> = sqlx::query_as(
            "select to_char(occurred_at at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), \
                    value::text \
             from event \
             where patient_id = $1 and source_id = 'watch' and vital = 'heart_rate'",
        )
        .bind(name)
        .fetch_all(&pool)
        .await
        .unwrap();
        let found: BTreeMap<String, String> = found.into_iter().collect();
        assert_eq!(found, reference[name], "{name}");
        let count = found.len();
        assert!(said.starts_with(&format!("stored={count} duplicates=0 rejected=0 ")), "{said}");
        let again = import(&database, &arguments).await;
        assert!(again.starts_with(&format!("stored=0 duplicates={count} rejected=0 ")), "{again}");
    }
    let packed = scratch_dir().join("packed");
    let mut gzip = GzEncoder::new(std::fs::File::create(&packed).unwrap(), Compression::default());
    gzip.write_all(&std::fs::read(fit(&format!("fit-no-gps/{}", names[0]))).unwrap()).unwrap();
    gzip.finish().unwrap();
    let packed =
        ["--format", "fit", "--patient", names[0], "--device", "watch", packed.to_str().unwrap()];
    let said = import(&database, &packed).await;
    assert!(said.starts_with("stored=0 duplicates=685 "), "{said}");
    let silent = fit("fit-no-gps/MonitoringFile");
    let silent = ["--format", "fit", "--patient", "p", "--device", "d", &silent];
    assert_eq!(import(&database, &silent).await, "stored=0 duplicates=0 rejected=0 skipped=355");

    let damaged = ["filecrc", "settings-corruptheader", "settings-nodata", "unexpected-eof"];
    let damaged = damaged.map(|name| fit(&format!("fit-invalid/activity-{name}")));
    // The second part's header has an impossible length.
    let mut header = std::fs::read(&damaged[2]).unwrap();
    header[771] ^= 0x80;
    let altered = scratch_dir().join("altered.fit");
    std::fs::write(&altered, header).unwrap();
    for name in damaged.into_iter().chain([altered.to_str().unwrap().to_owned()]) {
        for (whose, says) in [
            (&["--patient", "p", "--device", "d"][..], "is no whole FIT file"),
            (&["--patient", "p"], "--patient and --device go together"),
            (&[], "--patient P --device D"),
            (&["--patient", "p 1", "--device", "d"], "an id is 1 to 64 letters"),
        ] {
            let arguments = [&["import", "--format", "fit", &name], whose].concat();
            let output = cli(&database, &arguments).await;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success() && said.contains(says), "{name}: {said}");
        }
    }
}

async fn check_stored(pool: &PgPool, expected: &Expected) {
    let rows: Vec<(String, i64, i64)> = sqlx::query_as(
        "select vital::text, count(*), count(*) filter (where suspect) \
         from event where tenant = 'icu' and type = 'reading' group by 1",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    let rows: BTreeMap<_, _> =
        rows.into_iter().map(|(v, all, suspect)| (v, (all, suspect))).collect();
    assert_eq!(rows, expected.by_vital);
    // And the values themselves, of one vital: minutes since the beginning of 2026.
    let found: Vec<(String, i64, f64)> = sqlx::query_as(
        "select patient_id, (extract(epoch from occurred_at - '2026-01-01T00:00:00Z') / 60)::bigint, value \
         from event where tenant = 'icu' and vital = 'heart_rate' and not suspect",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    let mut heart_rates: BTreeMap<String, BTreeMap<i64, f64>> = BTreeMap::new();
    for (patient, minute, value) in found {
        heart_rates.entry(patient).or_default().insert(minute, value);
    }
    assert_eq!(heart_rates, expected.heart_rates);
}

async fn check_missed(pool: &PgPool, expected: &Expected) {
    let found: Vec<(String, String, i64)> = sqlx::query_as(
        "select patient_id, type, count(*) from event \
         where tenant = 'icu' and type not in ('reading', 'access') group by 1, 2",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    let found: BTreeMap<_, _> = found.into_iter().map(|(p, kind, n)| ((p, kind), n)).collect();
    let mut episodes = BTreeMap::new();
    for (patient, heart_rates) in &expected.heart_rates {
        let all = transitions(heart_rates.values().copied());
        let raised = all.iter().filter(|t| t.0 == "raised").count() as i64;
        if raised > 0 {
            episodes.insert((patient.clone(), "ALERT_MISSED".to_owned()), raised);
        }
    }
    assert!(episodes.len() > 20, "{} patients above the limit", episodes.len());
    assert_eq!(found, episodes);
}

#[tokio::test]
async fn every_alert_of_a_recording_played_as_live_reaches_the_receiver_in_order() {
    // 25,326 s, the longer of the two sessions, in about 12 s.
    const SPEED: &str = "2200";
    let mut sessions: BTreeMap<String, Vec<(String, f64)>> = BTreeMap::new();
    let mut csv = String::from("patientId,deviceId,vital,value,unit,measuredAt\n");
    for [subject, _, at, bpm] in rows::<4>(&data(E4), "subject,session,ts_utc,hr_bpm") {
        csv += &format!("{subject},e4,heart_rate,{bpm},/min,{at}\n");
        sessions.entry(subject).or_default().push((at, bpm.parse().unwrap()));
    }
    let mut expected = BTreeMap::new();
    for (subject, mut readings) in sessions {
        // RFC 3339 in one zone sorts as text.
        readings.sort_by(|a, b| a.0.cmp(&b.0));
        expected.insert(subject, transitions(readings.into_iter().map(|(_, bpm)| bpm)));
    }
    let count: usize = expected.values().map(Vec::len).sum();
    assert!(expected.len() == 2 && count > 250, "{count} transitions");

    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "exam");
    let receiver = Receiver::start().await;
    hospital.endpoint(&receiver, &["HIGH_HEART_RATE"]).await;
    let file = scratch_dir().join("e4.csv");
    std::fs::write(&file, &csv).unwrap();
    let path = file.to_str().unwrap();
    let said =
        import(&database, &["--format", "csv", "--tenant", "exam", "--speed", SPEED, path]).await;
    let readings = csv.lines().count() - 1;
    assert_eq!(said, format!("stored={readings} duplicates=0 rejected=0 skipped=0"));
    std::fs::remove_file(&file).unwrap();

    caught_up(&database.pool()).await;
    let deliveries = crate::webhooks::received(&receiver, count).await;
    assert_eq!(by_patient(&deliveries), expected);
    let ids: HashSet<&str> = deliveries.iter().map(|d| &*d.id).collect();
    assert_eq!(ids.len(), count, "two alerts under one id");
    // A clearing has the id of the alert that it clears, and each alert one of its own.
    let alerts: HashSet<&str> =
        deliveries.iter().map(|d| d.body["alertId"].as_str().unwrap()).collect();
    let raised = expected.values().flatten().filter(|t| t.0 == "raised").count();
    assert_eq!(alerts.len(), raised);
}

/// What was received of each patient, in the order in which it was measured.
fn by_patient(deliveries: &[Delivery]) -> BTreeMap<String, Vec<(&str, f64)>> {
    let mut sorted: Vec<_> = deliveries.iter().map(|d| &d.body).collect();
    sorted.sort_by_key(|body| {
        let at = body["measuredAt"].as_str().unwrap();
        at.parse::<chrono::DateTime<chrono::Utc>>().unwrap()
    });
    let mut by_patient: BTreeMap<String, Vec<(&str, f64)>> = BTreeMap::new();
    for body in sorted {
        let patient = body["patientId"].as_str().unwrap().to_owned();
        let transition = (body["state"].as_str().unwrap(), body["value"].as_f64().unwrap());
        by_patient.entry(patient).or_default().push(transition);
    }
    by_patient
}
