//! Programs over HTTP: what is wrong is listed, what is fine is counted, and whoever
//! was not answered sends again.

use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::future::join_all;
use proptest::prelude::*;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};
use vitals::clock::rfc3339;

use super::{Answered, Item, Model, batch, check_log, found, try_programs};
use crate::hospital::Hospital;
use crate::support::eventually;
use crate::support::postgres::Database;
use crate::support::server::Server;

const CASES: u32 = 40;
/// A part of the items is wrong.
const BAD: f64 = 0.15;
const SOON: Duration = Duration::from_secs(30);
/// Kills are slow: more than so many are not done.
const KILLS_MAX: usize = 4;

#[derive(Clone, Debug)]
enum Step {
    Send(Vec<Item>),
    Together(Vec<Vec<Item>>),
    /// Killed when so many were answered.
    Kill(Vec<Vec<Item>>, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let some = || prop::collection::vec(batch(BAD), 2..8);
    prop_oneof![
        12 => batch(BAD).prop_map(Step::Send),
        8 => some().prop_map(Step::Together),
        1 => (some(), 0..5_usize).prop_map(|(batches, answered)| Step::Kill(batches, answered)),
    ]
}

/// What is wrong, and the code that says so.
fn json(item: &Item) -> (Value, Option<&'static str>) {
    let mut reading = json!({
        "patientId": item.patient(), "deviceId": item.device(), "vital": item.vital().name(),
        "value": item.value(), "measuredAt": rfc3339(item.at()),
    });
    let Some(bad) = item.bad else { return (reading, None) };
    let (key, value, code) = match bad {
        0 => ("value", json!(4_000), "value_out_of_range"),
        1 => ("vital", json!("mood"), "unknown_vital"),
        2 => ("patientId", json!("p 1"), "invalid_id"),
        3 => (
            "measuredAt",
            json!(rfc3339(DateTime::<Utc>::UNIX_EPOCH - chrono::TimeDelta::days(1))),
            "measured_too_early",
        ),
        _ => ("deviceId", Value::Null, "missing_field"),
    };
    reading[key] = value;
    (reading, Some(code))
}

/// A request, and which of its items are fine.
fn request(items: &[Item]) -> (Value, Vec<Item>, Vec<(usize, &'static str)>) {
    let sent: Vec<_> = items.iter().map(json).collect();
    let fine = items.iter().filter(|item| item.bad.is_none()).cloned().collect();
    let rejected =
        sent.iter().enumerate().filter_map(|(n, (_, code))| Some((n, (*code)?))).collect();
    (sent.into_iter().map(|(reading, _)| reading).collect(), fine, rejected)
}

/// What an answer says was stored, after all else in it was found right.
fn stored(status: u16, said: &Value, fine: usize, rejected: &[(usize, &'static str)]) -> usize {
    let expected = match (fine, rejected.len()) {
        (_, 0) => 201,
        (0, _) => 422,
        _ => 207,
    };
    assert_eq!(status, expected, "{said}");
    let listed: Vec<(usize, &str)> = said["rejected"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| (r["index"].as_u64().unwrap() as usize, r["code"].as_str().unwrap()))
        .collect();
    assert_eq!(listed, rejected);
    let count = |name: &str| said[name].as_u64().unwrap() as usize;
    assert_eq!(count("stored") + count("duplicates"), fine, "{said}");
    count("stored")
}

struct Stage {
    runtime: Runtime,
    database: Database,
    server: Option<Server>,
    kills: usize,
}

impl Stage {
    fn hospital(&mut self, tenant: &str) -> Hospital {
        let (runtime, database) = (&self.runtime, &self.database);
        let server = self.server.get_or_insert_with(|| runtime.block_on(Server::start(database)));
        Hospital::new(server, tenant)
    }

    fn run(&mut self, tenant: &str, model: &mut Model, step: Step) {
        let hospital = self.hospital(tenant);
        match step {
            Step::Send(items) => {
                let (body, fine, rejected) = request(&items);
                let (status, said) = self.runtime.block_on(hospital.post("/readings", &body));
                let new = model.store(&fine).into_iter().filter(|new| *new).count();
                assert_eq!(stored(status, &said, fine.len(), &rejected), new, "{said}");
            }
            Step::Together(batches) => self.together(hospital, model, &batches, None),
            Step::Kill(batches, answered) => {
                let killed = self.kills < KILLS_MAX;
                self.kills += usize::from(killed);
                self.together(hospital, model, &batches, killed.then_some(answered));
                // Who was not answered sends again, as it was; and so does who was, and
                // whose answer got lost further on.
                for again in batches.into_iter().filter(|_| killed) {
                    self.run(tenant, model, Step::Send(again));
                }
            }
        }
    }

    fn together(
        &mut self,
        hospital: Hospital,
        model: &mut Model,
        batches: &[Vec<Item>],
        kill_after: Option<usize>,
    ) {
        let requests: Vec<_> = batches.iter().map(|items| request(items)).collect();
        let sending: Vec<_> = requests
            .iter()
            .map(|(body, ..)| {
                let request = hospital.request(Method::POST, "/readings").json(body);
                self.runtime.spawn(async move {
                    let answer = request.send().await?;
                    let status = answer.status().as_u16();
                    Ok::<_, reqwest::Error>((status, answer.json::<Value>().await?))
                })
            })
            .collect();
        if let Some(answered) = kill_after {
            let server = self.server.take().unwrap();
            self.runtime.block_on(async {
                eventually("answers", SOON, async || {
                    (sending.iter().filter(|s| s.is_finished()).count()
                        >= answered.min(batches.len()))
                    .then_some(())
                })
                .await;
                server.kill().await;
            });
        }
        let answers = self.runtime.block_on(join_all(sending));
        let answered: Vec<Answered<'_>> = requests
            .iter()
            .zip(answers)
            .map(|((_, fine, rejected), answer)| {
                let answer = answer.unwrap();
                assert!(kill_after.is_some() || answer.is_ok(), "{answer:?}");
                let said = answer.ok();
                let stored = said.map(|(status, said)| stored(status, &said, fine.len(), rejected));
                Answered { items: fine, stored }
            })
            .collect();
        // Whatever the killed one had begun is committed or rolled back by now.
        let pool = self.database.pool();
        let found = self.runtime.block_on(async {
            if kill_after.is_some() {
                eventually("the killed connections to end", SOON, async || {
                    let left: i64 = sqlx::query_scalar(
                        "select count(*) from pg_stat_activity \
                         where application_name = 'vitals' and datname = current_database()",
                    )
                    .fetch_one(&pool)
                    .await
                    .unwrap();
                    (left == 0).then_some(())
                })
                .await;
            }
            found(&pool, &hospital.tenant).await
        });
        model.store_together(&answered, found);
    }
}

#[test]
fn programs_of_requests_and_kills_agree_with_a_set() {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    // Connections give themselves back in the context of whoever lets go of them.
    let handle = runtime.handle().clone();
    let _context = handle.enter();
    let database = runtime.block_on(Database::new());
    let mut stage = Stage { runtime, database, server: None, kills: 0 };
    try_programs(CASES, prop::collection::vec(step(), 1..10), |tenant, steps| {
        let mut model = Model::default();
        for step in steps {
            stage.run(tenant, &mut model, step);
        }
        let pool = stage.database.pool();
        model.check(&stage.runtime.block_on(found(&pool, tenant)));
    });
    assert!(stage.kills > 0, "no program killed anything");
    let log = stage.runtime.block_on(stage.database.log());
    stage.runtime.block_on(check_log(&log));
}
