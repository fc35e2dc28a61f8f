//! One step of a rule: state and input in, state and transitions out.
//!
//! Guarantees that the same inputs in the same order give the same transitions: no
//! clock, no randomness, no input but the arguments. A suspect reading never changes
//! what is said of a patient; a late one never pages and never clears.
//!
//! Time has two meanings here. Delays are on the readings' own time. What follows a
//! silence (escalations, repeats, missing readings) is on the log's time: a tick due
//! at a moment comes before every event that was recorded at or after it, and after
//! every one before. So a replay ticks where the living process ticked.
//!
//! Does not reorder: who judges several readings at once puts them into the order of time
//! first ([`super::evaluate::in_order`]). One that comes alone and is older than one that
//! was judged already cannot raise against it: it is at most recorded as missed.

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::condition::{moment, numbers, observe, scored};
use super::input::{Context, Input, Reading, Transition};
use super::model::{Hours, Leaf, Mode, Per, Rule};
use super::state::{Active, Ground, Missed, RuleState, Run};
use crate::event::{ALERT_MISSED, ALERT_SHADOWED, AlertData, AlertEventKind, Because};
use crate::vital::Vital;

/// A device that raised an alert and was not heard of for longer, on the log's time, does
/// not keep the others from clearing it. As long as the shipped `device-silent` waits; a
/// rule whose `max_gap` is longer waits for that.
const SILENT_AFTER: TimeDelta = TimeDelta::minutes(5);

/// Takes one step.
pub fn step(
    rule: &Rule,
    state: &mut RuleState,
    input: &Input<'_>,
    context: &Context<'_>,
    said: &mut Vec<Transition>,
) {
    let mut step = RuleStep { rule, context, said };
    keep_to_version(rule, state);
    let apart = match input {
        Input::Reading(reading) if rule.per == Per::Device => Some(reading.device_id),
        _ => None,
    };
    apart.inspect(|device| state.enter(device));
    match input {
        Input::Reading(reading) => step.reading(state, reading),
        Input::Tick(at) => step.tick(state, *at),
        Input::Acknowledged(id) => {
            if let Some(active) = state.active.as_mut().filter(|active| active.id == *id) {
                active.acked = true;
            }
        }
        Input::Cleared { id, by, at } => step.clear_by(state, *id, by, *at),
    }
    apart.inspect(|_| state.leave());
    let RuleState { pending, late, memory, apart, .. } = &*state;
    let is_empty = pending.is_none() && late.is_none() && memory.is_empty() && apart.is_empty();
    state.version = if is_empty { 0 } else { rule.version };
}

/// A step that is being taken.
pub(super) struct RuleStep<'s> {
    pub rule: &'s Rule,
    pub context: &'s Context<'s>,
    pub said: &'s mut Vec<Transition>,
}

/// What was remembered for another version's condition is not this one's. The alert
/// that stands goes on, unless it was only tried. It may be done late, and at any time: what
/// is not this version's counts for nothing from the change on.
pub(super) fn keep_to_version(rule: &Rule, state: &mut RuleState) {
    if state.version != rule.version && state.version != 0 {
        state.forget();
    }
    let tried = state.active.as_ref().is_some_and(|active| active.shadow);
    if tried && rule.mode != Mode::Shadow {
        state.active = None;
    }
}

impl RuleStep<'_> {
    fn may_raise(&self, at: DateTime<Utc>) -> bool {
        matches!(self.rule.mode, Mode::Active | Mode::Shadow)
            && !self.context.inhibited
            && !self.context.device_distrusted
            && self.context.facts.fit(&self.rule.scope, at)
            && (self.rule.schedule.is_empty()
                || self.rule.schedule.iter().any(|h: &Hours| h.hold(at)))
    }

    fn reading(&mut self, state: &mut RuleState, reading: &Reading<'_>) {
        let rule = self.rule;
        let distrusted =
            rule.quality_min.is_some_and(|min| reading.quality.is_some_and(|q| q < min));
        if !rule.concerns(reading.vital) || distrusted {
            return;
        }
        if reading.suspect && !rule.looks_at_devices() {
            return;
        }
        let is_late = reading.recorded_at - reading.occurred_at > rule.lateness;
        if is_late || self.is_overtaken(state, reading) {
            if rule.threshold().is_some() {
                self.late(state, reading);
            }
            return;
        }
        let at = reading.occurred_at;
        // Whatever comes in time ends an episode among the late ones.
        state.missed.take_if(|missed| missed.broken_at <= at);
        let Some(holds) = observe(rule, state, self.context.facts, reading) else { return };
        // A good reading says nothing about the device that sends bad ones.
        if holds && rule.has_suspect() && !reading.suspect {
            return;
        }
        let at = moment(rule, reading);
        self.settle(state, holds, at, reading.recorded_at, &reading.ground());
    }

    /// A newer one was judged that has the last word over it, and nothing that it belongs to
    /// is under way. The other conditions pass over what would turn their order round.
    fn is_overtaken(&self, state: &RuleState, reading: &Reading<'_>) -> bool {
        let newest = match self.rule.per {
            Per::Patient => reading.judged.of_vital,
            Per::Device => reading.judged.of_device,
        };
        let at = reading.occurred_at;
        newest.is_some_and(|newest| at < newest)
            && self.rule.threshold().is_some()
            && state.active.is_none()
            && state.pending.as_ref().is_none_or(|run| at < run.since)
    }

    /// Draws the conclusion from a condition's answer.
    pub fn settle(
        &mut self,
        state: &mut RuleState,
        holds: bool,
        at: DateTime<Utc>,
        recorded_at: DateTime<Utc>,
        ground: &Ground,
    ) {
        let rule = self.rule;
        let Some(active) = &mut state.active else {
            if !holds {
                Run::contradict(&mut state.pending, at);
            } else if !self.may_raise(at) {
                state.pending = None;
            } else {
                let run = Run::extend(&mut state.pending, at, rule.max_gap);
                if run.length() >= rule.on_delay && run.samples >= rule.samples_min {
                    let run = run.clone();
                    state.pending = None;
                    self.raise(state, &run, at, recorded_at, ground);
                }
            }
            return;
        };
        let mut silent = None;
        if rule.per == Per::Device {
            let device = active.ground.as_ref().map_or(&ground.device, |ground| &ground.device);
            let heard_at = active.heard_at.unwrap_or(recorded_at);
            if *device == ground.device {
                active.heard_at = Some(recorded_at);
            } else if recorded_at - heard_at <= SILENT_AFTER.max(rule.max_gap.unwrap_or_default()) {
                return;
            } else {
                silent = Some(device.clone());
            }
        }
        if holds {
            // A clock that runs ahead must not keep the alert standing.
            active.broken_at = active.broken_at.max(at.min(recorded_at));
            Run::contradict(&mut active.recovering, at);
            return;
        }
        if at < active.broken_at || self.context.device_distrusted || rule.latch {
            return;
        }
        if !rule.off_delay.is_zero() {
            let run = Run::extend(&mut active.recovering, at, rule.max_gap);
            if run.length() < rule.off_delay {
                return;
            }
        }
        self.clear(state, ground, at, Ended { by: None, silent_device: silent });
    }

    fn raise(
        &mut self,
        state: &mut RuleState,
        run: &Run,
        at: DateTime<Utc>,
        recorded_at: DateTime<Utc>,
        ground: &Ground,
    ) {
        let id = self.alert_id(ground, at);
        let because = self.because(state, run, at);
        state.active = Some(Active {
            id,
            since: at,
            broken_at: at.min(recorded_at),
            raised_at: Some(recorded_at),
            said_at: Some(recorded_at),
            ground: Some(ground.clone()),
            heard_at: (self.rule.per == Per::Device).then_some(recorded_at),
            recovering: None,
            held: self.context.silence.filter(|_| self.rule.mode != Mode::Shadow),
            acked: false,
            escalated: 0,
            said_again: 0,
            corrected: 0,
            shadow: self.rule.mode == Mode::Shadow,
        });
        let data = AlertData {
            because: Some(because),
            ..self.data(AlertEventKind::Raised, id, ground, at)
        };
        self.say(self.rule.event.clone(), at, data, self.rule.mode == Mode::Shadow);
    }

    fn clear(&mut self, state: &mut RuleState, ground: &Ground, at: DateTime<Utc>, ended: Ended) {
        let Some(active) = state.active.take() else { return };
        let Ended { by, silent_device } = ended;
        let data = self.data(AlertEventKind::Cleared, active.id, ground, active.since);
        let data = AlertData { by, silent_device, ..data };
        // A clock that ran ahead does not make it end before it began.
        self.say(self.rule.event.clone(), at.max(active.since), data, active.shadow);
    }

    fn clear_by(&mut self, state: &mut RuleState, id: Uuid, by: &str, at: DateTime<Utc>) {
        if state.active.as_ref().is_none_or(|active| active.id != id) {
            return;
        }
        let ground = state.active.as_ref().and_then(|active| active.ground.clone());
        let ground = ground.unwrap_or_else(|| self.no_ground(at));
        self.clear(state, &ground, at, Ended { by: Some(by.to_owned()), silent_device: None });
        // A person says: this is over. What was silent is not waited for any more.
        state.pending = None;
        state.apart.iter_mut().for_each(|part| part.pending = None);
        for memory in &mut state.memory {
            memory.devices.retain(|device| !device.bad);
            memory.holds = memory.holds.filter(|holds| !holds);
        }
    }

    /// Of an alert that was raised before grounds were remembered.
    pub fn no_ground(&self, at: DateTime<Utc>) -> Ground {
        let (vital, value) = match self.rule.threshold() {
            Some((vital, _, value, _)) => (vital, value),
            None => (Vital::HeartRate, 0.0),
        };
        Ground { vital, value, device: String::new(), position: 0, at }
    }

    /// A late reading: what it would have raised is said once an episode.
    fn late(&mut self, state: &mut RuleState, reading: &Reading<'_>) {
        let (rule, at) = (self.rule, reading.occurred_at);
        // Somebody was paged for this already.
        if state.active.as_ref().is_some_and(|active| active.since <= at) {
            return;
        }
        let Some((op, limit, clear)) = numbers(rule, self.context.facts, at) else { return };
        // Files and devices are not read in the order of time.
        match state.missed.as_mut().filter(|missed| missed.since <= at) {
            None if op.breaks(reading.value, limit) && self.may_raise(at) => {
                let run = Run::extend(&mut state.late, at, rule.max_gap).clone();
                if run.length() < rule.on_delay || run.samples < rule.samples_min {
                    return;
                }
                state.late = None;
                state.missed = Some(Missed { since: at, broken_at: at });
                let ground = reading.ground();
                let because = Some(self.because(state, &run, at));
                let id = self.alert_id(&ground, at);
                let data =
                    AlertData { because, ..self.data(AlertEventKind::Missed, id, &ground, at) };
                self.say(ALERT_MISSED.to_owned(), at, data, rule.mode == Mode::Shadow);
            }
            None => Run::contradict(&mut state.late, at),
            Some(missed) if op.breaks(reading.value, clear) => {
                missed.broken_at = missed.broken_at.max(at);
            }
            Some(missed) => {
                if at >= missed.broken_at {
                    state.missed = None;
                }
            }
        }
    }

    fn because(&self, state: &RuleState, run: &Run, at: DateTime<Utc>) -> Because {
        let facts = self.context.facts;
        let numbers = numbers(self.rule, facts, at);
        let scored = self.rule.when.leaves.iter().zip(&state.memory).find_map(|(leaf, memory)| {
            matches!(leaf, Leaf::Score { .. }).then(|| scored(memory, facts, at).score)
        });
        Because {
            op: numbers.map(|(op, ..)| op.sign().to_owned()),
            limit: numbers.map(|(_, limit, _)| limit),
            own_limit: numbers.map(|(_, limit, _)| limit)
                != self.rule.threshold().map(|(_, _, limit, _)| limit),
            held_since: run.since,
            samples: run.samples,
            retracted: None,
            news2: scored,
        }
    }

    /// A name for what happened, and for nothing else: the reading (its vital, time and
    /// device), the rule, whose, and since when it holds, which for a silence is when time
    /// was up. Never a place in the log: after a restore another reading has that place, and
    /// a receiver that drops repeats would take its page for one. The same reading, sent
    /// again or replayed, gives the same alert; another installation never does.
    fn alert_id(&self, ground: &Ground, since: DateTime<Utc>) -> Uuid {
        let Context { tenant, patient_id, installation, .. } = self.context;
        let Rule { id, version, .. } = self.rule;
        let Ground { vital, device, at, .. } = ground;
        let (vital, at, since) = (vital.name(), at.timestamp_micros(), since.timestamp_micros());
        // None of these texts has a slash in it.
        let name =
            format!("alert/{tenant}/{patient_id}/{id}/{version}/{vital}/{at}/{device}/{since}");
        Uuid::new_v5(installation, name.as_bytes())
    }

    pub fn data(
        &self,
        state: AlertEventKind,
        id: Uuid,
        ground: &Ground,
        since: DateTime<Utc>,
    ) -> AlertData {
        AlertData {
            v: 2,
            alert_id: id,
            state,
            rule: self.rule.id.clone(),
            rule_version: self.rule.version,
            event: self.rule.event.clone(),
            priority: self.rule.priority,
            vital: ground.vital,
            value: ground.value,
            unit: ground.vital.unit().to_owned(),
            measured_at: ground.at,
            device_id: ground.device.clone(),
            reading_position: ground.position,
            since,
            nth: None,
            by: None,
            silent_device: None,
            silenced_by: None,
            because: None,
            traceparent: None,
            tracestate: None,
        }
    }

    pub fn say(&mut self, kind: String, at: DateTime<Utc>, data: AlertData, shadow: bool) {
        let kind = if shadow { ALERT_SHADOWED.to_owned() } else { kind };
        self.said.push(Transition { kind, at, data });
    }
}

/// What ended an alert beside a reading.
struct Ended {
    /// A person.
    by: Option<String>,
    /// Another device may clear it, because this one is not heard of.
    silent_device: Option<String>,
}
