//! Every process learns which tokens are revoked.
//!
//! Guarantees that all that was revoked before [`Follower::open`] is known when it returns, and
//! what is revoked by any process soon after its commit: at once where it is told of, else
//! within the wake-up's poll. After a restore all of it is read again, and what was known
//! stays.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::select_all;

use crate::auth::Revocations;
use crate::log::{Log, signal_or_poll};
use crate::query::revoked;

/// How long a log that does not answer is left alone.
const RETRY_MS: u64 = 1_000;
/// The shortest time between two looks: much may happen that is none of it.
const PACE_MS: u64 = 20;

/// Who keeps [`Revocations`] up to date.
pub struct Follower {
    log: Log,
    known: Arc<Revocations>,
    /// Of the log's history.
    incarnation: i64,
    /// Read so far, of each shard.
    positions: Vec<i64>,
}

impl Follower {
    /// Reads all that was revoked so far.
    pub async fn open(log: Log, known: Arc<Revocations>) -> Result<Follower, sqlx::Error> {
        let positions = vec![0; log.shards().count()];
        let incarnation = log.incarnations().number();
        let mut follower = Follower { log, known, incarnation, positions };
        follower.look().await?;
        Ok(follower)
    }

    /// Follows the log, for ever.
    pub async fn follow(mut self) {
        let wake = self.log.wake().clone();
        let mut signals: Vec<_> =
            self.log.shards().map(|shard| wake.follow_non_readings(shard)).collect();
        loop {
            select_all(signals.iter_mut().map(|signal| Box::pin(signal_or_poll(signal)))).await;
            let pause = match self.look().await {
                Ok(()) => PACE_MS,
                Err(error) => {
                    tracing::warn!(%error, "what was revoked meanwhile is not known; asking again");
                    RETRY_MS
                }
            };
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    async fn look(&mut self) -> Result<(), sqlx::Error> {
        let incarnation = self.log.incarnations().number();
        if incarnation != self.incarnation {
            self.positions.fill(0);
        }
        let (found, heads) = revoked::since(&self.log, &self.positions).await?;
        for (tenant, what, at) in found {
            self.known.revoke(&tenant, what, at.timestamp_millis());
        }
        (self.positions, self.incarnation) = (heads, incarnation);
        Ok(())
    }
}
