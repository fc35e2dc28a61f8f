//! Questions: what is, what was, and what was known.
//!
//! Guarantees two independent axes of time: `as_of` chooses by when something was
//! true, `known_at` by when the log had learned it. The present comes from the
//! projections, everything past from the log itself. Does not write: what people say is
//! written in the room `record`.

pub mod accesses;
pub mod alerts;
pub mod api_keys;
pub mod buckets;
pub mod bulk;
pub mod chart;
pub mod devices;
pub mod diff;
pub mod export;
pub mod history;
pub mod lines;
pub mod live;
pub mod moment;
pub mod patients;
pub mod reach;
pub mod records;
pub mod replay;
pub mod revoked;
mod rollup;
pub mod shadow;
pub mod state;
pub mod table;
pub mod wards;

use std::time::Duration;

use tokio::time::Instant;

pub use crate::clock::END_OF_TIME;
use crate::log::{Log, answered_soon};
use crate::projection::{self, ALERT, CURRENT_VITALS, ROLLUP, SHADOW};

/// Begins a look at the log: one snapshot, and statements that are planned once and then
/// find their months by themselves. Planning them anew for two years of months took four
/// times as long as the look. By their indexes, also those that were planned when a table was
/// still small.
const BEGIN_SNAPSHOT: &str = "begin isolation level repeatable read read only; \
                    set local plan_cache_mode = force_generic_plan; set local enable_seqscan = off";

/// How long a read of the present waits for the projections to have folded what
/// was committed before it was asked.
pub const FRESH_WAIT_MS_MAX: u64 = 1_000;
const FRESH_POLL_MS: u64 = 4;

/// What an answer is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerPart {
    /// Newest values.
    Vitals,
    /// Alerts, which take the rules first and then their projection.
    Alerts,
    /// What rules on trial would have said, and the pages of the day.
    Shadow,
    /// What the rules have said so far, as the log has it.
    Said,
    /// What was registered about patients.
    Records,
    /// Whether a patient was ever heard of.
    Existence,
    /// When devices were heard of.
    Devices,
}

/// Waits until the projections hold all that was committed in these shards up to
/// now, so that whoever wrote reads what it wrote. `false` when they are too far
/// behind: then the answer is older than the log, and says so.
pub async fn fresh(log: &Log, shards: &[i16], parts: &[AnswerPart]) -> Result<bool, sqlx::Error> {
    let until = Instant::now() + Duration::from_millis(FRESH_WAIT_MS_MAX);
    let has = |part: AnswerPart| parts.contains(&part);
    let mut whole = Vec::new();
    whole.extend(
        (has(AnswerPart::Vitals) || has(AnswerPart::Existence)).then_some(CURRENT_VITALS.consumer),
    );
    whole.extend(has(AnswerPart::Devices).then_some(ROLLUP.consumer));
    let of_rules = has(AnswerPart::Alerts) || has(AnswerPart::Shadow) || has(AnswerPart::Said);
    whole.extend(of_rules.then_some(crate::consumer::RULES));
    if !caught_up(log, shards, &whole, &[], until).await? {
        return Ok(false);
    }
    let mut sparse = Vec::new();
    sparse.extend(has(AnswerPart::Alerts).then_some(ALERT.consumer));
    sparse.extend(has(AnswerPart::Shadow).then_some(SHADOW.consumer));
    sparse.extend(has(AnswerPart::Records).then_some(CURRENT_VITALS.consumer));
    // The heads again: the rules may have appended.
    Ok(sparse.is_empty() || caught_up(log, shards, &[], &sparse, until).await?)
}

async fn caught_up(
    log: &Log,
    shards: &[i16],
    whole: &[&str],
    sparse: &[&str],
    until: Instant,
) -> Result<bool, sqlx::Error> {
    let mut heads: Option<Vec<i64>> = None;
    loop {
        let at = (shards, heads.as_deref());
        // The first words of most questions: a silent connection is found here.
        let asked = projection::caught_up(log.pool(), at, whole, sparse);
        let (read, caught_up) = answered_soon(asked).await?;
        if caught_up {
            return Ok(true);
        }
        for consumer in whole.iter().chain(sparse) {
            for shard in shards {
                // Again in this process: a step under way may end before these heads, and
                // another instance's holds the shard until then.
                match heads {
                    None => log.wake().hurry(log.pool(), consumer, *shard).await,
                    Some(_) => _ = log.wake().hurry_here(consumer, *shard),
                }
            }
        }
        heads.get_or_insert(read);
        if Instant::now() >= until {
            return Ok(false);
        }
        tokio::time::sleep(Duration::from_millis(FRESH_POLL_MS)).await;
    }
}
