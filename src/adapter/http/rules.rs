//! `/rules`: a tenant's rules, their versions, and what they would cost in pages.
//!
//! A change counts from its event on: readings that were recorded before are judged by
//! the version before.

use axum::extract::FromRequest;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use serde_json::Value;

use super::extract::{Body, Params, unreadable_json};
use super::problem::Problem;
use super::reply::Reply;
use super::rules_state::RulesState;
use super::trials::refuse_too_many_pages;
use super::{cursor, to_wire};
use crate::auth::{Caller, Scope};
use crate::rules::versions::{self, ChangeError, Unreadable, Version};
use crate::rules::{Mode, Rule, RuleError};
use crate::wire::{self, Page, RuleVersion, Time, WrittenRule};

/// Why a rule was changed.
const REASON_CHARS_MAX: usize = 1_000;

/// `GET /rules`: the newest version of each.
pub async fn list(
    State(rules_state): State<RulesState>,
    caller: Caller,
    headers: HeaderMap,
) -> Result<Reply<Page<RuleVersion>>, Problem> {
    caller.may_administer(Scope::RulesManage)?;
    let all = versions::newest(&rules_state.log, &caller.tenant).await?;
    let items = all.into_iter().map(shown).collect::<Result<_, Problem>>()?;
    Reply::tagged(&headers, &Page::new(items, None, "/api/v1/rules", ""))
}

/// `GET /rules/{id}`: its newest version.
pub async fn get(
    State(rules_state): State<RulesState>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Reply<RuleVersion>, Problem> {
    caller.may_administer(Scope::RulesManage)?;
    let all = versions::newest(&rules_state.log, &caller.tenant).await?;
    let version = all.into_iter().find(|version| version.id() == id);
    Reply::tagged(&headers, &shown(version.ok_or_else(|| Problem::not_found("rule"))?)?)
}

/// `GET /rules/{id}/versions`, oldest first.
pub async fn history(
    State(rules_state): State<RulesState>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Reply<Page<RuleVersion>>, Problem> {
    caller.may_administer(Scope::RulesManage)?;
    let all = versions::versions(&rules_state.log, &caller.tenant).await?;
    let mine = all.into_iter().filter(|version| version.id() == id);
    let items = mine.map(shown).collect::<Result<Vec<_>, Problem>>()?;
    if items.is_empty() {
        return Err(Problem::not_found("rule"));
    }
    let link = format!("/api/v1/rules/{}/versions", cursor::url_encode(&id));
    Reply::tagged(&headers, &Page::new(items, None, &link, ""))
}

fn shown(version: Version) -> Result<RuleVersion, Problem> {
    let id = version.id().to_owned();
    let link = format!("/api/v1/rules/{id}");
    let mode = version.rule.get("mode").and_then(Value::as_str);
    Ok(RuleVersion {
        id,
        version: version.version,
        mode: mode.map_or(Ok(wire::Mode::Draft), to_wire::word)?,
        rule: WrittenRule(version.rule),
        by: version.by,
        reason: version.reason,
        at: version.at.map(Time),
        links: [("self", link.clone()), ("versions", format!("{link}/versions"))].into(),
    })
}

#[derive(Deserialize)]
pub struct ChangeParams {
    reason: Option<String>,
    #[serde(default)]
    force: bool,
}

/// `PUT /rules/{id}`: the rule in JSON, or in TOML as `application/toml`.
pub async fn put(
    State(rules_state): State<RulesState>,
    caller: Caller,
    Path(id): Path<String>,
    Params(params): Params<ChangeParams>,
    request: Request,
) -> Result<Reply<RuleVersion>, Problem> {
    caller.may_administer(Scope::RulesManage)?;
    check_reason(&params)?;
    let mut body = rule_of(request).await?;
    let Some(members) = body.as_object_mut() else {
        return Err(Problem::invalid("invalid_rule", "/", "a rule is an object of keys"));
    };
    let named = members.entry("id").or_insert_with(|| id.clone().into());
    if named.as_str() != Some(&id) {
        let detail = format!("the rule's id must be that of the path, {id}");
        return Err(Problem::invalid("invalid_rule", "/id", detail));
    }
    let rule = Rule::read(&body, 1)?;
    if rule.mode == Mode::Active && !params.force {
        refuse_too_many_pages(&rules_state, &caller.tenant, rule).await?;
    }
    let why = params.reason.as_deref();
    let now = rules_state.clock.now();
    let version =
        versions::change(&rules_state.log, &caller.tenant, body, (&caller.subject, why), now)
            .await?;
    Reply::ok(&shown(version)?)
}

/// `DELETE /rules/{id}`: retired. Alerts that stand go on until they clear.
pub async fn retire(
    State(rules_state): State<RulesState>,
    caller: Caller,
    Path(id): Path<String>,
    Params(params): Params<ChangeParams>,
) -> Result<StatusCode, Problem> {
    caller.may_administer(Scope::RulesManage)?;
    check_reason(&params)?;
    let all = versions::newest(&rules_state.log, &caller.tenant).await?;
    let last = all.iter().find(|version| version.id() == id);
    let mut body = last.ok_or_else(|| Problem::not_found("rule"))?.rule.clone();
    body["mode"] = "retired".into();
    let why = params.reason.as_deref();
    let now = rules_state.clock.now();
    versions::change(&rules_state.log, &caller.tenant, body, (&caller.subject, why), now).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn check_reason(params: &ChangeParams) -> Result<(), Problem> {
    let reason = params.reason.as_deref().unwrap_or_default();
    if reason.chars().count() > REASON_CHARS_MAX {
        let detail = format!("reason has {REASON_CHARS_MAX} characters at most");
        return Err(Problem::unreadable("invalid_reason", detail));
    }
    if params.force && reason.trim().is_empty() {
        let detail = "force needs a reason: it is kept with the version";
        return Err(Problem::unreadable("invalid_reason", detail));
    }
    Ok(())
}

/// A rule as it came. What is no JSON by its type, nor begins as JSON does, is TOML: `curl`
/// says of a file that it is a form.
async fn rule_of(request: Request) -> Result<Value, Problem> {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let named = |name: &str| kind.is_some_and(|kind| kind.starts_with(name));
    let (as_toml, as_json) = (named("application/toml"), named("application/json"));
    let Body(bytes) = Body::from_request(request, &()).await?;
    let text = std::str::from_utf8(&bytes)
        .map_err(|_| Problem::unreadable("unreadable_rule", "the rule is not UTF-8"))?;
    if text.contains("\\u0000") || text.contains('\0') {
        return Err(Problem::unreadable("unreadable_rule", "the rule holds a NUL character"));
    }
    let begins_as_json = text.trim_start().starts_with('{');
    if as_toml || (!as_json && !begins_as_json) {
        // Read here as well, so that a refusal names its line.
        Rule::parse(text, 1)?;
        return toml::from_str(text)
            .map_err(|error| Problem::unreadable("unreadable_rule", error.message()));
    }
    serde_json::from_str(text).map_err(|error| {
        unreadable_json(
            &error,
            if begins_as_json { "" } else { "; TOML is sent as application/toml" },
        )
    })
}

impl From<RuleError> for Problem {
    fn from(error: RuleError) -> Problem {
        let pointer = error.pointer.trim_end_matches('/');
        let problem = Problem::invalid("invalid_rule", pointer, error.to_string());
        match error.line {
            Some(line) => problem.with(|document| document.line = Some(line)),
            None => problem,
        }
    }
}

impl From<ChangeError> for Problem {
    fn from(error: ChangeError) -> Problem {
        match error {
            ChangeError::Rule(error) => error.into(),
            ChangeError::Database(error) => error.into(),
            ChangeError::Append(error) => error.into(),
            ChangeError::Unreadable(error) => error.into(),
        }
    }
}

impl From<Unreadable> for Problem {
    fn from(error: Unreadable) -> Problem {
        tracing::error!(%error, "a tenant's own stream cannot be read");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "stored_unreadable", error.to_string())
    }
}
