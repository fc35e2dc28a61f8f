//! The fold of a backtest: a shard's patients, slice after slice, rule by rule.
//!
//! Guarantees that a patient's readings are judged in the order in which they were
//! measured, whatever the slices are. A patient who is well costs one comparison a
//! reading and rule, and no memory but their counts.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use chrono::{DateTime, Months, NaiveDate, TimeDelta, Utc};
use serde_json::{Value, json};
use sqlx::PgPool;

use super::rows::{Held, Row, Slice};
use super::{BacktestError, Found, Lines, Progress, Question};
use crate::clock::rfc3339;
use crate::event::{AlertState, READING_RETRACTED, number};
use crate::rules::evaluate::is_quiet;
use crate::rules::facts::Facts;
use crate::rules::input::{Context, Input, Reading, Transition};
use crate::rules::model::Rule;
use crate::rules::state::State;
use crate::rules::step::{due, step};

/// A longer silence does not count as time in which the patient was observed.
const OBSERVED_GAP_MICROS: i64 = 2 * 3_600_000_000;
const DAY_MICROS: f64 = 86_400_000_000.0;

/// What one rule would have done to one patient.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Alerts that would have been raised.
    pub alerts: u32,
    /// What would have been said again, or to others, had nobody answered.
    pub repeats: u32,
    /// In alarm, microseconds.
    pub alarm_micros: i64,
    /// From when to when, if that was asked for.
    pub times: Vec<(i64, i64)>,
}

/// A patient's numbers.
#[derive(Clone, Debug, Default)]
pub struct PatientTrials {
    /// Who.
    pub id: String,
    /// Where they lie now.
    pub ward: Option<String>,
    /// For how long they were observed, days.
    pub days: f64,
    /// Of each rule, in the question's order.
    pub tallies: Vec<Tally>,
}

/// One rule and one patient.
#[derive(Default)]
struct Trial {
    /// Only of those of whom something is remembered.
    state: Option<Box<State>>,
    open: Option<Transition>,
    tally: Tally,
}

#[derive(Default)]
struct Patient {
    facts: Facts,
    observed_micros: i64,
    last_at: Option<i64>,
    trials: Vec<Trial>,
}

/// One shard's part of the work.
pub struct Worker<'q> {
    question: &'q Question,
    shard: i16,
    facts: &'q HashMap<String, Facts>,
    lines: Option<Lines>,
    held: Held,
    patients: Vec<Patient>,
    readings: u64,
    /// Readings that were entered in error, by position.
    retracted: HashSet<i64>,
}

impl<'q> Worker<'q> {
    pub fn new(
        question: &'q Question,
        shard: i16,
        facts: &'q HashMap<String, Facts>,
        lines: Option<Lines>,
    ) -> Worker<'q> {
        let (held, patients, retracted) = (Held::default(), Vec::new(), HashSet::new());
        Worker { question, shard, facts, lines, held, patients, readings: 0, retracted }
    }

    /// Reads and folds the whole shard.
    pub async fn run(&mut self, pool: &PgPool, progress: &Progress) -> Result<(), BacktestError> {
        let retracted: Vec<i64> = sqlx::query_scalar(
            "select (data ->> 'readingPosition')::bigint from event \
             where shard = $1 and tenant = $2 and type <> 'reading' and type = $3",
        )
        .bind(self.shard)
        .bind(&self.question.tenant)
        .bind(READING_RETRACTED)
        .fetch_all(pool)
        .await?;
        self.retracted = retracted.into_iter().collect();
        // From the last to the first, for they are taken from the end.
        let mut slices = self.slices(pool).await?;
        slices.reverse();
        for slice in &slices {
            progress
                .total
                .fetch_add(estimate(pool, *slice, self.question).await?, Ordering::Relaxed);
        }
        while let Some(slice) = slices.pop() {
            if self.held.read(pool, slice, self.question, progress).await? {
                // A slice is folded without a pause; others must get their turn.
                tokio::task::block_in_place(|| self.fold())?;
            } else {
                let [first, second] = slice.halves();
                slices.extend([second, first]);
            }
        }
        Ok(())
    }

    /// The months of the question that the shard has anything of.
    async fn slices(&self, pool: &PgPool) -> Result<Vec<Slice>, BacktestError> {
        let (from, to) = (self.question.from, self.question.to);
        let months: Vec<(i32, i32)> = sqlx::query_as(include_str!("months.sql"))
            .bind(self.shard)
            .bind(from)
            .bind(to)
            .fetch_all(pool)
            .await?;
        let slice = |(year, month): (i32, i32)| {
            let first = NaiveDate::from_ymd_opt(year, u32::try_from(month).ok()?, 1)?;
            let since = first.and_time(chrono::NaiveTime::MIN).and_utc();
            let until = since.checked_add_months(Months::new(1))?;
            let (from, to) = (since.max(from), until.min(to));
            (from < to).then_some(Slice { shard: self.shard, from, to })
        };
        Ok(months.into_iter().filter_map(slice).collect())
    }

    fn fold(&mut self) -> Result<(), BacktestError> {
        let mut all = std::mem::take(&mut self.held.rows);
        for (n, rows) in all.iter_mut().enumerate().filter(|(_, rows)| !rows.is_empty()) {
            while self.patients.len() <= n {
                let name = self.held.patients.name(self.patients.len() as u32);
                let facts = self.facts.get(name).cloned().unwrap_or_default();
                let trials = self.question.rules.iter().map(|_| Trial::default()).collect();
                self.patients.push(Patient { facts, trials, ..Patient::default() });
            }
            if !self.retracted.is_empty() {
                rows.retain(|row| !self.retracted.contains(&row.position));
            }
            self.readings += rows.len() as u64;
            // Almost always they lie in order already.
            if !rows.is_sorted_by_key(|row| (row.at, row.position)) {
                rows.sort_unstable_by_key(|row| (row.at, row.position));
            }
            self.patient(n, rows)?;
        }
        self.held.rows = all;
        Ok(())
    }

    fn patient(&mut self, n: usize, rows: &[Row]) -> Result<(), BacktestError> {
        let Some(patient) = self.patients.get_mut(n) else { return Ok(()) };
        for row in rows {
            let gap = patient.last_at.map_or(0, |last| row.at - last);
            if gap <= OBSERVED_GAP_MICROS {
                patient.observed_micros += gap;
            }
            patient.last_at = Some(row.at);
        }
        let patient_id = self.held.patients.name(n as u32);
        let whose = Whose {
            context: Context {
                tenant: &self.question.tenant,
                patient_id,
                shard: self.shard,
                facts: &patient.facts,
                inhibited: false,
                held: false,
            },
            held: &self.held,
            keeps_times: self.question.keeps_times,
        };
        for (index, (rule, trial)) in
            self.question.rules.iter().zip(&mut patient.trials).enumerate()
        {
            let lines = self.lines.as_ref().filter(|_| index == 0);
            whose.try_rule(rule, trial, rows, lines)?;
        }
        Ok(())
    }

    /// Ends: alerts that stand, stand until the patient's last reading.
    pub fn end(self) -> Result<Found, BacktestError> {
        let mut found = Found { readings: self.readings, patients: Vec::new() };
        for (n, mut patient) in self.patients.into_iter().enumerate() {
            let Some(last) = patient.last_at else { continue };
            let id = self.held.patients.name(n as u32).to_owned();
            for (index, trial) in patient.trials.iter_mut().enumerate() {
                let Some(open) = trial.open.take() else { continue };
                trial.tally.close(&open, last, self.question.keeps_times);
                if let Some(lines) = self.lines.as_ref().filter(|_| index == 0) {
                    write_line(lines, &line(&id, &open, None))?;
                }
            }
            found.patients.push(PatientTrials {
                id,
                ward: patient.facts.ward,
                days: patient.observed_micros as f64 / DAY_MICROS,
                tallies: patient.trials.into_iter().map(|trial| trial.tally).collect(),
            });
        }
        Ok(found)
    }
}

/// Whose readings are judged.
struct Whose<'a> {
    context: Context<'a>,
    held: &'a Held,
    keeps_times: bool,
}

impl Whose<'_> {
    fn try_rule(
        &self,
        rule: &Arc<Rule>,
        trial: &mut Trial,
        rows: &[Row],
        lines: Option<&Lines>,
    ) -> Result<(), BacktestError> {
        let well = rule.loosest();
        let timed = rule.has_timers();
        let mut said = Vec::new();
        for row in rows {
            // The whole cost of a patient who is well.
            if let (Some((vital, op, limit)), None) = (well, &trial.state)
                && (row.vital != vital || row.suspect || !op.breaks(row.value, limit))
            {
                continue;
            }
            let at = DateTime::<Utc>::UNIX_EPOCH + TimeDelta::microseconds(row.at);
            let reading = Reading {
                device_id: self.held.devices.name(row.device),
                position: row.position,
                vital: row.vital,
                value: row.value,
                quality: (!row.quality.is_nan()).then_some(row.quality),
                suspect: row.suspect,
                occurred_at: at,
                recorded_at: at,
            };
            if is_quiet(rule, trial.state.as_deref(), self.context.facts, &reading) {
                continue;
            }
            let state = trial.state.get_or_insert_default();
            if timed {
                while let Some(tick) = due(rule, state).filter(|tick| *tick <= at) {
                    step(rule, state, &Input::Tick(tick), &self.context, &mut said);
                }
            }
            step(rule, state, &Input::Reading(reading), &self.context, &mut said);
            if **state == State::default() {
                trial.state = None;
            }
            for transition in said.drain(..) {
                if let Some(raised) = trial.take(transition, self.keeps_times)
                    && let Some(lines) = lines
                {
                    write_line(lines, &line(self.context.patient_id, &raised.0, Some(&raised.1)))?;
                }
            }
        }
        Ok(())
    }
}

impl Trial {
    /// Counts; answers the alert that is over, with what ended it.
    fn take(&mut self, said: Transition, keeps_times: bool) -> Option<(Transition, Transition)> {
        match said.data.state {
            AlertState::Raised => {
                self.tally.alerts += 1;
                self.open = Some(said);
                None
            }
            AlertState::Cleared | AlertState::Retracted => {
                let open = self.open.take()?;
                self.tally.close(&open, said.at.timestamp_micros(), keeps_times);
                Some((open, said))
            }
            AlertState::Escalated | AlertState::ReAlarmed => {
                self.tally.repeats += 1;
                None
            }
            AlertState::Missed => None,
        }
    }
}

impl Tally {
    fn close(&mut self, open: &Transition, end: i64, keeps_times: bool) {
        let begin = open.at.timestamp_micros();
        self.alarm_micros += (end - begin).max(0);
        if keeps_times {
            self.times.push((begin, end.max(begin)));
        }
    }
}

fn line(patient_id: &str, raised: &Transition, cleared: Option<&Transition>) -> Value {
    let data = &raised.data;
    json!({
        "patientId": patient_id,
        "alertId": data.alert_id,
        "rule": data.rule,
        "ruleVersion": data.rule_version,
        "event": data.event,
        "vital": data.vital.name(),
        "value": number(data.value),
        "unit": data.unit,
        "deviceId": data.device_id,
        "raisedAt": rfc3339(raised.at),
        "clearedAt": cleared.map(|cleared| rfc3339(cleared.at)),
        "because": data.because,
    })
}

fn write_line(lines: &Lines, line: &Value) -> Result<(), BacktestError> {
    let mut to = lines.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(writeln!(to, "{line}")?)
}

/// How many rows PostgreSQL expects of a slice.
async fn estimate(pool: &PgPool, slice: Slice, question: &Question) -> Result<u64, sqlx::Error> {
    let sql = format!("explain (format json) {}", slice.sql(question));
    let plan: Value = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(pool).await?;
    Ok(plan.pointer("/0/Plan/Plan Rows").and_then(Value::as_u64).unwrap_or_default())
}
