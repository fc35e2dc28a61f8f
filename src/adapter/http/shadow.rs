//! Rules on trial, looked at: the alerts that they would have raised, and the pages that
//! they would have sent beside those that were.

use axum::extract::{Path, State};
use axum::http::HeaderMap;
use chrono::{NaiveDate, TimeDelta};
use serde::Deserialize;
use serde_json::Value;

use super::extract::Params;
use super::patients::{QueryState, limit};
use super::problem::Problem;
use super::reply::Reply;
use super::rules_state::RulesState;
use super::{cursor, to_wire};
use crate::auth::{Caller, Scope};
use crate::query::alerts::{Alert, AlertFilter};
use crate::query::shadow::{self, ShadowQuery};
use crate::rules::Mode;
use crate::rules::versions;
use crate::wire::{self, OnTrial, Page, Pages, PagesOf, ShadowDay, ShadowReport, Time};

/// Days of a report that says no time.
const DAYS_DEFAULT: i64 = 30;
/// Days and patients of a page, unless the caller says otherwise, and at most.
const LIMIT_DEFAULT: i64 = 100;
const LIMIT_MAX: i64 = 1_000;

/// A page of `GET /alerts?mode=shadow`, and whether it is fresh.
pub(super) async fn alerts(
    questions: &QueryState,
    tenant: &str,
    filter: &AlertFilter,
) -> Result<(Vec<Alert>, bool), Problem> {
    let rules = versions::rules(&questions.log, tenant).await?;
    let trying = rules.into_iter().filter(|rule| rule.mode == Mode::Shadow);
    let trying: Vec<String> = trying.map(|rule| rule.id).collect();
    Ok(shadow::alerts(&questions.log, tenant, filter, &trying).await?)
}

/// An alert that nobody was paged for, and nobody can answer.
pub(super) fn shown(alert: &Alert) -> Result<wire::Alert, Problem> {
    let links = [
        ("patient", format!("/api/v1/patients/{}", alert.patient_id)),
        ("rule", format!("/api/v1/rules/{}", alert.rule)),
    ];
    Ok(wire::Alert { mode: Some(OnTrial::Shadow), links: links.into(), ..to_wire::alert(alert)? })
}

#[derive(Deserialize)]
pub struct ReportParams {
    from: Option<Time>,
    to: Option<Time>,
    limit: Option<i64>,
    cursor: Option<String>,
}

/// `GET /rules/{id}/report`: the pages that the version on trial would have sent, by day
/// and patient, beside those that the rules at work have sent: the same rule, before, and
/// all that raise the same event.
pub async fn report(
    State(rules_state): State<RulesState>,
    caller: Caller,
    Path(id): Path<String>,
    Params(params): Params<ReportParams>,
    headers: HeaderMap,
) -> Result<Reply<ShadowReport>, Problem> {
    caller.may_administer(Scope::RulesManage)?;
    let limit = limit(params.limit, LIMIT_DEFAULT, LIMIT_MAX)?;
    let link = format!("/api/v1/rules/{}/report", cursor::url_encode(&id));
    let place = |cursor| cursor::read(&rules_state.log, cursor, &link);
    let after: Option<(NaiveDate, String)> = params.cursor.as_deref().map(place).transpose()?;
    let to = params.to.map_or_else(|| rules_state.clock.now(), |time| time.0);
    let from = params.from.map_or(to - TimeDelta::days(DAYS_DEFAULT), |time| time.0);
    if from >= to {
        return Err(Problem::unreadable("invalid_range", "from lies before to"));
    }
    let all = versions::versions(&rules_state.log, &caller.tenant).await?;
    let mine = || all.iter().filter(|version| version.id() == id);
    let newest = mine().next_back().ok_or_else(|| Problem::not_found("rule"))?;
    let event = newest.stored()?.event;
    let is_shadow = |mode: Option<&Value>| mode.is_some_and(|mode| mode == Mode::Shadow.name());
    let tried = mine().rfind(|version| is_shadow(version.rule.get("mode")));
    let active = versions::active(&rules_state.log, &caller.tenant).await?;
    let same = active.into_iter().filter(|rule| rule.event == event && rule.id != id);
    let others: Vec<String> = std::iter::once(id.clone()).chain(same.map(|rule| rule.id)).collect();
    let (from_day, to_day) = shadow::days_of(from, to);
    let version = tried.map(|version| version.version);
    let wanted = ShadowQuery {
        rule: &id,
        version: version.and_then(|version| i32::try_from(version).ok()),
        others: &others,
        from: from_day,
        to: to_day,
    };
    let ((pages, sent), fresh) = shadow::total(&rules_state.log, &caller.tenant, &wanted).await?;
    let days = shadow::days(&rules_state.log, &caller.tenant, &wanted, after, limit).await?;
    let next = cursor::next(&rules_state.log, &days, limit, |last| (last.day, &*last.patient_id));
    let day = |shadow::Day { day, patient_id, shadow, active }| ShadowDay {
        day,
        patient_id: String::into(patient_id),
        shadow,
        active,
    };
    let query = format!("from={from_day}T00:00:00Z&to={to_day}T00:00:00Z");
    let body = ShadowReport {
        page: Page::new(days.into_iter().map(day).collect(), next, &link, &query),
        rule: id,
        event,
        from_day,
        to_day,
        shadow: Pages { version, pages },
        active: PagesOf { rules: others, pages: sent },
    };
    Ok(Reply::tagged(&headers, &body)?.fresh(fresh).next(body.page.links.next.as_ref()))
}
