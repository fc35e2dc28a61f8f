//! The continuous self-check: some patients at a time, round and round.
//!
//! Guarantees that every patient of the log comes up in turn, however many instances
//! look, and that what a projection holds of one is compared with what `check.sql` makes
//! of the log, in one snapshot. What differs is logged with the patient's name, counted,
//! and remembered until it is found right or rebuilt. Does not mend, and does not notice
//! rows of patients whom the log has never heard of: `vitals verify` does.

use std::time::Duration;

use sqlx::PgPool;

use super::check::{Difference, check_patients};
use super::fold::{ALL, Projection};
use crate::event::ACCESSES_OF;
use crate::log::{Log, answered};

/// Patients looked at by one check.
const PATIENTS_PER_CHECK: usize = 5;
/// Keys that a turn goes over at most: those of accesses are of no patient.
const KEYS_PER_TURN: usize = 200;
/// A check that takes longer is given up, and its patients are left out this time.
const CHECK_SECONDS_MAX: u32 = 20;

/// Looks at some patients of a projection and a shard, then pauses, and goes on to the
/// next, without an end.
pub async fn check_always(log: Log, pause: Duration) {
    loop {
        for projection in &ALL {
            for shard in log.shards() {
                if let Err(error) = answered(check_some(log.pool(), projection, shard)).await {
                    let projection = projection.name;
                    tracing::warn!(projection, shard, %error, "the self-check left some patients out");
                }
                tokio::time::sleep(pause).await;
            }
        }
    }
}

/// Looks at the next patients of a projection and a shard; what differs of them.
pub async fn check_some(
    pool: &PgPool,
    projection: &Projection,
    shard: i16,
) -> Result<Vec<Difference>, sqlx::Error> {
    let (tenants, ids) = take_turn(pool, projection, shard).await?;
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let mut tx = super::check::begin(pool, projection).await?;
    let limit = format!("set local statement_timeout = '{CHECK_SECONDS_MAX}s'");
    sqlx::raw_sql(sqlx::AssertSqlSafe(limit)).execute(&mut *tx).await?;
    let found = check_patients(&mut tx, projection, shard, (&tenants, &ids)).await;
    tx.rollback().await?;
    let found = found?;
    metrics::counter!("vitals_self_checked_patients_total", "projection" => projection.name)
        .increment(ids.len() as u64);
    let mut rows = vec![0_i32; ids.len()];
    for difference in &found {
        let mut key = difference.key.splitn(3, '/');
        let (tenant, id) = (key.next().unwrap_or_default(), key.next().unwrap_or_default());
        tracing::error!(
            projection = projection.name,
            shard,
            tenant,
            patient_id = id,
            key = difference.key,
            "not what the log says: vitals rebuild {}",
            projection.name
        );
        let place = tenants.iter().zip(&ids).position(|(t, i)| t == tenant && i == id);
        if let Some(rows) = place.and_then(|place| rows.get_mut(place)) {
            *rows += 1;
        }
    }
    remember(pool, projection, shard, (&tenants, &ids, &rows)).await?;
    Ok(found)
}

/// The patients whose turn it is, by the log's order of them. The turn moves on at once,
/// so that one that takes too long does not come up again and again.
async fn take_turn(
    pool: &PgPool,
    projection: &Projection,
    shard: i16,
) -> Result<(Vec<String>, Vec<String>), sqlx::Error> {
    let mut tx = pool.begin().await?;
    sqlx::query("insert into self_check (name, shard) values ($1, $2) on conflict do nothing")
        .bind(projection.name)
        .bind(shard)
        .execute(&mut *tx)
        .await?;
    let turn: Option<(String, String)> = sqlx::query_as(
        "select tenant, patient_id from self_check \
         where name = $1 and shard = $2 for update skip locked",
    )
    .bind(projection.name)
    .bind(shard)
    .fetch_optional(&mut *tx)
    .await?;
    // Another instance is at it.
    let Some((mut tenant, mut id)) = turn else { return Ok((Vec::new(), Vec::new())) };
    let (mut tenants, mut ids) = (Vec::new(), Vec::new());
    for _ in 0..KEYS_PER_TURN {
        if ids.len() == PATIENTS_PER_CHECK {
            break;
        }
        // By the keys, from one patient to the next, however many readings each has.
        let next: Option<(String, String)> = sqlx::query_as(
            "select tenant, patient_id \
             from ((select tenant, patient_id from series \
                    where shard = $1 and (tenant, patient_id) > ($2, $3) \
                    order by tenant, patient_id limit 1) \
                   union all \
                   (select tenant, patient_id from non_reading \
                    where shard = $1 and (tenant, patient_id) > ($2, $3) \
                    order by tenant, patient_id limit 1)) next \
             order by tenant, patient_id limit 1",
        )
        .bind(shard)
        .bind(&tenant)
        .bind(&id)
        .fetch_optional(&mut *tx)
        .await?;
        // After the last one it begins anew, the next time.
        (tenant, id) = next.unwrap_or_default();
        if id.is_empty() {
            break;
        }
        if id.starts_with(ACCESSES_OF) {
            continue;
        }
        tenants.push(tenant.clone());
        ids.push(id.clone());
    }
    sqlx::query(
        "update self_check set tenant = $3, patient_id = $4, checked_at = clock_timestamp() \
         where name = $1 and shard = $2",
    )
    .bind(projection.name)
    .bind(shard)
    .bind(tenant)
    .bind(id)
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok((tenants, ids))
}

async fn remember(
    pool: &PgPool,
    projection: &Projection,
    shard: i16,
    (tenants, ids, rows): (&[String], &[String], &[i32]),
) -> Result<(), sqlx::Error> {
    let mut tx = pool.begin().await?;
    sqlx::query(
        "delete from drift where name = $1 and shard = $2 \
           and (tenant, patient_id) in (select * from unnest($3::text[], $4::text[]))",
    )
    .bind(projection.name)
    .bind(shard)
    .bind(tenants)
    .bind(ids)
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "insert into drift (name, shard, tenant, patient_id, rows) \
         select $1, $2, d.* from unnest($3::text[], $4::text[], $5::int[]) \
             as d (tenant, patient_id, rows) where d.rows > 0",
    )
    .bind(projection.name)
    .bind(shard)
    .bind(tenants)
    .bind(ids)
    .bind(rows)
    .execute(&mut *tx)
    .await?;
    tx.commit().await
}

/// Of how many patients each projection was wrong when they were last looked at.
pub async fn drifting(pool: &PgPool) -> Result<Vec<(String, i64)>, sqlx::Error> {
    sqlx::query_as("select name, count(*) from drift group by 1 order by 1").fetch_all(pool).await
}
