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
//! Does not reorder: readings come in the order in which the log learned them.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::condition::{holds, moment, numbers, observe, scored};
use super::input::{Context, Input, Reading, Transition};
use super::model::{Hours, Leaf, Mode, Rule};
use super::state::{Active, Ground, Missed, Run, State};
use crate::event::{ALERT_MISSED, ALERT_RETRACTED, ALERT_SHADOWED, AlertData, AlertState, Because};
use crate::vital::Vital;

/// Takes one step.
pub fn step(
    rule: &Rule,
    state: &mut State,
    input: &Input<'_>,
    context: &Context<'_>,
    said: &mut Vec<Transition>,
) {
    let mut step = Step { rule, context, said };
    step.keep_to_version(state);
    match input {
        Input::Reading(reading) => step.reading(state, reading),
        Input::Tick(at) => step.tick(state, *at),
        Input::Acknowledged(id) => {
            if let Some(active) = state.active.as_mut().filter(|active| active.id == *id) {
                active.acked = true;
            }
        }
        Input::Cleared { id, by, at } => step.clear_by(state, *id, by, *at),
        Input::Retracted { vital, device_id, measured_at, at } => {
            step.retract(state, (*vital, device_id, *measured_at), *at);
        }
    }
    if state.pending.is_none() && state.late.is_none() && state.memory.is_empty() {
        state.version = 0;
    } else {
        state.version = rule.version;
    }
}

/// When time alone will move the rule next, on the log's time.
pub fn due(rule: &Rule, state: &State) -> Option<DateTime<Utc>> {
    if !rule.has_timers() {
        return None;
    }
    let mut first: Option<DateTime<Utc>> = None;
    let mut at = |time: DateTime<Utc>| first = Some(first.map_or(time, |first| first.min(time)));
    if let Some(active) = &state.active {
        if let (Some(raised_at), Some((_, next))) =
            (active.raised_at, next_escalation(rule, active))
        {
            at(raised_at + next.after);
        }
        if let (Some(said_at), Some(again)) = (active.said_at, rule.re_alarm)
            && !active.acked
        {
            at(said_at + again);
        }
    }
    if rule.mode == Mode::Active || rule.mode == Mode::Shadow {
        for (leaf, memory) in rule.when.leaves.iter().zip(&state.memory) {
            if let Leaf::Missing { after, .. } = leaf {
                let quiet = memory.devices.iter().filter(|device| !device.bad);
                quiet.for_each(|device| at(device.newest.at + *after));
            }
        }
        if let (true, Some(run), None) = (rule.has_missing(), &state.pending, &state.active) {
            at(run.since + rule.on_delay);
        }
    }
    first
}

fn next_escalation<'r>(
    rule: &'r Rule,
    active: &Active,
) -> Option<(usize, &'r super::model::Escalation)> {
    rule.escalate
        .iter()
        .enumerate()
        .skip(active.escalated as usize)
        .find(|(_, step)| step.even_acked || !active.acked)
}

struct Step<'s> {
    rule: &'s Rule,
    context: &'s Context<'s>,
    said: &'s mut Vec<Transition>,
}

impl Step<'_> {
    /// What was remembered for another version's condition is not this one's. The alert
    /// that stands goes on, unless it was only tried.
    fn keep_to_version(&self, state: &mut State) {
        if state.version != self.rule.version && state.version != 0 {
            (state.pending, state.late) = (None, None);
            state.memory.clear();
        }
        let tried = state.active.as_ref().is_some_and(|active| active.shadow);
        if tried && self.rule.mode != Mode::Shadow {
            state.active = None;
        }
    }

    fn may_raise(&self, at: DateTime<Utc>) -> bool {
        matches!(self.rule.mode, Mode::Active | Mode::Shadow)
            && !self.context.inhibited
            && !self.context.held
            && self.context.facts.fit(&self.rule.scope, at)
            && (self.rule.schedule.is_empty()
                || self.rule.schedule.iter().any(|h: &Hours| h.hold(at)))
    }

    fn reading(&mut self, state: &mut State, reading: &Reading<'_>) {
        let rule = self.rule;
        let distrusted =
            rule.quality_min.is_some_and(|min| reading.quality.is_some_and(|q| q < min));
        if !rule.concerns(reading.vital) || distrusted {
            return;
        }
        if reading.suspect && !rule.looks_at_devices() {
            return;
        }
        if reading.recorded_at - reading.occurred_at > rule.lateness {
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

    /// Draws the conclusion from a condition's answer.
    fn settle(
        &mut self,
        state: &mut State,
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
        if holds {
            // A clock that runs ahead must not keep the alert standing.
            active.broken_at = active.broken_at.max(at.min(recorded_at));
            Run::contradict(&mut active.recovering, at);
            return;
        }
        if at < active.broken_at || self.context.held || rule.latch {
            return;
        }
        if !rule.off_delay.is_zero() {
            let run = Run::extend(&mut active.recovering, at, rule.max_gap);
            if run.length() < rule.off_delay {
                return;
            }
        }
        self.clear(state, ground, at, None);
    }

    fn raise(
        &mut self,
        state: &mut State,
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
            recovering: None,
            acked: false,
            escalated: 0,
            said_again: 0,
            shadow: self.rule.mode == Mode::Shadow,
        });
        let data =
            AlertData { because: Some(because), ..self.data(AlertState::Raised, id, ground, at) };
        self.say(self.rule.event.clone(), at, data, self.rule.mode == Mode::Shadow);
    }

    fn clear(&mut self, state: &mut State, ground: &Ground, at: DateTime<Utc>, by: Option<&str>) {
        let Some(active) = state.active.take() else { return };
        let mut data = self.data(AlertState::Cleared, active.id, ground, active.since);
        data.by = by.map(str::to_owned);
        self.say(self.rule.event.clone(), at, data, active.shadow);
    }

    fn clear_by(&mut self, state: &mut State, id: Uuid, by: &str, at: DateTime<Utc>) {
        if state.active.as_ref().is_none_or(|active| active.id != id) {
            return;
        }
        let ground = state.active.as_ref().and_then(|active| active.ground.clone());
        let ground = ground.unwrap_or_else(|| self.no_ground(at));
        self.clear(state, &ground, at, Some(by));
        // A person says: this is over. What was silent is not waited for any more.
        state.pending = None;
        for memory in &mut state.memory {
            memory.devices.retain(|device| !device.bad);
            memory.holds = memory.holds.filter(|holds| !holds);
        }
    }

    /// Of an alert that was raised before grounds were remembered.
    fn no_ground(&self, at: DateTime<Utc>) -> Ground {
        let (vital, value) = match self.rule.threshold() {
            Some((vital, _, value, _)) => (vital, value),
            None => (Vital::HeartRate, 0.0),
        };
        Ground { vital, value, device: String::new(), position: 0, at }
    }

    fn retract(
        &mut self,
        state: &mut State,
        (vital, device, measured_at): (Vital, &str, DateTime<Utc>),
        at: DateTime<Utc>,
    ) {
        let stands_on = |active: &Active| {
            active.ground.as_ref().is_some_and(|ground| {
                ground.vital == vital && ground.device == device && ground.at == measured_at
            })
        };
        let Some(active) = state.active.take_if(|active| stands_on(active)) else { return };
        let ground = active.ground.clone().unwrap_or_else(|| self.no_ground(at));
        let data = self.data(AlertState::Retracted, active.id, &ground, active.since);
        self.say(ALERT_RETRACTED.to_owned(), at, data, active.shadow);
    }

    fn tick(&mut self, state: &mut State, at: DateTime<Utc>) {
        self.follow_up(state, at);
        let mut silent: Option<Ground> = None;
        for (leaf, memory) in self.rule.when.leaves.iter().zip(&mut state.memory) {
            let Leaf::Missing { after, .. } = leaf else { continue };
            for device in &mut memory.devices {
                if !device.bad && device.newest.at + *after <= at {
                    device.bad = true;
                    memory.holds = Some(true);
                }
                if device.bad {
                    silent.get_or_insert_with(|| device.newest.clone());
                }
            }
        }
        if let (Some(ground), Some(holds)) = (silent, holds(self.rule, state, at)) {
            self.settle(state, holds, at, at, &ground);
            // Time has come and it does not raise: it is not asked again before news.
            if state.active.is_none() && due(self.rule, state).is_some_and(|next| next <= at) {
                state.pending = None;
            }
        }
    }

    /// What follows when nobody answers.
    fn follow_up(&mut self, state: &mut State, at: DateTime<Utc>) {
        let rule = self.rule;
        let Some(active) = &mut state.active else { return };
        let ground = active.ground.clone();
        let mut say = Vec::new();
        while let (Some(raised_at), Some((n, next))) =
            (active.raised_at, next_escalation(rule, active))
        {
            if raised_at + next.after > at {
                break;
            }
            active.escalated = n as u32 + 1;
            say.push((AlertState::Escalated, next.event.clone(), active.escalated));
        }
        if let (Some(said_at), Some(again)) = (active.said_at, rule.re_alarm)
            && !active.acked
            && said_at + again <= at
        {
            active.said_at = Some(at);
            active.said_again += 1;
            say.push((AlertState::ReAlarmed, rule.event.clone(), active.said_again));
        }
        let (id, since, shadow) = (active.id, active.since, active.shadow);
        let ground = ground.unwrap_or_else(|| self.no_ground(since));
        for (what, kind, nth) in say {
            let data = AlertData { nth: Some(nth), ..self.data(what, id, &ground, since) };
            self.say(kind, at, data, shadow);
        }
    }

    /// A late reading: what it would have raised is said once an episode.
    fn late(&mut self, state: &mut State, reading: &Reading<'_>) {
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
                let data = AlertData { because, ..self.data(AlertState::Missed, id, &ground, at) };
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

    fn because(&self, state: &State, run: &Run, at: DateTime<Utc>) -> Because {
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

    fn data(
        &self,
        state: AlertState,
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
            silenced_by: None,
            because: None,
        }
    }

    fn say(&mut self, kind: String, at: DateTime<Utc>, data: AlertData, shadow: bool) {
        let kind = if shadow { ALERT_SHADOWED.to_owned() } else { kind };
        self.said.push(Transition { kind, at, data });
    }
}
