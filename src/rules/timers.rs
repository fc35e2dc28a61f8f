//! What time alone does to a rule: silences of devices and of people, and what follows
//! when nobody answers.
//!
//! Guarantees that [`due`] says when the next tick moves something, so that no caller has to
//! look more often. Time is the log's; see [`super::step()`].

use chrono::{DateTime, Utc};

use super::condition::holds;
use super::model::{Leaf, Mode, Rule};
use super::state::{Active, Ground, RuleState};
use super::step::RuleStep;
use crate::event::{AlertData, AlertEventKind};

/// When time alone will move the rule next, on the log's time.
pub fn due(rule: &Rule, state: &RuleState) -> Option<DateTime<Utc>> {
    let held = state.active.as_ref().and_then(|active| active.held);
    let mut first: Option<DateTime<Utc>> = held.map(|held| held.until);
    if !rule.has_timers() {
        return first;
    }
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

impl RuleStep<'_> {
    /// Takes a tick.
    pub fn tick(&mut self, state: &mut RuleState, at: DateTime<Utc>) {
        self.page_what_was_held(state, at);
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

    /// A silence is over: whoever would have been paged when the alert was raised is paged
    /// now, unless somebody has answered it or another silence goes on.
    fn page_what_was_held(&mut self, state: &mut RuleState, at: DateTime<Utc>) {
        let Some(active) = &mut state.active else { return };
        if active.held.is_none_or(|held| held.until > at) {
            return;
        }
        active.held = self.context.silence;
        if active.held.is_some() || active.acked {
            return;
        }
        let (id, since, ground) = (active.id, active.since, active.ground.clone());
        let ground = ground.unwrap_or_else(|| self.no_ground(since));
        let data = self.data(AlertEventKind::Raised, id, &ground, since);
        self.say(self.rule.event.clone(), at, data, false);
    }

    /// What follows when nobody answers.
    fn follow_up(&mut self, state: &mut RuleState, at: DateTime<Utc>) {
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
            say.push((AlertEventKind::Escalated, next.event.clone(), active.escalated));
        }
        if let (Some(said_at), Some(again)) = (active.said_at, rule.re_alarm)
            && !active.acked
            && said_at + again <= at
        {
            active.said_at = Some(at);
            active.said_again += 1;
            say.push((AlertEventKind::ReAlarmed, rule.event.clone(), active.said_again));
        }
        let (id, since, shadow) = (active.id, active.since, active.shadow);
        let ground = ground.unwrap_or_else(|| self.no_ground(since));
        for (what, kind, nth) in say {
            let data = AlertData { nth: Some(nth), ..self.data(what, id, &ground, since) };
            self.say(kind, at, data, shadow);
        }
    }
}
