//! A night in which a watch was said to be at anna and was at bert, and a gate at which its
//! reassignment can be held up.
//!
//! The gate is a trigger of the test's own database: it counts the commits of a reassignment,
//! and one of them waits in its transaction for a lock of the test's.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};
use vitals::clock::rfc3339;

use crate::hospital::{Hospital, heart_rate, now};
use crate::support::postgres::{Database, caught_up};
use crate::support::receiver::Receiver;
use crate::support::server::Server;
use crate::support::{cli, eventually};

pub const SOON: Duration = Duration::from_secs(120);
/// Three steps of five hundred at most.
pub const READINGS: i64 = 1_100;
/// What a reassignment commits: it begins, records three times, corrects, retracts three
/// times, and ends.
pub const STEPS: i64 = 9;
/// Apart from locks of others.
pub const GATES: i32 = 0x6761_7465;

/// Every commit of a reassignment is a step; one whose number is in the table waits for a lock.
const GATE: &str = "
create sequence saga_step;
create table saga_gate (step bigint);
create function saga_gate() returns trigger language plpgsql security definer set search_path = public as $$
declare
    n bigint;
begin
    if exists (select from added where type in
                   ('reassignment_begun', 'readings_reassigned', 'assignment_corrected', 'device_reassigned',
                    'reassignment_undoing', 'reassignment_undone')
               or (type = 'reading_retracted' and data ->> 'reassignment' is not null)) then
        n := nextval('saga_step');
        if exists (select from saga_gate where step = n) then
            perform pg_advisory_xact_lock(1734440037, n::integer);
        end if;
    end if;
    return null;
end
$$;
create trigger saga_gate after insert on non_reading referencing new table as added
    for each statement execute function saga_gate();
";

/// A step that is not taken while this is there.
pub struct Gate {
    pub lock: PgConnection,
    pub step: i64,
}

impl Gate {
    /// Steps are counted from here on.
    pub async fn shut(database: &Database, step: i64) -> Gate {
        let mut lock = PgConnection::connect(&database.url).await.unwrap();
        let sql = format!(
            "select setval('saga_step', 1, false); delete from saga_gate; \
             insert into saga_gate values ({step}); select pg_advisory_lock({GATES}, {step})"
        );
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut lock).await.unwrap();
        Gate { lock, step }
    }

    /// Until the job stands before it.
    pub async fn reached(&self, pool: &PgPool) {
        eventually(&format!("step {}", self.step), SOON, || async {
            let waits: bool = sqlx::query_scalar(
                "select exists (select from pg_locks where locktype = 'advisory' and not granted \
                 and database = (select oid from pg_database where datname = current_database()) \
                 and classid::bigint = $1 and objid::bigint = $2)",
            )
            .bind(i64::from(GATES))
            .bind(self.step)
            .fetch_one(pool)
            .await
            .unwrap();
            waits.then_some(())
        })
        .await;
    }

    pub async fn open(mut self) {
        sqlx::raw_sql("delete from saga_gate").execute(&mut self.lock).await.unwrap();
        self.lock.close().await.unwrap();
    }
}

/// A ward in which a watch was said to be at anna, and was at bert.
pub struct Night {
    pub hospital: Hospital,
    pub receiver: Receiver,
    pub endpoint: String,
    pub from: DateTime<Utc>,
    pub to: DateTime<Utc>,
    /// Before anybody knew.
    pub before: DateTime<Utc>,
}

impl Night {
    pub async fn begin(
        server: &Server,
        database: &Database,
        tenant: &str,
        start: DateTime<Utc>,
    ) -> Night {
        let hospital = Hospital::new(server, tenant);
        let receiver = Receiver::start().await;
        let endpoint = hospital.endpoint(&receiver, &["*"]).await;
        // Long enough for the slowest machine: what is measured now pages, and the rest not.
        let rule = json!({
            "id": "high-heart-rate", "event": "HIGH_HEART_RATE", "priority": "high", "mode": "active",
            "lateness": "45m", "when": { "vital": "heart_rate", "op": ">", "value": 120 },
        });
        assert_eq!(hospital.put("/rules/high-heart-rate", &rule).await.0, 200);
        let from = start - TimeDelta::hours(3);
        let assigned = json!({ "patientId": "anna", "from": rfc3339(from) });
        assert_eq!(hospital.post("/devices/watch-7/assign", &assigned).await.0, 200);
        let value = |n: i64| if n == 40 { 150.0 } else { 70.0 + (n % 30) as f64 };
        let of = |n: i64| heart_rate("anna", value(n), from + TimeDelta::seconds(n));
        let mut readings: Vec<Value> = (0..READINGS - 2).map(of).collect();
        readings.push(heart_rate("anna", 82.0, start - TimeDelta::minutes(1)));
        readings.last_mut().unwrap()["context"] = json!({ "posture": "lying" });
        hospital.store(&readings).await;
        // Another device's and another time's are not concerned, nor what bert had.
        let mut cuff = heart_rate("anna", 66.0, from + TimeDelta::seconds(5));
        cuff["deviceId"] = "cuff".into();
        let earlier = heart_rate("anna", 61.0, from - TimeDelta::seconds(1));
        let same = heart_rate("bert", value(7), from + TimeDelta::seconds(7));
        hospital.store(&[cuff, earlier, same, heart_rate("anna", 130.0, start)]).await;
        caught_up(&database.pool()).await;
        let night = Night {
            hospital,
            receiver,
            endpoint,
            from,
            to: start + TimeDelta::seconds(1),
            before: now(),
        };
        night.alert_at_anna_is_seen().await;
        night
    }

    async fn alert_at_anna_is_seen(&self) {
        eventually("a page", SOON, async || {
            self.receiver.deliveries().iter().any(|d| d.body["patientId"] == "anna").then_some(())
        })
        .await;
        let alerts = self.hospital.found("/alerts?patientId=anna&state=active").await;
        let id = alerts["items"][0]["id"].as_str().expect("an alert");
        let ack = self.hospital.post(&format!("/alerts/{id}/ack"), &json!({ "by": "joy" })).await;
        assert_eq!(ack.0, 200, "{}", ack.1);
    }

    /// Asks for it; the job's path.
    pub async fn asked(&self) -> String {
        let wanted = json!({
            "from": rfc3339(self.from), "to": rfc3339(self.to), "patientId": "bert",
            "reason": "the watch was on bert's wrist",
        });
        let (status, body) = self.hospital.post("/devices/watch-7/reassign", &wanted).await;
        assert_eq!(status, 202, "{body}");
        format!("/jobs/{}", body["id"].as_str().unwrap())
    }

    pub async fn ended(&self, job: &str) -> Value {
        eventually("the job to be over", SOON, || async {
            let (status, body) = self.hospital.get(job).await;
            assert_eq!(status, 200, "{body}");
            (!["waiting", "running"].contains(&body["state"].as_str().unwrap())).then_some(body)
        })
        .await
    }

    pub async fn history(&self, patient: &str) -> Vec<(String, Value, Value)> {
        let (from, to) = (self.from - TimeDelta::minutes(1), self.to + TimeDelta::minutes(1));
        let path = format!(
            "/patients/{patient}/readings?from={}&to={}&limit=10000",
            rfc3339(from),
            rfc3339(to)
        );
        let body = self.hospital.found(&path).await;
        let said = |r: &Value| {
            (r["measuredAt"].as_str().unwrap().to_owned(), r["value"].clone(), r["context"].clone())
        };
        body["items"].as_array().unwrap().iter().map(said).collect()
    }

    async fn alerts(&self, patient: &str) -> BTreeSet<String> {
        let alerts = self.hospital.found(&format!("/alerts?patientId={patient}&limit=1000")).await;
        let said = |a: &Value| {
            format!("{} {} {} {}", a["event"], a["state"], a["value"], a["acknowledged"]["by"])
        };
        alerts["items"].as_array().unwrap().iter().map(said).collect()
    }

    /// All that there is to see when all is over, without what differs by itself.
    pub async fn account(&self, database: &Database) -> Value {
        caught_up(&database.pool()).await;
        eventually("all deliveries", SOON, async || {
            let all = self.hospital.deliveries(&self.endpoint).await;
            all.iter().all(|delivery| delivery["state"] == "delivered").then_some(())
        })
        .await;
        let mut told: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for one in self.receiver.deliveries() {
            let what =
                format!("{} {} {}", one.body["type"], one.body["patientId"], one.body["state"]);
            told.entry(what).or_default().insert(one.id);
        }
        let told: BTreeMap<_, _> = told.into_iter().map(|(what, ids)| (what, ids.len())).collect();
        let mut patients = Vec::new();
        for patient in ["anna", "bert"] {
            let moment = format!("?asOf={0}&knownAt={0}", rfc3339(self.before));
            let path = format!("/patients/{patient}");
            let value = |state: &Value| state["vitals"]["heart_rate"]["value"].clone();
            let diff = self.hospital.found(&format!("{path}/diff{moment}&limit=10000")).await;
            let changed = diff["readings"].as_array().unwrap();
            patients.push(json!({
                "now": value(&self.hospital.found(&path).await),
                "then": value(&self.hospital.found(&format!("{path}{moment}")).await),
                "known now of then": value(
                    &self.hospital.found(&format!("{path}?asOf={}", rfc3339(self.before))).await
                ),
                "history": self.history(patient).await,
                "alerts": self.alerts(patient).await,
                "differs": changed.len(),
            }));
        }
        let device = self.hospital.found("/devices/watch-7").await;
        let stretch = |a: &Value| json!([a["patientId"], a["from"], a["to"]]);
        let assigned: Vec<Value> =
            device["assignments"].as_array().unwrap().iter().map(stretch).collect();
        json!({ "patients": patients, "assigned": assigned, "told": told })
    }
}

pub async fn gated() -> (Database, PgPool) {
    let database = Database::new().await;
    let pool = database.pool();
    sqlx::raw_sql(GATE).execute(&pool).await.unwrap();
    (database, pool)
}

/// So that nobody waits for the lease of who was killed.
async fn lease_is_over(pool: &PgPool) {
    let over = "update job set lease_until = now() - interval '1 hour' where state = 'running'";
    sqlx::raw_sql(over).execute(pool).await.unwrap();
}

/// Kills the instance that stands before a gate; another one, which goes on.
pub async fn killed(server: Server, gate: Gate, database: &Database, pool: &PgPool) -> Server {
    gate.reached(pool).await;
    server.kill().await;
    gate.open().await;
    lease_is_over(pool).await;
    Server::start(database).await
}

pub async fn is_verified(database: &Database, server: Server) {
    assert!(server.terminate().await.0.success());
    let verified = cli(database, &["verify"]).await;
    let said = String::from_utf8_lossy(&verified.stdout).into_owned();
    assert!(verified.status.success(), "{said}");
    let rebuilt = cli(database, &["rebuild", "all"]).await;
    assert!(rebuilt.status.success(), "{}", String::from_utf8_lossy(&rebuilt.stderr));
}
