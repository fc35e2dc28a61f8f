//! Traces: what became of one request, from its `POST` through the log to the webhook.
//!
//! Guarantees that nothing waits for it and nothing fails because of it: what a collector
//! does not take, or takes too slowly, is dropped and counted. Off until [`Exporter::begin`]
//! has been called: then every function here is a look at an empty cell. How many requests are
//! traced is bounded, whoever asks for it.
//!
//! A trace backend is no place for patients' data: who makes a span names routes, tenants,
//! shards and ids of alerts, and never a patient, a device or a value. Does not carry a trace
//! through the log by itself: who appends hands it in, and who reads asks for it.

mod context;
mod export;
mod span;

pub use context::TraceContext;
pub use export::{ExportError, Exporter};
pub use span::{Moment, Span, SpanKind, append, child, current, is_on, request, root, within};
