//! Callers who see some wards only: what they are let in to, and whom they see in lists.
//!
//! Guarantees that such a caller gets to no route that does not say that it takes one
//! (`in_wards` of its entry), and by a path with a patient in it to nobody who lies
//! elsewhere, or nowhere: they are answered as for who does not exist, since both are
//! answered here. What a route that names no patient leaves out, its handler says by [`seen`].

use std::collections::HashMap;

use axum::RequestExt;
use axum::extract::{MatchedPath, Path, Request};
use axum::http::Method;

use super::openapi::operation::{Operation, Operations};
use super::problem::Problem;
use crate::auth::{Caller, Denied, Scope};
use crate::event::is_fhir_id;
use crate::log::Log;
use crate::query::wards;

/// Lets a caller in to what is about their wards, if they are narrowed to some.
pub async fn admit(
    all: Operations,
    log: &Log,
    caller: &Caller,
    request: &mut Request,
) -> Result<(), Problem> {
    if !caller.wards.is_narrow() {
        return Ok(());
    }
    // What is no route is told so.
    let Some(path) = request.extensions().get::<MatchedPath>().cloned() else { return Ok(()) };
    let operation = operation(all, request.method(), path.as_str());
    let operation = operation.ok_or_else(outside)?;
    let Some(scope) = operation.scope else { return Ok(()) };
    caller.may(scope)?;
    let Some(wards) = caller.wards.of(scope) else { return Ok(()) };
    if !operation.in_wards {
        return Err(outside());
    }
    if !operation.path.contains("{patient_id}") {
        return Ok(());
    }
    let segments: Result<Path<HashMap<String, String>>, _> = request.extract_parts().await;
    let patient_id = segments.ok().and_then(|Path(mut named)| named.remove("patient_id"));
    match patient_id {
        // What cannot be anybody's id is told so.
        Some(id) if !is_fhir_id(&id) => Ok(()),
        Some(id) => see(log, caller, &id, &wards).await,
        None => Err(outside()),
    }
}

async fn see(log: &Log, caller: &Caller, id: &str, wards: &[String]) -> Result<(), Problem> {
    // Another patient than the token's own is refused as ever, wherever they lie.
    caller.may_see(id)?;
    match wards::has(log, &caller.tenant, id, wards).await? {
        true => Ok(()),
        false => Err(Problem::not_found("patient")),
    }
}

fn operation(
    Operations(all): Operations,
    method: &Method,
    path: &str,
) -> Option<&'static Operation> {
    let path = path.strip_prefix("/api/v1")?;
    let path = if path.is_empty() { "/" } else { path };
    let method = if method == Method::HEAD { "GET" } else { method.as_str() };
    all.iter().find(|of| of.path == path && of.method.eq_ignore_ascii_case(method))
}

fn outside() -> Problem {
    Denied::OutsideToken("the token is for some wards only").into()
}

/// Of all patients those whom a caller sees in a list, if not all; and whether that is fresh.
pub async fn seen(
    log: &Log,
    caller: &Caller,
    scope: Scope,
) -> Result<(Option<Vec<String>>, bool), Problem> {
    let Some(wards) = caller.wards.of(scope) else { return Ok((None, true)) };
    let (patients, fresh) = wards::patients(log, &caller.tenant, &wards).await?;
    Ok((Some(patients), fresh))
}
