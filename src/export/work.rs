//! Doing an export: the patients one after the other, the next one read while one is written.
//!
//! Guarantees the rows of each patient's history, in its order, of what was known as the export
//! began; and that readings of a month that is archived are never silently missing. Two
//! connections read at most, and no transaction lasts longer than a page.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use age::x25519::Recipient;
use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, Stream, StreamExt};
use serde_json::Value;

use super::output::recipients;
use super::store::{Begun, ExportStore, Hold, Place};
use super::writer::{Patient, Writer, WriterError};
use crate::clock::END_OF_TIME;
use crate::jobs::{Failure, Task, Work};
use crate::log::Log;
use crate::query::bulk::{self, BulkPage};
use crate::query::history::{HistoryCursor, HistoryQuery, TimeRange};
use crate::query::reach::Unanswered;
use crate::wire::{ExportResult, NewExport, Time};

/// Patients that an export may name.
pub const PATIENTS_NAMED_MAX: usize = 1_000;

/// Connections by which a process's exports read: two for each of those that run at once.
pub const EXPORT_CONNECTIONS_MAX: u32 = 4;

/// Who does exports.
pub struct Exports {
    log: Log,
    store: ExportStore,
}

/// A patient's readings, being read.
type Pages = Pin<Box<dyn Stream<Item = Result<BulkPage, Unanswered>> + Send>>;

impl Exports {
    /// Of this log, whose connections are their own, into this database.
    pub fn new(log: Log, store: ExportStore) -> Exports {
        Exports { log, store }
    }

    async fn export(&self, task: &Task) -> Result<ExportResult, Failure> {
        let asked: NewExport = serde_json::from_value(task.argument.clone())
            .map_err(|error| Failure::Told(error.to_string()))?;
        let keys = recipients(asked.recipients.as_deref().unwrap_or_default())
            .map_err(|error| Failure::Told(error.to_string()))?;
        let hold = Hold { job: task.held.0, claim: task.held.1, tenant: &task.tenant };
        let begun = self.store.begin(hold).await.map_err(WriterError::from)?;
        let begun = begun.ok_or(WriterError::Lost)?;
        if let (Some(expires_at), Some(hash)) = (begun.expires_at, &begun.hash) {
            // Whoever finished it died before it could say so.
            let Begun { bytes, readings, patients, .. } = begun;
            return Ok(ExportResult {
                format: asked.format,
                encrypted: !keys.is_empty(),
                bytes,
                readings,
                patients,
                sha256: hex(hash),
                expires_at: Time(expires_at),
            });
        }
        self.write(task, &asked, &keys, hold, &begun).await
    }

    async fn write(
        &self,
        task: &Task,
        asked: &NewExport,
        keys: &[Recipient],
        hold: Hold<'_>,
        begun: &Begun,
    ) -> Result<ExportResult, Failure> {
        let place: Option<Place> = begun.place.as_deref().map(serde_json::from_str).transpose()?;
        let mut patients = self.patients(task, asked).await.map_err(WriterError::from)?;
        let expected = patients.iter().map(|patient| patient.expected).sum::<i64>();
        let total = |readings: i64| u64::try_from(expected.max(readings)).unwrap_or(0);
        let told = |readings: i64| {
            task.progress.total.store(total(readings), Ordering::Relaxed);
            task.progress.done.store(u64::try_from(readings).unwrap_or(0), Ordering::Relaxed);
        };
        told(begun.readings);
        if let Some(place) = &place {
            let is_at = |of: &Patient| of.shard == place.shard && *of.id == *place.patient_id;
            let at = patients.iter().position(is_at);
            let at = at.ok_or_else(|| Failure::Ours("its patient is gone".to_owned()))?;
            patients.drain(..at);
        }
        let after = place.clone();
        let mut writer = Writer::new(&self.store, hold, (asked.format, keys), (begun, place))
            .map_err(WriterError::from)?;
        let mut after = after.map(|Place { measured_at, vital, device_id, .. }| HistoryCursor {
            measured_at,
            vital,
            device_id,
        });
        // Each is being read as soon as it is there: one ahead of the one that is written.
        let mut opened = patients.into_iter().map(|patient| {
            let pages = self.pages(task, asked, begun, &patient, after.take());
            (patient, pages)
        });
        let mut next = opened.next();
        while let Some((patient, mut pages)) = next {
            next = opened.next();
            while let Some(page) = pages.next().await.transpose()? {
                writer.page(&patient, page).await?;
                told(writer.readings());
            }
        }
        let ended = writer.end().await?;
        told(ended.readings);
        task.progress.total.store(task.progress.done.load(Ordering::Relaxed), Ordering::Relaxed);
        Ok(ExportResult {
            format: asked.format,
            encrypted: !keys.is_empty(),
            bytes: ended.bytes,
            readings: ended.readings,
            patients: ended.patients,
            sha256: hex(&ended.sha256),
            expires_at: Time(ended.expires_at),
        })
    }

    async fn patients(&self, task: &Task, asked: &NewExport) -> Result<Vec<Patient>, sqlx::Error> {
        let shards: Vec<i16> = self.log.shards().collect();
        let vitals = asked.vitals.as_ref();
        let vitals = vitals.map(|vitals| vitals.iter().map(|vital| vital.name()).collect());
        let (from, to) = span(asked);
        let of = (asked.patients.as_deref(), vitals);
        let rows = self.store.patients(&task.tenant, &shards, of, (from, to)).await?;
        let patient =
            |(shard, id, expected): (i16, String, i64)| Patient { shard, id: id.into(), expected };
        Ok(rows.into_iter().map(patient).collect())
    }

    fn pages(
        &self,
        task: &Task,
        asked: &NewExport,
        begun: &Begun,
        patient: &Patient,
        after: Option<HistoryCursor>,
    ) -> Pages {
        let (from, to) = span(asked);
        let question = HistoryQuery {
            tenant: task.tenant.clone(),
            patient_id: patient.id.to_string(),
            range: TimeRange { vitals: asked.vitals.clone().unwrap_or_default(), from, to },
            device: None,
        };
        let shard = usize::try_from(patient.shard).unwrap_or(usize::MAX);
        // A shard of which nothing was known has nothing.
        let until = begun.heads.get(shard).copied().unwrap_or(0);
        let expected = patient.expected;
        Box::pin(bulk::readings_known(self.log.clone(), question, after, until, expected))
    }
}

fn span(asked: &NewExport) -> (DateTime<Utc>, DateTime<Utc>) {
    (
        asked.from.map_or(DateTime::UNIX_EPOCH, |time| time.0),
        asked.to.map_or(END_OF_TIME, |time| time.0),
    )
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Work for Exports {
    fn run(self: Arc<Self>, task: Task) -> BoxFuture<'static, Result<Value, Failure>> {
        async move { Ok(serde_json::to_value(self.export(&task).await?)?) }.boxed()
    }

    fn sweep(&self) -> BoxFuture<'_, Result<(), sqlx::Error>> {
        async move {
            let kept = self.store.sweep().await?;
            metrics::gauge!("vitals_export_bytes").set(kept as f64);
            Ok(())
        }
        .boxed()
    }
}

impl From<WriterError> for Failure {
    fn from(error: WriterError) -> Failure {
        match error {
            WriterError::TooLarge(why) => Failure::Told(why),
            other => Failure::Ours(other.to_string()),
        }
    }
}

impl From<Unanswered> for Failure {
    fn from(error: Unanswered) -> Failure {
        match error {
            Unanswered::Archived(_) => Failure::Told(error.to_string()),
            Unanswered::Database(error) => Failure::Ours(error.to_string()),
        }
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Failure {
        Failure::Ours(error.to_string())
    }
}
