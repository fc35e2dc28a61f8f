//! What the rules know of a patient while they judge: facts, states, what was judged.
//!
//! Guarantees that looking at somebody of whom nothing is remembered costs no allocation.
//! Bounded. Does not judge: that is [`super::evaluate`].

use std::sync::Arc;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::condition::numbers;
use super::facts::Facts;
use super::input::{Judged, Reading};
use super::model::{Mode, Rule};
use super::registry::{RuleSet, Tenant};
use super::state::RuleState;
use super::step::keep_to_version;
use crate::vital::Vital;

/// Vitals and devices of a patient whose newest reading is known while they are judged.
const NEWEST_MAX: usize = 256;

/// What is known of one.
#[derive(Default)]
pub struct PatientRules {
    /// Their record.
    pub facts: Facts,
    /// It is not what was loaded.
    pub facts_changed: bool,
    /// The newest of each vital and device that was judged.
    newest: Vec<Newest>,
    pub(super) slots: Vec<RuleSlot>,
}

/// What a rule remembers of them.
pub(super) struct RuleSlot {
    pub rule: Arc<str>,
    pub state: RuleState,
    pub changed: bool,
}

struct Newest {
    vital: Vital,
    device: String,
    at: DateTime<Utc>,
}

impl PatientRules {
    /// A state as it was saved.
    pub fn load(&mut self, rule: &str, state: RuleState) {
        if self.state(rule).is_none() {
            self.slots.push(RuleSlot { rule: rule.into(), state, changed: false });
        }
    }

    pub(super) fn slot(&mut self, rule: &Rule) -> &mut RuleSlot {
        let found = self.slots.iter().position(|slot| *slot.rule == *rule.id);
        let n = found.unwrap_or_else(|| {
            let state = RuleState::default();
            self.slots.push(RuleSlot { rule: rule.id.as_str().into(), state, changed: false });
            self.slots.len() - 1
        });
        &mut self.slots[n]
    }

    pub(super) fn state(&self, rule: &str) -> Option<&RuleState> {
        self.slots.iter().find(|slot| *slot.rule == *rule).map(|slot| &slot.state)
    }

    /// What a rule remembers, and no more.
    pub(super) fn take_state(&mut self, rule: &str) -> Option<RuleState> {
        let slot = self.slots.iter_mut().find(|slot| *slot.rule == *rule)?;
        Some(std::mem::take(&mut slot.state))
    }

    /// What is not of the rules' versions is forgotten now, and not when they are asked next.
    pub(super) fn keep_to_versions(&mut self, set: &RuleSet) {
        for slot in &mut self.slots {
            let Some(rule) = set.named(&slot.rule) else { continue };
            let before = slot.state.clone();
            keep_to_version(rule, &mut slot.state);
            slot.changed |= slot.state != before;
        }
    }

    /// An alert of this rule stands, and not on trial.
    pub(super) fn stands(&self, rule: &str) -> bool {
        let active = self.state(rule).and_then(|state| state.active.as_ref());
        active.is_some_and(|active| !active.shadow)
    }

    /// What a device sends is not to be believed, or it sends nothing.
    pub(super) fn is_device_distrusted(&self, tenant: &Tenant, device: &str) -> bool {
        // Almost always nothing is remembered at all.
        !self.slots.is_empty()
            && tenant.set.rules().iter().take_while(|rule| rule.looks_at_devices()).any(|rule| {
                let active = self.state(&rule.id).and_then(|state| state.active.as_ref());
                active.is_some_and(|active| {
                    !active.shadow && active.ground.as_ref().is_some_and(|g| g.device == device)
                })
            })
    }

    /// A reading was judged that was measured then. A clock that runs ahead overtakes no other device.
    pub fn judged(&mut self, vital: Vital, device: &str, at: DateTime<Utc>) {
        let mut known = self.newest.iter_mut();
        if let Some(newest) = known.find(|n| n.vital == vital && n.device == device) {
            newest.at = newest.at.max(at);
            return;
        }
        if self.newest.len() == NEWEST_MAX {
            let oldest = self.newest.iter().enumerate().min_by_key(|(_, newest)| newest.at);
            if let Some((n, _)) = oldest {
                self.newest.swap_remove(n);
            }
        }
        self.newest.push(Newest { vital, device: device.to_owned(), at });
    }

    /// What was judged before a reading of a device.
    pub(super) fn before(&self, vital: Vital, device: &str) -> Judged {
        let of_vital = self.newest.iter().filter(|newest| newest.vital == vital);
        let of_device = of_vital.clone().find(|newest| newest.device == device);
        Judged {
            of_vital: of_vital.map(|newest| newest.at).max(),
            of_device: of_device.map(|newest| newest.at),
        }
    }

    /// What was judged is what was judged of another, who is the same without what was
    /// entered in error.
    pub(super) fn judged_as(&mut self, other: &mut PatientRules) {
        self.newest = std::mem::take(&mut other.newest);
    }

    /// A silence has another end, or whom it covers may have changed (`None`): whose page it
    /// holds back is looked at then.
    pub(super) fn look_at_held(&mut self, silence: Option<Uuid>, at: DateTime<Utc>) {
        for slot in &mut self.slots {
            let held = slot.state.active.as_mut().and_then(|active| active.held.as_mut());
            if let Some(held) = held.filter(|held| silence.is_none_or(|id| id == held.by)) {
                held.until = at;
                slot.changed = true;
            }
        }
    }
}

/// Whether a reading cannot change anything, so that it need not be looked at closer.
pub fn is_quiet(
    rule: &Rule,
    state: Option<&RuleState>,
    facts: &Facts,
    reading: &Reading<'_>,
) -> bool {
    let runs = matches!(rule.mode, Mode::Active | Mode::Shadow);
    let remembers = state.is_some_and(|state| *state != RuleState::default());
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
