//! Knowing which incarnation of the log it is, for as long as it is served.
//!
//! Guarantees that another incarnation is noticed within [`INCARNATION_CHECK_MS`], also behind a pooler that
//! changes servers under its connections, and that what was derived from a lost one is derived
//! anew. New connections look by themselves, before they are used.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::anchor;
use super::database::Database;
use super::error::Error;
use super::rebuilds::{REBUILD_CONNECTIONS_MAX, renew};
use crate::clock::Clock;
use crate::config::{Role, Serving};
use crate::log::Log;
use crate::tasks::Tasks;

/// How often it is looked which incarnation of the log this is.
const INCARNATION_CHECK_MS: u64 = 1_000;

/// Knows which incarnation of the log this is, and publishes its heads where that is asked for.
pub(super) async fn keep(
    log: &Log,
    database: &Database,
    serving: &Serving,
    stop: &CancellationToken,
    tasks: &Tasks,
) -> Result<(), Error> {
    if let Some(place) = &serving.anchor {
        anchor::recall(log, place).await?;
        let publish = anchor::publish(log.clone(), place.clone(), Clock::system());
        tasks.spawn_until("the anchor", stop, publish);
    }
    // Tables of what is gone are rebuilt by whoever folds.
    let folds = serving.roles.contains(&Role::Workers);
    let of_rebuilds = folds.then(|| log.with_pool(database.owner_pool(REBUILD_CONNECTIONS_MAX)));
    tasks.spawn_until("the incarnation", stop, watch(log.clone(), of_rebuilds));
    Ok(())
}

/// Looks which incarnation of the log it is; new connections do so by themselves. What is
/// archived is learned anew with it.
async fn watch(log: Log, of_rebuilds: Option<Log>) {
    let mut number = log.incarnations().number();
    loop {
        tokio::time::sleep(Duration::from_millis(INCARNATION_CHECK_MS)).await;
        if let Err(error) = log.check_incarnation().await {
            tracing::debug!(%error, "not known whether the log is what it was");
        }
        let now = log.incarnations().number();
        if now != number && log.reload_archived().await.is_ok() {
            number = now;
            if let Some(log) = &of_rebuilds {
                renew(log.clone()).await;
            }
        }
    }
}
