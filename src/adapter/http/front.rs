//! The way in: through the router, and past it for readings.
//!
//! The router copies and boxes every step on a request's way, once for each layer. Readings
//! are most of what comes, so they go the same way without those steps: one reading costs a
//! seventh less (decision 0006). Guarantees that the gate and the
//! handler are the router's own, and that nothing but the bare path of readings comes by.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::extract::{FromRequest, Request, State};
use axum::http::Method;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use tower_service::Service;

use super::body::Incoming;
use super::cors::Origins;
use super::gate::{Gate, every_answer};
use super::problem::Problem;
use super::readings::{self, Readings};
use super::standing::Standing;

/// With a query, also an empty one (`?&`), it is the router's: so both ways can be compared.
const READINGS: &str = "/api/v1/readings";

type Answering = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

/// All that answers: cheap to clone, as each request does.
#[derive(Clone)]
pub struct Front {
    router: Router,
    readings: Option<Arc<ShortWay>>,
    origins: Option<Origins>,
}

struct ShortWay {
    gate: Arc<Gate>,
    door: Arc<Readings>,
    standing: Standing,
}

impl From<Router> for Front {
    /// All that answers is the router.
    fn from(router: Router) -> Front {
        Front { router, readings: None, origins: None }
    }
}

impl Front {
    /// A router with a route for readings, what that route stands on, and whose pages may call.
    pub(super) fn new(
        router: Router,
        gate: Arc<Gate>,
        door: Arc<Readings>,
        standing: Standing,
        origins: Option<Origins>,
    ) -> Front {
        let way = Arc::new(ShortWay { gate, door, standing });
        Front { router, readings: Some(way), origins }
    }

    fn answer(&mut self, request: Request) -> Answering {
        match &self.readings {
            Some(way) if request.method() == Method::POST && request.uri() == READINGS => {
                let way = way.clone();
                Box::pin(async move {
                    Ok(way.standing.parting(every_answer(pin!(way.answer(request))).await))
                })
            }
            _ => Box::pin(self.router.call(request)),
        }
    }
}

impl ShortWay {
    async fn answer(&self, request: Request) -> Result<Response, Problem> {
        let caller = self.gate.caller(request.headers()).await?;
        let handler = async |request| {
            let body = Incoming::from_request(request, &()).await?;
            let (door, caller) = (State(self.door.clone()), Extension(caller.clone()));
            Ok(readings::store(door, caller, body).await?.into_response())
        };
        self.gate.admit(&caller, request, handler).await
    }
}

impl Service<Request> for Front {
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
