//! A device's readings go to the patient whom it really measured: wholly, or not at all.
//!
//! The job is stopped from outside in the middle of a step and its instance is killed: another
//! one finishes. What came of that is compared with what comes of it undisturbed.

mod night;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use vitals::clock::rfc3339;

use self::night::{GATES, Gate, Night, READINGS, SOON, STEPS, gated, is_verified, killed};
use crate::hospital::{Hospital, heart_rate, now};
use crate::support::eventually;
use crate::support::postgres::caught_up;
use crate::support::server::Server;

#[tokio::test]
async fn whoever_dies_at_whatever_step_the_readings_are_moved_wholly_and_everybody_is_told_once() {
    let (database, pool) = gated().await;
    let mut server = Server::start(&database).await;
    let start = now();
    let night = Night::begin(&server, &database, "calm", start).await;
    // After the last step comes none.
    let gate = Gate::shut(&database, STEPS + 1).await;
    let job = night.asked().await;
    let done = night.ended(&job).await;
    gate.open().await;
    assert_eq!(done["state"], "done", "{done}");
    // One of them bert had already.
    assert_eq!(done["result"], json!({ "copied": READINGS - 1, "retracted": READINGS }));
    let taken: i64 =
        sqlx::query_scalar("select last_value from saga_step").fetch_one(&pool).await.unwrap();
    assert_eq!(taken, STEPS);
    let expected = night.account(&database).await;
    let of = |n: usize, what: &str| expected["patients"][n][what].clone();
    let (anna, bert) = (0, 1);
    assert_eq!((of(anna, "then"), of(bert, "then")), (json!(130), json!(77)), "as it was known");
    assert_eq!(
        (of(anna, "known now of then"), of(bert, "known now of then")),
        (json!(66), json!(130))
    );
    assert_eq!((of(anna, "now"), of(bert, "now")), (json!(66), json!(130)));
    assert_eq!(of(anna, "history").as_array().unwrap().len(), 2, "the cuff's, and the earlier one");
    assert_eq!(of(bert, "history").as_array().unwrap().len(), READINGS as usize);
    let lying = json!({ "posture": "lying" });
    assert!(of(bert, "history").as_array().unwrap().iter().any(|r| r[2] == lying));
    let seen = json!("\"HIGH_HEART_RATE\" \"retracted\" 130 \"joy\"");
    assert!(of(anna, "alerts").as_array().unwrap().contains(&seen), "who saw it stays: {expected}");
    let told = &expected["told"];
    assert_eq!(told["\"HIGH_HEART_RATE\" \"bert\" \"raised\""], 1, "{told}");
    assert_eq!(told["\"HIGH_HEART_RATE\" \"anna\" \"raised\""], 1, "{told}");

    for step in 1..=STEPS {
        let tenant = format!("killed-{step}");
        let mut night = Night::begin(&server, &database, &tenant, start).await;
        night.before = now();
        let gate = Gate::shut(&database, step).await;
        let job = night.asked().await;
        server = killed(server, gate, &database, &pool).await;
        night.hospital = night.hospital.after_restart(&server);
        let done = night.ended(&job).await;
        assert_eq!(
            (&done["state"], &done["error"]),
            (&json!("done"), &Value::Null),
            "{step}: {done}"
        );
        assert_eq!(done["result"]["copied"], READINGS - 1, "{step}");
        assert_eq!(done["result"]["retracted"], READINGS, "{step}");
        assert_eq!(night.account(&database).await, expected, "killed before step {step}");
    }
    is_verified(&database, server).await;
}

#[tokio::test]
async fn one_that_is_cancelled_is_undone_wholly_whoever_dies_and_can_be_asked_for_again() {
    let (database, pool) = gated().await;
    let mut server = Server::start(&database).await;
    let start = now();
    // Cancelled in the third step, which records a second time: it gives up, retracts twice, and
    // is undone. Killed before each of these, or before none.
    for step in 4..=8 {
        let mut night = Night::begin(&server, &database, &format!("undone-{step}"), start).await;
        let (anna, bert) = (night.history("anna").await, night.history("bert").await);
        let gate = Gate::shut(&database, 3).await;
        let job = night.asked().await;
        gate.reached(&pool).await;
        assert_eq!(night.hospital.delete(&job).await.0, 204);
        assert_eq!(night.hospital.get(&job).await.1["state"], "running", "it is to undo first");
        let next = "insert into saga_gate values ($1)";
        sqlx::query(next).bind(i64::from(step)).execute(&pool).await.unwrap();
        let mut lock = PgConnection::connect(&database.url).await.unwrap();
        sqlx::query("select pg_advisory_lock($1, $2)")
            .bind(GATES)
            .bind(step)
            .execute(&mut lock)
            .await
            .unwrap();
        // Opens the third, and none after it.
        gate.lock.close().await.unwrap();
        let gate = Gate { lock, step: i64::from(step) };
        if step < 8 {
            server = killed(server, gate, &database, &pool).await;
            night.hospital = night.hospital.after_restart(&server);
        } else {
            gate.open().await;
        }
        let ended = night.ended(&job).await;
        assert_eq!(ended["state"], "cancelled", "{step}: {ended}");
        caught_up(&pool).await;
        assert_eq!(night.history("anna").await, anna, "{step}");
        assert_eq!(night.history("bert").await, bert, "{step}");
        let device = night.hospital.found("/devices/watch-7").await;
        assert_eq!(device["assignments"][0]["patientId"], "anna", "{device}");
        assert_eq!(device["reassignment"], Value::Null, "{device}");
        if step < 8 {
            continue;
        }
        // The places are taken by what was undone: a microsecond later there is room.
        let job = night.asked().await;
        let done = night.ended(&job).await;
        assert_eq!(done["state"], "done", "{done}");
        assert_eq!(done["result"], json!({ "copied": READINGS - 1, "retracted": READINGS }));
        caught_up(&pool).await;
        let moved = night.history("bert").await;
        assert_eq!(moved.len(), READINGS as usize);
        assert!(moved.iter().any(|(at, ..)| *at == rfc3339(start + TimeDelta::microseconds(1))));
        assert_eq!(night.history("anna").await.len(), 2);
        // And back again: nothing is lost by going to and fro.
        let back = json!({
            "from": rfc3339(night.from), "to": rfc3339(night.to), "patientId": "anna",
            "reason": "it was anna's after all",
        });
        let (_, job) = night.hospital.post("/devices/watch-7/reassign", &back).await;
        let done = night.ended(&format!("/jobs/{}", job["id"].as_str().unwrap())).await;
        assert_eq!(done["state"], "done", "{done}");
        caught_up(&pool).await;
        assert_eq!(night.history("anna").await.len(), anna.len());
        assert_eq!(night.history("bert").await.len(), 0);
    }
    is_verified(&database, server).await;
}

#[tokio::test]
async fn what_cannot_be_done_is_told_before_anything_is_written() {
    let (database, pool) = gated().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "h");
    let at = now() - TimeDelta::minutes(10);
    hospital.store(&[heart_rate("anna", 70.0, at), heart_rate("bert", 71.0, at)]).await;
    let of = |from: DateTime<Utc>, to: DateTime<Utc>, patient: &str, reason: &str| json!({ "from": rfc3339(from), "to": rfc3339(to), "patientId": patient, "reason": reason });
    let (hour, path) = (TimeDelta::hours(1), "/devices/watch-7/reassign");
    for (body, code) in [
        (of(at, at, "bert", "why"), "invalid_range"),
        (of(at, at + hour, "bert", "why"), "invalid_time"),
        (of(at - hour, at, "b b", "why"), "invalid_id"),
        (of(at - hour, at, "bert", " "), "invalid_reason"),
        (json!({ "from": rfc3339(at), "patientId": "bert", "reason": "why" }), "missing_field"),
    ] {
        let (status, said) = hospital.post(path, &body).await;
        assert_eq!((status, &said["code"]), (422, &json!(code)), "{said}");
    }
    // Two values at one moment: a person has to say which one is wrong.
    let (status, job) = hospital.post(path, &of(at - hour, now(), "bert", "why")).await;
    assert_eq!(status, 202, "{job}");
    let job = format!("/jobs/{}", job["id"].as_str().unwrap());
    let failed = eventually("the job to fail", SOON, || async {
        let (_, body) = hospital.get(&job).await;
        (body["state"] == "failed").then_some(body)
    })
    .await;
    assert!(failed["error"].as_str().unwrap().contains("another value"), "{failed}");
    let said: i64 = sqlx::query_scalar("select count(*) from non_reading where type like 're%'")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(said, 0, "nothing was written");

    // Nor can both be carl's.
    let other = of(at - hour, now(), "carl", "why");
    let (_, job) = hospital.post(path, &other).await;
    let job = format!("/jobs/{}", job["id"].as_str().unwrap());
    eventually("the job to fail", SOON, || async {
        let (_, body) = hospital.get(&job).await;
        body["error"].as_str().is_some_and(|why| why.contains("two patients")).then_some(())
    })
    .await;
    let wrong = json!({
        "vital": "heart_rate", "deviceId": "watch-7", "measuredAt": rfc3339(at), "reason": "why",
    });
    assert_eq!(hospital.post("/patients/bert/readings/retract", &wrong).await.0, 201);

    // While one is under way there is no other.
    let gate = Gate::shut(&database, 2).await;
    let (status, job) = hospital.post(path, &other).await;
    assert_eq!(status, 202, "{job}");
    gate.reached(&pool).await;
    let (status, said) = hospital.post(path, &other).await;
    assert_eq!((status, &said["code"]), (409, &json!("reassignment_under_way")), "{said}");
    let device = hospital.found("/devices/watch-7").await;
    assert_eq!(device["reassignment"], format!("/api/v1/jobs/{}", job["id"].as_str().unwrap()));
    gate.open().await;
    eventually("the readings to be carl's", SOON, || async {
        (hospital.get("/patients/carl/heart-rate").await.0 == 200
            && hospital.get("/patients/anna/heart-rate").await.0 == 404)
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_job_that_ends_itself_is_not_given_up_however_often_it_is_lost() {
    let (database, pool) = gated().await;
    let mut server = Server::start(&database).await;
    let night = Night::begin(&server, &database, "h", now()).await;
    let gate = Gate::shut(&database, 7).await;
    let job = night.asked().await;
    server = killed(server, gate, &database, &pool).await;
    let lost = "update job set lost = 900, asked_at = asked_at - interval '3 days', \
                               state = 'running', lease_until = now() - interval '1 hour', ended_at = null";
    sqlx::raw_sql(lost).execute(&pool).await.unwrap();
    let night = Night { hospital: night.hospital.after_restart(&server), ..night };
    assert_eq!(night.ended(&job).await["state"], "done");
    // From the first retraction on nobody can cancel it.
    assert_eq!(night.hospital.delete(&job).await.0, 204);
    assert_eq!(night.hospital.get(&job).await.1["state"], "done");
}
