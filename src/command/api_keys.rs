//! Where API keys are looked up, and where it is kept that they are in use.
//!
//! Guarantees one question for a key that is not known, by whoever runs the process and not as
//! its tenant, whom nobody knows before. That a key was used is written some seconds later, and
//! lost with the process: it is for people who ask whether a key can go.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::auth::api_key::KeyHash;
use crate::auth::api_keys::{ApiKeys, StoredKey, Unanswered};
use crate::clock::Clock;
use crate::log::Log;
use crate::query::api_keys::{KeyRow, find};
use crate::record::api_key::used;
use crate::tasks::Tasks;

/// How often it is written which keys were used.
const USED_SECONDS: u64 = 5;

/// The keys of this log.
pub fn start(log: &Log, stop: &CancellationToken, tasks: &Tasks) -> Arc<ApiKeys> {
    let asked = log.clone();
    let keys = Arc::new(ApiKeys::new(Box::new(move |id| {
        let log = asked.clone();
        Box::pin(async move {
            let found = find(&log, &id).await.map_err(|error| Unanswered(error.to_string()))?;
            found.map(stored).transpose()
        })
    })));
    let keeping = keep_used(keys.clone(), log.clone(), Clock::system());
    tasks.spawn_until("what API keys are used", stop, keeping);
    keys
}

fn stored(row: KeyRow) -> Result<StoredKey, Unanswered> {
    let hash = KeyHash::stored(&row.hash);
    Ok(StoredKey {
        hash: hash.ok_or_else(|| Unanswered("what is kept of a key is no hash".to_owned()))?,
        id: row.id,
        tenant: row.tenant,
        scopes: row.scopes,
        device: row.device,
        patient: row.patient,
        wards: row.wards,
        made_ms: row.made_at.timestamp_millis(),
        expires_ms: row.expires_at.map(|at| at.timestamp_millis()),
        is_revoked: row.revoked_at.is_some(),
    })
}

/// Writes which keys were used, for ever.
async fn keep_used(keys: Arc<ApiKeys>, log: Log, clock: Clock) {
    loop {
        tokio::time::sleep(Duration::from_secs(USED_SECONDS)).await;
        let ids = keys.take_used();
        if ids.is_empty() {
            continue;
        }
        if let Err(error) = used(&log, &ids, clock.now()).await {
            tracing::warn!(%error, "it is not kept that API keys were used");
        }
    }
}
