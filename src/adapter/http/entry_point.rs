//! The way in: through the router, and past it for readings.
//!
//! The router copies and boxes every step on a request's way, once for each layer. Readings
//! are most of what comes, so they go the same way without those steps: one reading costs a
//! seventh less (decision 0006). Guarantees that the pipeline and the
//! handler are the router's own, and that nothing but the bare path of readings comes by.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::extract::{FromRequest, Request, State};
use axum::http::{Method, Uri};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use tower_service::Service;

use super::availability::Availability;
use super::body::Incoming;
use super::cors::Origins;
use super::observed::{ObservedReadings, READINGS};
use super::pipeline::{RequestPipeline, every_answer};
use super::problem::Problem;
use super::readings::{self, ReadingsState};
use crate::auth::Caller;

type Answering = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

/// All that answers: cheap to clone, as each request does.
#[derive(Clone)]
pub struct EntryPoint {
    router: Router,
    readings: Option<Arc<ReadingsRoute>>,
    origins: Option<Origins>,
}

struct ReadingsRoute {
    pipeline: Arc<RequestPipeline>,
    readings: Arc<ReadingsState>,
    availability: Availability,
}

impl From<Router> for EntryPoint {
    /// All that answers is the router.
    fn from(router: Router) -> EntryPoint {
        EntryPoint { router, readings: None, origins: None }
    }
}

impl EntryPoint {
    /// A router with a route for readings, what that route stands on, and whose pages may call.
    pub(super) fn new(
        router: Router,
        pipeline: Arc<RequestPipeline>,
        readings: Arc<ReadingsState>,
        availability: Availability,
        origins: Option<Origins>,
    ) -> EntryPoint {
        let route = Arc::new(ReadingsRoute { pipeline, readings, availability });
        EntryPoint { router, readings: Some(route), origins }
    }

    fn answer(&mut self, request: Request) -> Answering {
        match &self.readings {
            Some(route) if request.method() == Method::POST && is_readings(request.uri()) => {
                let route = route.clone();
                Box::pin(async move {
                    let observed = ObservedReadings::begin();
                    let answer = every_answer(pin!(route.answer(request))).await;
                    observed.answered(READINGS, &answer);
                    Ok(route.availability.parting(answer))
                })
            }
            _ => Box::pin(self.router.call(request)),
        }
    }
}

/// With a query, also an empty one (`?&`), it is the router's: so both ways can be compared.
/// HTTP/2 names the host in it, too.
fn is_readings(uri: &Uri) -> bool {
    uri.path_and_query().is_some_and(|path| path == READINGS)
}

impl ReadingsRoute {
    async fn answer(&self, mut request: Request) -> Result<Response, Problem> {
        let asked = self.pipeline.asked(&mut request, Some(READINGS)).await;
        let (headers, extensions) = (request.headers(), request.extensions());
        let caller = self.pipeline.caller(request.method(), headers, extensions).await;
        let answer = async |caller: Arc<Caller>| {
            let handler = async |request| {
                let body = Incoming::from_request(request, &()).await?;
                let (readings, caller) = (State(self.readings.clone()), Extension(caller.clone()));
                Ok(readings::store(readings, caller, body).await?.into_response())
            };
            pin!(self.pipeline.admit(&caller, request, handler)).await
        };
        pin!(self.pipeline.on_record(asked, caller, answer)).await
    }
}

impl Service<Request> for EntryPoint {
    type Response = Response;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Answering {
        match self.origins.clone() {
            None => self.answer(request),
            Some(origins) => {
                let mut front = self.clone();
                let answer = async move |request| front.answer(request).await;
                Box::pin(origins.answer(request, answer))
            }
        }
    }
}
