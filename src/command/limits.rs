//! Rate limits, in a server.
//!
//! Guarantees that they are those of the options, and what the other processes have counted is
//! known before anybody is answered.

use tokio_util::sync::CancellationToken;

use super::database::Database;
use super::error::Error;
use crate::config::Serving;
use crate::limits::shared::Sharing;
use crate::limits::{Limits, Rates};
use crate::tasks::Tasks;

/// Limits that all processes of the installation count together.
pub async fn start(
    database: &Database,
    serving: &Serving,
    stop: &CancellationToken,
    tasks: &Tasks,
) -> Result<Limits, Error> {
    let limits = Limits::new(rates(serving));
    tasks.spawn_until("the limits' upkeep", stop, limits.clone().forget());
    let sharing = Sharing::open(limits.clone(), database.worker_pool(1)).await?;
    tasks.spawn_until("who shares the limits", stop, sharing.tell());
    Ok(limits)
}

fn rates(serving: &Serving) -> Rates {
    Rates {
        device_requests: serving.limit_device_requests,
        gateway_requests: serving.limit_gateway_requests,
        readings: serving.limit_readings,
    }
}
