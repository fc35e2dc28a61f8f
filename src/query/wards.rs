//! Who lies in which ward now: for callers who see no others.
//!
//! Guarantees that nobody is taken to lie in a ward who was moved away from it by a commit
//! before the question: the log is asked, which is never behind. Who has come meanwhile may be
//! missing from [`patients`], which then says that it is not fresh. Does not know who may see
//! which ward.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::{AnswerPart, fresh};
use crate::event::{PATIENT_REGISTERED, Recorded};
use crate::log::{Log, Place, heads};

/// Patients of whom one stream knows the ward; then it asks anew.
const PATIENTS_HELD_MAX: usize = 4_096;
/// How long what lasts longer than an answer goes on by what it knew of a patient's ward.
const ASK_AGAIN_MS: u64 = 250;

/// Whether a patient lies in one of these wards.
pub async fn has(
    log: &Log,
    tenant: &str,
    patient_id: &str,
    wards: &[String],
) -> Result<bool, sqlx::Error> {
    let place = log.place_of((tenant, patient_id), None).await?;
    Ok(place.and_then(|(ward, _)| ward).is_some_and(|ward| wards.contains(&ward)))
}

/// The patients who lie in these wards, by id, and whether all who have come are among them.
pub async fn patients(
    log: &Log,
    tenant: &str,
    wards: &[String],
) -> Result<(Vec<String>, bool), sqlx::Error> {
    let shards: Vec<i16> = log.shards().collect();
    let fresh = fresh(log, &shards, &[AnswerPart::Records]).await?;
    let patients = sqlx::query_scalar(include_str!("wards.sql"))
        .bind(&shards)
        .bind(tenant)
        .bind(wards)
        .bind(PATIENT_REGISTERED)
        .fetch_all(log.pool())
        .await?;
    Ok((patients, fresh))
}

/// Whose events a stream may send on that is for some wards: of what was there when it began
/// those of who lay there then, and from then on by what the log says, in its order.
pub struct Followed {
    log: Log,
    wards: Vec<String>,
    /// Of the shards, from 0 on.
    began: Vec<i64>,
    known: HashMap<String, Place>,
}

impl Followed {
    /// For these wards, from these positions on, which are the heads; or, of a stream that
    /// goes on from an earlier place, from where the heads are now.
    pub async fn begin(
        log: Log,
        wards: Vec<String>,
        began: Option<&[i64]>,
    ) -> Result<Followed, sqlx::Error> {
        let began = match began {
            Some(began) => began.to_vec(),
            None => heads(&mut *log.pool().acquire().await?).await?,
        };
        Ok(Followed { log, wards, began, known: HashMap::new() })
    }

    /// Whether the patient of an event lies in one of the wards, after it.
    pub async fn has(&mut self, recorded: &Recorded) -> Result<bool, sqlx::Error> {
        let event = &recorded.event;
        if !self.known.contains_key(&event.patient_id) {
            let shard = usize::from(recorded.shard.unsigned_abs());
            let by = self.began.get(shard).copied().unwrap_or(0).max(recorded.position);
            let patient = (&*event.tenant, &*event.patient_id);
            let found = self.log.place_of(patient, Some(by)).await?;
            if self.known.len() >= PATIENTS_HELD_MAX {
                self.known.clear();
            }
            self.known.insert(event.patient_id.clone(), found.unwrap_or((None, 0)));
        }
        let Some((ward, said_at)) = self.known.get_mut(&event.patient_id) else { return Ok(false) };
        // What is read again of the past changes nothing: where they lie now is known.
        if event.kind == PATIENT_REGISTERED && recorded.position > *said_at {
            let data: Option<Value> =
                event.data.as_ref().and_then(|data| serde_json::from_str(data).ok());
            let said = data.as_ref().and_then(|data| data["record"]["ward"].as_str());
            (*ward, *said_at) = (said.map(str::to_owned), recorded.position);
        }
        Ok(ward.as_ref().is_some_and(|ward| self.wards.contains(ward)))
    }
}

/// Whether a patient lies where they were when an answer began that lasts.
pub struct Stay(Option<AskedAgain>);

struct AskedAgain {
    log: Log,
    tenant: String,
    patient_id: String,
    wards: Vec<String>,
    asked: Instant,
}

impl Stay {
    /// Of a patient, in one of these wards; anywhere if none are said.
    pub fn of(log: &Log, tenant: &str, patient_id: &str, wards: Option<Vec<String>>) -> Stay {
        Stay(wards.map(|wards| AskedAgain {
            log: log.clone(),
            tenant: tenant.to_owned(),
            patient_id: patient_id.to_owned(),
            wards,
            asked: Instant::now(),
        }))
    }

    /// Whether they still do, as it was known some milliseconds ago.
    pub async fn lasts(&mut self) -> Result<bool, sqlx::Error> {
        let Some(of) = &mut self.0 else { return Ok(true) };
        if of.asked.elapsed() < Duration::from_millis(ASK_AGAIN_MS) {
            return Ok(true);
        }
        of.asked = Instant::now();
        has(&of.log, &of.tenant, &of.patient_id, &of.wards).await
    }
}
