//! What operators are told: the warnings of `/health/ready`, and the metrics that say that a
//! page has not arrived. Those of parked patients and of projections are tested with these.

use std::time::Duration;

use serde_json::{Value, json};

use crate::hospital::Hospital;
use crate::support::eventually;
use crate::support::postgres::Database;
use crate::support::receiver::{Answer, Receiver};
use crate::support::server::Server;

const SOON: Duration = Duration::from_secs(30);

/// A metric with its labels as it is now; below zero if it is not there.
async fn metric(server: &Server, name: &str) -> f64 {
    let text = reqwest::get(server.url("/metrics")).await.unwrap().text().await.unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.map_or(-1.0, |value| value.parse().unwrap())
}

/// Nobody is paged then: somebody has to know.
#[tokio::test]
async fn a_log_whose_time_is_ahead_is_a_warning_and_a_metric() {
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "ward");
    let ahead = async || {
        let ready = reqwest::get(server.url("/health/ready")).await.unwrap();
        let ready: Value = ready.json().await.unwrap();
        (metric(&server, "vitals_log_ahead_seconds").await, ready["warnings"].to_string())
    };
    let (seconds, warnings) = ahead().await;
    assert!(seconds.abs() < 5.0 && warnings == "[]", "{seconds} {warnings}");
    let forward = "update shard_head set recorded_at = clock_timestamp() + interval '1 hour'";
    sqlx::query(forward).execute(&database.pool()).await.unwrap();
    let (seconds, warnings) = ahead().await;
    assert!((3_500.0..=3_600.0).contains(&seconds), "{seconds}");
    assert!(warnings.contains("page nobody"), "{warnings}");
    // That is what it warns of.
    hospital.measure("p", 140.0).await;
    let alerts = eventually("the missed alert", SOON, async || {
        let alerts = hospital.found("/alerts?patientId=p&state=missed").await;
        (alerts["items"] != json!([])).then_some(alerts)
    });
    assert_eq!(alerts.await["items"][0]["state"], "missed");
}

#[tokio::test]
async fn pages_that_are_due_and_endpoints_that_are_broken_are_told_as_metrics_until_they_are_not() {
    // Looked at every five seconds.
    const LOOKED: Duration = Duration::from_secs(40);
    let database = Database::new().await;
    let server = Server::start(&database).await;
    let hospital = Hospital::new(&server, "ward");
    let receiver = Receiver::start().await;
    receiver.answer_always(Answer::Status(500));
    hospital.endpoint(&receiver, &["HIGH_HEART_RATE"]).await;
    let gauge = async |name: &str| metric(&server, name).await;
    let (due, oldest) = (
        "vitals_webhook_due{class=\"alarm\"}",
        "vitals_webhook_oldest_due_seconds{class=\"alarm\"}",
    );
    let broken = async || {
        gauge("vitals_webhook_breakers{state=\"open\"}").await
            + gauge("vitals_webhook_breakers{state=\"half_open\"}").await
    };
    eventually("the first look", LOOKED, async || (gauge(due).await == 0.0).then_some(())).await;
    assert_eq!((gauge(oldest).await, broken().await), (0.0, 0.0));
    hospital.measure("101", 130.0).await;
    eventually("a broken endpoint", LOOKED, async || (broken().await == 1.0).then_some(())).await;
    // No probe for now, so that what is due stays due.
    let pool = database.pool();
    let hold = "with held as (update breaker set state = 'open', until = now() + interval '1 hour') \
                update delivery set due_at = now() - interval '1 minute' where state = 'pending'";
    eventually("a page that is due", LOOKED, async || {
        sqlx::query(hold).execute(&pool).await.unwrap();
        (gauge(due).await == 1.0 && gauge(oldest).await >= 60.0).then_some(())
    })
    .await;
    receiver.answer_always(Answer::Status(204));
    sqlx::query("update breaker set until = now()").execute(&pool).await.unwrap();
    eventually("all well again", LOOKED, async || {
        (gauge(due).await == 0.0 && gauge(oldest).await == 0.0 && broken().await == 0.0)
            .then_some(())
    })
    .await;
}
