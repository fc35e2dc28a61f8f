//! Spans: the steps of a trace that this process takes.
//!
//! Guarantees that a request is recorded if who sends it records it, or else by chance, and
//! either no more often than [`ASKED_PER_SECOND_MAX`] and [`OWN_PER_SECOND_MAX`]; and that a
//! step is recorded exactly if that which it follows from is. Each ends when it is dropped.

use std::num::NonZeroU32;
use std::sync::OnceLock;
use std::time::SystemTime;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use opentelemetry::trace::{Span as _, Status, TraceContextExt, Tracer as _};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_sdk::trace::SdkTracer;

pub use opentelemetry::trace::SpanKind;

use super::context::TraceContext;
use crate::clock::Clock;

/// Requests a second that are recorded because who sends them says so.
const ASKED_PER_SECOND_MAX: NonZeroU32 = NonZeroU32::new(50).unwrap();
/// Requests and alerts a second that are recorded by chance.
const OWN_PER_SECOND_MAX: NonZeroU32 = NonZeroU32::new(50).unwrap();
/// Parts of such requests, each of a shard or of a stream, whose appends are recorded.
const APPENDS_PER_SECOND_MAX: NonZeroU32 = NonZeroU32::new(200).unwrap();

static RECORDER: OnceLock<Recorder> = OnceLock::new();

struct Recorder {
    tracer: SdkTracer,
    ratio: f64,
    asked: DefaultDirectRateLimiter,
    own: DefaultDirectRateLimiter,
    appends: DefaultDirectRateLimiter,
}

tokio::task_local! {
    static CURRENT: TraceContext;
}

/// Begins to record, `ratio` of what nobody has decided. Once a process; whether it did.
pub(super) fn record(tracer: SdkTracer, ratio: f64) -> bool {
    let limiter = |most| RateLimiter::direct(Quota::per_second(most));
    let recorder = Recorder {
        tracer,
        ratio,
        asked: limiter(ASKED_PER_SECOND_MAX),
        own: limiter(OWN_PER_SECOND_MAX),
        appends: limiter(APPENDS_PER_SECOND_MAX),
    };
    RECORDER.set(recorder).is_ok()
}

/// Whether anything is recorded.
pub fn is_on() -> bool {
    RECORDER.get().is_some()
}

/// The step that answers a request, if it is recorded.
pub fn request(parent: Option<&TraceContext>, name: impl Fn() -> String) -> Option<Span> {
    let recorder = RECORDER.get()?;
    let is_recorded = match parent {
        Some(parent) => parent.is_sampled() && admits(&recorder.asked),
        None => recorder.is_chosen(),
    };
    is_recorded.then(|| recorder.begin(name(), SpanKind::Server, parent, Moment::default()))
}

/// The first step of what no request brought about, if it is recorded.
pub fn root(name: &'static str, began: Moment) -> Option<Span> {
    let recorder = RECORDER.get()?;
    let chosen = recorder.is_chosen();
    chosen.then(|| recorder.begin(name.into(), SpanKind::Internal, None, began))
}

/// A step that follows from another, if that is recorded.
pub fn child(
    parent: &TraceContext,
    name: &'static str,
    kind: SpanKind,
    began: Moment,
) -> Option<Span> {
    let recorder = RECORDER.get().filter(|_| parent.is_sampled())?;
    Some(recorder.begin(name.into(), kind, Some(parent), began))
}

/// The append of a part of what this task handles, if that is recorded.
pub fn append() -> Option<Span> {
    let recorder = RECORDER.get()?;
    let parent = current().filter(TraceContext::is_sampled)?;
    let admitted = admits(&recorder.appends);
    admitted.then(|| {
        recorder.begin("append".into(), SpanKind::Internal, Some(&parent), Moment::default())
    })
}

/// Handles something of a trace: lines that are logged meanwhile name it.
pub async fn within<T>(context: TraceContext, handled: impl Future<Output = T>) -> T {
    CURRENT.scope(context, handled).await
}

/// The trace of what this task handles.
pub fn current() -> Option<TraceContext> {
    CURRENT.try_with(TraceContext::clone).ok()
}

fn admits(limiter: &DefaultDirectRateLimiter) -> bool {
    let admitted = limiter.check().is_ok();
    if !admitted {
        metrics::counter!("vitals_traces_limited_total").increment(1);
    }
    admitted
}

impl Recorder {
    fn is_chosen(&self) -> bool {
        rand::random::<f64>() < self.ratio && admits(&self.own)
    }

    fn begin(
        &self,
        name: String,
        kind: SpanKind,
        parent: Option<&TraceContext>,
        Moment(began): Moment,
    ) -> Span {
        let mut builder = self.tracer.span_builder(name).with_kind(kind);
        builder.start_time = began;
        let context = match parent {
            Some(parent) => Context::new().with_remote_span_context(parent.0.clone()),
            None => Context::new(),
        };
        Span(self.tracer.build_with_context(builder, &context))
    }
}

/// When something began of which it turns out later that it is recorded.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moment(Option<SystemTime>);

impl Moment {
    /// Now, if anything is recorded.
    pub fn now() -> Moment {
        Moment(is_on().then(|| Clock::system().now().into()))
    }
}

/// A step under way. It ends when it is dropped.
#[derive(Debug)]
pub struct Span(opentelemetry_sdk::trace::Span);

impl Span {
    /// What follows from it has this for its parent.
    pub fn context(&self) -> TraceContext {
        TraceContext(self.0.span_context().clone())
    }

    /// Says something of it. Never of a patient.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        self.0.set_attribute(KeyValue::new(key, value));
    }

    /// It has to do with a step of another trace.
    pub fn link(&mut self, other: &TraceContext) {
        self.0.add_link(other.0.clone(), Vec::new());
    }

    /// It came to nothing, for this reason.
    pub fn fail(&mut self, reason: impl Into<std::borrow::Cow<'static, str>>) {
        self.0.set_status(Status::error(reason));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_task_handles_is_known_within_it_and_not_beside() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let context = TraceContext::read(text, None).unwrap();
        assert_eq!(current(), None);
        let known = within(context.clone(), async {
            tokio::task::yield_now().await;
            current()
        });
        assert_eq!(known.await, Some(context.clone()));
        assert_eq!(current(), None);
        // Nothing is recorded in this process.
        assert!(!is_on() && request(Some(&context), String::new).is_none());
        assert!(child(&context, "step", SpanKind::Internal, Moment::now()).is_none());
    }
}
