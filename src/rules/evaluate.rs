//! Evaluation: the log's events in, alert events out, without a database.
//!
//! Guarantees that live, replay and trials run the same lines: who loads the states
//! and where the events go is another's part ([`super::raise`], [`super::backtest`]).
//! Ticks come at their place among the patient's events. Does not forget a patient.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use super::condition::numbers;
use super::facts::Facts;
use super::input::{Context, Input, Reading, Transition};
use super::model::{Mode, Rule};
use super::registry::{Book, Silence, Tenant};
use super::state::State;
use super::step::{due, step};
use crate::event::{
    ALERT_ACKNOWLEDGED, ALERT_CLEAR_REQUESTED, Event, PATIENT_REGISTERED, READING,
    READING_RETRACTED, RULE_CHANGED, Recorded, RetractionData,
};

/// A silence began, or has another end.
pub const SILENCE_SET: &str = "silence_set";

/// The patients of whom something is known.
#[derive(Default)]
pub struct Evaluator {
    patients: Vec<Patient>,
    /// Where each lies in `patients`, by tenant and id.
    places: HashMap<Arc<str>, HashMap<String, usize>>,
}

/// What is known of one.
#[derive(Default)]
pub struct Patient {
    /// Their record.
    pub facts: Facts,
    /// It is not what was loaded.
    pub facts_changed: bool,
    slots: Vec<Slot>,
}

struct Slot {
    rule: Arc<str>,
    state: State,
    changed: bool,
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

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AboutAlert {
    alert_id: Uuid,
    #[serde(default)]
    by: Option<String>,
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
}

impl Patient {
    /// A state as it was saved.
    pub fn load(&mut self, rule: &str, state: State) {
        self.slots.push(Slot { rule: rule.into(), state, changed: false });
    }

    fn slot(&mut self, rule: &Rule) -> &mut Slot {
        let found = self.slots.iter().position(|slot| *slot.rule == *rule.id);
        let n = found.unwrap_or_else(|| {
            let state = State::default();
            self.slots.push(Slot { rule: rule.id.as_str().into(), state, changed: false });
            self.slots.len() - 1
        });
        &mut self.slots[n]
    }

    fn state(&self, rule: &str) -> Option<&State> {
        self.slots.iter().find(|slot| *slot.rule == *rule).map(|slot| &slot.state)
    }

    /// An alert of this rule stands, and not on trial.
    fn stands(&self, rule: &str) -> bool {
        let active = self.state(rule).and_then(|state| state.active.as_ref());
        active.is_some_and(|active| !active.shadow)
    }

    /// What a device sends is not to be believed, or it sends nothing.
    fn is_held(&self, tenant: &Tenant, device: &str) -> bool {
        // Almost always nothing is remembered at all.
        !self.slots.is_empty()
            && tenant.set.rules().iter().take_while(|rule| rule.looks_at_devices()).any(|rule| {
                let active = self.state(&rule.id).and_then(|state| state.active.as_ref());
                active.is_some_and(|active| {
                    !active.shadow && active.ground.as_ref().is_some_and(|g| g.device == device)
                })
            })
    }
}

/// Whether a reading cannot change anything, so that nobody has to look closer.
pub fn is_quiet(rule: &Rule, state: Option<&State>, facts: &Facts, reading: &Reading<'_>) -> bool {
    let runs = matches!(rule.mode, Mode::Active | Mode::Shadow);
    let remembers = state.is_some_and(|state| *state != State::default());
    if remembers {
        return false;
    }
    if !runs {
        return true;
    }
    // The conditions that remember something of everybody have no such number.
    numbers(rule, facts, reading.occurred_at)
        .is_some_and(|(op, limit, _)| reading.suspect || !op.breaks(reading.value, limit))
}

impl Evaluator {
    /// A patient, to load their states into, or to look at them.
    pub fn patient(&mut self, tenant: &Arc<str>, patient_id: &str) -> &mut Patient {
        let places = self.places.entry(tenant.clone()).or_default();
        // No allocation for one who is there.
        let place = match places.get(patient_id) {
            Some(place) => *place,
            None => {
                self.patients.push(Patient::default());
                places.insert(patient_id.to_owned(), self.patients.len() - 1);
                self.patients.len() - 1
            }
        };
        &mut self.patients[place]
    }

    /// Takes an event in; what it leads to is added to `said`. The book is copied only
    /// when it changes.
    pub fn event(
        &mut self,
        book: &mut Arc<Book>,
        recorded: &Recorded,
        said: &mut Vec<Event>,
    ) -> Result<(), EvaluateError> {
        let Recorded { recorded_at, event, .. } = recorded;
        let data = event.data.as_deref().unwrap_or("null");
        match event.kind.as_str() {
            READING => {
                let Some(reading) = as_reading(recorded) else { return Ok(()) };
                self.reading(book, recorded, reading, said);
            }
            RULE_CHANGED => {
                self.ticks(book, *recorded_at, said);
                let changed: RuleChanged = serde_json::from_str(data)?;
                Arc::make_mut(book)
                    .put(&event.tenant, Rule::read(&changed.rule, changed.version)?)?;
            }
            SILENCE_SET => {
                self.ticks(book, *recorded_at, said);
                let silence: Silence = serde_json::from_str(data)?;
                Arc::make_mut(book).silence(&event.tenant, silence);
            }
            PATIENT_REGISTERED => {
                #[derive(Deserialize)]
                struct Registered {
                    #[serde(default)]
                    record: Value,
                }
                let registered: Registered = serde_json::from_str(data)?;
                self.happening(book, (*recorded_at, event), None, said);
                let patient = self.patient(&event.tenant, &event.patient_id);
                patient.facts = Facts::of_record(&registered.record.to_string());
                patient.facts_changed = true;
            }
            ALERT_ACKNOWLEDGED => {
                let about: AboutAlert = serde_json::from_str(data)?;
                let input = Input::Acknowledged(about.alert_id);
                self.happening(book, (*recorded_at, event), Some(&input), said);
            }
            ALERT_CLEAR_REQUESTED => {
                let about: AboutAlert = serde_json::from_str(data)?;
                let by = about.by.as_deref().unwrap_or(&event.source_id);
                let input = Input::Cleared { id: about.alert_id, by, at: event.occurred_at };
                self.happening(book, (*recorded_at, event), Some(&input), said);
            }
            READING_RETRACTED => {
                let of: RetractionData = serde_json::from_str(data)?;
                let input = Input::Retracted {
                    vital: of.vital,
                    device_id: &of.device_id,
                    measured_at: of.measured_at,
                    at: *recorded_at,
                };
                self.happening(book, (*recorded_at, event), Some(&input), said);
            }
            _ => {}
        }
        Ok(())
    }

    fn reading(
        &mut self,
        book: &Book,
        recorded: &Recorded,
        reading: Reading<'_>,
        said: &mut Vec<Event>,
    ) {
        let event = &recorded.event;
        let tenant = book.of(&event.tenant).clone();
        let patient = self.patient(&event.tenant, &event.patient_id);
        let (vital, recorded_at) = (reading.vital, reading.recorded_at);
        let who = Who { tenant: &tenant, event, held: false };
        who.ticks(patient, recorded_at, said);
        let input = Input::Reading(reading);
        for rule in tenant.set.of(vital) {
            let Input::Reading(reading) = &input else { return };
            if is_quiet(rule, patient.state(&rule.id), &patient.facts, reading) {
                continue;
            }
            let held = !rule.looks_at_devices() && patient.is_held(&tenant, reading.device_id);
            let who = Who { tenant: &tenant, event, held };
            who.step(rule, patient, &input, recorded_at, said);
        }
    }

    fn happening(
        &mut self,
        book: &Book,
        (recorded_at, event): (DateTime<Utc>, &Event),
        input: Option<&Input<'_>>,
        said: &mut Vec<Event>,
    ) {
        let tenant = book.of(&event.tenant).clone();
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
    pub fn ticks(&mut self, book: &Book, upto: DateTime<Utc>, said: &mut Vec<Event>) {
        let mut dues: Vec<(DateTime<Utc>, Arc<str>, String)> = Vec::new();
        for (tenant, places) in &self.places {
            let rules = &book.of(tenant).set;
            for (id, place) in places {
                let patient = &self.patients[*place];
                let of = |slot: &Slot| due(&**rules.named(&slot.rule)?, &slot.state);
                let first = patient.slots.iter().filter_map(of).min();
                dues.extend(
                    first.filter(|at| *at <= upto).map(|at| (at, tenant.clone(), id.clone())),
                );
            }
        }
        dues.sort();
        for (at, tenant, patient_id) in dues {
            let rules = book.of(&tenant).clone();
            let event = nobodys_event(&tenant, &patient_id, at);
            let patient = self.patient(&tenant, &patient_id);
            let who = Who { tenant: &rules, event: &event, held: false };
            who.ticks(patient, upto, said);
        }
    }

    /// What has to be saved.
    pub fn changed<'a>(&'a self, book: &'a Book) -> Result<Vec<Changed<'a>>, serde_json::Error> {
        let mut all = Vec::new();
        for (tenant, places) in &self.places {
            let set = &book.of(tenant).set;
            for (patient_id, place) in places {
                let patient = &self.patients[*place];
                if patient.facts_changed {
                    let json = (patient.facts != Facts::default())
                        .then(|| serde_json::to_string(&patient.facts))
                        .transpose()?;
                    all.push(Changed { tenant, patient_id, rule: None, json, due_at: None });
                }
                for slot in patient.slots.iter().filter(|slot| slot.changed) {
                    let json = (slot.state != State::default())
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
struct Who<'a> {
    tenant: &'a Tenant,
    event: &'a Event,
    held: bool,
}

impl Who<'_> {
    /// The ticks of the patient that come before an event that was recorded at `upto`,
    /// in the order of time, and in the rules' order where that is the same.
    fn ticks(&self, patient: &mut Patient, upto: DateTime<Utc>, said: &mut Vec<Event>) {
        if !self.tenant.set.has_timers() || patient.slots.is_empty() {
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
        patient: &mut Patient,
        input: &Input<'_>,
        recorded_at: DateTime<Utc>,
        said: &mut Vec<Event>,
    ) {
        let inhibited = rule.inhibited_by.iter().any(|by| patient.stands(by));
        let facts = std::mem::take(&mut patient.facts);
        let context = Context {
            tenant: &self.event.tenant,
            patient_id: &self.event.patient_id,
            installation: self.tenant.installation,
            facts: &facts,
            inhibited,
            held: self.held,
        };
        let mut transitions = Vec::new();
        let slot = patient.slot(rule);
        let before = (!slot.changed).then(|| slot.state.clone());
        step(rule, &mut slot.state, input, &context, &mut transitions);
        let runs = matches!(rule.mode, Mode::Active | Mode::Shadow);
        if !runs && slot.state.active.is_none() {
            slot.state = State::default();
        }
        slot.changed |= before.is_some_and(|before| before != slot.state);
        for transition in transitions {
            let silence =
                self.tenant.silences.iter().find(|silence| {
                    silence.covers(rule, &self.event.patient_id, &facts, recorded_at)
                });
            said.extend(self.alert_event(transition, silence.map(|silence| silence.id)));
        }
        patient.facts = facts;
    }

    /// The event of a transition: said by the rule.
    fn alert_event(&self, transition: Transition, silenced_by: Option<Uuid>) -> Option<Event> {
        let Transition { kind, at, mut data } = transition;
        data.silenced_by = silenced_by;
        Some(Event {
            // Serialising a struct of plain fields does not fail.
            data: Some(serde_json::to_string(&data).ok()?),
            kind,
            source_id: data.rule,
            ..nobodys_event(&self.event.tenant, &self.event.patient_id, at)
        })
    }
}

fn nobodys_event(tenant: &Arc<str>, patient_id: &str, at: DateTime<Utc>) -> Event {
    Event {
        tenant: tenant.clone(),
        patient_id: patient_id.to_owned(),
        kind: String::new(),
        vital: None,
        value: None,
        quality: None,
        suspect: false,
        occurred_at: at,
        source_id: String::new(),
        data: None,
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
    })
}
