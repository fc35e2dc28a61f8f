//! Exporting: spans that have ended, to a collector, by OTLP over HTTP.
//!
//! Guarantees that a span that ends waits for nobody: it gets a place among
//! [`SPANS_QUEUED_MAX`] or is dropped, and counted. A batch is tried for [`EXPORT_MS_MAX`] and
//! then given up, counted as well; that a collector is away is said once. Does not guarantee
//! that a span arrives.

use std::time::Duration;

use opentelemetry::trace::TracerProvider;
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::resource::EnvResourceDetector;
use opentelemetry_sdk::trace::{
    SdkTracerProvider, Span, SpanData, SpanExporter as _, SpanProcessor,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::span;

/// Spans that have ended and are not sent yet; each takes about a kilobyte.
const SPANS_QUEUED_MAX: usize = 4_096;
/// Spans of one request to the collector.
const SPANS_PER_EXPORT_MAX: usize = 512;
/// How long spans wait for others.
const GATHER_MS: u64 = 1_000;
/// How long one batch is tried, with its retries.
const EXPORT_MS_MAX: u64 = 5_000;
/// How long the end of the process waits for spans of what is just ending.
const LAST_SPANS_MS: u64 = 500;
/// How long it then waits for the collector to take them.
const LAST_EXPORT_MS_MAX: u64 = 1_500;

/// Why there are no traces.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ExportError {
    #[error("a client for the collector of traces: {0}")]
    Client(#[from] reqwest::Error),
    #[error("the collector of traces: {0}")]
    Exporter(#[from] ExporterBuildError),
}

/// The way of spans to the collector, from their end on.
pub struct Exporter {
    exporter: SpanExporter,
    ended: mpsc::Receiver<SpanData>,
    batch: Vec<SpanData>,
    is_away: bool,
}

impl Exporter {
    /// Begins to record: what says that it is recorded, and `ratio` of what says nothing.
    /// `collector` is the base of its URLs, as `http://collector:4318`.
    ///
    /// Headers, and what is said of the process, come from `OTEL_EXPORTER_OTLP_HEADERS` and
    /// `OTEL_RESOURCE_ATTRIBUTES`, as everywhere.
    pub fn begin(collector: &reqwest::Url, ratio: f64) -> Result<Exporter, ExportError> {
        let limit = Duration::from_millis(EXPORT_MS_MAX);
        let none = reqwest::redirect::Policy::none();
        let client = reqwest::Client::builder().timeout(limit).redirect(none).build()?;
        let mut exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_endpoint(format!("{}/v1/traces", collector.as_str().trim_end_matches('/')))
            .with_timeout(limit)
            .build()?;
        let resource = Resource::builder_empty()
            .with_service_name("vitals")
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .with_detector(Box::new(EnvResourceDetector::new()))
            .build();
        exporter.set_resource(&resource);
        let (queue, ended) = mpsc::channel(SPANS_QUEUED_MAX);
        let provider = SdkTracerProvider::builder()
            .with_resource(resource)
            .with_span_processor(Queue(queue))
            .build();
        if !span::record(provider.tracer("vitals"), ratio) {
            tracing::debug!("this process records traces already");
        }
        Ok(Exporter { exporter, ended, batch: Vec::new(), is_away: false })
    }

    /// Sends until told to stop; then what ended until then, if the collector takes it soon.
    pub async fn run(mut self, stop: CancellationToken) {
        let last_export = Duration::from_millis(LAST_EXPORT_MS_MAX);
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.gather(Duration::from_millis(GATHER_MS)) => {}
            }
            tokio::select! {
                () = self.send() => {}
                () = async {
                    stop.cancelled().await;
                    sleep(last_export).await;
                } => {}
            }
        }
        let last = async {
            loop {
                self.gather(Duration::from_millis(LAST_SPANS_MS)).await;
                self.send().await;
            }
        };
        if timeout(Duration::from_millis(LAST_SPANS_MS) + last_export, last).await.is_err() {
            tracing::debug!("traces that have not left by now are lost");
        }
    }

    /// Some spans, as soon as they are many or the first of them has waited. What was
    /// gathered stays where this is not waited for.
    async fn gather(&mut self, wait: Duration) {
        if self.batch.is_empty()
            && self.ended.recv_many(&mut self.batch, SPANS_PER_EXPORT_MAX).await == 0
        {
            // Who records lives as long as the process.
            return std::future::pending().await;
        }
        let due = Instant::now() + wait;
        while self.batch.len() < SPANS_PER_EXPORT_MAX {
            let room = SPANS_PER_EXPORT_MAX - self.batch.len();
            match timeout_at(due, self.ended.recv_many(&mut self.batch, room)).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
    }

    async fn send(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        let spans = batch.len() as u64;
        let sent = self.exporter.export(batch).await;
        let outcome = if sent.is_ok() { "sent" } else { "failed" };
        metrics::counter!("vitals_trace_spans_total", "outcome" => outcome).increment(spans);
        match sent {
            Ok(()) if self.is_away => tracing::info!("the collector takes traces again"),
            Err(error) if !self.is_away => {
                tracing::warn!(%error, "the collector does not take traces: they are lost until it does");
            }
            _ => {}
        }
        self.is_away = outcome == "failed";
    }
}

/// The queue, as who ends a span sees it.
#[derive(Debug)]
struct Queue(mpsc::Sender<SpanData>);

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if self.0.try_send(span).is_err() {
            metrics::counter!("vitals_trace_spans_total", "outcome" => "dropped").increment(1);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}
