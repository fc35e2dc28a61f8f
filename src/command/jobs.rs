//! What takes longer than an answer may, in a server.
//!
//! Guarantees that every kind of job has somebody in each process of workers who does it.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::database::Database;
use crate::clock::Clock;
use crate::export::{EXPORT_CONNECTIONS_MAX, ExportStore, Exports};
use crate::jobs::{JobKind, Jobs, Runner};
use crate::log::Log;
use crate::record::reassign::Reassignments;
use crate::rules::backtest::Trials;
use crate::tasks::Tasks;

/// Connections for what jobs ask: half of them for each of those that run at once.
const JOB_CONNECTIONS_MAX: u32 = 8;
/// Connections for reassignments: each needs one, and a second one while it asks whose a device is.
const REASSIGN_CONNECTIONS_MAX: u32 = 4;
/// Connections by which jobs are claimed, and exports write their parts.
const JOB_WRITERS_MAX: u32 = 3;

/// Starts it.
pub fn start(log: &Log, database: &Database, jobs: &Jobs, stop: &CancellationToken, tasks: &Tasks) {
    let trials = Trials::new(log.with_pool(database.enduring_pool(JOB_CONNECTIONS_MAX)));
    let of_device = log.with_pool(database.worker_pool(REASSIGN_CONNECTIONS_MAX));
    let reassignments = Reassignments::new(of_device, Clock::system());
    let pool = database.worker_pool(JOB_WRITERS_MAX);
    let read = log.with_pool(database.tenant_pool(EXPORT_CONNECTIONS_MAX));
    let exports = Exports::new(read, ExportStore::new(pool.clone()));
    let works = vec![
        (JobKind::Backtest, Arc::new(trials) as _),
        (JobKind::Reassign, Arc::new(reassignments) as _),
        (JobKind::Export, Arc::new(exports) as _),
    ];
    let runner = Runner::new(jobs.with_pool(pool), works);
    tasks.spawn("the jobs", runner.run(stop.clone()));
}
