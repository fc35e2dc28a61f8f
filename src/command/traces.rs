//! Traces of a server: begun, sent, and forgotten.
//!
//! Guarantees that without a collector there are none, and no task for them. Whoever records
//! also sweeps what the rules have read, whatever its roles.

use tokio_util::sync::CancellationToken;

use super::error::Error;
use crate::config::Serving;
use crate::log::Log;
use crate::rules::sweep_traces;
use crate::tasks::Tasks;
use crate::trace::Exporter;

/// Records from here on, if there is a collector.
pub fn start(
    serving: &Serving,
    log: &Log,
    stop: &CancellationToken,
    tasks: &Tasks,
) -> Result<(), Error> {
    let Some(collector) = &serving.otlp_endpoint else { return Ok(()) };
    let exporter = Exporter::begin(collector, serving.trace_ratio)?;
    tasks.spawn("who sends traces", exporter.run(stop.clone()));
    tasks.spawn_until("who sweeps traces", stop, sweep_traces(log.pool().clone()));
    Ok(())
}
