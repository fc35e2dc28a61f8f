//! The beginning of a reassignment: all is looked at before anything is written.
//!
//! Guarantees that one device has one reassignment under way, and that one that has begun is
//! taken up where it is.

use std::sync::atomic::Ordering;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgTransaction};

use super::{
    Begun, READINGS_PER_REASSIGNMENT_MAX, READINGS_PER_STEP_MAX, SHIFT_MICROSECONDS_MAX, Saga,
    StepError, Wanted,
};
use crate::clock::rfc3339;
use crate::devices::{REASSIGNMENT_BEGUN, REASSIGNMENTS_PER_DEVICE_MAX, Said, Stage, find_on};

/// Readings of the device at a patient who is not the right one.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(super) struct Source {
    #[sqlx(skip)]
    pub(super) shard: i16,
    pub(super) series: i32,
    pub(super) patient_id: String,
    pub(super) vital: String,
    pub(super) source_id: String,
}

/// A row of `judge.sql`.
#[derive(sqlx::FromRow)]
struct Judged {
    readings: i64,
    taken: i64,
    differs_at: Option<DateTime<Utc>>,
}

impl Saga {
    /// Begins it, or finds out where it is.
    pub(super) async fn begin(&self) -> Result<(Begun, Stage), StepError> {
        let (mut tx, cancelled) = self.step(false).await?;
        super::super::devices::turn(&mut tx, &self.tenant).await?;
        let wanted = &self.wanted;
        let id = &wanted.device_id;
        let mut found =
            find_on(&mut tx, &self.log, &self.tenant, std::slice::from_ref(id), None).await?;
        let device = found.remove(id).unwrap_or_default();
        let ids = device.ids(id);
        let this = device.reassignments.iter().find(|one| self.is_this(one)).cloned();
        let begun = match this {
            Some(this) => {
                let shift_microseconds = this.shift_microseconds;
                (Begun { at: this.begun_at, shift_microseconds, ids }, this.stage)
            }
            None if cancelled => return Err(StepError::Cancelled("cancelled before it began")),
            None => {
                if let Some(other) = device.under_way() {
                    return told(format!(
                        "the reassignment {} of this device is under way",
                        other.id
                    ));
                }
                if device.alias_of.is_some() {
                    return told("the device has become an alias of another one".to_owned());
                }
                if device.reassignments.len() >= REASSIGNMENTS_PER_DEVICE_MAX {
                    let most = REASSIGNMENTS_PER_DEVICE_MAX;
                    return told(format!("{most} reassignments of this device, as many as may be"));
                }
                (self.first(tx, ids).await?, Stage::Copying)
            }
        };
        // Each is copied and retracted, as far as it is not yet.
        let mut left = 0;
        let mut connection = self.log.pool().acquire().await?;
        for source in self.sources(&mut connection, &begun.0.ids).await? {
            left +=
                self.judge(&mut connection, &source, begun.0.shift_microseconds).await?.readings;
        }
        self.progress.total.store(2 * left.unsigned_abs(), Ordering::Relaxed);
        Ok(begun)
    }

    /// Judges all, and says that it begins.
    async fn first(
        &self,
        mut tx: PgTransaction<'static>,
        ids: Vec<String>,
    ) -> Result<Begun, StepError> {
        let Wanted { from, to, .. } = &self.wanted;
        self.log.reload_archived().await?;
        if let Some(span) = self.log.archived().within(*from, *to) {
            return told(format!(
                "{span} is archived and takes no corrections: have it brought back with vitals import \
                 --format parquet {}, and ask again",
                span.file_name()
            ));
        }
        let sources = self.sources(&mut tx, &ids).await?;
        self.refuse_meeting(&mut tx, &sources).await?;
        let mut shift_microseconds = 0;
        while self.is_taken(&mut tx, &sources, shift_microseconds).await? {
            shift_microseconds += 1;
            if shift_microseconds > SHIFT_MICROSECONDS_MAX {
                return told(format!(
                    "readings of this time were moved to and fro more than {SHIFT_MICROSECONDS_MAX} times"
                ));
            }
        }
        let at = self.clock.now();
        let said = Said { shift_microseconds: Some(shift_microseconds), ..self.said() };
        self.say(tx, (REASSIGNMENT_BEGUN, at), &said).await?;
        Ok(Begun { at, shift_microseconds, ids })
    }

    /// Whether a copy would meet a place that is taken; refuses what cannot be moved at all.
    async fn is_taken(
        &self,
        tx: &mut PgConnection,
        sources: &[Source],
        shift_microseconds: i64,
    ) -> Result<bool, StepError> {
        let (mut readings, mut is_taken) = (0, false);
        for source in sources {
            let judged = self.judge(tx, source, shift_microseconds).await?;
            if let Some(at) = judged.differs_at {
                return told(format!(
                    "{} of {} by {} at {} has another value than that of {}: retract the one that \
                     is wrong, and ask again",
                    source.vital,
                    self.wanted.patient_id,
                    source.source_id,
                    rfc3339(at),
                    source.patient_id
                ));
            }
            is_taken |= judged.taken > 0;
            readings += judged.readings;
            if readings > READINGS_PER_REASSIGNMENT_MAX {
                return told(format!(
                    "more than {READINGS_PER_REASSIGNMENT_MAX} readings: ask for a shorter time"
                ));
            }
        }
        Ok(is_taken)
    }

    /// Of two patients' readings by one device at one moment only one value can be right.
    async fn refuse_meeting(
        &self,
        tx: &mut PgConnection,
        sources: &[Source],
    ) -> Result<(), StepError> {
        let at: Option<DateTime<Utc>> = sqlx::query_scalar(include_str!("meets.sql"))
            .bind(sources.iter().map(|source| source.shard).collect::<Vec<_>>())
            .bind(sources.iter().map(|source| source.series).collect::<Vec<_>>())
            .bind(sources.iter().map(|source| &*source.vital).collect::<Vec<_>>())
            .bind(sources.iter().map(|source| &*source.source_id).collect::<Vec<_>>())
            .bind(self.wanted.from)
            .bind(self.wanted.to)
            .fetch_one(tx)
            .await?;
        let Some(at) = at else { return Ok(()) };
        told(format!(
            "two patients have another value of one vital by this device at {}: retract the one \
             that is wrong, and ask again",
            rfc3339(at)
        ))
    }

    /// Where readings of the device lie, but for the right patient's.
    pub(super) async fn sources(
        &self,
        connection: &mut PgConnection,
        ids: &[String],
    ) -> Result<Vec<Source>, sqlx::Error> {
        let mut all = Vec::new();
        for shard in self.log.shards() {
            let found: Vec<Source> = sqlx::query_as(
                "select series, patient_id, vital::text as vital, source_id from series \
                 where shard = $1 and tenant = $2 and source_id = any ($3) and patient_id <> $4 \
                 order by series",
            )
            .bind(shard)
            .bind(&self.tenant)
            .bind(ids)
            .bind(&self.wanted.patient_id)
            .fetch_all(&mut *connection)
            .await?;
            all.extend(found.into_iter().map(|source| Source { shard, ..source }));
        }
        Ok(all)
    }

    async fn judge(
        &self,
        connection: &mut PgConnection,
        source: &Source,
        shift_microseconds: i64,
    ) -> Result<Judged, sqlx::Error> {
        sqlx::query_as(include_str!("judge.sql"))
            .bind(source.shard)
            .bind(source.series)
            .bind(self.wanted.from)
            .bind(self.wanted.to)
            .bind(self.target)
            .bind(&self.wanted.patient_id)
            .bind(shift_microseconds)
            .fetch_one(connection)
            .await
    }
}

fn told<T>(why: String) -> Result<T, StepError> {
    Err(StepError::Told(why))
}

/// Where a walk through a series is.
pub(super) struct Walk {
    pub(super) after: DateTime<Utc>,
    pub(super) limit: i64,
}

impl Walk {
    /// From the beginning.
    pub(super) fn from(from: DateTime<Utc>) -> Walk {
        Walk { after: from - chrono::TimeDelta::microseconds(1), limit: READINGS_PER_STEP_MAX }
    }
}
