//! `/api-keys`: made, told once, listed, taken out of use.
//!
//! Guarantees that a key is no wider than the token that makes it, in scopes and in whom it
//! reaches, and makes no keys itself: whoever has stolen one cannot stay when it is revoked.
//! The text of a key is in one answer, ever. Who is narrowed sees and ends no key that reaches
//! farther than they do. A key that was revoked is refused by this process from the answer on,
//! and by every other one as soon as it has heard of the commit.

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::cursor;
use super::extract::{Json, Params};
use super::patients::limit;
use super::problem::Problem;
use super::reply::Reply;
use super::token::TokenState;
use crate::auth::api_key::ApiKey;
use crate::auth::api_keys::subject;
use crate::auth::giving::Given;
use crate::auth::wards::{WARDS_MAX, is_ward};
use crate::auth::{Caller, Role, Scope, Scopes};
use crate::event::{ID_RULE, Revoked, is_fhir_id};
use crate::query::api_keys::{self, KeyRow};
use crate::record::api_key::{self as record, API_KEYS_MAX, NewKey};
use crate::wire::{self, ApiKeyWithSecret, Page, Time};

/// Keys of a page, unless the caller says otherwise, and at most.
const LIMIT_DEFAULT: i64 = 100;
const LIMIT_MAX: i64 = 500;
/// The longest name of a key.
const NAME_CHARS_MAX: usize = 200;
/// Why a key was revoked, where nobody says it.
const NO_REASON: &str = "the key was deleted";
const REASON_CHARS_MAX: usize = 1_000;

/// `POST /api-keys`
pub async fn make(
    State(state): State<TokenState>,
    caller: Caller,
    Json(wanted): Json<wire::NewApiKey>,
) -> Result<Reply<ApiKeyWithSecret>, Problem> {
    caller.may(Scope::KeysManage)?;
    let now = state.clock.now();
    let name = check(&wanted, now)?;
    let scopes = scopes(&wanted)?;
    let (device, patient) = (wanted.device.as_deref(), wanted.patient.as_deref());
    let wards = wanted.wards.as_deref();
    caller.may_give(&Given { scopes, device, patient, wards })?;
    let key = ApiKey::make(rand::random());
    let scopes = scopes.list().map(Scope::name).collect::<Vec<_>>().join(" ");
    let expires_at = wanted.expires_at.map(|at| at.0);
    let hash = key.hash();
    let (id, hash, scopes) = (key.id(), hash.bytes(), &*scopes);
    let new = NewKey { id, hash, name, scopes, device, patient, wards, expires_at };
    let by = (&*caller.subject, now);
    if !record::make(&state.log, &caller.tenant, &new, by).await? {
        let detail = format!("{API_KEYS_MAX} keys are in use: revoke some of them");
        return Err(Problem::new(StatusCode::CONFLICT, "too_many_api_keys", detail));
    }
    let row = api_keys::get(&state.log, &caller.tenant, id).await?;
    let row = row.ok_or_else(|| Problem::not_found("API key"))?;
    let body = ApiKeyWithSecret { api_key: shown(row), key: key.text().to_owned() };
    Reply::new(StatusCode::CREATED, &body)
}

#[derive(Deserialize)]
pub struct ListParams {
    limit: Option<i64>,
    cursor: Option<String>,
}

/// `GET /api-keys`, newest first.
pub async fn list(
    State(state): State<TokenState>,
    caller: Caller,
    Params(params): Params<ListParams>,
    headers: HeaderMap,
) -> Result<Reply<Page<wire::ApiKey>>, Problem> {
    caller.may(Scope::KeysManage)?;
    let limit = limit(params.limit, LIMIT_DEFAULT, LIMIT_MAX)?;
    let (log, link) = (&state.log, "/api/v1/api-keys");
    let after = params.cursor.as_deref().map(|it| cursor::read(log, it, link));
    let after: Option<(i64, String)> = after.transpose()?;
    let after = after.map(|(micros, id)| Ok::<_, Problem>((cursor::time(micros)?, id)));
    let rows = api_keys::list(log, &caller.tenant, after.transpose()?, limit).await?;
    let next = cursor::next(log, &rows, limit, |row| (row.made_at.timestamp_micros(), &*row.id));
    let seen = rows.into_iter().filter(|row| is_theirs(&caller, row));
    let items = seen.map(shown).map(|key| known_as_revoked(&state, &caller, key)).collect();
    let query = params.limit.map(|limit| format!("limit={limit}")).unwrap_or_default();
    let page = Page::new(items, next, link, &query);
    Ok(Reply::tagged(&headers, &page)?.next(page.links.next.as_ref()))
}

#[derive(Deserialize)]
pub struct EndParams {
    reason: Option<String>,
}

/// `DELETE /api-keys/{id}`. One that is out of use already stays so.
pub async fn revoke(
    State(state): State<TokenState>,
    caller: Caller,
    Path(id): Path<String>,
    Params(params): Params<EndParams>,
) -> Result<StatusCode, Problem> {
    caller.may(Scope::KeysManage)?;
    let reason = params.reason.unwrap_or_else(|| NO_REASON.to_owned());
    if !(1..=REASON_CHARS_MAX).contains(&reason.trim().chars().count()) {
        let detail = format!("reason is a text of 1 to {REASON_CHARS_MAX} characters");
        return Err(Problem::unreadable("invalid_reason", detail));
    }
    let found = api_keys::get(&state.log, &caller.tenant, &id).await?;
    let row = found.filter(|row| is_theirs(&caller, row));
    let row = row.ok_or_else(|| Problem::not_found("API key"))?;
    let (now, token_id) = (state.clock.now(), subject(&row.id));
    let by = (&*caller.subject, &*reason);
    record::revoke(&state.log, (&caller.tenant, &row.id), &token_id, by, now).await?;
    let what = Revoked::Token(token_id);
    state.revocations.revoke(&caller.tenant, what, now.timestamp_millis());
    Ok(StatusCode::NO_CONTENT)
}

/// The name, if all but the scopes can be meant.
fn check(wanted: &wire::NewApiKey, now: DateTime<Utc>) -> Result<&str, Problem> {
    let Some(name) = wanted.name.as_deref() else {
        let detail = "name is missing: say what the key is for";
        return Err(Problem::invalid("missing_field", "/name", detail));
    };
    let fits = (1..=NAME_CHARS_MAX).contains(&name.trim().chars().count());
    if !fits || name.chars().any(char::is_control) {
        return Err(invalid(
            "/name",
            format!("name has 1 to {NAME_CHARS_MAX} printable characters"),
        ));
    }
    for (pointer, id) in [("/device", &wanted.device), ("/patient", &wanted.patient)] {
        if id.as_ref().is_some_and(|id| !is_fhir_id(id)) {
            return Err(Problem::invalid("invalid_id", pointer, format!("an id {ID_RULE}")));
        }
    }
    let wards = wanted.wards.as_deref();
    if wards.is_some_and(|wards| {
        !(1..=WARDS_MAX).contains(&wards.len()) || !wards.iter().all(|w| is_ward(w))
    }) {
        let detail =
            format!("wards are 1 to {WARDS_MAX} names as records have them; left out, all");
        return Err(invalid("/wards", detail));
    }
    if wanted.expires_at.is_some_and(|at| at.0 <= now) {
        return Err(invalid("/expiresAt", "expiresAt lies ahead; left out, the key is for ever"));
    }
    Ok(name)
}

fn scopes(wanted: &wire::NewApiKey) -> Result<Scopes, Problem> {
    let scopes = match (&wanted.scope, &wanted.role) {
        (Some(_), Some(_)) => {
            return Err(invalid("/role", "send scope, or role for all that it may: not both"));
        }
        (None, None) => {
            let detail = "scope is missing: say what the key may, or send role";
            return Err(Problem::invalid("missing_field", "/scope", detail));
        }
        (Some(scope), None) => {
            if let Some(unknown) = scope.split_whitespace().find(|s| Scope::named(s).is_none()) {
                let detail = format!("\"{unknown}\" is no scope; {} are", Scope::names());
                return Err(invalid("/scope", detail));
            }
            Scopes::read(scope)
        }
        (None, Some(role)) => {
            let role = Role::named(role).ok_or_else(|| {
                let all = Role::ALL.map(Role::name).join(", ");
                invalid("/role", format!("\"{role}\" is no role; {all} are"))
            })?;
            let scopes = role.scopes().list().filter(|scope| *scope != Scope::KeysManage);
            scopes.fold(Scopes::default(), |all, scope| all.and(Scopes::of(&[scope])))
        }
    };
    match scopes.list().next() {
        None => Err(invalid("/scope", "scope names at least one")),
        Some(_) if scopes.has(Scope::KeysManage) => {
            Err(invalid("/scope", "a key makes no keys: leave keys:manage out"))
        }
        Some(_) => Ok(scopes),
    }
}

fn invalid(pointer: &str, detail: impl Into<String>) -> Problem {
    Problem::invalid("invalid_api_key", pointer, detail)
}

/// Whether a key reaches no farther than the caller does.
fn is_theirs(caller: &Caller, row: &KeyRow) -> bool {
    caller.reaches(&Given {
        scopes: Scopes::read(&row.scopes),
        device: row.device.as_deref(),
        patient: row.patient.as_deref(),
        wards: row.wards.as_deref(),
    })
}

/// A key may have been revoked as a token is, by its subject or as a `jti`.
fn known_as_revoked(state: &TokenState, caller: &Caller, key: wire::ApiKey) -> wire::ApiKey {
    let made_ms = key.made_at.0.timestamp_millis();
    let at =
        state.revocations.since(&caller.tenant, &key.subject, Some(&key.subject), Some(made_ms));
    let at = at.and_then(DateTime::from_timestamp_millis).map(Time);
    wire::ApiKey { revoked_at: key.revoked_at.or(at), ..key }
}

fn shown(row: KeyRow) -> wire::ApiKey {
    wire::ApiKey {
        subject: subject(&row.id),
        id: row.id,
        name: row.name,
        scopes: row.scopes.split_whitespace().map(str::to_owned).collect(),
        device: row.device.map(Into::into),
        patient: row.patient.map(Into::into),
        wards: row.wards,
        made_by: row.made_by,
        made_at: row.made_at.into(),
        expires_at: row.expires_at.map(Time),
        last_used_at: row.used_at.map(Time),
        revoked_at: row.revoked_at.map(Time),
        revoked_by: row.revoked_by,
    }
}
