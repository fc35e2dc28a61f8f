//! The table of contents, grouped by who calls.

use std::pin::pin;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::{OriginalUri, Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{delete, get, post};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio_util::sync::CancellationToken;

use super::availability::Availability;
use super::compressed::Packing;
use super::cors::Origins;
use super::entry_point::EntryPoint;
use super::link::Links;
use super::observed::Observed;
use super::openapi::operation::Operations;
use super::openapi::operations::OPERATIONS;
use super::pipeline::{self, RequestPipeline};
use super::problem::Problem;
use super::signin::SignIn;
use super::tickets::Tickets;
use super::token::TokenState;
use super::{
    ack, alerts, api_keys, assignment, audit, corrections, deliveries, deprecation, devices, diff,
    exports, fronts, health, history, jobs, openapi, page, parameters, patients, readings, record,
    replay, revocation, root, rules, rules_state, shadow, signin, silences, stream, tickets,
    trials, wards, webhook_events, webhooks,
};
use crate::audit::Audit;
use crate::auth::{Caller, Keys, Revocations};
use crate::clock::Clock;
use crate::delivery::ack::AckLinks;
use crate::delivery::seal::Seal;
use crate::delivery::webhook::EndpointClients;
use crate::export::StoredExports;
use crate::intake::Intake;
use crate::jobs::Jobs;
use crate::limits::Limits;
use crate::limits::shares::Shares;
use crate::log::{Log, row_security};
use crate::query::live::Live;

/// What the API stands on.
pub struct Api {
    /// The log, for what is not a caller's question.
    pub log: Log,
    /// The truth as it answers somebody: the rows of their tenant.
    pub questions: Log,
    /// The way in for readings.
    pub intake: Intake,
    /// The log as it grows.
    pub live: Live,
    /// Who may call.
    pub keys: Keys,
    /// Who has asked for what.
    pub audit: Audit,
    /// How often.
    pub limits: Limits,
    /// How much at one time.
    pub shares: Arc<Shares>,
    /// The time.
    pub clock: Clock,
    /// What takes longer than an answer may.
    pub jobs: Jobs,
    /// How webhooks are called.
    pub clients: EndpointClients,
    /// Links that acknowledge without a token.
    pub links: AckLinks,
    /// How people sign in, if they can.
    pub sign_in: Option<Arc<SignIn>>,
    /// What tickets of streams are sealed with.
    pub tickets: Seal,
    /// The numbers.
    pub metrics: PrometheusHandle,
    /// What stands in the way of being ready.
    pub availability: Availability,
    /// Ends streams, in either direction.
    pub stop: CancellationToken,
    /// Whose pages may call, beside our own.
    pub origins: Option<Origins>,
    /// The patients are made up: the page says so.
    pub is_simulated: bool,
}

/// All routes, and the short way to one of them.
pub fn router(api: Api) -> EntryPoint {
    let shares = api.shares;
    let questions = patients::QueryState {
        log: api.questions.clone(),
        clock: api.clock.clone(),
        tables: shares.tables.clone(),
    };
    let availability = api.availability.clone();

    let (intake, uploads, stop) = (api.intake, shares.uploads.clone(), api.stop.clone());
    let readings_state = Arc::new(readings::ReadingsState { intake, uploads, stop });
    let senders =
        Router::new().route("/readings", post(readings::store)).with_state(readings_state.clone());
    let revocations = api.keys.revocations();
    let tickets =
        Tickets { seal: api.tickets, clock: api.clock.clone(), revocations: revocations.clone() };
    let browsers = api.sign_in.as_ref().map(|sign_in| sign_in.browsers());
    let pipeline = RequestPipeline::new(api.keys, api.limits, shares.clone(), browsers, api.audit);
    let pipeline = Arc::new(pipeline);
    let door = (pipeline.clone(), questions.log.clone());
    let links = Links { links: api.links, clock: api.clock.clone() };
    let answering = answering(questions.clone(), (door.clone(), links));
    let streams = listeners(api.live, &questions, api.stop, &shares).layer(
        middleware::from_fn_with_state((door.clone(), tickets.clone()), admit_by_token_or_ticket),
    );
    let tickets = Router::new().route("/stream/tickets", post(tickets::make)).with_state(tickets);
    let exports = exports::ExportsState {
        jobs: api.jobs.clone(),
        stored: StoredExports::new(api.questions.pool().clone()),
        tables: shares.tables.clone(),
    };
    let rules_state = rules_state::RulesState {
        log: api.log.clone(),
        clock: questions.clock.clone(),
        jobs: api.jobs,
        trying: rules_state::Trying::default(),
    };
    let registry =
        webhooks::Registry { log: api.questions, clients: api.clients, clock: api.clock.clone() };

    let v1 = Router::new()
        .merge(contents())
        .merge(senders)
        .merge(administrators(questions.clone(), revocations))
        .merge(dashboards(questions.clone()))
        .merge(tickets)
        .merge(nurses(questions.clone()))
        .merge(clinicians(rules_state))
        .merge(researchers(exports))
        .merge(hospitals(registry))
        .route_layer(middleware::from_fn(parameters::known_only))
        .fallback(no_such_route)
        .method_not_allowed_fallback(method_not_allowed);
    let admitted = middleware::from_fn_with_state(door, admit_by_token);
    let v1 = v1.layer(admitted.clone()).merge(answering).merge(streams);
    let v1 = deprecation::marked(v1, OPERATIONS);
    let others = Router::new()
        .merge(operators(api.log, api.clock, api.metrics, api.availability))
        .merge(page::routes(api.is_simulated))
        .merge(openapi::routes())
        .route_layer(middleware::from_fn(parameters::known_only))
        .layer(middleware::from_fn(open_to_all));

    let router = Router::new()
        .nest("/api/v1", v1)
        // The same with a slash, as generated clients put it together.
        .nest("/api/v1/", contents().layer(admitted))
        .merge(others)
        .merge(signin::routes(api.sign_in).layer(middleware::from_fn(open_to_all)))
        .fallback(no_such_route)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn_with_state(availability.clone(), answered));
    EntryPoint::new(router, pipeline, readings_state, availability, api.origins)
}

/// What there is, for who asks.
fn contents() -> Router {
    Router::new()
        .route("/", get(root::root))
        .with_state(Operations(OPERATIONS))
        .route_layer(middleware::from_fn(parameters::known_only))
}

/// What is measured, as it comes: by a token, or by a ticket, for what a browser opens by an
/// address alone.
fn listeners(
    live: Live,
    questions: &patients::QueryState,
    stop: CancellationToken,
    shares: &Shares,
) -> Router {
    let (log, clock) = (questions.log.clone(), questions.clock.clone());
    let feed = stream::Feed {
        live,
        log: log.clone(),
        clock: clock.clone(),
        places: shares.streams.clone(),
    };
    let past = replay::Past { log, clock, stop, places: shares.replays.clone() };
    Router::new()
        .route("/stream", get(stream::live))
        .with_state(feed)
        .route("/patients/{patient_id}/replay", get(replay::replay))
        .with_state(past)
        .method_not_allowed_fallback(method_not_allowed)
        .route_layer(middleware::from_fn(parameters::known_only))
}

/// By a token, or by the link that came with the alert. Nothing else is let in so.
fn answering(questions: patients::QueryState, by_link: (Door, Links)) -> Router {
    Router::new()
        .route("/alerts/{id}/ack", get(ack::show).post(ack::acknowledge))
        .with_state(questions)
        .method_not_allowed_fallback(method_not_allowed)
        .route_layer(middleware::from_fn(parameters::known_only))
        .layer(middleware::from_fn_with_state(by_link, admit_by_token_or_link))
        .layer(middleware::from_fn(ack::told_as_a_page))
}

/// What is and was measured of patients.
fn dashboards(questions: patients::QueryState) -> Router {
    Router::new()
        .route("/patients", get(patients::list))
        .route("/patients/{patient_id}", get(patients::state).put(record::put))
        .route(
            "/patients/{patient_id}/record",
            get(record::get).put(record::put).patch(record::patch),
        )
        .route("/patients/{patient_id}/readings", get(history::readings))
        .route("/patients/{patient_id}/diff", get(diff::diff))
        .route("/patients/{patient_id}/readings/retract", post(corrections::retract))
        .route("/patients/{patient_id}/{vital}", get(patients::vital))
        .route("/wards/{ward}", get(fronts::ward))
        .route("/mobile/patients/{patient_id}", get(fronts::mobile))
        .route("/devices", get(devices::list))
        .route("/devices/{id}", get(devices::get).put(assignment::put))
        .route("/devices/{id}/assign", post(assignment::assign))
        .route("/devices/{id}/unassign", post(assignment::unassign))
        .with_state(questions)
}

/// Who may call, and who has.
fn administrators(questions: patients::QueryState, revocations: Arc<Revocations>) -> Router {
    let (log, clock) = (questions.log.clone(), questions.clock.clone());
    let tokens = TokenState { log, clock, revocations };
    Router::new()
        .route("/tokens/revoke", post(revocation::revoke))
        .route("/api-keys", get(api_keys::list).post(api_keys::make))
        .route("/api-keys/{id}", delete(api_keys::revoke))
        .with_state(tokens)
        .route("/audit", get(audit::list))
        .with_state(questions)
}

/// What calls a nurse.
fn nurses(questions: patients::QueryState) -> Router {
    Router::new()
        .route("/alerts", get(alerts::list))
        .route("/alerts/{id}", get(alerts::get))
        .route("/alerts/{id}/clear", post(ack::clear))
        .with_state(questions)
}

/// When to page, and trying it before.
fn clinicians(rules_state: rules_state::RulesState) -> Router {
    Router::new()
        .route("/rules", get(rules::list))
        .route("/rules/backtest", post(trials::start))
        .route("/rules/{id}", get(rules::get).put(rules::put).delete(rules::retire))
        .route("/rules/{id}/versions", get(rules::history))
        .route("/rules/{id}/report", get(shadow::report))
        .route("/silences", get(silences::list).post(silences::create))
        .route("/silences/{id}", get(silences::get).delete(silences::end))
        .route("/devices/{id}/reassign", post(assignment::reassign))
        .route("/jobs/{id}", get(jobs::get).delete(jobs::cancel))
        .with_state(rules_state)
}

/// What is taken along.
fn researchers(exports: exports::ExportsState) -> Router {
    Router::new()
        .route("/exports", post(exports::start))
        .route("/jobs/{id}/result", get(exports::result))
        .with_state(exports)
}

/// Where pages go.
fn hospitals(registry: webhooks::Registry) -> Router {
    Router::new()
        .route("/webhooks", get(webhooks::list).post(webhooks::create))
        .route(
            "/webhooks/{id}",
            get(webhooks::get).patch(webhooks::change).delete(webhooks::delete),
        )
        .route("/webhooks/{id}/rotate-secret", post(webhooks::rotate))
        .route("/webhooks/{id}/ping", post(webhooks::ping))
        .route("/webhooks/{id}/deliveries", get(deliveries::list))
        .route("/webhooks/{id}/events", get(webhook_events::list))
        .route("/webhooks/{id}/replay", post(deliveries::replay_range))
        .route("/deliveries/{id}", get(deliveries::get))
        .route("/deliveries/{id}/replay", post(deliveries::replay))
        .with_state(registry)
}

/// Who is let in, and what is asked where they lie whom somebody may see.
type Door = (Arc<RequestPipeline>, Log);

async fn admit_by_token(
    State((pipeline, log)): State<Door>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let asked = pipeline.asked(&mut request, None).await;
    let (headers, extensions) = (request.headers(), request.extensions());
    let caller = pipeline.caller(request.method(), headers, extensions).await;
    let answer = async |caller: Arc<Caller>| {
        pipeline
            .admit(&caller.clone(), request, |request| handled(log, caller, request, next))
            .await
    };
    pipeline.on_record(asked, caller, answer).await
}

async fn admit_by_token_or_link(
    State(((pipeline, log), links)): State<(Door, Links)>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let asked = pipeline.asked(&mut request, None).await;
    let (mut parts, body) = request.into_parts();
    let caller = match links.caller(&mut parts).await {
        Ok(Some(caller)) => Ok(Arc::new(caller)),
        Ok(None) => pipeline.caller(&parts.method, &parts.headers, &parts.extensions).await,
        Err(problem) => Err(problem),
    };
    let request = Request::from_parts(parts, body);
    let answer = async |caller: Arc<Caller>| {
        pipeline
            .admit(&caller.clone(), request, |request| handled(log, caller, request, next))
            .await
    };
    pipeline.on_record(asked, caller, answer).await
}

async fn admit_by_token_or_ticket(
    State(((pipeline, log), tickets)): State<(Door, Tickets)>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let asked = pipeline.asked(&mut request, None).await;
    let (parts, body) = request.into_parts();
    let caller = match tickets.caller(&parts) {
        Ok(Some(caller)) => Ok(Arc::new(caller)),
        Ok(None) => pipeline.caller(&parts.method, &parts.headers, &parts.extensions).await,
        Err(problem) => Err(problem),
    };
    let request = Request::from_parts(parts, body);
    let answer = async |caller: Arc<Caller>| {
        pipeline
            .admit(&caller.clone(), request, |request| handled(log, caller, request, next))
            .await
    };
    pipeline.on_record(asked, caller, answer).await
}

async fn handled(
    log: Log,
    caller: Arc<Caller>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let tenant = caller.tenant.clone();
    let answer = row_security::as_tenant(tenant.clone(), async {
        wards::admit(Operations(OPERATIONS), &log, &caller, &mut request).await?;
        request.extensions_mut().insert(caller);
        Ok::<_, Problem>(next.run(request).await)
    });
    let answer = answer.await?;
    // What is not whole yet asks on while it is sent.
    if answer.body().size_hint().exact().is_some() {
        return Ok(answer);
    }
    Ok(answer.map(|body| {
        Body::from_stream(row_security::stream_as_tenant(tenant, body.into_data_stream()))
    }))
}

/// What every process answers, whatever its roles.
pub fn operators(
    log: Log,
    clock: Clock,
    metrics: PrometheusHandle,
    availability: Availability,
) -> Router {
    Router::new()
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::ready))
        .route("/metrics", get(health::metrics))
        .with_state(health::Probe { log, clock, metrics, availability })
}

async fn no_such_route(OriginalUri(uri): OriginalUri) -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        "no_such_route",
        format!("there is nothing at {}", uri.path()),
    )
}

async fn method_not_allowed(method: Method, OriginalUri(uri): OriginalUri) -> Problem {
    let detail = format!("{} does not take {method}", uri.path());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
}

async fn open_to_all(request: Request, next: Next) -> Result<Response, Problem> {
    pipeline::within_time(request, None, async |request| Ok(next.run(request).await)).await
}

async fn answered(
    State(availability): State<Availability>,
    request: Request,
    next: Next,
) -> Response {
    let (observed, wanted) = (Observed::begin(&request), Packing::wanted(request.headers()));
    let answer = availability.parting(pipeline::every_answer(pin!(next.run(request))).await);
    observed.answered(&answer);
    Packing::pack(wanted, answer)
}
