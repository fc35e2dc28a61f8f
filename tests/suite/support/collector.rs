//! A collector of traces: what OTLP brings over HTTP, read by the protocol's own messages.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;

use super::eventually;

const SOON: Duration = Duration::from_secs(60);

/// A step of a trace, as it came.
#[derive(Clone, Debug)]
pub struct Step {
    pub name: String,
    pub trace: String,
    pub span: String,
    /// Empty where it is the first.
    pub parent: String,
    /// The spans that it is linked with.
    pub links: Vec<String>,
    attributes: Vec<(String, String)>,
    pub failed: bool,
}

impl Step {
    fn of(span: Span) -> Step {
        let value = |value: Option<Value>| match value {
            Some(Value::StringValue(text)) => text,
            Some(Value::IntValue(number)) => number.to_string(),
            other => panic!("an attribute of another kind: {other:?}"),
        };
        Step {
            name: span.name,
            trace: hex(&span.trace_id),
            span: hex(&span.span_id),
            parent: hex(&span.parent_span_id),
            links: span.links.iter().map(|link| hex(&link.span_id)).collect(),
            attributes: span
                .attributes
                .into_iter()
                .map(|pair| (pair.key, value(pair.value.and_then(|of| of.value))))
                .collect(),
            failed: span.status.is_some_and(|status| status.code == 2),
        }
    }

    /// What it says under a key.
    pub fn says(&self, key: &str) -> Option<&str> {
        self.attributes.iter().find(|(name, _)| name == key).map(|(_, value)| &**value)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[derive(Default)]
struct Book {
    steps: Vec<Step>,
    /// All that came, to be searched for what should not.
    bytes: Vec<u8>,
}

/// A running collector.
pub struct Collector {
    /// What `--otlp-endpoint` takes.
    pub url: String,
    book: Arc<Mutex<Book>>,
    server: tokio::task::JoinHandle<()>,
}

impl Collector {
    /// Listens on a free port of this machine.
    pub async fn start() -> Collector {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let book = Arc::new(Mutex::new(Book::default()));
        let router = Router::new().route("/v1/traces", post(take)).with_state(book.clone());
        let server =
            tokio::spawn(async move { axum::serve(listener, router).await.expect("serving") });
        Collector { url, book, server }
    }

    /// All steps that came.
    pub fn steps(&self) -> Vec<Step> {
        self.book.lock().unwrap().steps.clone()
    }

    /// Whether anything that came has this text in it.
    pub fn has_met(&self, text: &str) -> bool {
        self.book.lock().unwrap().bytes.windows(text.len()).any(|at| at == text.as_bytes())
    }

    /// The steps of a trace with this name, when there are as many.
    pub async fn named(&self, trace: &str, name: &str, count: usize) -> Vec<Step> {
        eventually(&format!("{count} times {name:?} in {trace}"), SOON, || async {
            let mut steps = self.steps();
            steps.retain(|step| step.trace == trace && step.name == name);
            (steps.len() >= count).then_some(steps)
        })
        .await
    }

    /// The one step of a trace with this name.
    pub async fn one(&self, trace: &str, name: &str) -> Step {
        let mut steps = self.named(trace, name, 1).await;
        assert_eq!(steps.len(), 1, "{steps:#?}");
        steps.remove(0)
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn take(State(book): State<Arc<Mutex<Book>>>, body: Bytes) -> impl IntoResponse {
    let request = ExportTraceServiceRequest::decode(body.clone()).expect("spans, as protobuf");
    let of_scope = request.resource_spans.into_iter().flat_map(|of| of.scope_spans);
    let mut book = book.lock().unwrap();
    book.steps.extend(of_scope.flat_map(|of| of.spans).map(Step::of));
    book.bytes.extend(body);
    // Nothing was left out: an empty message. Who is gone has no connection left.
    [(header::CONTENT_TYPE, "application/x-protobuf"), (header::CONNECTION, "close")]
}
