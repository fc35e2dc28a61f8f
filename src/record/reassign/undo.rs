//! The way back: what was recorded for the patient is retracted again.
//!
//! Guarantees that nothing is retracted but what this reassignment recorded. Their places stay
//! taken: another attempt records its copies a microsecond later.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgConnection;

use super::steps::Wrong;
use super::{Begun, SHIFT_MICROSECONDS_MAX, Saga, StepError};
use crate::devices::{Counts, Stage};
use crate::log::append;

/// Copies that were recorded together.
#[derive(sqlx::FromRow)]
pub(super) struct Chunk {
    /// Of what was said of them: they lie before it.
    position: i64,
    readings: i64,
    /// How many were new.
    pub(super) stored: i64,
}

impl Saga {
    /// Retracts all that it recorded.
    pub(super) async fn undo(
        &self,
        begun: &Begun,
        why: String,
        cancelled: bool,
    ) -> Result<Stage, StepError> {
        let patient_id = &*self.wanted.patient_id;
        let mut copied = 0;
        for chunk in self.chunks(&mut *self.log.pool().acquire().await?, begun).await? {
            copied += chunk.stored;
            let (mut tx, _) = self.step(false).await?;
            self.turn_of(&mut tx, patient_id).await?;
            let wrong = self.copied(&mut tx, &chunk).await?;
            if wrong.is_empty() {
                continue;
            }
            let events = self.retractions(patient_id, &wrong)?;
            append(&mut tx, self.target, &events).await?;
            tx.commit().await?;
            self.log.wake().appended(self.target, &events);
            self.count(wrong.len());
        }
        let of = (self.target, patient_id);
        let retracted = self.retracted(&mut *self.log.pool().acquire().await?, of).await?;
        self.end_undone((why, cancelled), Counts { copied, retracted }).await
    }

    /// What was recorded together, in order.
    pub(super) async fn chunks(
        &self,
        connection: &mut PgConnection,
        begun: &Begun,
    ) -> Result<Vec<Chunk>, sqlx::Error> {
        sqlx::query_as(include_str!("chunks.sql"))
            .bind(self.target)
            .bind(&self.tenant)
            .bind(&self.wanted.patient_id)
            .bind(begun.at)
            .bind(self.held.0.to_string())
            .bind(self.wanted.from)
            .bind(self.until())
            .fetch_all(connection)
            .await
    }

    /// The copies of a chunk that still count.
    async fn copied(
        &self,
        tx: &mut PgConnection,
        chunk: &Chunk,
    ) -> Result<Vec<Wrong>, sqlx::Error> {
        sqlx::query_as(include_str!("copied.sql"))
            .bind(self.target)
            .bind(chunk.position - chunk.readings)
            .bind(chunk.position)
            .bind(self.wanted.from)
            .bind(self.until())
            .fetch_all(tx)
            .await
    }

    /// The end of the time that copies lie in.
    fn until(&self) -> DateTime<Utc> {
        self.wanted.to + TimeDelta::microseconds(SHIFT_MICROSECONDS_MAX)
    }
}
