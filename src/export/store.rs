//! The tables of exports, and every way that who writes one changes them.
//!
//! Guarantees that only who holds the job writes: each change locks the job's row and names the
//! number of its claim, so that who was taken over changes nothing, also when it only learns it
//! later. A part and the place to go on from are one commit. Does not wait for the disk: a crash
//! of PostgreSQL undoes both.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, PgConnection, PgPool};
use uuid::Uuid;

use crate::jobs::KEPT_HOURS;
use crate::log;
use crate::vital::Vital;

/// Bytes of one export.
pub const EXPORT_BYTES_MAX: i64 = 8 * 1024 * 1024 * 1024;
/// Bytes of a tenant's exports that are written or kept.
pub const TENANT_BYTES_MAX: i64 = 16 * 1024 * 1024 * 1024;
/// Bytes of all exports of an installation that are written or kept: they lie in its database.
pub const INSTALLATION_BYTES_MAX: i64 = 64 * 1024 * 1024 * 1024;
/// Parts that are put away at one time.
const SWEPT_PARTS_MAX: i64 = 500;

/// Who holds a job, and by which claim.
#[derive(Clone, Copy, Debug)]
pub struct Hold<'a> {
    /// The job.
    pub job: Uuid,
    /// The number of the claim.
    pub claim: i32,
    /// Whose job.
    pub tenant: &'a str,
}

/// The place of a reading in an export: patients stand in the order of (shard, id), and a
/// patient's readings in that of (time, vital, device).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub struct Place {
    pub shard: i16,
    pub patient_id: String,
    pub measured_at: DateTime<Utc>,
    pub vital: Vital,
    pub device_id: String,
}

/// An export, as far as it is.
#[derive(Clone, Debug, FromRow)]
pub struct Begun {
    /// Each shard's last position as it began.
    pub heads: Vec<i64>,
    /// In its parts.
    pub bytes: i64,
    /// In these.
    pub readings: i64,
    /// Of whom there are any.
    pub patients: i64,
    /// Of the last reading in them, as JSON; none where it begins.
    pub place: Option<String>,
    /// The state of SHA-256 behind them; as it ended, if it is whole.
    pub hash: Option<Vec<u8>>,
    /// Until when it is kept, if it is whole.
    pub expires_at: Option<DateTime<Utc>>,
}

/// Bytes that follow those that there are, and what is so with them.
#[derive(Debug)]
pub struct Part<'a> {
    /// The place of their first.
    pub first: i64,
    /// They.
    pub data: &'a [u8],
    /// As [`Begun`] has them, with these.
    pub readings: i64,
    /// The same.
    pub patients: i64,
    /// The same.
    pub place: Option<&'a str>,
    /// The same.
    pub hash: &'a [u8],
}

/// What came of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It is written.
    Written,
    /// Nothing was: the job is another's by now, or nobody's.
    Lost,
    /// Nothing was: the tenant's exports have as many bytes as they may.
    TenantFull,
    /// Nothing was: those of the installation have.
    Full,
}

/// What was found as a part was to be written.
#[derive(FromRow)]
struct Found {
    is_written: bool,
    is_held: bool,
    own: i64,
    everyone: i64,
}

/// The exports of an installation, for who writes them.
#[derive(Clone)]
pub struct ExportStore {
    pool: PgPool,
}

impl ExportStore {
    /// Those of a database.
    pub fn new(pool: PgPool) -> ExportStore {
        ExportStore { pool }
    }

    /// Begins an export, or takes up one that another instance began. What cannot be taken
    /// up begins again, and shows what it would have shown. `None` when the job is another's.
    pub async fn begin(&self, hold: Hold<'_>) -> Result<Option<Begun>, sqlx::Error> {
        let mut tx = self.pool.begin().await?;
        let held = "select from job where id = $1 and claim = $2 and state = 'running' for share";
        let held = sqlx::query(held).bind(hold.job).bind(hold.claim).fetch_optional(&mut *tx);
        if held.await?.is_none() {
            return Ok(None);
        }
        let begun = match found(&mut tx, hold.job).await? {
            Some(begun) if begun.place.is_some() || begun.expires_at.is_some() => Some(begun),
            Some(begun) if begun.bytes == 0 => Some(begun),
            Some(_) => {
                sqlx::query("delete from export_part where job = $1")
                    .bind(hold.job)
                    .execute(&mut *tx)
                    .await?;
                let again = "update export set bytes = 0, readings = 0, patients = 0, hash = null \
                             where job = $1";
                sqlx::query(again).bind(hold.job).execute(&mut *tx).await?;
                found(&mut tx, hold.job).await?
            }
            None => {
                let heads = log::heads(&mut tx).await?;
                sqlx::query("insert into export (job, tenant, heads) values ($1, $2, $3)")
                    .bind(hold.job)
                    .bind(hold.tenant)
                    .bind(heads)
                    .execute(&mut *tx)
                    .await?;
                found(&mut tx, hold.job).await?
            }
        };
        tx.commit().await?;
        Ok(begun)
    }

    /// Writes a part behind the others.
    pub async fn put(&self, hold: Hold<'_>, part: Part<'_>) -> Result<Put, sqlx::Error> {
        let found: Found = sqlx::query_as(include_str!("put.sql"))
            .bind(hold.job)
            .bind(hold.claim)
            .bind(hold.tenant)
            .bind(part.first)
            .bind(part.data)
            .bind(part.readings)
            .bind(part.patients)
            .bind(part.place)
            .bind(part.hash)
            .bind(TENANT_BYTES_MAX)
            .bind(INSTALLATION_BYTES_MAX)
            .fetch_one(&self.pool)
            .await?;
        let length = i64::try_from(part.data.len()).unwrap_or(i64::MAX);
        Ok(match found {
            Found { is_written: true, .. } => Put::Written,
            Found { is_held: false, .. } => Put::Lost,
            Found { own, .. } if own.saturating_add(length) > TENANT_BYTES_MAX => Put::TenantFull,
            Found { everyone, .. } if everyone.saturating_add(length) > INSTALLATION_BYTES_MAX => {
                Put::Full
            }
            Found { .. } => Put::Lost,
        })
    }

    /// Says that it is whole, and has this hash. Until when it is kept; `None` when the job is
    /// another's.
    pub async fn end(
        &self,
        hold: Hold<'_>,
        hash: &[u8],
    ) -> Result<Option<DateTime<Utc>>, sqlx::Error> {
        sqlx::query_scalar(
            "with held as (select id from job \
                           where id = $1 and claim = $2 and state = 'running' for share) \
             update export set hash = $3, \
                    expires_at = statement_timestamp() + make_interval(hours => $4) \
             from held where job = held.id returning expires_at",
        )
        .bind(hold.job)
        .bind(hold.claim)
        .bind(hash)
        .bind(KEPT_HOURS)
        .fetch_optional(&self.pool)
        .await
    }

    /// The patients whose readings are wanted: shard, id, and how many are expected.
    pub async fn patients(
        &self,
        tenant: &str,
        shards: &[i16],
        (patients, vitals): (Option<&[String]>, Option<Vec<&str>>),
        (from, to): (DateTime<Utc>, DateTime<Utc>),
    ) -> Result<Vec<(i16, String, i64)>, sqlx::Error> {
        sqlx::query_as(include_str!("patients.sql"))
            .bind(shards)
            .bind(tenant)
            .bind(patients)
            .bind(vitals)
            .bind(from)
            .bind(to)
            .fetch_all(&self.pool)
            .await
    }

    /// Puts away what has expired and what nobody will finish, some of it; how many bytes are
    /// kept.
    pub async fn sweep(&self) -> Result<i64, sqlx::Error> {
        sqlx::query_scalar(include_str!("sweep.sql"))
            .bind(SWEPT_PARTS_MAX)
            .fetch_one(&self.pool)
            .await
    }
}

async fn found(connection: &mut PgConnection, job: Uuid) -> Result<Option<Begun>, sqlx::Error> {
    sqlx::query_as(
        "select heads, bytes, readings, patients, place::text as place, hash, expires_at \
         from export where job = $1",
    )
    .bind(job)
    .fetch_optional(connection)
    .await
}
