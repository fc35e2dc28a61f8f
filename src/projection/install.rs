//! Tables of projections that are new are made, and those whose SQL has changed renewed.
//!
//! Guarantees that of several instances that start at once one does the work, and that
//! old tables are read until new ones are whole.

use std::time::Duration;

use super::fold::ALL;
use super::rebuild::{RebuildError, rebuild};
use super::stored::{keeps_text, made_by, remember};
use crate::consumer::register;
use crate::log::Log;

/// How long to wait before looking whether another instance has rebuilt.
const BUSY_PAUSE_MS: u64 = 500;

/// Makes the tables of projections that are new, and rebuilds those whose SQL has
/// changed. Several instances may start at once; one does the work.
pub async fn install(log: &Log) -> Result<(), RebuildError> {
    create(log).await?;
    renew(log).await
}

/// Makes the tables of projections that are new. Those of another text stay as they are,
/// and are folded by it.
pub async fn create(log: &Log) -> Result<(), sqlx::Error> {
    for projection in &ALL {
        let mut tx = log.pool().begin().await?;
        sqlx::query("select pg_advisory_xact_lock(hashtext('vitals projections'))")
            .execute(&mut *tx)
            .await?;
        match made_by(&mut tx, projection).await? {
            None => {
                sqlx::raw_sql(projection.schema).execute(&mut *tx).await?;
                remember(&mut tx, projection).await?;
                register(&mut tx, projection.consumer, log.shards()).await?;
            }
            Some(hash)
                if hash == projection.sql_hash() && !keeps_text(&mut tx, projection).await? =>
            {
                remember(&mut tx, projection).await?;
            }
            Some(_) => {}
        }
        tx.commit().await?;
    }
    Ok(())
}

/// Rebuilds the projections whose SQL has changed, one after the other, while the old
/// tables are read.
pub async fn renew(log: &Log) -> Result<(), RebuildError> {
    for projection in &ALL {
        loop {
            let made_by = made_by(&mut *log.pool().acquire().await?, projection).await?;
            if made_by == Some(projection.sql_hash()) {
                break;
            }
            tracing::info!(projection = projection.name, "its SQL has changed: rebuilding");
            match rebuild(log, projection, |_, _| {}).await {
                // Another instance started at the same time: wait for its result.
                Err(RebuildError::Busy(_)) => {
                    tokio::time::sleep(Duration::from_millis(BUSY_PAUSE_MS)).await;
                }
                rebuilt => {
                    let positions = rebuilt?.positions;
                    tracing::info!(projection = projection.name, positions, "rebuilt");
                }
            }
        }
    }
    Ok(())
}
