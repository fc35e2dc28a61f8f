//! Logs and metrics of the process.
//!
//! Logs go to stderr: stdout is for results, which programs read.

pub mod names;

use std::io::IsTerminal;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::format::{Writer, debug_fn};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::config::LogFormat;
use crate::trace;

/// The field in which a slow statement stands.
const STATEMENT: &str = "db.statement";

/// Latencies that matter here lie between a disk's fsync and a receiver's timeout.
const SECONDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

/// Begins to log. Once a process.
pub fn log(filter: &str, format: LogFormat) -> Result<(), tracing_subscriber::filter::ParseError> {
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_new(filter)?)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        // A line that cannot be written, because stderr is a file on a full disk, must not
        // end who wrote it: complaining of it on stderr does.
        .log_internal_errors(false);
    let begun = match format {
        LogFormat::Text => subscriber.compact().fmt_fields(for_people()).try_init(),
        LogFormat::Json => subscriber.json().map_event_format(InTrace).try_init(),
    };
    if begun.is_err() {
        tracing::debug!("this process logs already");
    }
    Ok(())
}

/// Lines for machines, with the trace of the request that they are about: `trace_id` and
/// `span_id`, as OpenTelemetry names them in logs that are not its own.
struct InTrace<F>(F);

impl<S, N, F> FormatEvent<S, N> for InTrace<F>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut to: Writer<'_>,
        event: &Event<'_>,
    ) -> std::fmt::Result {
        let Some(trace) = trace::current() else { return self.0.format_event(context, to, event) };
        let mut line = String::new();
        self.0.format_event(context, Writer::new(&mut line), event)?;
        let rest = line.strip_prefix('{').unwrap_or(&line);
        let (trace, span) = (trace.trace_id(), trace.span_id());
        write!(to, "{{\"trace_id\":\"{trace}\",\"span_id\":\"{span}\",{rest}")
    }
}

/// What a line for people holds of an event: not the whole of a slow statement, which is
/// kilobytes of SQL. Its first words are told beside, and lines for machines have it all.
fn for_people() -> impl for<'writer> FormatFields<'writer> + 'static {
    debug_fn(|line, field, value| match field.name() {
        "message" => write!(line, "{value:?}"),
        STATEMENT => Ok(()),
        name => write!(line, "{name}={value:?}"),
    })
    .delimited(" ")
}

/// Begins to count. Once a process.
pub fn metrics() -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .install_recorder()?;
    names::describe();
    Ok(handle)
}
