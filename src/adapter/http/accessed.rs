//! Requests as accesses: what was asked for, of whom, from where, and what came of it.
//!
//! Guarantees that each request which reaches the token's check is recorded once, also one
//! whose asker is gone before it is answered; a change before its answer. Readings that come
//! in, requests without a good token and those over a limit are told in sums. Does not look
//! into bodies: an answer about a patient whom only it names says so itself ([`About`]).

use std::net::IpAddr;

use axum::RequestExt;
use axum::extract::{MatchedPath, Query, RawPathParams, Request};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::Response;
use chrono::{DateTime, Utc};

use super::observed::{READINGS, method_name};
use super::problem::{Problem, ProblemText};
use super::token::{bearer, shows_token};
use crate::audit::{Access, Action, Audit, Means, NotRecorded, Place, Resource, Who};
use crate::auth::Caller;
use crate::auth::api_key::PREFIX;

/// The other end of a request's connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub IpAddr);

/// The patient whom an answer is about, where the request does not name them.
#[derive(Clone, Debug)]
pub struct About(pub String);

/// The route of these records: who reads it is recorded, whatever is sampled.
pub const AUDIT: &str = "/api/v1/audit";

/// A request, as far as it is to be recorded.
pub struct Asked {
    access: Access,
    by: Means,
    at: DateTime<Utc>,
}

impl Asked {
    /// Before anything is done. `route`: where no router has named it.
    pub async fn of(audit: &Audit, request: &mut Request, route: Option<&str>) -> Asked {
        let extensions = request.extensions();
        let matched = extensions.get::<MatchedPath>();
        let route = route.or(matched.map(MatchedPath::as_str)).unwrap_or("none").to_owned();
        let address = extensions.get::<Peer>().map(|peer| peer.0.to_canonical());
        let by = means(request.headers(), request.uri());
        let method = method_name(request.method());
        let action = match (method, &*route) {
            ("GET" | "HEAD", _) => Action::Read,
            ("POST", READINGS) => Action::Readings,
            _ => Action::Change,
        };
        let mut resource = Resource::default();
        if route.contains('{')
            && let Ok(params) = request.extract_parts::<RawPathParams>().await
        {
            for (name, value) in &params {
                in_path(&mut resource, &route, name, value);
            }
        }
        in_query(&mut resource, request.uri());
        let access = Access {
            action,
            who: None,
            method,
            route,
            resource,
            address,
            status: None,
            code: None,
        };
        Asked { access, by, at: audit.now() }
    }

    /// Without anybody who is known.
    pub fn by_nobody(mut self, audit: &Audit, problem: &Problem) {
        self.access.resource = Resource::default();
        self.access.status = Some(problem.status().as_u16());
        self.access.code = Some(problem.code().to_owned());
        audit.summed(self.access, self.at);
    }

    /// By a caller; with a place for it, if it is a change.
    pub async fn by(mut self, audit: &Audit, caller: &Caller) -> Result<Accessing, NotRecorded> {
        self.access.who = Some(Who {
            tenant: caller.tenant.clone(),
            subject: caller.subject.clone(),
            token_id: caller.token_id.clone(),
            by: if caller.linked { Means::Link } else { self.by },
        });
        let resource = &mut self.access.resource;
        if resource.patient.is_none() {
            resource.patient.clone_from(&caller.patient);
        }
        if resource.device.is_none() {
            resource.device.clone_from(&caller.device);
        }
        let place = match self.access.action {
            Action::Change => Some(audit.place().await?),
            _ => None,
        };
        let (audit, access) = (audit.clone(), Some(self.access));
        Ok(Accessing { audit, access, at: self.at, place })
    }
}

/// What a request shows of who it is, in the order in which it counts.
fn means(headers: &HeaderMap, uri: &Uri) -> Means {
    match bearer(headers) {
        Ok(token) if token.starts_with(PREFIX) => Means::Key,
        _ if shows_token(headers) => Means::Token,
        _ if uri.query().is_some_and(|query| query.contains("ticket=")) => Means::Ticket,
        _ if headers.contains_key(header::COOKIE) => Means::Session,
        _ => Means::Certificate,
    }
}

fn in_path(resource: &mut Resource, route: &str, name: &str, value: &str) {
    let value = Some(value.to_owned());
    match name {
        "patient_id" => resource.patient = value,
        "ward" => resource.ward = value,
        "id" if route.contains("/devices/") => resource.device = value,
        "id" => resource.id = value,
        _ => {}
    }
}

fn in_query(resource: &mut Resource, uri: &Uri) {
    if uri.query().is_none() {
        return;
    }
    let Ok(Query(given)) = Query::<Vec<(String, String)>>::try_from_uri(uri) else { return };
    for (name, value) in given {
        match &*name {
            "patientId" | "patient" => resource.patient = Some(value),
            "ward" => resource.ward = Some(value),
            _ => {}
        }
    }
}

/// A request that is being answered. Dropped, it is recorded without a status.
pub struct Accessing {
    audit: Audit,
    access: Option<Access>,
    at: DateTime<Utc>,
    place: Option<Place>,
}

impl Accessing {
    /// It is answered: a change when it is on record.
    pub async fn answered(
        mut self,
        answer: Result<Response, Problem>,
    ) -> Result<Response, Problem> {
        let Some(mut access) = self.access.take() else { return answer };
        let (status, code) = match &answer {
            Ok(response) => (response.status(), response.extensions().get().map(code_of)),
            Err(problem) => (problem.status(), Some(problem.code())),
        };
        if let Ok(response) = &answer
            && let Some(About(patient)) = response.extensions().get()
        {
            access.resource.patient = Some(patient.clone());
        }
        access.status = Some(status.as_u16());
        access.code = code.map(str::to_owned);
        let (audit, at) = (&self.audit, self.at);
        match self.place.take() {
            _ if access.action == Action::Readings || status == StatusCode::TOO_MANY_REQUESTS => {
                audit.summed(access, at);
            }
            None => {
                let always = status.is_client_error() || access.route == AUDIT;
                audit.read(access, at, always);
            }
            Some(place) if status.is_client_error() => audit.noted(place, access, at),
            Some(place) => audit.changed(place, access, at).await?,
        }
        answer
    }
}

fn code_of(text: &ProblemText) -> &'static str {
    text.code
}

impl Drop for Accessing {
    fn drop(&mut self) {
        let Some(access) = self.access.take() else { return };
        match self.place.take() {
            Some(place) => self.audit.noted(place, access, self.at),
            None if access.action == Action::Readings => self.audit.summed(access, self.at),
            None => self.audit.read(access, self.at, false),
        }
    }
}

impl From<NotRecorded> for Problem {
    fn from(why: NotRecorded) -> Problem {
        Problem::unavailable(why.code(), why.to_string())
    }
}
