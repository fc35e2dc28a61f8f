//! What is due and what is broken, as metrics.
//!
//! Guarantees labels that are few whatever tenants do: classes of deliveries and states of
//! breakers. Looks every [`LOOK_SECONDS`], in the database, so that every instance says
//! the same; counts no further than [`COUNTED_PER_ENDPOINT_MAX`].

use std::time::Duration;

use sqlx::PgPool;

use super::schedule::Schedule;
use super::state::BreakerState;
use crate::log::answered;

/// How often.
const LOOK_SECONDS: u64 = 5;
/// Of one endpoint: beyond this it is "many".
const COUNTED_PER_ENDPOINT_MAX: i64 = 100;

/// Keeps the gauges. Ends never.
pub async fn keep(pool: PgPool) {
    let mut look = tokio::time::interval(Duration::from_secs(LOOK_SECONDS));
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        if let Err(error) = answered(look_once(&pool)).await {
            tracing::debug!(%error, "not known what is due; the gauges are as they were");
        }
    }
}

async fn look_once(pool: &PgPool) -> Result<(), sqlx::Error> {
    let due: Vec<(String, i64, f64)> = sqlx::query_as(include_str!("due.sql"))
        .bind(COUNTED_PER_ENDPOINT_MAX)
        .fetch_all(pool)
        .await?;
    for class in Schedule::ALL.iter().map(|schedule| schedule.name()) {
        let found = due.iter().find(|(of, ..)| of == class);
        let (count, oldest) = found.map_or((0, 0.0), |(_, count, oldest)| (*count, *oldest));
        metrics::gauge!("vitals_webhook_due", "class" => class).set(count as f64);
        metrics::gauge!("vitals_webhook_oldest_due_seconds", "class" => class).set(oldest);
    }
    let broken: Vec<(String, i64)> = sqlx::query_as(
        "select b.state, count(*) from breaker b join endpoint e on e.id = b.endpoint_id group by 1",
    )
    .fetch_all(pool)
    .await?;
    for state in BreakerState::ALL.iter().map(|state| state.name()) {
        let count = broken.iter().find(|(of, _)| of == state).map_or(0, |(_, count)| *count);
        metrics::gauge!("vitals_webhook_breakers", "state" => state).set(count as f64);
    }
    Ok(())
}
