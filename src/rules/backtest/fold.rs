//! The fold of a backtest: the patients, slice after slice, rule by rule.
//!
//! Guarantees that a patient's readings are judged in the order in which they were
//! measured, whatever the slices are. A patient who is well costs one comparison a
//! reading and rule, and no memory but their counts.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use super::observed::Observed;
use super::query::{BacktestError, BacktestOutput, BacktestQuery};
use super::rows::{Directory, ScannedRow, ScannedRows};

use crate::clock::rfc3339;
use crate::event::{AlertEventKind, READING_RETRACTED, number};
use crate::log::Log;
use crate::rules::facts::Facts;
use crate::rules::input::{Context, Input, Judged, Reading, Transition};
use crate::rules::model::Rule;
use crate::rules::patient::is_quiet;
use crate::rules::state::RuleState;
use crate::rules::step::step;
use crate::rules::timers::due;

/// What was found: every patient with their numbers for each rule.
#[derive(Debug, Default)]
pub struct BacktestTotals {
    /// Readings that were judged.
    pub readings: u64,
    /// Those of whom there were any.
    pub patients: Vec<PatientTrials>,
}

/// Rules times patients: of each something is remembered, some 60 bytes and more where an
/// alert stands.
const PATIENT_TRIALS_MAX: usize = 4_000_000;
const DAY_MICROS: f64 = 86_400_000_000.0;

/// What one rule would have done to one patient.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Alerts that would have been raised.
    pub alerts: u32,
    /// What would have been said again, or to others, had nobody answered.
    pub repeats: u32,
    /// In alarm, microseconds of the observed time.
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
    state: Option<Box<RuleState>>,
    open: Option<Box<OpenAlert>>,
    /// Observed time by the end of the alert before.
    counted: i64,
    tally: Tally,
}

/// An alert that stands.
struct OpenAlert {
    raised: Transition,
    /// Observed time by then.
    observed: i64,
}

struct PatientFold {
    id: Arc<str>,
    shard: i16,
    facts: Facts,
    observed: Observed,
    trials: Vec<Trial>,
    /// Of the slice that is at hand.
    rows: Vec<ScannedRow>,
}

/// Every patient of the question, with what was found so far.
pub struct Fold<'q> {
    question: &'q BacktestQuery,
    log: &'q Log,
    facts: &'q HashMap<String, Facts>,
    lines: Option<BacktestOutput>,
    /// Readings that were entered in error, by shard and position.
    retracted: HashSet<(i16, i64)>,
    patients: Vec<PatientFold>,
    /// Of a patient's number in the directory, the place among these.
    places: HashMap<usize, usize>,
    readings: u64,
}

impl<'q> Fold<'q> {
    pub async fn new(
        question: &'q BacktestQuery,
        log: &'q Log,
        facts: &'q HashMap<String, Facts>,
        lines: Option<BacktestOutput>,
    ) -> Result<Fold<'q>, sqlx::Error> {
        let retracted: Vec<(i16, i64)> = sqlx::query_as(
            "select shard, (data ->> 'readingPosition')::bigint from non_reading \
             where tenant = $1 and type = $2",
        )
        .bind(&question.tenant)
        .bind(READING_RETRACTED)
        .fetch_all(log.pool())
        .await?;
        let retracted = retracted.into_iter().collect();
        let (patients, places) = (Vec::new(), HashMap::new());
        Ok(Fold { question, log, facts, lines, retracted, patients, places, readings: 0 })
    }

    /// Takes a slice: what each reader holds of it, in the order of the table's pages.
    /// All cores judge, each some of the patients.
    pub fn slice(
        &mut self,
        held: &mut [ScannedRows],
        directory: &Directory,
    ) -> Result<(), BacktestError> {
        for held in held {
            let rows = directory.patients.iter().zip(&mut held.rows).enumerate();
            for (number, (id, rows)) in rows.filter(|(_, (_, rows))| !rows.is_empty()) {
                let patient = self.patient(number, id)?;
                if patient.rows.is_empty() {
                    std::mem::swap(&mut patient.rows, rows);
                } else {
                    patient.rows.append(rows);
                }
            }
        }
        let judge = Judge {
            question: self.question,
            installation: self.log.installation(),
            retracted: &self.retracted,
            devices: &directory.devices,
            lines: self.lines.as_ref(),
        };
        let share = self.patients.len().div_ceil(cores()).max(1);
        self.readings += std::thread::scope(|scope| {
            let threads: Vec<_> = self
                .patients
                .chunks_mut(share)
                .map(|patients| scope.spawn(|| judge.all(patients)))
                .collect();
            let judged = threads.into_iter().map(|one| one.join());
            judged.map(|one| one.map_err(|_| BacktestError::Worker)?).sum::<Result<u64, _>>()
        })?;
        Ok(())
    }

    /// A patient of this number, of whom there are readings; new if there were none before.
    fn patient(&mut self, number: usize, id: &Arc<str>) -> Result<&mut PatientFold, BacktestError> {
        let (rules, next) = (self.question.rules.len(), self.patients.len());
        let patients_max = PATIENT_TRIALS_MAX / rules.max(1);
        let place = *self.places.entry(number).or_insert(next);
        if place == next {
            if next >= patients_max {
                return Err(BacktestError::TooManyTrials { rules, patients: patients_max });
            }
            self.patients.push(PatientFold {
                shard: self.log.shard_of(&self.question.tenant, id),
                facts: self.facts.get(&**id).cloned().unwrap_or_default(),
                id: id.clone(),
                observed: Observed::default(),
                trials: self.question.rules.iter().map(|_| Trial::default()).collect(),
                rows: Vec::new(),
            });
        }
        self.patients.get_mut(place).ok_or(BacktestError::Worker)
    }

    /// Ends: alerts that stand, stand until the patient's last reading.
    pub fn end(self) -> Result<BacktestTotals, BacktestError> {
        let mut found = BacktestTotals { readings: self.readings, patients: Vec::new() };
        for mut patient in self.patients {
            let Some(last) = patient.observed.newest() else { continue };
            let (id, observed) = (patient.id.to_string(), patient.observed.total());
            for (index, trial) in patient.trials.iter_mut().enumerate() {
                let end = (last, observed);
                let Some(raised) = trial.close(end, self.question.keeps_times) else { continue };
                if let Some(lines) = self.lines.as_ref().filter(|_| index == 0) {
                    write_line(lines, &line(&id, &raised, None))?;
                }
            }
            found.patients.push(PatientTrials {
                id,
                ward: patient.facts.ward,
                days: observed as f64 / DAY_MICROS,
                tallies: patient.trials.into_iter().map(|trial| trial.tally).collect(),
            });
        }
        Ok(found)
    }
}

/// What it takes to judge a slice of a patient.
#[derive(Clone, Copy)]
struct Judge<'a> {
    question: &'a BacktestQuery,
    installation: Uuid,
    retracted: &'a HashSet<(i16, i64)>,
    devices: &'a [Arc<str>],
    lines: Option<&'a BacktestOutput>,
}

impl Judge<'_> {
    /// Judges what was read of these patients; how many readings that was.
    fn all(&self, patients: &mut [PatientFold]) -> Result<u64, BacktestError> {
        let mut readings = 0;
        for patient in patients.iter_mut().filter(|patient| !patient.rows.is_empty()) {
            let mut rows = std::mem::take(&mut patient.rows);
            if !self.retracted.is_empty() {
                rows.retain(|row| !self.retracted.contains(&(patient.shard, row.position)));
            }
            readings += rows.len() as u64;
            // Almost always they lie in order already.
            if !rows.is_sorted_by_key(|row| (row.at, row.position)) {
                rows.sort_unstable_by_key(|row| (row.at, row.position));
            }
            self.patient(patient, &rows)?;
        }
        Ok(readings)
    }

    fn patient(&self, patient: &mut PatientFold, rows: &[ScannedRow]) -> Result<(), BacktestError> {
        patient.observed.begin_slice();
        rows.iter().for_each(|row| patient.observed.reading(row.at));
        let context = Context {
            tenant: &self.question.tenant,
            patient_id: &patient.id,
            installation: self.installation,
            facts: &patient.facts,
            inhibited: false,
            device_distrusted: false,
            silence: None,
        };
        for (index, (rule, trial)) in
            self.question.rules.iter().zip(&mut patient.trials).enumerate()
        {
            let lines = self.lines.filter(|_| index == 0);
            self.try_rule(&context, rule, (trial, &patient.observed), rows, lines)?;
        }
        Ok(())
    }

    fn try_rule(
        &self,
        context: &Context<'_>,
        rule: &Arc<Rule>,
        (trial, observed): (&mut Trial, &Observed),
        rows: &[ScannedRow],
        lines: Option<&BacktestOutput>,
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
                device_id: self.devices.get(row.device as usize).map_or("", |name| name),
                position: row.position,
                vital: row.vital,
                value: row.value,
                quality: (!row.quality.is_nan()).then_some(row.quality),
                suspect: row.suspect,
                occurred_at: at,
                recorded_at: at,
                // They come in the order of time.
                judged: Judged::default(),
            };
            if is_quiet(rule, trial.state.as_deref(), context.facts, &reading) {
                continue;
            }
            let state = trial.state.get_or_insert_default();
            if timed {
                while let Some(tick) = due(rule, state).filter(|tick| *tick <= at) {
                    step(rule, state, &Input::Tick(tick), context, &mut said);
                }
            }
            step(rule, state, &Input::Reading(reading), context, &mut said);
            if **state == RuleState::default() {
                trial.state = None;
            }
            for transition in said.drain(..) {
                let over = trial.take(transition, observed, self.question.keeps_times);
                if let Some(raised) = over
                    && let Some(lines) = lines
                {
                    write_line(lines, &line(context.patient_id, &raised.0, Some(&raised.1)))?;
                }
            }
        }
        Ok(())
    }
}

impl Trial {
    /// Counts; answers the alert that is over, with what ended it.
    fn take(
        &mut self,
        said: Transition,
        observed: &Observed,
        keeps_times: bool,
    ) -> Option<(Transition, Transition)> {
        let at = said.at.timestamp_micros();
        match said.data.state {
            AlertEventKind::Raised => {
                self.tally.alerts += 1;
                self.open = Some(Box::new(OpenAlert { raised: said, observed: observed.by(at) }));
                None
            }
            AlertEventKind::Cleared | AlertEventKind::Retracted => {
                let raised = self.close((at, observed.by(at)), keeps_times)?;
                Some((raised, said))
            }
            AlertEventKind::Escalated | AlertEventKind::ReAlarmed => {
                self.tally.repeats += 1;
                None
            }
            AlertEventKind::Missed | AlertEventKind::Corrected => None,
        }
    }

    /// The alert that stands is over: by the clock, and by the observed time. No moment
    /// counts twice.
    fn close(&mut self, (at, observed): (i64, i64), keeps_times: bool) -> Option<Transition> {
        let OpenAlert { raised, observed: since } = *self.open.take()?;
        self.tally.alarm_micros += (observed - since.max(self.counted)).max(0);
        self.counted = self.counted.max(observed);
        if keeps_times {
            let begin = raised.at.timestamp_micros();
            self.tally.times.push((begin, at.max(begin)));
        }
        Some(raised)
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

fn write_line(lines: &BacktestOutput, line: &Value) -> Result<(), BacktestError> {
    let mut to = lines.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(writeln!(to, "{line}")?)
}

pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
