//! The steps forward: readings are recorded for the patient, and retracted where they lay.
//!
//! Guarantees that a step which is taken again does nothing twice: what is left to do is what
//! the log does not have yet. Late readings page nobody, and the rules judge anew without
//! those that are retracted.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgConnection;

use super::begin::{Source, Walk};
use super::{Begun, Saga, StepError};
use crate::devices::{Counts, READINGS_REASSIGNED, Stage};
use crate::event::{Event, Measurement, READING_RETRACTED, RetractionData};
use crate::log::{AppendError, append, in_turn};
use crate::vital::Vital;

/// A row of `next.sql`.
#[derive(sqlx::FromRow)]
struct Next {
    position: i64,
    occurred_at: DateTime<Utc>,
    value: f64,
    quality: Option<f32>,
    suspect: bool,
    context: Option<String>,
}

/// Readings that are retracted.
#[derive(sqlx::FromRow)]
pub(super) struct Wrong {
    pub(super) position: i64,
    pub(super) occurred_at: DateTime<Utc>,
    pub(super) vital: String,
    pub(super) source_id: String,
}

impl Saga {
    /// Records all for the patient, unless it is cancelled meanwhile.
    pub(super) async fn copy(&self, begun: &Begun) -> Result<Stage, StepError> {
        for source in self.sources(&mut *self.log.pool().acquire().await?, &begun.ids).await? {
            if self.copy_of(begun, &source, true).await?.is_none() {
                return self.give_up("cancelled", true).await;
            }
        }
        self.correct().await
    }

    /// Retracts all where it lay, also what came meanwhile, which is recorded first.
    pub(super) async fn retract(&self, begun: &Begun) -> Result<Stage, StepError> {
        loop {
            let mut moved = 0;
            for source in self.sources(&mut *self.log.pool().acquire().await?, &begun.ids).await? {
                moved += self.copy_of(begun, &source, false).await?.unwrap_or_default();
                moved += self.retract_of(begun, &source).await?;
            }
            if moved == 0 {
                break;
            }
        }
        let counts = self.counts(begun).await?;
        self.end(counts).await
    }

    /// Records what is left of a series; how much that was. `None` if it is cancelled.
    async fn copy_of(
        &self,
        begun: &Begun,
        source: &Source,
        may_end: bool,
    ) -> Result<Option<usize>, StepError> {
        let (mut copied, mut walk) = (0, Walk::from(self.wanted.from));
        loop {
            let (mut tx, cancelled) = self.step(false).await?;
            if cancelled && may_end {
                return Ok(None);
            }
            let next = self.next(&mut tx, begun, source, (&walk, false)).await?;
            let Some(last) = next.last() else { return Ok(Some(copied)) };
            walk.after = last.occurred_at;
            let events = self.copies(begun, source, &next)?;
            append(&mut tx, self.target, &events).await?;
            tx.commit().await?;
            self.log.wake().appended(self.target, &events);
            copied += next.len();
            self.count(next.len());
        }
    }

    /// Readings as the patient's own, and after them that they came so: they lie at the
    /// positions before it.
    fn copies(
        &self,
        begun: &Begun,
        source: &Source,
        next: &[Next],
    ) -> Result<Vec<Event>, StepError> {
        let vital = vital_of(&source.vital)?;
        let patient = || (&*self.tenant, &*self.wanted.patient_id);
        let shift = TimeDelta::microseconds(begun.shift_microseconds);
        let reading = |next: &Next| {
            let Next { value, quality, suspect, context, .. } = next;
            let measured =
                Measurement { vital, value: *value, quality: *quality, suspect: *suspect };
            let (device, at) = (&*source.source_id, next.occurred_at + shift);
            Event::reading(patient(), measured, device, at, context.clone())
        };
        let data = serde_json::json!({
            "v": 1,
            "reassignment": self.held.0,
            "deviceId": self.wanted.device_id,
            "readings": next.len(),
            "by": self.wanted.by,
            "reason": self.wanted.reason,
        });
        let by = &*self.wanted.by;
        let said =
            Event::non_reading(READINGS_REASSIGNED, patient(), by, begun.at, data.to_string());
        Ok(next.iter().map(reading).chain([said]).collect())
    }

    async fn next(
        &self,
        tx: &mut PgConnection,
        begun: &Begun,
        source: &Source,
        (walk, is_there): (&Walk, bool),
    ) -> Result<Vec<Next>, sqlx::Error> {
        sqlx::query_as(include_str!("next.sql"))
            .bind(source.shard)
            .bind(source.series)
            .bind(walk.after)
            .bind(self.wanted.to)
            .bind(self.target)
            .bind(&self.wanted.patient_id)
            .bind(begun.shift_microseconds)
            .bind(walk.limit)
            .bind(is_there)
            .fetch_all(tx)
            .await
    }

    async fn retract_of(&self, begun: &Begun, source: &Source) -> Result<usize, StepError> {
        let (mut retracted, mut walk) = (0, Walk::from(self.wanted.from));
        loop {
            let (mut tx, _) = self.step(false).await?;
            // Who retracts one of them by hand waits, or is waited for.
            self.turn_of(&mut tx, &source.patient_id).await?;
            let next = self.next(&mut tx, begun, source, (&walk, true)).await?;
            let Some(last) = next.last() else { return Ok(retracted) };
            walk.after = last.occurred_at;
            let wrong = |next: &Next| Wrong {
                position: next.position,
                occurred_at: next.occurred_at,
                vital: source.vital.clone(),
                source_id: source.source_id.clone(),
            };
            let wrong: Vec<Wrong> = next.iter().map(wrong).collect();
            let events = self.retractions(&source.patient_id, &wrong)?;
            append(&mut tx, source.shard, &events).await?;
            tx.commit().await?;
            self.log.wake().appended(source.shard, &events);
            retracted += next.len();
            self.count(next.len());
        }
    }

    pub(super) async fn turn_of(
        &self,
        tx: &mut PgConnection,
        patient_id: &str,
    ) -> Result<(), sqlx::Error> {
        in_turn(tx, &format!("retract/{}/{patient_id}", self.tenant)).await
    }

    /// Retractions of one patient's readings, all of one vital.
    pub(super) fn retractions(
        &self,
        patient_id: &str,
        wrong: &[Wrong],
    ) -> Result<Vec<Event>, StepError> {
        let stream = || (&*self.tenant, patient_id);
        let retraction = |(wrong, left): (&Wrong, usize)| {
            let data = RetractionData {
                v: 1,
                vital: vital_of(&wrong.vital)?,
                device_id: wrong.source_id.clone(),
                measured_at: wrong.occurred_at,
                reading_position: wrong.position,
                reason: self.wanted.reason.clone(),
                reassignment: Some(self.held.0),
                more: left > 0,
            };
            let data =
                serde_json::to_string(&data).map_err(|error| sqlx::Error::Encode(error.into()))?;
            let (by, at) = (&*self.wanted.by, wrong.occurred_at);
            Ok(Event::non_reading(READING_RETRACTED, stream(), by, at, data))
        };
        wrong.iter().zip((0..wrong.len()).rev()).map(retraction).collect()
    }

    /// What was done, as the log has it.
    async fn counts(&self, begun: &Begun) -> Result<Counts, StepError> {
        let mut connection = self.log.pool().acquire().await?;
        let mut counts = Counts::default();
        for chunk in self.chunks(&mut connection, begun).await? {
            counts.copied += chunk.stored;
        }
        let mut patients: Vec<(i16, String)> = self
            .sources(&mut connection, &begun.ids)
            .await?
            .into_iter()
            .map(|source| (source.shard, source.patient_id))
            .collect();
        patients.sort_unstable();
        patients.dedup();
        for (shard, patient_id) in patients {
            counts.retracted += self.retracted(&mut connection, (shard, &patient_id)).await?;
        }
        Ok(counts)
    }

    pub(super) async fn retracted(
        &self,
        connection: &mut PgConnection,
        (shard, patient_id): (i16, &str),
    ) -> Result<i64, sqlx::Error> {
        // A copy may lie a little after the time that was asked for.
        sqlx::query_scalar(
            "select count(*) from non_reading \
             where shard = $1 and tenant = $2 and patient_id = $3 and occurred_at >= $4 \
               and occurred_at < $5::timestamptz + interval '1 ms' and type = 'reading_retracted' \
               and data ->> 'reassignment' = $6",
        )
        .bind(shard)
        .bind(&self.tenant)
        .bind(patient_id)
        .bind(self.wanted.from)
        .bind(self.wanted.to)
        .bind(self.held.0.to_string())
        .fetch_one(connection)
        .await
    }
}

fn vital_of(name: &str) -> Result<Vital, StepError> {
    name.parse().map_err(|error: crate::vital::UnknownVital| {
        StepError::Append(AppendError::Database(sqlx::Error::Decode(error.into())))
    })
}
