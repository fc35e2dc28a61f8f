//! Folding the log into the new tables: several shards at once, window by window.
//!
//! Guarantees that rows and the place reached change in one transaction, so that nothing
//! is folded twice, also by a rebuild that takes up another one's. Does not hold up
//! anybody: it reads what is committed and writes tables that are not read yet.

use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use sqlx::{Connection, PgConnection};

use super::Beside;
use crate::consumer::{Consumer, ConsumerError, Follows, act_apart, leave_out};
use crate::log::{Log, Window, heads};

/// Positions folded per transaction: enough to fold well, little enough to show
/// progress and to keep memory bounded.
const WINDOW_POSITIONS_MAX: i64 = 200_000;

/// Shards that are folded at once, each on a connection.
const SHARDS_AT_ONCE_MAX: usize = 4;

/// When no more than this was left, one more round reaches the head, and what comes
/// during it is little enough for the swap, which makes the live fold wait.
const SWAP_POSITIONS_MAX: i64 = 20_000;

impl Beside {
    /// Brings the new tables to the head of every shard, as it is when they get there.
    pub(super) async fn fold(
        &self,
        log: &Log,
        connection: &mut PgConnection,
        reached: &mut [(i16, i64)],
        progress: &mut impl FnMut(i64, i64),
    ) -> Result<(), ConsumerError> {
        let mut lanes = Vec::new();
        for _ in 0..reached.len().min(SHARDS_AT_ONCE_MAX) {
            lanes.push(self.connect(log).await?);
        }
        // Again and again, because the log grows meanwhile: what is left for the swap,
        // which stops the live fold, must be little.
        loop {
            let heads: Vec<(i16, i64)> = log.shards().zip(heads(&mut *connection).await?).collect();
            let total: i64 = heads.iter().map(|(_, head)| head).sum();
            let folded: i64 = reached.iter().map(|(_, position)| position).sum();
            self.round(&mut lanes, reached, &heads, |folded| progress(folded, total)).await?;
            if total - folded <= SWAP_POSITIONS_MAX {
                for lane in lanes {
                    lane.close().await?;
                }
                return Ok(());
            }
        }
    }

    /// Folds every shard up to its head in `heads`.
    async fn round(
        &self,
        lanes: &mut Vec<PgConnection>,
        reached: &mut [(i16, i64)],
        heads: &[(i16, i64)],
        mut progress: impl FnMut(i64),
    ) -> Result<(), ConsumerError> {
        let mut waiting: Vec<usize> = (0..reached.len()).collect();
        let mut under_way = FuturesUnordered::new();
        loop {
            // Whoever is behind most goes first: the end comes when all are there.
            waiting.retain(|&n| reached[n].1 < heads[n].1);
            waiting.sort_by_key(|&n| heads[n].1 - reached[n].1);
            while !lanes.is_empty()
                && let Some(n) = waiting.pop()
                && let Some(lane) = lanes.pop()
            {
                let (shard, after) = reached[n];
                let to = heads[n].1.min(after + WINDOW_POSITIONS_MAX);
                under_way.push(async move { (n, self.window(lane, shard, after, to).await) });
            }
            let Some((n, folded)) = under_way.next().await else { return Ok(()) };
            let (lane, at) = folded?;
            lanes.push(lane);
            reached[n].1 = at;
            waiting.push(n);
            progress(reached.iter().map(|(_, position)| position).sum());
        }
    }

    /// Folds one window in a transaction; where the shard then stands.
    async fn window(
        &self,
        mut lane: PgConnection,
        shard: i16,
        after: i64,
        to: i64,
    ) -> Result<(PgConnection, i64), ConsumerError> {
        let at = match self.try_window(&mut lane, shard, (after, to), false).await {
            Err(error) if error.is_of_an_event() => {
                self.try_window(&mut lane, shard, (after, to), true).await?
            }
            at => at?,
        };
        Ok((lane, at))
    }

    async fn try_window(
        &self,
        lane: &mut PgConnection,
        shard: i16,
        (after, to): (i64, i64),
        apart: bool,
    ) -> Result<i64, ConsumerError> {
        let mut tx = lane.begin().await?;
        // Whoever was killed may still have a statement under way.
        let (at, parked): (i64, bool) = sqlx::query_as(
            "select position, exists (select from parked where shard = $2 and consumer = $3) \
             from rebuilding where name = $1 and shard = $2 for update",
        )
        .bind(self.projection.name)
        .bind(shard)
        .bind(&self.consumer)
        .fetch_one(&mut *tx)
        .await?;
        if at != after {
            tx.rollback().await?;
            return Ok(at);
        }
        let window = Window::between(&mut tx, shard, after, to).await?;
        if apart {
            act_apart(&mut tx, self, window).await?;
        } else {
            if parked {
                leave_out(&mut tx, &self.consumer).await?;
            }
            self.act(&mut tx, &window).await?;
        }
        sqlx::query("update rebuilding set position = $3 where name = $1 and shard = $2")
            .bind(self.projection.name)
            .bind(shard)
            .bind(to)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(to)
    }
}

/// What parks patients has to be a consumer. No worker runs this one.
impl Consumer for Beside {
    type Done = ();

    fn name(&self) -> &str {
        &self.consumer
    }

    fn follows(&self) -> Follows {
        self.projection.follows
    }

    fn window_positions_max(&self) -> i64 {
        WINDOW_POSITIONS_MAX
    }

    fn pace(&self) -> Duration {
        Duration::ZERO
    }

    async fn act(&self, tx: &mut PgConnection, window: &Window) -> Result<(), ConsumerError> {
        Ok(self.projection.apply(tx, window).await?)
    }
}
