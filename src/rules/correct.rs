//! Corrections: what the rules say when a reading was entered in error.
//!
//! Guarantees that afterwards a rule remembers what folding the log without that reading
//! gives, by the rule's own fold: thresholds, delays, counts, changes, scores and devices
//! alike, under the versions and inhibitions of then, and with what people cleared. A version
//! begins with the alert that stands, and remembers nothing else. An alert that stands either
//! way goes on under its id, and nobody is paged; one that would stand now and does not is
//! raised, as of now, under an id of its own, if its rule runs now; one that would not is
//! cleared if it would be over by now, and else retracted. What would only have been an
//! episode of the past is said to nobody.
//!
//! The fold begins where [`super::past`] begins to read: there with the rules of now, but for
//! those whose changes are read. An alert that stands on a reading from before that, and
//! devices heard of before that, are taken over as they are; an alert that was over before the
//! correction comes back only on a reading that was read.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use uuid::Uuid;

use super::evaluate::{AboutAlert, EvaluateError, Evaluator, RuleChanged, Who, in_order};
use super::input::Input;
use super::model::{Mode, Rule};
use super::past::Past;
use super::patient::{PatientRules, RuleSlot};
use super::registry::RuleSnapshot;
use super::state::{Active, Ground, Memory, RuleState};
use super::step::RuleStep;
use crate::event::{
    ALERT_CLEAR_REQUESTED, ALERT_CORRECTED, ALERT_RETRACTED, AlertData, AlertEventKind, Because,
    Event, PATIENT_REGISTERED, READING, READING_RETRACTED, RULE_CHANGED, Recorded, RetractionData,
};

/// The log as it would have been.
struct Anew {
    /// Without what was entered in error.
    patient: PatientRules,
    /// What would have been said, by whom.
    said: Vec<(DateTime<Utc>, AlertData)>,
    /// The reading that is taken back now.
    taken_back: RetractionData,
}

impl Evaluator {
    /// Judges a patient's past again, and says what is different now.
    pub(super) fn correct(
        &mut self,
        snapshot: &RuleSnapshot,
        correction: &Recorded,
        past: Past,
        said: &mut Vec<Event>,
    ) -> Result<(), EvaluateError> {
        let Recorded { recorded_at, event, .. } = correction;
        let tenant = snapshot.of(&event.tenant).clone();
        let patient = self.patient(&event.tenant, &event.patient_id);
        // What counts no more is neither taken over nor compared with what counts.
        patient.keep_to_versions(&tenant.set);
        let mut anew = Anew::of(snapshot, patient, correction, past)?;
        anew.patient.keep_to_versions(&tenant.set);
        let who = Who { tenant: &tenant, event, held: false };
        for rule in tenant.set.rules() {
            let state = anew.patient.take_state(&rule.id);
            if state.is_none() && patient.state(&rule.id).is_none() {
                continue;
            }
            let fresh = state.unwrap_or_default();
            who.taking(rule, patient, *recorded_at, said, |state, context, said| {
                RuleStep { rule, context, said }.correct(state, fresh, &anew, *recorded_at);
            });
        }
        patient.judged_as(&mut anew.patient);
        Ok(())
    }
}

impl Anew {
    fn of(
        snapshot: &RuleSnapshot,
        live: &PatientRules,
        correction: &Recorded,
        past: Past,
    ) -> Result<Anew, EvaluateError> {
        let Past { mut events } = past;
        in_order(&mut events);
        let mut wrong = HashSet::new();
        for recorded in events.iter().filter(|r| r.event.kind == READING_RETRACTED) {
            wrong.insert(read::<RetractionData>(&recorded.event)?.reading_position);
        }
        events.retain(|recorded| !wrong.contains(&recorded.position));
        let (tenant, patient_id) = (&correction.event.tenant, &correction.event.patient_id);
        let changes = events.iter().filter(|recorded| recorded.event.kind == RULE_CHANGED);
        let changed = changes.map(|change| Ok(read::<RuleChanged>(&change.event)?.id().to_owned()));
        let changed = changed.collect::<Result<_, EvaluateError>>()?;
        let mut snapshot = Arc::new(snapshot.begun_anew(tenant, &changed)?);
        let mut evaluator = Evaluator::default();
        let patient = evaluator.patient(tenant, patient_id);
        if !events.iter().any(|recorded| recorded.event.kind == PATIENT_REGISTERED) {
            patient.facts = live.facts.clone();
        }
        let known = events.iter().filter(|r| r.event.kind == READING).map(|r| r.position);
        let known: HashSet<i64> = known.chain(wrong.iter().copied()).collect();
        for slot in &live.slots {
            if let Some(state) = from_before(slot, &known) {
                patient.load(&slot.rule, state);
            }
        }
        let (mut said, mut rules) = (Vec::new(), HashMap::new());
        for recorded in &events {
            evaluator.judge_again(&mut snapshot, recorded, &mut rules, &mut said)?;
        }
        evaluator.ticks(&snapshot, correction.recorded_at, &mut said);
        let patient = std::mem::take(evaluator.patient(tenant, patient_id));
        let said = said.iter().map(|event| Ok((event.occurred_at, read(event)?)));
        let said = said.collect::<Result<_, EvaluateError>>()?;
        Ok(Anew { patient, said, taken_back: read(&correction.event)? })
    }

    /// Since when it is true: what is different lies after the reading that was wrong, whose
    /// month is not archived, because it took the retraction.
    fn since(&self, since: DateTime<Utc>) -> DateTime<Utc> {
        since.max(self.taken_back.measured_at)
    }

    /// What this rule would have said, newest first.
    fn of_rule(&self, rule: &Rule) -> impl Iterator<Item = &(DateTime<Utc>, AlertData)> {
        self.said.iter().rev().filter(|(_, data)| data.rule == rule.id)
    }
}

impl Evaluator {
    /// An event of the past. What was cleared by a person names an alert that may have
    /// another id now: whatever stands of its rule is cleared.
    fn judge_again(
        &mut self,
        snapshot: &mut Arc<RuleSnapshot>,
        recorded: &Recorded,
        rules: &mut HashMap<Uuid, String>,
        said: &mut Vec<Event>,
    ) -> Result<(), EvaluateError> {
        let Recorded { recorded_at, event, .. } = recorded;
        match event.kind.as_str() {
            READING | PATIENT_REGISTERED => self.event(snapshot, recorded, said)?,
            RULE_CHANGED => {
                self.ticks(snapshot, *recorded_at, said);
                let RuleChanged { rule, version } = read(event)?;
                let rule = Rule::read(&rule, version)?.without_repeats();
                Arc::make_mut(snapshot).put(&event.tenant, rule)?;
            }
            ALERT_CLEAR_REQUESTED => {
                let about: AboutAlert = read(event)?;
                let patient = self.patient(&event.tenant, &event.patient_id);
                let rule = rules.get(&about.alert_id);
                let state = rule.and_then(|rule| patient.state(rule));
                let Some(active) = state.and_then(|state| state.active.as_ref()) else {
                    return Ok(());
                };
                let by = about.by.as_deref().unwrap_or(&event.source_id);
                let input = Input::Cleared { id: active.id, by, at: event.occurred_at };
                self.non_reading(snapshot, (*recorded_at, event), Some(&input), said);
            }
            _ => {
                if let Some(alert) = event.alert()? {
                    rules.insert(alert.alert_id, alert.rule);
                }
            }
        }
        Ok(())
    }
}

fn read<T: for<'de> Deserialize<'de>>(event: &Event) -> Result<T, EvaluateError> {
    Ok(serde_json::from_str(event.data.as_deref().unwrap_or("null"))?)
}

/// What a rule remembers from before the past that is read: an alert that stands on a
/// reading that is not in it, and devices that were heard of last before it.
fn from_before(slot: &RuleSlot, known: &HashSet<i64>) -> Option<RuleState> {
    let is_before = |ground: &Ground| !known.contains(&ground.position);
    let active = slot.state.active.clone();
    let active = active.filter(|active| active.ground.as_ref().is_none_or(is_before));
    let memory = slot.state.memory.iter().map(|memory| {
        let mut devices = memory.devices.clone();
        devices.retain(|device| is_before(&device.newest));
        let holds = devices.iter().any(|device| device.bad).then_some(true);
        let at = devices.iter().map(|device| device.newest.at).max();
        Memory { holds, at, devices, ..Memory::default() }
    });
    let memory: Vec<Memory> = memory.collect();
    let memory = if memory.iter().all(|m| m.devices.is_empty()) { Vec::new() } else { memory };
    let is_something = active.is_some() || !memory.is_empty();
    is_something.then(|| RuleState { active, memory, ..RuleState::default() })
}

impl RuleStep<'_> {
    /// `fresh` is what the rule would remember.
    fn correct(&mut self, state: &mut RuleState, fresh: RuleState, anew: &Anew, at: DateTime<Utc>) {
        let live = std::mem::replace(state, fresh).active;
        state.active = match (live, state.active.take()) {
            (None, None) => None,
            // People were paged, and would not have been.
            (Some(live), Some(fresh)) if fresh.shadow && !live.shadow => {
                self.end(&live, anew, at);
                Some(self.raise_now(fresh, anew, at))
            }
            (Some(live), Some(fresh)) => Some(self.goes_on(live, fresh, anew)),
            (None, Some(fresh)) if matches!(self.rule.mode, Mode::Active | Mode::Shadow) => {
                Some(self.raise_now(fresh, anew, at))
            }
            (None, Some(_)) => None,
            (Some(live), None) => {
                self.end(&live, anew, at);
                None
            }
        };
    }

    /// The same alert, which may stand on another reading now, and since another time.
    fn goes_on(&mut self, live: Active, fresh: Active, anew: &Anew) -> Active {
        let position = |active: &Active| active.ground.as_ref().map(|ground| ground.position);
        let is_same = (fresh.since, position(&fresh)) == (live.since, position(&live));
        let Active { id, since, ground, broken_at, heard_at, recovering, .. } = fresh;
        if is_same {
            return Active { broken_at, heard_at, recovering, ..live };
        }
        let corrected = live.corrected + 1;
        let ground = ground.unwrap_or_else(|| self.no_ground(since));
        let data = AlertData {
            nth: Some(corrected),
            because: self.because_of(&id, anew),
            ..self.data(AlertEventKind::Corrected, live.id, &ground, since)
        };
        self.say(ALERT_CORRECTED.to_owned(), anew.since(since), data, live.shadow);
        Active { since, ground: Some(ground), broken_at, heard_at, recovering, corrected, ..live }
    }

    /// It would have stood all the time: whoever is to know it is told now. Not under an id
    /// that was used up: what was said of that one is over, and its pages were seen.
    fn raise_now(&mut self, fresh: Active, anew: &Anew, at: DateTime<Utc>) -> Active {
        let shadow = self.rule.mode == Mode::Shadow;
        let RetractionData { vital, device_id, measured_at, .. } = &anew.taken_back;
        let name = format!("{}/{device_id}/{}", vital.name(), measured_at.timestamp_micros());
        let id = Uuid::new_v5(&fresh.id, name.as_bytes());
        let ground = fresh.ground.clone().unwrap_or_else(|| self.no_ground(fresh.since));
        let data = AlertData {
            because: self.because_of(&fresh.id, anew),
            ..self.data(AlertEventKind::Raised, id, &ground, fresh.since)
        };
        self.say(self.rule.event.clone(), anew.since(fresh.since), data, shadow);
        Active {
            id,
            raised_at: Some(at),
            said_at: Some(at),
            held: self.context.silence.filter(|_| !shadow),
            acked: false,
            shadow,
            ..fresh
        }
    }

    /// It would not stand: because it would be over, or because it never would have been.
    fn end(&mut self, live: &Active, anew: &Anew, at: DateTime<Utc>) {
        let ground = live.ground.clone().unwrap_or_else(|| self.no_ground(at));
        let is_raised = |data: &AlertData| {
            data.state == AlertEventKind::Raised && data.reading_position == ground.position
        };
        let is_known = anew.of_rule(self.rule).any(|(_, data)| is_raised(data));
        let over = anew.of_rule(self.rule).find(|(_, data)| data.state == AlertEventKind::Cleared);
        let over = over.filter(|(_, data)| is_known || data.alert_id == live.id);
        let (kind, at, data) = match over {
            Some((over_at, data)) => {
                let data = AlertData { alert_id: live.id, since: live.since, ..data.clone() };
                (self.rule.event.clone(), (*over_at).max(live.since), data)
            }
            None => {
                let data = self.data(AlertEventKind::Retracted, live.id, &ground, live.since);
                (ALERT_RETRACTED.to_owned(), at, data)
            }
        };
        self.say(kind, at, data, live.shadow);
    }

    fn because_of(&self, id: &Uuid, anew: &Anew) -> Option<Because> {
        let mut said = anew.of_rule(self.rule);
        said.find(|(_, data)| data.alert_id == *id && data.state == AlertEventKind::Raised)
            .and_then(|(_, data)| data.because.clone())
            .map(|because| Because { retracted: Some(anew.taken_back.measured_at), ..because })
    }
}
