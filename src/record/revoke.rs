//! Tokens taken away from who has them.
//!
//! Guarantees that it is an event of the tenant, in the name of who did it, and that it is
//! in the log before it is answered. Does not refuse anybody: who may call is `auth`'s to know.

use chrono::{DateTime, Utc};
use serde_json::json;

use crate::event::{Event, NO_PATIENT, Revoked, TOKEN_REVOKED};
use crate::log::{AppendError, Log};

/// Puts it into the log.
pub async fn revoke(
    log: &Log,
    tenant: &str,
    what: &Revoked,
    (by, reason): (&str, &str),
    now: DateTime<Utc>,
) -> Result<(), AppendError> {
    let data = match what {
        Revoked::Subject(subject) => json!({ "v": 1, "sub": subject, "reason": reason }),
        Revoked::Token(id) => json!({ "v": 1, "jti": id, "reason": reason }),
    };
    let stream = (tenant, NO_PATIENT);
    let event = Event::non_reading(TOKEN_REVOKED, stream, by, now, data.to_string());
    log.append(log.shard_of(tenant, NO_PATIENT), &[event]).await?;
    Ok(())
}
