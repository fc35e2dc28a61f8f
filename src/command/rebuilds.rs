//! Rebuilds that a server does by itself.

use std::time::Duration;

use crate::log::Log;
use crate::projection;

/// Connections for rebuilds of projections whose SQL has changed, while there are any.
pub(super) const REBUILD_CONNECTIONS_MAX: u32 = 8;
/// The pause after a rebuild that failed.
const REBUILD_PAUSE_SECONDS: u64 = 10;

/// Projections whose SQL has changed since their tables were made. Meanwhile the old
/// tables are read, and folded by the old text.
pub(super) async fn renew(log: Log) {
    while let Err(error) = projection::renew(&log).await {
        tracing::error!(%error, "a projection still stands by its old SQL; trying again");
        tokio::time::sleep(Duration::from_secs(REBUILD_PAUSE_SECONDS)).await;
    }
}
