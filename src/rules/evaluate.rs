//! Evaluation: the log's events in, alert events out, without a database.
//!
//! Guarantees that live, replay and trials run the same lines: who loads the states
//! and where the events go is another's part ([`super::raise`], [`super::backtest`]).
//! Ticks come at their place among the patient's events. What one append brought is judged
//! as one, in the order of time ([`in_order`]). Does not forget a patient.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use super::facts::Facts;
use super::input::{Context, Input, Judged, Reading, Transition};
use super::model::{Mode, Rule};
use super::past::Past;
use super::patient::{PatientRules, RuleSlot, is_quiet};
use super::registry::{RuleSnapshot, Silence, Tenant};
use super::state::{HeldPage, RuleState};
use super::step::step;
use super::timers::due;
use crate::event::{
    ALERT_ACKNOWLEDGED, ALERT_CLEAR_REQUESTED, Event, PATIENT_REGISTERED, READING,
    READING_RETRACTED, RULE_CHANGED, Recorded, RetractionData,
};

/// A silence began, or has another end.
pub const SILENCE_SET: &str = "silence_set";

/// The patients of whom something is known.
#[derive(Default)]
pub struct Evaluator {
    patients: Vec<PatientRules>,
    /// Where each lies in `patients`, by tenant and id.
    places: HashMap<Arc<str>, HashMap<String, usize>>,
    /// What the next correction has to know of the past.
    past: Option<Past>,
}

/// Puts readings that were appended together into the order in which they were measured,
/// so that their order in the batch decides nothing. Others stay where they are.
pub fn in_order(events: &mut [Recorded]) {
    let together = |a: &Recorded, b: &Recorded| {
        let both = a.event.kind == READING && b.event.kind == READING;
        both && (a.shard, a.recorded_at) == (b.shard, b.recorded_at)
    };
    for batch in events.chunk_by_mut(together) {
        let when = |r: &Recorded| (r.event.occurred_at, r.event.vital);
        let order = |a: &Recorded, b: &Recorded| {
            when(a).cmp(&when(b)).then_with(|| a.event.source_id.cmp(&b.event.source_id))
        };
        if !batch.is_sorted_by(|a, b| order(a, b).is_le()) {
            batch.sort_by(order);
        }
    }
}

/// A state that changed, or facts that did.
pub struct Changed<'a> {
    /// Owner.
    pub tenant: &'a str,
    /// Whose.
    pub patient_id: &'a str,
    /// Which rule's; `None` for the facts.
    pub rule: Option<&'a str>,
    /// As JSON; `None` for what is worth no row.
    pub json: Option<String>,
    /// When time alone moves it.
    pub due_at: Option<DateTime<Utc>>,
}

/// What lies in a `rule_changed` event.
#[derive(Clone, Debug, Deserialize)]
pub struct RuleChanged {
    /// The rule's JSON form.
    pub rule: Value,
    /// Its version.
    pub version: u32,
}

impl RuleChanged {
    /// The rule's id.
    pub fn id(&self) -> &str {
        self.rule.get("id").and_then(Value::as_str).unwrap_or_default()
    }
}

/// What of an answer to an alert moves a rule.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AboutAlert {
    pub alert_id: Uuid,
    #[serde(default)]
    pub by: Option<String>,
}

/// What of an event cannot be understood.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    /// No JSON of ours.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// A rule that this version does not know how to read.
    #[error("{0}")]
    Rule(#[from] super::RuleError),
    /// The past that this correction is about was not read.
    #[error("the past of the correction at position {0} was not read")]
    NoPast(i64),
}

impl Evaluator {
    /// A patient, to load their states into, or to look at them.
    pub fn patient(&mut self, tenant: &Arc<str>, patient_id: &str) -> &mut PatientRules {
        let places = self.places.entry(tenant.clone()).or_default();
        // No allocation for one who is there.
        let place = match places.get(patient_id) {
            Some(place) => *place,
            None => {
                self.patients.push(PatientRules::default());
                places.insert(patient_id.to_owned(), self.patients.len() - 1);
                self.patients.len() - 1
            }
        };
        &mut self.patients[place]
    }

    /// Whether a correction can change what the rules say: then it needs its past.
    pub fn needs_past(snapshot: &RuleSnapshot, recorded: &Recorded) -> Result<bool, EvaluateError> {
        if recorded.event.kind != READING_RETRACTED {
            return Ok(false);
        }
        let of: RetractionData =
            serde_json::from_str(recorded.event.data.as_deref().unwrap_or("null"))?;
        if of.more {
            return Ok(false);
        }
        let mut rules = snapshot.of(&recorded.event.tenant).set.of(of.vital);
        // What is no draft any more was at work once.
        Ok(rules.any(|rule| rule.mode != Mode::Draft || rule.version > 1))
    }

    /// The past of the correction that comes next.
    pub fn read_back(&mut self, past: Past) {
        self.past = Some(past);
    }

    /// Takes an event in; what it leads to is added to `said`. The snapshot is copied only
    /// when it changes.
    pub fn event(
        &mut self,
        snapshot: &mut Arc<RuleSnapshot>,
        recorded: &Recorded,
        said: &mut Vec<Event>,
    ) -> Result<(), EvaluateError> {
        let Recorded { recorded_at, event, .. } = recorded;
        let data = event.data.as_deref().unwrap_or("null");
        match event.kind.as_str() {
            READING => {
                let Some(reading) = as_reading(recorded) else { return Ok(()) };
                self.reading(snapshot, recorded, reading, said);
            }
            RULE_CHANGED => {
                self.ticks(snapshot, *recorded_at, said);
                let changed: RuleChanged = serde_json::from_str(data)?;
                Arc::make_mut(snapshot)
                    .put(&event.tenant, Rule::read(&changed.rule, changed.version)?)?;
            }
            SILENCE_SET => {
                self.ticks(snapshot, *recorded_at, said);
                let silence: Silence = serde_json::from_str(data)?;
                let (id, until) = (silence.id, silence.until.max(*recorded_at));
                Arc::make_mut(snapshot).silence(&event.tenant, silence);
                for place in self.places.get(&event.tenant).into_iter().flat_map(HashMap::values) {
                    if let Some(patient) = self.patients.get_mut(*place) {
                        patient.look_at_held(Some(id), until);
                    }
                }
            }
            PATIENT_REGISTERED => {
                #[derive(Deserialize)]
                struct Registered {
                    #[serde(default)]
                    record: Value,
                }
                let registered: Registered = serde_json::from_str(data)?;
                self.non_reading(snapshot, (*recorded_at, event), None, said);
                let patient = self.patient(&event.tenant, &event.patient_id);
                patient.facts = Facts::of_record(&registered.record.to_string());
                patient.facts_changed = true;
                // They may lie in another ward now.
                patient.look_at_held(None, *recorded_at);
            }
            ALERT_ACKNOWLEDGED => {
                let about: AboutAlert = serde_json::from_str(data)?;
                let input = Input::Acknowledged(about.alert_id);
                self.non_reading(snapshot, (*recorded_at, event), Some(&input), said);
            }
            ALERT_CLEAR_REQUESTED => {
                let about: AboutAlert = serde_json::from_str(data)?;
                let by = about.by.as_deref().unwrap_or(&event.source_id);
                let input = Input::Cleared { id: about.alert_id, by, at: event.occurred_at };
                self.non_reading(snapshot, (*recorded_at, event), Some(&input), said);
            }
            READING_RETRACTED if Evaluator::needs_past(snapshot, recorded)? => {
                let past = self.past.take().ok_or(EvaluateError::NoPast(recorded.position))?;
                self.non_reading(snapshot, (*recorded_at, event), None, said);
                self.correct(snapshot, recorded, past, said)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn reading(
        &mut self,
        snapshot: &RuleSnapshot,
        recorded: &Recorded,
        reading: Reading<'_>,
        said: &mut Vec<Event>,
    ) {
        let event = &recorded.event;
        let tenant = snapshot.of(&event.tenant).clone();
        let patient = self.patient(&event.tenant, &event.patient_id);
        let (vital, recorded_at) = (reading.vital, reading.recorded_at);
        let who = Who { tenant: &tenant, event, held: false };
        who.ticks(patient, recorded_at, said);
        let judged = patient.before(vital, reading.device_id);
        if !reading.suspect {
            patient.judged(vital, reading.device_id, reading.occurred_at.min(recorded_at));
        }
        let input = Input::Reading(Reading { judged, ..reading });
        for rule in tenant.set.of(vital) {
            let Input::Reading(reading) = &input else { return };
            if is_quiet(rule, patient.state(&rule.id), &patient.facts, reading) {
                continue;
            }
            let held = !rule.looks_at_devices()
                && patient.is_device_distrusted(&tenant, reading.device_id);
            let who = Who { tenant: &tenant, event, held };
            who.step(rule, patient, &input, recorded_at, said);
        }
    }

    pub(super) fn non_reading(
        &mut self,
        snapshot: &RuleSnapshot,
        (recorded_at, event): (DateTime<Utc>, &Event),
        input: Option<&Input<'_>>,
        said: &mut Vec<Event>,
    ) {
        let tenant = snapshot.of(&event.tenant).clone();
        let patient = self.patient(&event.tenant, &event.patient_id);
        let who = Who { tenant: &tenant, event, held: false };
        who.ticks(patient, recorded_at, said);
        let Some(input) = input else { return };
        for rule in tenant.set.rules() {
            if patient.state(&rule.id).is_some() {
                who.step(rule, patient, input, recorded_at, said);
            }
        }
    }

    /// All ticks that are due by `upto`, in the order of time.
    pub fn ticks(&mut self, snapshot: &RuleSnapshot, upto: DateTime<Utc>, said: &mut Vec<Event>) {
        let mut dues: Vec<(DateTime<Utc>, Arc<str>, String)> = Vec::new();
        for (tenant, places) in &self.places {
            let rules = &snapshot.of(tenant).set;
            for (id, place) in places {
                let patient = &self.patients[*place];
                let of = |slot: &RuleSlot| due(&**rules.named(&slot.rule)?, &slot.state);
                let first = patient.slots.iter().filter_map(of).min();
                dues.extend(
                    first.filter(|at| *at <= upto).map(|at| (at, tenant.clone(), id.clone())),
                );
            }
        }
        dues.sort();
        for (at, tenant, patient_id) in dues {
            let rules = snapshot.of(&tenant).clone();
            let event = Event::non_reading("", (tenant.clone(), &*patient_id), "", at, "");
            let patient = self.patient(&tenant, &patient_id);
            let who = Who { tenant: &rules, event: &event, held: false };
            who.ticks(patient, upto, said);
        }
    }

    /// What has to be saved.
    pub fn changed<'a>(
        &'a self,
        snapshot: &'a RuleSnapshot,
    ) -> Result<Vec<Changed<'a>>, serde_json::Error> {
        let mut all = Vec::new();
        for (tenant, places) in &self.places {
            let set = &snapshot.of(tenant).set;
            for (patient_id, place) in places {
                let patient = &self.patients[*place];
                if patient.facts_changed {
                    let json = (patient.facts != Facts::default())
                        .then(|| serde_json::to_string(&patient.facts))
                        .transpose()?;
                    all.push(Changed { tenant, patient_id, rule: None, json, due_at: None });
                }
                for slot in patient.slots.iter().filter(|slot| slot.changed) {
                    let json = (slot.state != RuleState::default())
                        .then(|| serde_json::to_string(&slot.state))
                        .transpose()?;
                    let due_at = set.named(&slot.rule).and_then(|rule| due(rule, &slot.state));
                    let rule = Some(&*slot.rule);
                    all.push(Changed { tenant, patient_id, rule, json, due_at });
                }
            }
        }
        // In one order, so that two who save never wait for each other in a circle.
        all.sort_by_key(|c| (c.tenant, c.patient_id, c.rule));
        Ok(all)
    }
}

/// Whose turn it is.
pub(super) struct Who<'a> {
    pub tenant: &'a Tenant,
    pub event: &'a Event,
    pub held: bool,
}

impl Who<'_> {
    /// The ticks of the patient that come before an event that was recorded at `upto`,
    /// in the order of time, and in the rules' order where that is the same.
    fn ticks(&self, patient: &mut PatientRules, upto: DateTime<Utc>, said: &mut Vec<Event>) {
        let has_timers = self.tenant.set.has_timers() || !self.tenant.silences.is_empty();
        if !has_timers || patient.slots.is_empty() {
            return;
        }
        loop {
            let of = |rule: &Arc<Rule>| Some((due(rule, patient.state(&rule.id)?)?, rule.clone()));
            let next = self.tenant.set.rules().iter().filter_map(of).min_by_key(|(at, _)| *at);
            let Some((at, rule)) = next.filter(|(at, _)| *at <= upto) else { return };
            let before = patient.slot(&rule).state.clone();
            self.step(&rule, patient, &Input::Tick(at), at, said);
            // A tick that moves nothing would come for ever.
            if patient.slot(&rule).state == before {
                return;
            }
        }
    }

    fn step(
        &self,
        rule: &Rule,
        patient: &mut PatientRules,
        input: &Input<'_>,
        recorded_at: DateTime<Utc>,
        said: &mut Vec<Event>,
    ) {
        self.taking(rule, patient, recorded_at, said, |state, context, said| {
            step(rule, state, input, context, said);
        });
    }

    /// Something is done to a rule's state of a patient; what it says becomes events.
    pub fn taking(
        &self,
        rule: &Rule,
        patient: &mut PatientRules,
        at: DateTime<Utc>,
        said: &mut Vec<Event>,
        take: impl FnOnce(&mut RuleState, &Context<'_>, &mut Vec<Transition>),
    ) {
        let inhibited = rule.inhibited_by.iter().any(|by| patient.stands(by));
        let facts = std::mem::take(&mut patient.facts);
        let mut silences = self.tenant.silences.iter();
        let silence = silences.find(|s| s.covers(rule, &self.event.patient_id, &facts, at));
        let silence = silence.map(|silence| HeldPage { by: silence.id, until: silence.until });
        let context = Context {
            tenant: &self.event.tenant,
            patient_id: &self.event.patient_id,
            installation: self.tenant.installation,
            facts: &facts,
            inhibited,
            device_distrusted: self.held,
            silence,
        };
        let mut transitions = Vec::new();
        let slot = patient.slot(rule);
        let before = (!slot.changed).then(|| slot.state.clone());
        take(&mut slot.state, &context, &mut transitions);
        let runs = matches!(rule.mode, Mode::Active | Mode::Shadow);
        if !runs && slot.state.active.is_none() {
            slot.state = RuleState::default();
        }
        slot.changed |= before.is_some_and(|before| before != slot.state);
        for transition in transitions {
            said.extend(self.alert_event(transition, silence.map(|silence| silence.by)));
        }
        patient.facts = facts;
    }

    /// The event of a transition: said by the rule.
    fn alert_event(&self, transition: Transition, silenced_by: Option<Uuid>) -> Option<Event> {
        let Transition { kind, at, mut data } = transition;
        data.silenced_by = silenced_by;
        // Serialising a struct of plain fields does not fail.
        let text = serde_json::to_string(&data).ok()?;
        let stream = (self.event.tenant.clone(), &*self.event.patient_id);
        Some(Event::non_reading(kind, stream, data.rule, at, text))
    }
}

fn as_reading(recorded: &Recorded) -> Option<Reading<'_>> {
    let event = &recorded.event;
    Some(Reading {
        device_id: &event.source_id,
        position: recorded.position,
        vital: event.vital?,
        value: event.value?,
        quality: event.quality,
        suspect: event.suspect,
        occurred_at: event.occurred_at,
        recorded_at: recorded.recorded_at,
        judged: Judged::default(),
    })
}
