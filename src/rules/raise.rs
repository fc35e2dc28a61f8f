//! Raising: the consumer that puts the rules' alerts into the log.
//!
//! Guarantees that state, alert events and checkpoint change in one transaction,
//! so every alert is in the log exactly once, in its patient's own shard. Does not
//! judge: that is [`super::step`], which knows nothing of databases.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use sqlx::PgConnection;

use super::model::Rule;
use super::step::{Reading, State, Transition, step};
use crate::consumer::{Consumer, ConsumerError, Follows, RULES};
use crate::event::{ALERT_MISSED, AlertState, Event, READING, Recorded};
use crate::log::{Log, Window, append, decode_events};

/// The most positions of one step: a page that waits behind a flood waits for this
/// many readings at most before its own step begins. Below what one append takes,
/// because each reading can raise one event a rule.
const WINDOW_POSITIONS_MAX: i64 = 5_000;

/// Readings that break no limit can wait this long, so that a flood of them costs few
/// steps. One that breaks a limit is looked at at once.
const PACE_MS: u64 = 50;

/// The rules at work.
pub struct Raise {
    log: Log,
    rules: Vec<Rule>,
    /// The rules' vitals, comparisons and limits, as `relevant.sql` takes them.
    vitals: Vec<&'static str>,
    ops: Vec<String>,
    limits: Vec<f64>,
    standing: Standing,
}

/// Patients of whom this process has raised an alert that stands. A hint, and only
/// that: it makes the clearing reading as urgent as the raising one.
#[derive(Clone, Default)]
struct Standing(Arc<RwLock<HashMap<Arc<str>, HashSet<String>>>>);

impl Standing {
    fn has(&self, event: &Event) -> bool {
        let standing = self.0.read().unwrap_or_else(PoisonError::into_inner);
        standing.get(&event.tenant).is_some_and(|patients| patients.contains(&event.patient_id))
    }

    fn learn(&self, alert_event: &Event) {
        let Ok(Some(alert)) = alert_event.alert() else { return };
        let mut standing = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let patients = standing.entry(alert_event.tenant.clone()).or_default();
        match alert.state {
            AlertState::Raised => drop(patients.insert(alert_event.patient_id.clone())),
            AlertState::Cleared => drop(patients.remove(&alert_event.patient_id)),
            AlertState::Missed => {}
        }
    }
}

/// Whether somebody waits for this reading: it may raise, or clear.
fn is_urgent(rules: &[Rule], standing: &Standing, event: &Event) -> bool {
    let (Some(vital), Some(value)) = (event.vital, event.value) else { return false };
    let mut of_vital = rules.iter().filter(|rule| rule.vital == vital).peekable();
    of_vital.peek().is_some()
        && (of_vital.any(|rule| rule.op.breaks(value, rule.value)) || standing.has(event))
}

/// Who a state belongs to.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    tenant: Arc<str>,
    patient_id: String,
    rule: usize,
}

impl Raise {
    /// The worker for these rules.
    pub fn new(log: Log, rules: Vec<Rule>) -> Raise {
        let standing = Standing::default();
        log.wake().hurry_for({
            let (rules, standing) = (rules.clone(), standing.clone());
            move |event| is_urgent(&rules, &standing, event)
        });
        let vitals = rules.iter().map(|r| r.vital.name()).collect();
        let ops = rules.iter().map(|r| r.op.to_string()).collect();
        let limits = rules.iter().map(|r| r.value).collect();
        Raise { log, rules, vitals, ops, limits, standing }
    }

    /// Judges the readings of a window, in order.
    fn judge(
        &self,
        readings: &[Recorded],
        states: &mut HashMap<Key, State>,
    ) -> (Vec<Event>, Vec<Key>) {
        let (mut events, mut changed) = (Vec::new(), Vec::new());
        for recorded in readings {
            let Some(reading) = as_reading(recorded) else { continue };
            for (index, rule) in self.rules.iter().enumerate() {
                let event = &recorded.event;
                let key = Key {
                    tenant: event.tenant.clone(),
                    patient_id: event.patient_id.clone(),
                    rule: index,
                };
                let state = states.entry(key.clone()).or_default();
                let before = state.clone();
                let transition = step(rule, state, &reading);
                if *state != before {
                    changed.push(key);
                }
                events.extend(transition.and_then(|t| alert_event(event, &t)));
            }
        }
        (events, changed)
    }

    async fn load(
        &self,
        tx: &mut PgConnection,
        shard: i16,
        readings: &[Recorded],
    ) -> Result<HashMap<Key, State>, ConsumerError> {
        let mut patients: Vec<(&str, &str)> =
            readings.iter().map(|r| (&*r.event.tenant, &*r.event.patient_id)).collect();
        patients.sort_unstable();
        patients.dedup();
        let (tenants, ids): (Vec<&str>, Vec<&str>) = patients.into_iter().unzip();
        let rows: Vec<(String, String, String, String)> =
            sqlx::query_as(include_str!("load_states.sql"))
                .bind(shard)
                .bind(tenants)
                .bind(ids)
                .fetch_all(tx)
                .await?;
        let mut states = HashMap::with_capacity(rows.len());
        for (tenant, patient_id, rule, state) in rows {
            // The state of a rule that is gone is left where it is.
            let Some(rule) = self.rules.iter().position(|r| r.id == rule) else { continue };
            let state = serde_json::from_str(&state).map_err(|source| ConsumerError::State {
                patient: format!("{tenant}/{patient_id}"),
                source,
            })?;
            states.insert(Key { tenant: tenant.into(), patient_id, rule }, state);
        }
        Ok(states)
    }

    async fn save(
        &self,
        tx: &mut PgConnection,
        shard: i16,
        states: &HashMap<Key, State>,
        mut changed: Vec<Key>,
    ) -> Result<(), ConsumerError> {
        changed.sort_unstable_by(|a, b| {
            (&a.tenant, &a.patient_id, a.rule).cmp(&(&b.tenant, &b.patient_id, b.rule))
        });
        changed.dedup();
        let mut texts = Vec::with_capacity(changed.len());
        for key in &changed {
            let state = states.get(key).filter(|s| **s != State::default());
            let text = state.map(serde_json::to_string).transpose().map_err(|source| {
                ConsumerError::State { patient: key.patient_id.clone(), source }
            })?;
            texts.push(text);
        }
        let rule = |key: &Key| self.rules.get(key.rule).map(|r| r.id.as_str());
        sqlx::query(include_str!("save_states.sql"))
            .bind(shard)
            .bind(changed.iter().map(|k| &*k.tenant).collect::<Vec<_>>())
            .bind(changed.iter().map(|k| &*k.patient_id).collect::<Vec<_>>())
            .bind(changed.iter().map(rule).collect::<Vec<_>>())
            .bind(texts)
            .execute(tx)
            .await?;
        Ok(())
    }
}

fn as_reading(recorded: &Recorded) -> Option<Reading<'_>> {
    let event = &recorded.event;
    debug_assert_eq!(event.kind, READING);
    Some(Reading {
        tenant: &event.tenant,
        patient_id: &event.patient_id,
        device_id: &event.source_id,
        shard: recorded.shard,
        position: recorded.position,
        vital: event.vital?,
        value: event.value?,
        suspect: event.suspect,
        occurred_at: event.occurred_at,
        recorded_at: recorded.recorded_at,
    })
}

/// The event of a transition: in the reading's own time, said by the rule.
fn alert_event(reading: &Event, transition: &Transition) -> Option<Event> {
    let kind = match transition.state {
        AlertState::Missed => ALERT_MISSED.to_owned(),
        AlertState::Raised | AlertState::Cleared => transition.event.clone(),
    };
    Some(Event {
        tenant: reading.tenant.clone(),
        patient_id: reading.patient_id.clone(),
        kind,
        vital: None,
        value: None,
        quality: None,
        suspect: false,
        occurred_at: transition.measured_at,
        source_id: transition.rule.clone(),
        // Serialising a struct of plain fields does not fail.
        data: serde_json::to_string(transition).ok(),
    })
}

impl Consumer for Raise {
    /// The alert events that were appended.
    type Done = Vec<Event>;

    fn name(&self) -> &str {
        RULES
    }

    fn window_positions_max(&self) -> i64 {
        WINDOW_POSITIONS_MAX
    }

    fn follows(&self) -> Follows {
        Follows::Everything
    }

    fn hurries(&self) -> bool {
        true
    }

    fn pace(&self) -> Duration {
        Duration::from_millis(PACE_MS)
    }

    async fn act(
        &self,
        tx: &mut PgConnection,
        window: &Window,
    ) -> Result<Vec<Event>, ConsumerError> {
        let rows = sqlx::query(include_str!("relevant.sql"))
            .bind(window.shard)
            .bind(window.after)
            .bind(window.to)
            .bind(window.since)
            .bind(window.until)
            .bind(&self.vitals)
            .bind(&self.ops)
            .bind(&self.limits)
            .fetch_all(&mut *tx)
            .await?;
        let readings = decode_events(window.shard, &rows)?;
        if readings.is_empty() {
            return Ok(Vec::new());
        }
        let mut states = self.load(tx, window.shard, &readings).await?;
        let (events, changed) = self.judge(&readings, &mut states);
        if !changed.is_empty() {
            self.save(tx, window.shard, &states, changed).await?;
        }
        if !events.is_empty() {
            // What is derived may be derived again; what the log says must be on disk.
            sqlx::query("set local synchronous_commit = on").execute(&mut *tx).await?;
            append(tx, window.shard, &events).await?;
        }
        Ok(events)
    }

    fn committed(&self, window: &Window, raised: Vec<Event>) {
        if !raised.is_empty() {
            metrics::counter!("vitals_alert_events_total").increment(raised.len() as u64);
            raised.iter().for_each(|event| self.standing.learn(event));
            self.log.wake().appended(window.shard, &raised);
        }
    }
}
