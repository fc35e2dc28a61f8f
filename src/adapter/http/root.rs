//! `GET /api/v1`: who one is here, and where to go.
//!
//! Guarantees that it leads to everything that the token may do and to nothing that it may
//! not: it is made of the table of operations, by the token's scopes and what it is narrowed
//! to. What of a patient's things is there, it does not look at.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::HeaderMap;

use super::openapi::operation::{Operation, Operations};
use super::problem::Problem;
use super::reply::Reply;
use crate::auth::Caller;
use crate::wire::{Allowed, Root};

const BASE: &str = "/api/v1";

/// `GET /api/v1`
pub async fn root(
    State(Operations(all)): State<Operations>,
    caller: Caller,
    headers: HeaderMap,
) -> Result<Reply<Root>, Problem> {
    let may = |operation: &&Operation| {
        let mut scopes = operation.scopes();
        let scope = operation.scope.is_none() || scopes.any(|scope| caller.may(scope).is_ok());
        scope && operation.takes(&caller)
    };
    let allowed: Vec<&Operation> = all.iter().filter(may).collect();
    // A list by its name; the things in it are found there.
    let is_list = |operation: &&&Operation| {
        operation.method == "get" && !operation.path.contains('{') && operation.path.len() > 1
    };
    let name = |path: &'static str| path.trim_start_matches('/');
    let lists = allowed.iter().filter(is_list);
    let mut links: BTreeMap<&str, String> =
        lists.map(|one| (name(one.path), format!("{BASE}{}", one.path))).collect();
    links.insert("self", BASE.to_owned());
    links.insert("description", format!("{BASE}/openapi.json"));
    let operations = allowed.iter().map(|one| Allowed {
        method: one.method.to_uppercase(),
        href: format!("{BASE}{}", one.path.trim_end_matches('/')),
        what: one.summary.to_owned(),
    });
    let body = Root {
        operations: operations.collect(),
        scopes: caller.scopes.list().map(|scope| scope.name().to_owned()).collect(),
        tenant: caller.tenant.to_string().into(),
        subject: caller.subject,
        device: caller.device.map(Into::into),
        patient: caller.patient.map(Into::into),
        wards: caller.wards.named(),
        links: links.into_iter().collect(),
    };
    Reply::tagged(&headers, &body)
}
