//! What the tests of the archive stand on: a ward with a past, and what is asked of it.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgPool};

use crate::hospital::{Hospital, heart_rate, now};
use crate::log::{months_from_2025, time};
use crate::support::postgres::{Database, caught_up};
use crate::support::server::Server;
use crate::support::{cli, eventually, scratch_dir};

/// Requests that send its readings.
const REQUESTS: i64 = 37;

/// A ward with a past: January and February 2026, 2019, and today; several devices, what
/// is no reading, readings with everything that a reading can have.
pub struct Ward {
    pub database: Database,
    pub pool: PgPool,
    pub server: Server,
    pub hospital: Hospital,
    pub to: PathBuf,
}

impl Ward {
    pub async fn new() -> Ward {
        let database = Database::new().await;
        let pool = database.pool();
        months_from_2025(&pool).await;
        // Not the template's: each ward is an installation.
        run(&pool, "update installation set id = gen_random_uuid()").await;
        let server = Server::start(&database).await;
        let hospital = Hospital::new(&server, "hospital-1");
        for month in ["2019-07", "2026-01", "2026-02"] {
            for patient in 0..6 {
                // In two commits, so that the first that was recorded is not the newest.
                for half in readings_of(month, &format!("p{patient}")).chunks(60) {
                    hospital.store(half).await;
                }
            }
        }
        hospital.store(&[heart_rate("p0", 71.0, now())]).await;
        let registered = hospital.request(Method::PUT, "/patients/p1");
        let registered = registered.json(&json!({ "ward": "4B" })).send().await.unwrap();
        assert_eq!(registered.status(), 200);
        let ward = Ward { database, pool, server, hospital, to: scratch_dir() };
        // Whoever puts the log back as it was must not be told of requests later.
        eventually("who has sent to be on record", Duration::from_secs(60), async || {
            let sql = "select coalesce(sum(coalesce((data ->> 'count')::bigint, 1)), 0)::bigint \
                       from event where type = 'access' and data ->> 'action' = 'readings'";
            let told: i64 = sqlx::query_scalar(sql).fetch_one(&ward.pool).await.unwrap();
            (told == REQUESTS).then_some(())
        })
        .await;
        caught_up(&ward.pool).await;
        ward
    }

    pub async fn archive(&self, before: &str) -> String {
        let to = self.to.to_str().unwrap();
        done(cli(&self.database, &["archive", "--before", before, "--to", to]).await)
    }

    pub async fn back(&self, name: &str) -> String {
        let file = self.file(name);
        let file = file.to_str().unwrap();
        done(cli(&self.database, &["import", "--format", "parquet", file]).await)
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.to.join(format!("{name}.parquet"))
    }

    pub async fn verify(&self) -> (bool, String) {
        let output = cli(&self.database, &["verify"]).await;
        (output.status.success(), said(&output))
    }

    pub async fn is_sound(&self) -> String {
        let (sound, said) = self.verify().await;
        assert!(sound, "{said}");
        said
    }

    /// Every row of the log, with all its columns, to the letter; but for who has asked, which
    /// looking at it adds to.
    pub async fn rows(&self) -> Vec<String> {
        let sql = "select e::text from event e where type <> 'access' order by shard, position";
        sqlx::query_scalar(sql).fetch_all(&self.pool).await.unwrap()
    }

    /// What is asked of the present and of a moment after the archived months.
    pub async fn present(&self) -> Vec<Value> {
        let mut answers = Vec::new();
        for patient in 0..6 {
            for path in [
                format!("/patients/p{patient}?asOf=2026-03-01T00:00:00Z"),
                format!("/patients/p{patient}/heart-rate"),
                format!("/patients/p{patient}/readings?from=2026-03-01T00:00:00Z"),
                format!("/alerts?patientId=p{patient}"),
            ] {
                answers.push(self.hospital.found(&path).await);
            }
        }
        answers.push(self.hospital.found("/patients?ward=4B").await["items"][0]["record"].clone());
        answers
    }

    pub async fn archived(&self) -> Vec<String> {
        let sql = "select partition from archived_month order by since";
        sqlx::query_scalar(sql).fetch_all(&self.pool).await.unwrap()
    }
}

pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

pub fn done(output: Output) -> String {
    assert!(output.status.success(), "{}", said(&output));
    said(&output)
}

pub fn readings_of(month: &str, patient: &str) -> Vec<Value> {
    let mut readings = Vec::new();
    for n in 0..120 {
        let at = format!("{month}-{:02}T{:02}:{:02}:00.123456Z", 1 + n / 6, n % 24, n % 60);
        let mut reading = heart_rate(patient, 60.0 + f64::from(n % 70), time(&at));
        reading["deviceId"] = format!("watch-{}", n % 3).into();
        match n % 5 {
            0 => reading["quality"] = json!(0.7),
            1 => reading["context"] = json!({ "posture": "lying", "n": n }),
            2 => {
                reading["vital"] = "body_temperature".into();
                reading["value"] = json!(36.0 + f64::from(n) / 100.0);
                reading["unit"] = "Cel".into();
            }
            _ => {}
        }
        readings.push(reading);
    }
    readings
}

/// SQL behind the program's back; how many rows it touched.
pub async fn run(pool: &PgPool, sql: &str) -> u64 {
    let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(pool).await;
    done.unwrap_or_else(|error| panic!("{sql}: {error}")).rows_affected()
}

/// A copy of a file, to put it back from.
pub fn copy(from: &Path) -> Vec<u8> {
    std::fs::read(from).unwrap()
}
