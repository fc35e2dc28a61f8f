//! Patients that a consumer cannot go on with, and how they are taken up again.
//!
//! Guarantees that an event which cannot be acted on holds up its own patient and
//! nobody else; that who is parked is written down, with the event and the reason, in
//! the transaction that moves the checkpoint; and that taking a patient up again acts
//! on all that was held back, in order, so that it is as if they had never been parked.
//! Does not mend the event: that takes a new version of whoever could not act on it.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{Connection, PgConnection, PgPool};
use tokio_util::sync::CancellationToken;

use super::contract::{Consumer, ConsumerError};
use crate::log::{Window, answered};

/// When one step would park more, it is not the events that are wrong.
const PARKED_PER_STEP_MAX: usize = 16;
/// How often a consumer looks whether somebody is to be taken up again.
const RESUME_POLL_MS: u64 = 1_000;

/// A patient that a consumer goes on without.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Parked {
    /// Where they live.
    pub shard: i16,
    /// Who parked them.
    pub consumer: String,
    /// Whose patient.
    pub tenant: String,
    /// Which.
    pub patient_id: String,
    /// The event that could not be acted on.
    pub position: i64,
    /// Why.
    pub reason: String,
    /// Since when.
    pub parked_at: DateTime<Utc>,
    /// Whether somebody has asked to take them up again.
    pub resume: bool,
}

/// Who is parked, the first ones first.
pub async fn parked(pool: &PgPool) -> Result<Vec<Parked>, sqlx::Error> {
    sqlx::query_as("select * from parked order by parked_at, shard, consumer, tenant, patient_id")
        .fetch_all(pool)
        .await
}

/// How many patients each consumer has parked.
pub async fn counts(pool: &PgPool) -> Result<Vec<(String, i64)>, sqlx::Error> {
    sqlx::query_as("select consumer, count(*) from parked group by 1 order by 1")
        .fetch_all(pool)
        .await
}

/// Asks the workers to take a patient up again, of one tenant only if it is named. How
/// many consumers will.
pub async fn ask_to_resume(
    pool: &PgPool,
    tenant: Option<&str>,
    patient_id: &str,
) -> Result<u64, sqlx::Error> {
    let asked = sqlx::query(
        "update parked set resume = true \
         where patient_id = $1 and ($2::text is null or tenant = $2)",
    )
    .bind(patient_id)
    .bind(tenant)
    .execute(pool)
    .await?;
    Ok(asked.rows_affected())
}

/// From here to the end of the transaction the log is without whom this consumer has
/// parked: its "reading" and "non_reading" are the views of the schema `unparked`.
pub(crate) async fn leave_out(tx: &mut PgConnection, consumer: &str) -> Result<(), sqlx::Error> {
    sqlx::query(
        "select set_config('vitals.consumer', $1, true), \
                set_config('search_path', 'unparked, ' || current_setting('search_path'), true)",
    )
    .bind(consumer)
    .execute(tx)
    .await?;
    Ok(())
}

/// Acts on a window that could not be acted on as a whole: half by half, down to the
/// event that is wrong, whose patient is parked. What is returned was acted on.
pub async fn act_apart<C: Consumer>(
    tx: &mut PgConnection,
    consumer: &C,
    window: Window,
) -> Result<Vec<(Window, C::Done)>, ConsumerError> {
    let (mut rest, mut done, mut parked) = (vec![window], Vec::new(), 0);
    leave_out(tx, consumer.name()).await?;
    while let Some(window) = rest.pop() {
        let mut inner = tx.begin().await?;
        match consumer.act(&mut inner, &window).await {
            Ok(acted) => {
                inner.commit().await?;
                done.push((window, acted));
            }
            Err(error) if error.is_of_an_event() => {
                inner.rollback().await?;
                let middle = window.after + (window.to - window.after) / 2;
                if middle > window.after {
                    rest.push(Window { after: middle, ..window.clone() });
                    rest.push(Window { to: middle, ..window });
                    continue;
                }
                parked += 1;
                if parked > PARKED_PER_STEP_MAX || !park(tx, consumer, &window, &error).await? {
                    return Err(error);
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Parks the patient of the one event of a window. `false` when there is none.
async fn park<C: Consumer>(
    tx: &mut PgConnection,
    consumer: &C,
    window: &Window,
    error: &ConsumerError,
) -> Result<bool, sqlx::Error> {
    let parked: Option<(String, String)> = sqlx::query_as(
        "insert into parked (shard, consumer, tenant, patient_id, position, reason) \
         select shard, $2, tenant, patient_id, position, $3 from public.event \
         where shard = $1 and position = $4 and occurred_at >= $5 and occurred_at <= $6 \
         on conflict do nothing returning tenant, patient_id",
    )
    .bind(window.shard)
    .bind(consumer.name())
    .bind(error.to_string())
    .bind(window.to)
    .bind(window.since)
    .bind(window.until)
    .fetch_optional(tx)
    .await?;
    let Some((tenant, patient_id)) = parked else { return Ok(false) };
    let name = consumer.name();
    metrics::counter!("vitals_parked_total", "consumer" => name.to_owned()).increment(1);
    tracing::error!(
        consumer = name, shard = window.shard, position = window.to, tenant, patient_id, %error,
        "this event cannot be acted on: its patient is parked, others go on; see vitals parked"
    );
    Ok(true)
}

/// Takes up again whom somebody has asked for, until told to stop.
pub async fn resume_asked<C: Consumer>(pool: PgPool, consumer: Arc<C>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        if let Err(error) = resume_all(&pool, &*consumer).await {
            let consumer = consumer.name();
            tracing::error!(consumer, %error, "who was to be taken up again was not; trying again");
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(Duration::from_millis(RESUME_POLL_MS)) => {}
        }
    }
}

async fn resume_all<C: Consumer>(pool: &PgPool, consumer: &C) -> Result<(), ConsumerError> {
    let asked = async {
        sqlx::query_as("select * from parked where consumer = $1 and resume order by parked_at")
            .bind(consumer.name())
            .fetch_all(pool)
            .await
            .map_err(ConsumerError::from)
    };
    let asked: Vec<Parked> = answered(asked).await?;
    for parked in asked {
        match resume(pool, consumer, &parked).await {
            Ok(()) => {}
            Err(error) if error.is_of_an_event() => {
                let (shard, patient_id) = (parked.shard, &parked.patient_id);
                tracing::error!(consumer = consumer.name(), shard, patient_id, %error, "still parked");
                answered(refuse(pool, &parked, &error)).await?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn refuse(
    pool: &PgPool,
    parked: &Parked,
    error: &ConsumerError,
) -> Result<(), ConsumerError> {
    sqlx::query(
        "update parked set resume = false, reason = $5 \
         where shard = $1 and consumer = $2 and tenant = $3 and patient_id = $4",
    )
    .bind(parked.shard)
    .bind(&parked.consumer)
    .bind(&parked.tenant)
    .bind(&parked.patient_id)
    .bind(error.to_string())
    .execute(pool)
    .await?;
    Ok(())
}

/// Acts on all of a patient that was held back, up to where the consumer stands.
pub async fn resume<C: Consumer>(
    pool: &PgPool,
    consumer: &C,
    parked: &Parked,
) -> Result<(), ConsumerError> {
    let mut tx = pool.begin().await?;
    // No other process acts on the shard for this consumer until this is done.
    let upto: i64 = sqlx::query_scalar(
        "select position from checkpoint where shard = $1 and consumer = $2 for update",
    )
    .bind(parked.shard)
    .bind(consumer.name())
    .fetch_one(&mut *tx)
    .await?;
    let deleted = sqlx::query(
        "delete from parked where shard = $1 and consumer = $2 and tenant = $3 and patient_id = $4",
    )
    .bind(parked.shard)
    .bind(consumer.name())
    .bind(&parked.tenant)
    .bind(&parked.patient_id)
    .execute(&mut *tx)
    .await?;
    if deleted.rows_affected() == 0 {
        // Another instance has just done it.
        tx.rollback().await?;
        return Ok(());
    }
    sqlx::query(
        "select set_config('vitals.tenant', $1, true), set_config('vitals.patient', $2, true), \
                set_config('search_path', 'resumed, ' || current_setting('search_path'), true)",
    )
    .bind(&parked.tenant)
    .bind(&parked.patient_id)
    .execute(&mut *tx)
    .await?;
    let (mut after, mut done) = (parked.position - 1, Vec::new());
    while after < upto {
        let to = upto.min(after + consumer.window_positions_max());
        let window = Window::between(&mut tx, parked.shard, after, to).await?;
        let acted = answered(consumer.act(&mut tx, &window)).await?;
        done.push((window, acted));
        after = to;
    }
    tx.commit().await?;
    tracing::info!(consumer = consumer.name(), patient_id = parked.patient_id, "taken up again");
    done.into_iter().for_each(|(window, acted)| consumer.committed(&window, acted));
    Ok(())
}
