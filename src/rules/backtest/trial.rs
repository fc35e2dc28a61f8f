//! A trial: a backtest as it is asked over HTTP, and done as a job.
//!
//! Guarantees that what is asked is judged once and wholly before it is accepted, by the
//! same reader that understands it when it is done; a refusal names its place.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::Value;

use super::{
    Axis, BacktestError, BacktestQuery, BacktestTotals, Report, compared, picture, run, variants,
};
use crate::clock::END_OF_TIME;
use crate::jobs::{Failure, Task, Work};
use crate::log::Log;
use crate::rules::model::Rule;
use crate::rules::table::{RuleError, Table, fault};
use crate::rules::versions;
use crate::wire::{JobResult, Setting};

/// What people write when they want a sweep.
const SWEEP_EXAMPLE: &str =
    "write a list of texts as [\"when.value=110..140/5\", \"on_delay=0s,15s\"]";

/// A question, understood.
#[derive(Debug)]
pub struct Trial {
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    /// Compared with the rules that are at work.
    against: bool,
    axes: Vec<Axis>,
    /// Each with the values of the axes that make it.
    settings: Vec<(Vec<Value>, Arc<Rule>)>,
}

/// Why a question is none.
#[derive(Debug)]
pub struct TrialError {
    /// Stable, for programs.
    pub code: &'static str,
    /// The place and the mend.
    pub error: RuleError,
}

impl Trial {
    /// Reads `{"rule", "from", "to", "against", "sweep"}`; all but the rule may be left out.
    pub fn read(body: &Value) -> Result<Trial, TrialError> {
        let of = |code| move |error| TrialError { code, error };
        let mut table = Table::of(body, "").map_err(of("invalid_body"))?;
        let rule = table.get("rule");
        let rule = table.needed("rule", rule, "{\"rule\": {…}}").map_err(of("invalid_body"))?;
        let from = moment(&mut table, "from").map_err(of("invalid_body"))?;
        let to = moment(&mut table, "to").map_err(of("invalid_body"))?;
        let sweep = table.get("sweep");
        let against = table.text("against").map_err(of("invalid_against"))?;
        table.end().map_err(of("unknown_field"))?;
        Rule::read(rule, 1).map_err(|error| {
            let pointer = format!("/rule{}", error.pointer.trim_end_matches('/'));
            TrialError { code: "invalid_rule", error: RuleError { pointer, ..error } }
        })?;
        let axes = axes(sweep).map_err(of("invalid_sweep"))?;
        let settings = variants(rule, &axes, 1)
            .map_err(|error| fault("/sweep", error.to_string()))
            .map_err(of("invalid_sweep"))?;
        let against = match against {
            None => false,
            Some("active") if axes.is_empty() => true,
            Some("active") => {
                let what = "a sweep has nothing to be compared with: leave one of the two out";
                return Err(fault("/against", what)).map_err(of("invalid_against"));
            }
            Some(_) => {
                let what = "against is \"active\", or left out";
                return Err(fault("/against", what)).map_err(of("invalid_against"));
            }
        };
        let (from, to) = (from.unwrap_or(DateTime::UNIX_EPOCH), to.unwrap_or(END_OF_TIME));
        Ok(Trial { from, to, against, axes, settings })
    }

    /// Does it; the result as it is told.
    async fn done(self, log: &Log, task: &Task) -> Result<JobResult, Failure> {
        let mut rules: Vec<Arc<Rule>> =
            self.settings.iter().map(|(_, rule)| rule.clone()).collect();
        if self.against {
            let active = versions::active(log, &task.tenant).await;
            let active = active.map_err(|error| Failure::Ours(error.to_string()))?;
            let event = rules.first().map(|rule| rule.event.clone());
            let same = active.into_iter().filter(|rule| Some(&rule.event) == event.as_ref());
            rules.extend(same.map(Arc::new));
        }
        let question = BacktestQuery {
            tenant: task.tenant.clone(),
            from: self.from,
            to: self.to,
            rules,
            keeps_times: self.against,
        };
        let found = run(log, question, &task.progress, None).await?;
        Ok(self.result(&found))
    }

    fn result(self, found: &BacktestTotals) -> JobResult {
        let of = |(n, (_, rule)): (usize, &(Vec<Value>, Arc<Rule>))| Report::of(found, n, rule);
        let mut reports: Vec<Report> = self.settings.iter().enumerate().map(of).collect();
        // Without an axis there is one setting.
        if self.axes.is_empty()
            && let Some(report) = reports.pop()
        {
            let against = self.against.then(|| compared(found));
            return JobResult::One { report: Box::new(report), against };
        }
        let rates = reports.iter().map(|report| report.alerts_per_patient_day);
        let settings = self.settings.into_iter().map(|(setting, _)| setting);
        let points: Vec<(Vec<Value>, f64)> = settings.zip(rates).collect();
        let row = |((setting, _), report): (&(Vec<Value>, f64), &Report)| Setting {
            setting: setting.clone(),
            alerts: report.alerts,
            alerts_per_patient_day: report.alerts_per_patient_day,
            patients_with_alerts: report.patients_with_alerts,
            alarm_part: report.alarm_part,
        };
        let settings = points.iter().zip(&reports).map(row).collect();
        let axes = self.axes.iter().map(|axis| axis.key.clone()).collect();
        let rule = reports.first().map_or("", |report| &*report.rule);
        let title = format!("{rule}: alerts a patient-day");
        let picture = picture(&title, &self.axes, &points);
        JobResult::Sweep { axes, settings, picture }
    }
}

fn moment(table: &mut Table<'_>, key: &'static str) -> Result<Option<DateTime<Utc>>, RuleError> {
    let place = table.place(key);
    let Some(text) = table.text(key)? else { return Ok(None) };
    let time = DateTime::parse_from_rfc3339(text).map_err(|_| {
        fault(
            &place,
            format!("\"{text}\" is no RFC 3339 time with a zone: write 2025-10-20T10:20:00Z"),
        )
    })?;
    Ok(Some(time.to_utc()))
}

fn axes(sweep: Option<&Value>) -> Result<Vec<Axis>, RuleError> {
    let Some(sweep) = sweep else { return Ok(Vec::new()) };
    let list = sweep.as_array().ok_or_else(|| fault("/sweep", SWEEP_EXAMPLE))?;
    let axis = |(n, value): (usize, &Value)| {
        let place = format!("/sweep/{n}");
        let text = value.as_str().ok_or_else(|| fault(&place, SWEEP_EXAMPLE))?;
        text.parse::<Axis>().map_err(|error| fault(&place, error.to_string()))
    };
    list.iter().enumerate().map(axis).collect()
}

/// Who does trials.
pub struct Trials {
    log: Log,
}

impl Trials {
    /// Over this log, whose connections are their own.
    pub fn new(log: Log) -> Trials {
        Trials { log }
    }
}

impl Work for Trials {
    fn run(self: Arc<Self>, task: Task) -> BoxFuture<'static, Result<Value, Failure>> {
        async move {
            // It was read when it was accepted, perhaps by another version.
            let trial = Trial::read(&task.argument)
                .map_err(|refused| Failure::Told(refused.error.to_string()))?;
            let result = trial.done(&self.log, &task).await?;
            serde_json::to_value(result).map_err(|error| Failure::Ours(error.to_string()))
        }
        .boxed()
    }
}

impl From<BacktestError> for Failure {
    fn from(error: BacktestError) -> Failure {
        match error {
            BacktestError::Archived(_)
            | BacktestError::TooMany
            | BacktestError::TooManyTrials { .. } => Failure::Told(error.to_string()),
            BacktestError::Database(_)
            | BacktestError::Format(_)
            | BacktestError::Lines(_)
            | BacktestError::Worker
            | BacktestError::Cancelled => Failure::Ours(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rule() -> Value {
        json!({ "id": "r", "event": "R", "priority": "low",
                "when": { "vital": "heart_rate", "op": ">", "value": 120 } })
    }

    #[test]
    fn a_refusal_names_its_place_and_what_would_be_right() {
        for (body, code, pointer, says) in [
            (json!([1]), "invalid_body", "/", "table"),
            (json!({}), "invalid_body", "/", "rule is missing"),
            (json!({ "rule": {} }), "invalid_rule", "/rule", "id is missing"),
            (json!({ "rule": rule(), "form": "x" }), "unknown_field", "/form", "unknown key"),
            (json!({ "rule": rule(), "from": "today" }), "invalid_body", "/from", "RFC 3339"),
            (json!({ "rule": rule(), "to": 7 }), "invalid_body", "/to", "text"),
            (json!({ "rule": rule(), "against": "all" }), "invalid_against", "/against", "active"),
            (
                json!({ "rule": rule(), "sweep": { "when.value": [1] } }),
                "invalid_sweep",
                "/sweep",
                "a list of texts",
            ),
            (
                json!({ "rule": rule(), "sweep": ["when.value=1", 2] }),
                "invalid_sweep",
                "/sweep/1",
                "a list of texts",
            ),
            (
                json!({ "rule": rule(), "sweep": ["when.value"] }),
                "invalid_sweep",
                "/sweep/0",
                "KEY=",
            ),
        ] {
            let refused = Trial::read(&body).unwrap_err();
            assert_eq!((refused.code, &*refused.error.pointer), (code, pointer), "{body}");
            assert!(refused.error.what.contains(says), "{body}: {}", refused.error);
        }
        let mut wrong = rule();
        wrong["when"]["value"] = "high".into();
        let refused = Trial::read(&json!({ "rule": wrong })).unwrap_err();
        assert_eq!(refused.error.pointer, "/rule/when/value");
    }

    #[test]
    fn a_trial_has_as_many_settings_as_its_sweep_makes() {
        let sweep = ["when.value=110..140/10", "on_delay=0s,2m"];
        let trial = Trial::read(&json!({ "rule": rule(), "sweep": sweep })).unwrap();
        assert_eq!((trial.settings.len(), trial.axes.len(), trial.against), (8, 2, false));
        let trial = Trial::read(&json!({ "rule": rule(), "against": "active" })).unwrap();
        assert_eq!((trial.settings.len(), trial.against), (1, true));
    }
}
