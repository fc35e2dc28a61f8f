//! Where patients lie, by their newest records: for whoever may touch some wards only.
//!
//! Guarantees what was committed before the question: nothing folded is asked. Whoever has no
//! ward, or was never heard of, lies in none. Does not know who may touch which ward.

use super::handle::Log;
use crate::event::PATIENT_REGISTERED;

/// Where a patient lies, if anywhere, and the position at which that was said.
pub type Place = (Option<String>, i64);

impl Log {
    /// Where a patient lies, or lay by an event of their shard; nothing if nobody ever said.
    pub async fn place_of(
        &self,
        (tenant, patient_id): (&str, &str),
        position: Option<i64>,
    ) -> Result<Option<Place>, sqlx::Error> {
        sqlx::query_as(
            "select data -> 'record' ->> 'ward', position from non_reading \
             where shard = $1 and tenant = $2 and patient_id = $3 and type = $4 \
               and ($5::bigint is null or position <= $5) \
             order by occurred_at desc, position desc limit 1",
        )
        .bind(self.shard_of(tenant, patient_id))
        .bind(tenant)
        .bind(patient_id)
        .bind(PATIENT_REGISTERED)
        .bind(position)
        .fetch_optional(self.pool())
        .await
    }

    /// Those of these patients who lie in one of these wards.
    pub async fn lying_in(
        &self,
        tenant: &str,
        patients: &[&str],
        wards: &[String],
    ) -> Result<Vec<String>, sqlx::Error> {
        let shards: Vec<i16> = patients.iter().map(|id| self.shard_of(tenant, id)).collect();
        sqlx::query_scalar(include_str!("lying_in.sql"))
            .bind(shards)
            .bind(tenant)
            .bind(patients)
            .bind(PATIENT_REGISTERED)
            .bind(wards)
            .fetch_all(self.pool())
            .await
    }
}
