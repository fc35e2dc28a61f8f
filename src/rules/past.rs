//! What the rules read again when a reading was entered in error.
//!
//! Guarantees a bounded cost, whatever the patient's history is: the newest
//! [`READINGS_MAX`] readings of each vital, and the newest [`NON_READINGS_MAX`] of all
//! other events. Within that, [`super::correct`] finds what it would have found in the whole log.

use sqlx::PgConnection;

use crate::event::{NO_PATIENT, Recorded};
use crate::log::decode_events;
use crate::vital::Vital;

/// Readings of each vital, the newest by the time they were measured: more than an hour of
/// one a second, half a week of one a minute.
pub const READINGS_MAX: i64 = 5_000;
/// Of what is no reading: registrations, alerts, what people cleared, other corrections.
pub const NON_READINGS_MAX: i64 = 5_000;
/// Changes of the tenant's rules.
const CHANGES_MAX: i64 = 2_000;

/// The patient's events up to a correction, itself included, and the changes of the tenant's
/// rules, in the log's order.
#[derive(Clone, Debug, Default)]
pub struct Past {
    /// Some may be missing at the beginning.
    pub events: Vec<Recorded>,
}

impl Past {
    /// Everything that a log holds before and at a correction.
    pub fn of(log: &[Recorded], correction: &Recorded) -> Past {
        let event = &correction.event;
        let belongs = |recorded: &&Recorded| {
            recorded.position <= correction.position
                && recorded.event.tenant == event.tenant
                && [&*event.patient_id, NO_PATIENT].contains(&&*recorded.event.patient_id)
        };
        Past { events: log.iter().filter(belongs).cloned().collect() }
    }
}

/// Reads the past of a correction, as far as `vitals` tell of it.
pub(super) async fn read(
    tx: &mut PgConnection,
    correction: &Recorded,
    vitals: &[Vital],
) -> Result<Past, sqlx::Error> {
    let rows = sqlx::query(include_str!("past.sql"))
        .bind(correction.shard)
        .bind(&*correction.event.tenant)
        .bind(&correction.event.patient_id)
        .bind(correction.position)
        .bind(vitals.iter().map(|vital| vital.name()).collect::<Vec<_>>())
        .bind(READINGS_MAX)
        .bind(NON_READINGS_MAX)
        .bind(CHANGES_MAX)
        .fetch_all(tx)
        .await?;
    Ok(Past { events: decode_events(correction.shard, &rows)? })
}
