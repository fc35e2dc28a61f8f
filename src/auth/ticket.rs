//! What somebody may hand on to open a stream: for a minute, and no more than they may.
//!
//! Guarantees that whoever comes by a ticket is its maker, narrowed to reading what was
//! measured and to all that the maker was narrowed to, and that what it opened ends with the
//! maker's own token or session. Does not end when it was used: who has it may open streams
//! until its minute is over. Does not keep anybody from changing it: whoever hands it out
//! seals it.

use std::sync::{Arc, OnceLock};

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::caller::Caller;
use super::claims::unauthorised;
use super::denied::Denied;
use super::revocations::Revocations;
use super::scope::{Scope, Scopes};
use super::wards::Wards;

/// How long a ticket opens streams.
pub const TICKET_SECONDS: i64 = 60;

/// A maker, and until when.
#[derive(Serialize, Deserialize)]
pub struct Ticket {
    tenant: String,
    subject: String,
    device: Option<String>,
    patient: Option<String>,
    wards: Option<Vec<String>>,
    token_id: Option<String>,
    issued_ms: Option<i64>,
    /// Of what the maker showed.
    expires_ms: i64,
    /// Of the ticket.
    until_ms: i64,
}

impl Ticket {
    /// A ticket of somebody. Whatever narrows a caller is in here: one more field of theirs
    /// does not compile until it is said what becomes of it.
    pub fn of(maker: &Caller, now: DateTime<Utc>) -> Ticket {
        let Caller {
            tenant,
            subject,
            scopes: _,
            device,
            patient,
            wards,
            token_id,
            issued_ms,
            begins_ms: _,
            expires_ms,
            linked: _,
            revocations: _,
            counted_as: _,
        } = maker;
        let until = (now + TimeDelta::seconds(TICKET_SECONDS)).timestamp_millis();
        Ticket {
            tenant: tenant.to_string(),
            subject: subject.clone(),
            device: device.clone(),
            patient: patient.clone(),
            wards: wards.of(Scope::VitalsRead),
            token_id: token_id.clone(),
            issued_ms: *issued_ms,
            expires_ms: *expires_ms,
            until_ms: until.min(*expires_ms),
        }
    }

    /// Until when it opens streams.
    pub fn until(&self) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(self.until_ms).unwrap_or_default()
    }

    /// Who comes by it.
    pub fn caller(
        self,
        revocations: &Arc<Revocations>,
        now: DateTime<Utc>,
    ) -> Result<Caller, Denied> {
        if self.until_ms <= now.timestamp_millis() {
            let detail = format!("the ticket was good for {TICKET_SECONDS} s: ask for another one");
            return Err(unauthorised(detail));
        }
        let scopes = Scopes::of(&[Scope::VitalsRead]);
        let caller = Caller {
            tenant: self.tenant.into(),
            subject: self.subject,
            scopes,
            device: self.device,
            patient: self.patient,
            wards: Wards::of_token(scopes, Vec::new(), self.wards.as_deref()),
            token_id: self.token_id,
            issued_ms: self.issued_ms,
            begins_ms: None,
            expires_ms: self.expires_ms,
            linked: false,
            revocations: Some(revocations.clone()),
            counted_as: OnceLock::new(),
        };
        caller.may_still(now)?;
        Ok(caller)
    }
}
