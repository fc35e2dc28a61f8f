//! The rules at work, as they stand at one position of a shard.
//!
//! A change of a tenant's rules or silences is an event in the tenant's own stream,
//! and lies in every shard at a position of its own. So which version judges a
//! reading is told by the log alone, and a replay judges as the living process did.
//!
//! Guarantees that a set is complete and has no circle of inhibitions; a rule comes
//! after those that hold or inhibit it. Does not read or write the log.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::facts::Facts;
use super::model::{Mode, Op, Rule};
use super::table::{DURATION_MAX, RuleError, fault};
use crate::event::Priority;
use crate::vital::Vital;

/// What a fresh tenant has: the first active, the others as drafts.
const SHIPPED: [&str; 13] = [
    include_str!("shipped/high-heart-rate.toml"),
    include_str!("shipped/hr-high.toml"),
    include_str!("shipped/low-heart-rate.toml"),
    include_str!("shipped/low-spo2.toml"),
    include_str!("shipped/high-respiratory-rate.toml"),
    include_str!("shipped/low-respiratory-rate.toml"),
    include_str!("shipped/high-body-temperature.toml"),
    include_str!("shipped/low-body-temperature.toml"),
    include_str!("shipped/high-systolic-bp.toml"),
    include_str!("shipped/low-systolic-bp.toml"),
    include_str!("shipped/news2-high.toml"),
    include_str!("shipped/device-silent.toml"),
    include_str!("shipped/signal-suspect.toml"),
];

/// Rules of a tenant, at most.
pub const RULES_PER_TENANT_MAX: usize = 200;

/// The rules of a fresh tenant.
pub fn shipped_rules() -> Result<Vec<Rule>, RuleError> {
    SHIPPED.iter().map(|text| Rule::parse(text, 1)).collect()
}

/// The texts of the rules of a fresh tenant, as JSON.
pub fn shipped_bodies() -> Result<Vec<Value>, RuleError> {
    let read = |text: &&str| toml::from_str(text).map_err(|error| fault("", error.message()));
    SHIPPED.iter().map(read).collect()
}

/// Rules that belong together, in the order of evaluation.
#[derive(Clone, Debug, Default)]
pub struct RuleSet {
    rules: Vec<Arc<Rule>>,
    /// Of each vital, the rules that it concerns.
    by_vital: Vec<Vec<usize>>,
    has_timers: bool,
}

impl RuleSet {
    /// Refused when inhibitions go round in a circle.
    pub fn new(rules: impl IntoIterator<Item = Arc<Rule>>) -> Result<RuleSet, RuleError> {
        let mut waiting: Vec<Arc<Rule>> = rules.into_iter().collect();
        // What tells of devices comes first: it holds the others.
        waiting.sort_by(|a, b| (!a.looks_at_devices(), &a.id).cmp(&(!b.looks_at_devices(), &b.id)));
        let mut ordered: Vec<Arc<Rule>> = Vec::with_capacity(waiting.len());
        while !waiting.is_empty() {
            let free = waiting.iter().position(|rule| {
                !rule.inhibited_by.iter().any(|by| waiting.iter().any(|other| other.id == *by))
            });
            let Some(free) = free else {
                let circle: Vec<&str> = waiting.iter().map(|rule| &*rule.id).collect();
                let what = format!(
                    "{} inhibit each other in a circle: take one of them out of inhibited_by",
                    circle.join(", ")
                );
                return Err(fault("/inhibited_by", what));
            };
            ordered.push(waiting.remove(free));
        }
        let concerned = |vital: Vital| {
            let of = |(n, rule): (usize, &Arc<Rule>)| rule.concerns(vital).then_some(n);
            ordered.iter().enumerate().filter_map(of).collect()
        };
        let by_vital = Vital::all().map(concerned).collect();
        let has_timers = ordered.iter().any(|rule| rule.has_timers());
        Ok(RuleSet { rules: ordered, by_vital, has_timers })
    }

    /// All of them.
    pub fn rules(&self) -> &[Arc<Rule>] {
        &self.rules
    }

    /// Whether time alone can move any of them.
    pub fn has_timers(&self) -> bool {
        self.has_timers
    }

    /// Those that a vital concerns.
    pub fn of(&self, vital: Vital) -> impl Iterator<Item = &Arc<Rule>> {
        let indexes = self.by_vital.get(vital as usize).map_or(&[][..], Vec::as_slice);
        indexes.iter().filter_map(|n| self.rules.get(*n))
    }

    /// One of them.
    pub fn named(&self, id: &str) -> Option<&Arc<Rule>> {
        self.rules.iter().find(|rule| rule.id == id)
    }

    /// The set with a rule in the place of its older version.
    pub fn with(&self, rule: Rule) -> Result<RuleSet, RuleError> {
        let rule = Arc::new(rule);
        let others = self.rules.iter().filter(|other| other.id != rule.id).cloned();
        RuleSet::new(others.chain([rule.clone()]))
    }
}

/// Pages that are held back, and by whom. Never those of high priority.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Silence {
    /// Its id.
    pub id: Uuid,
    /// Only of this rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Only of this patient.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patient_id: Option<String>,
    /// Only of this ward.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ward: Option<String>,
    /// Who.
    pub by: String,
    /// Why.
    pub reason: String,
    /// From when on.
    pub from: DateTime<Utc>,
    /// Until when.
    pub until: DateTime<Utc>,
}

impl Silence {
    /// Whether it holds back what this rule says of this patient now.
    pub fn covers(&self, rule: &Rule, patient_id: &str, facts: &Facts, at: DateTime<Utc>) -> bool {
        rule.priority != Priority::High
            && self.from <= at
            && at < self.until
            && self.rule.as_ref().is_none_or(|id| *id == rule.id)
            && self.patient_id.as_ref().is_none_or(|id| id == patient_id)
            && (self.ward.is_none() || self.ward == facts.ward)
    }
}

/// What one tenant has set.
#[derive(Clone, Debug, Default)]
pub struct Tenant {
    /// Of which installation it is.
    pub installation: Uuid,
    /// Its rules.
    pub set: RuleSet,
    /// Its silences, those that are over included until they are forgotten.
    pub silences: Vec<Silence>,
}

/// What all tenants have set, at one position of a shard.
#[derive(Clone, Debug)]
pub struct RuleSnapshot {
    fresh: Arc<Tenant>,
    tenants: HashMap<Arc<str>, Arc<Tenant>>,
}

impl RuleSnapshot {
    /// Of an empty log.
    pub fn new() -> Result<RuleSnapshot, RuleError> {
        let set = RuleSet::new(shipped_rules()?.into_iter().map(Arc::new))?;
        let fresh = Arc::new(Tenant { set, ..Tenant::default() });
        Ok(RuleSnapshot { fresh, tenants: HashMap::new() })
    }

    /// With other rules than the shipped ones for everybody, for trials.
    pub fn with_rules(rules: Vec<Rule>) -> Result<RuleSnapshot, RuleError> {
        let set = RuleSet::new(rules.into_iter().map(Arc::new))?;
        let fresh = Arc::new(Tenant { set, ..Tenant::default() });
        Ok(RuleSnapshot { fresh, tenants: HashMap::new() })
    }

    /// The same for an installation, which is part of the alerts' ids.
    pub fn of_installation(mut self, installation: Uuid) -> RuleSnapshot {
        Arc::make_mut(&mut self.fresh).installation = installation;
        self
    }

    /// As it was before a tenant had changed these rules, and nothing follows by time when
    /// nobody answers: what has been said is not said again.
    pub(super) fn begun_anew(
        &self,
        tenant: &str,
        changed: &HashSet<String>,
    ) -> Result<RuleSnapshot, RuleError> {
        let rules = self.of(tenant).set.rules().iter().filter_map(|rule| {
            if changed.contains(&rule.id) { self.fresh.set.named(&rule.id) } else { Some(rule) }
        });
        let rules = rules.map(|rule| Rule::clone(rule).without_repeats());
        Ok(RuleSnapshot::with_rules(rules.collect())?.of_installation(self.fresh.installation))
    }

    /// What a tenant has set.
    pub fn of(&self, tenant: &str) -> &Arc<Tenant> {
        self.tenants.get(tenant).unwrap_or(&self.fresh)
    }

    fn change(&mut self, tenant: &str) -> &mut Tenant {
        let fresh = &self.fresh;
        let entry = self.tenants.entry(tenant.into()).or_insert_with(|| fresh.clone());
        Arc::make_mut(entry)
    }

    /// A tenant's rule is this from now on.
    pub fn put(&mut self, tenant: &str, rule: Rule) -> Result<(), RuleError> {
        let set = self.of(tenant).set.with(rule)?;
        self.change(tenant).set = set;
        Ok(())
    }

    /// A silence begins, or has another end.
    pub fn silence(&mut self, tenant: &str, silence: Silence) {
        let silences = &mut self.change(tenant).silences;
        silences.retain(|other| other.id != silence.id);
        silences.push(silence);
    }

    fn all(&self) -> impl Iterator<Item = &Tenant> {
        std::iter::once(&*self.fresh).chain(self.tenants.values().map(|tenant| &**tenant))
    }

    /// The loosest numbers of the rules that are one comparison, whatever else is looked at.
    fn comparisons(&self) -> Interest {
        let mut interest = Interest::default();
        self.running()
            .filter_map(|rule| rule.loosest())
            .for_each(|limit| interest.add_limit(limit));
        interest
    }

    fn running(&self) -> impl Iterator<Item = &Arc<Rule>> {
        let runs = |rule: &&Arc<Rule>| matches!(rule.mode, Mode::Active | Mode::Shadow);
        self.all().flat_map(|tenant| tenant.set.rules()).filter(runs)
    }

    /// Whether time alone can move any of them.
    pub fn has_timers(&self) -> bool {
        // Also rules that are retired may have standing alerts.
        self.all()
            .flat_map(|tenant| tenant.set.rules())
            .any(|rule| rule.has_timers() && rule.mode != Mode::Draft)
            // The end of one may page.
            || self.all().any(|tenant| !tenant.silences.is_empty())
    }

    /// Which readings could change anything for a patient of whom nothing is remembered.
    pub fn interest(&self) -> Interest {
        let mut interest = Interest::default();
        for rule in self.all().flat_map(|tenant| tenant.set.rules()) {
            // Also what does not run any more may have alerts that stand.
            if rule.mode != Mode::Draft || rule.version > 1 {
                interest.vitals.extend(Vital::all().filter(|vital| rule.concerns(*vital)));
                interest.suspect |= rule.looks_at_devices();
            }
        }
        interest.vitals.sort_unstable();
        interest.vitals.dedup();
        for rule in self.running() {
            match rule.loosest() {
                Some(limit) => interest.add_limit(limit),
                None => {
                    interest.whole.extend(Vital::all().filter(|vital| rule.concerns(*vital)));
                }
            }
        }
        interest.whole.sort_unstable();
        interest.whole.dedup();
        interest.limits.retain(|(vital, ..)| !interest.whole.contains(vital));
        interest.compared = self.comparisons().limits;
        interest.lateness = self.running().map(|rule| rule.lateness).max().unwrap_or_default();
        interest
    }

    /// The limits of a tenant's rules that page: a reading beyond one cannot wait.
    pub fn is_urgent(&self, tenant: &str, vital: Vital, value: f64) -> bool {
        self.of(tenant).set.of(vital).any(|rule| {
            rule.mode == Mode::Active
                && rule.loosest().is_some_and(|(_, op, limit)| op.breaks(value, limit))
        })
    }

    /// Whether a tenant's rules look at a vital at all.
    pub fn looks_at(&self, tenant: &str, vital: Vital) -> bool {
        self.of(tenant).set.of(vital).any(|rule| rule.mode == Mode::Active)
    }
}

/// Readings that matter.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Interest {
    /// Beyond these numbers; the loosest of each vital and comparison.
    pub limits: Vec<(Vital, Op, f64)>,
    /// What could raise at once: the loosest numbers again, of all vitals that have one.
    pub compared: Vec<(Vital, Op, f64)>,
    /// Nothing that was recorded later than this after it was measured raises.
    pub lateness: TimeDelta,
    /// All of these.
    pub whole: Vec<Vital>,
    /// These, of those of whom a rule remembers something.
    pub vitals: Vec<Vital>,
    /// Suspect ones as well.
    pub suspect: bool,
}

impl Interest {
    /// In every reading.
    pub fn everything() -> Interest {
        let all: Vec<Vital> = Vital::all().collect();
        let compared = all.iter().map(|vital| (*vital, Op::Above, f64::NEG_INFINITY)).collect();
        Interest {
            limits: Vec::new(),
            compared,
            lateness: DURATION_MAX,
            whole: all.clone(),
            vitals: all,
            suspect: true,
        }
    }

    /// Above and below which values a reading of a vital matters, each vital once.
    pub fn bounds(&self) -> Vec<(Vital, f64, f64)> {
        bounds(&self.limits, &self.whole)
    }

    /// Above and below which values a reading of a vital could raise at once.
    pub fn compared(&self) -> Vec<(Vital, f64, f64)> {
        bounds(&self.compared, &[])
    }

    fn add_limit(&mut self, (vital, op, number): (Vital, Op, f64)) {
        match self.limits.iter_mut().find(|(v, o, _)| (*v, *o) == (vital, op)) {
            Some((.., kept)) if op.is_upward() => *kept = kept.min(number),
            Some((.., kept)) => *kept = kept.max(number),
            None => self.limits.push((vital, op, number)),
        }
    }
}

fn bounds(limits: &[(Vital, Op, f64)], whole: &[Vital]) -> Vec<(Vital, f64, f64)> {
    let bound = |vital: Vital| {
        let (mut above, mut below) = (f64::INFINITY, f64::NEG_INFINITY);
        if whole.contains(&vital) {
            above = f64::NEG_INFINITY;
        }
        for (_, op, limit) in limits.iter().filter(|(of, ..)| *of == vital) {
            match op {
                Op::Above => above = above.min(*limit),
                Op::AtLeast => above = above.min(limit.next_down()),
                Op::Below => below = below.max(*limit),
                Op::AtMost => below = below.max(limit.next_up()),
            }
        }
        (vital, above, below)
    };
    let matters = |(_, above, below): &(Vital, f64, f64)| {
        *above < f64::INFINITY || *below > f64::NEG_INFINITY
    };
    Vital::all().map(bound).filter(matters).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reading at the limit itself is the one that is lost by a wrong sign.
    #[test]
    fn bounds_let_through_exactly_what_breaks_a_limit() {
        let vital = Vital::HeartRate;
        for op in Op::ALL {
            let interest = Interest { limits: vec![(vital, op, 120.0)], ..Interest::default() };
            let bounds = interest.bounds();
            assert_eq!(bounds.len(), 1, "{bounds:?}");
            let (_, above, below) = bounds[0];
            for value in [119.0, 120.0_f64.next_down(), 120.0, 120.0_f64.next_up(), 121.0] {
                let passes = value > above || value < below;
                assert_eq!(passes, op.breaks(value, 120.0), "{op:?} {value}");
            }
        }
        let (_, above, _) = Interest::everything().bounds()[0];
        assert!(f64::MIN > above);
        assert_eq!(Interest::default().bounds(), []);
    }
}
