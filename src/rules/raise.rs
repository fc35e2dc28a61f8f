//! Raising: the consumer that puts the rules' alerts into the log.
//!
//! Guarantees that state, alert events and checkpoint change in one transaction,
//! so every alert is in the log exactly once, in its patient's own shard. Does not
//! judge: that is [`super::evaluate`], which knows nothing of databases.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use parking_lot::{Mutex, RwLock};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};

use super::evaluate::{Evaluator, SILENCE_SET, in_order};
use super::registry::{Interest, RuleSnapshot};
use super::{past, stored, traced};
use crate::consumer::{Consumer, ConsumerError, Follows, RULES};
use crate::event::{AlertEventKind, Event, RULE_CHANGED, Recorded};
use crate::log::{EVENTS_PER_APPEND_MAX, Log, Window, append, decode_events, lock_head, time_at};
use crate::trace::{Moment, Span};

/// The most positions of one step, but for an append that is longer: a page that waits
/// behind a flood waits for this many readings at most before its own step begins.
const WINDOW_POSITIONS_MAX: i64 = 5_000;

/// Readings that break no limit can wait this long, so that a flood of them costs few
/// steps. One that breaks a limit is looked at at once.
const PACE_MS: u64 = 50;

/// The name under which a patient's facts lie among the states. No rule's id.
const FACTS: &str = "_facts";

/// The rules at work.
pub struct RulesConsumer {
    pub(super) log: Log,
    fresh: RuleSnapshot,
    /// What each shard's rules were at a position of an incarnation, so that they are not read
    /// again.
    snapshots: Mutex<HashMap<i16, (At, Arc<RuleSnapshot>)>>,
    urgency: Urgency,
}

/// A place in a shard. The same position of another incarnation is another place.
#[derive(Clone, Copy, PartialEq, Eq)]
struct At {
    incarnation: i64,
    position: i64,
}

/// What makes a reading urgent. A hint, and only that.
#[derive(Clone)]
struct Urgency {
    /// As the last step of this process left them.
    snapshot: Arc<RwLock<Option<Arc<RuleSnapshot>>>>,
    /// Patients of whom this process has raised an alert that stands: it makes the
    /// clearing reading as urgent as the raising one.
    with_active_alert: Arc<RwLock<HashMap<Arc<str>, HashSet<String>>>>,
}

impl Urgency {
    /// Whether somebody waits for this reading: it may raise, or clear.
    fn has(&self, event: &Event) -> bool {
        let (Some(vital), Some(value)) = (event.vital, event.value) else { return false };
        let snapshot = self.snapshot.read();
        // Not known yet: whatever it is may be.
        let Some(snapshot) = &*snapshot else { return true };
        if snapshot.is_urgent(&event.tenant, vital, value) {
            return true;
        }
        let with_active_alert = self.with_active_alert.read();
        with_active_alert
            .get(&event.tenant)
            .is_some_and(|patients| patients.contains(&event.patient_id))
            && snapshot.looks_at(&event.tenant, vital)
    }

    fn learn(&self, alert_event: &Event) {
        let Ok(Some(alert)) = alert_event.alert() else { return };
        let mut with_active_alert = self.with_active_alert.write();
        let patients = with_active_alert.entry(alert_event.tenant.clone()).or_default();
        match alert.state {
            AlertEventKind::Raised => {
                patients.insert(alert_event.patient_id.clone());
            }
            AlertEventKind::Cleared | AlertEventKind::Retracted => {
                patients.remove(&alert_event.patient_id);
            }
            AlertEventKind::Missed
            | AlertEventKind::Escalated
            | AlertEventKind::ReAlarmed
            | AlertEventKind::Corrected => {}
        }
    }
}

/// What a step leaves behind.
pub struct Raised {
    /// The alert events that were appended.
    pub events: Vec<Event>,
    /// Of those that are traced; they end with the commit.
    _steps: Vec<Span>,
    snapshot: Arc<RuleSnapshot>,
    incarnation: i64,
}

impl RulesConsumer {
    /// The worker for these rules, and what tenants make of them.
    pub fn new(log: Log, fresh: RuleSnapshot) -> RulesConsumer {
        let urgency = Urgency { snapshot: Arc::default(), with_active_alert: Arc::default() };
        log.wake().hurry_for({
            let urgency = urgency.clone();
            move |event| urgency.has(event)
        });
        let fresh = fresh.of_installation(log.installation());
        RulesConsumer { log, fresh, snapshots: Mutex::default(), urgency }
    }

    /// The rules as they stand at a position of a shard, which is the checkpoint's.
    async fn snapshot(
        &self,
        tx: &mut PgConnection,
        shard: i16,
        position: i64,
    ) -> Result<Arc<RuleSnapshot>, ConsumerError> {
        {
            let snapshots = self.snapshots.lock();
            if let Some((at, snapshot)) = snapshots.get(&shard)
                && *at == (At { incarnation: self.log.incarnations().number(), position })
            {
                return Ok(snapshot.clone());
            }
        }
        Ok(Arc::new(stored::load(tx, &self.fresh, shard).await?))
    }

    /// Loads what is remembered of those whose time has come.
    async fn due(
        &self,
        tx: &mut PgConnection,
        shard: i16,
        by: DateTime<Utc>,
    ) -> Result<Evaluator, ConsumerError> {
        let rows =
            sqlx::query(include_str!("load_due.sql")).bind(shard).bind(by).fetch_all(tx).await?;
        remembered(&rows)
    }

    async fn save(
        &self,
        tx: &mut PgConnection,
        shard: i16,
        evaluator: &Evaluator,
        snapshot: &RuleSnapshot,
    ) -> Result<(), ConsumerError> {
        let changed = evaluator
            .changed(snapshot)
            .map_err(|source| ConsumerError::State { patient: "a patient".to_owned(), source })?;
        if changed.is_empty() {
            return Ok(());
        }
        sqlx::query(include_str!("save_states.sql"))
            .bind(shard)
            .bind(changed.iter().map(|c| c.tenant).collect::<Vec<_>>())
            .bind(changed.iter().map(|c| c.patient_id).collect::<Vec<_>>())
            .bind(changed.iter().map(|c| c.rule.unwrap_or(FACTS)).collect::<Vec<_>>())
            .bind(changed.iter().map(|c| c.json.as_deref()).collect::<Vec<_>>())
            .bind(changed.iter().map(|c| c.due_at).collect::<Vec<_>>())
            .execute(tx)
            .await?;
        Ok(())
    }

    /// What time alone moves on a shard whose events have all been read, up to `upto`: a
    /// moment at which the head stood at `position`. `None` when it does not any more, for
    /// then something came before. The caller holds the shard's checkpoint.
    pub(super) async fn tick(
        &self,
        tx: &mut PgConnection,
        shard: i16,
        position: i64,
        upto: DateTime<Utc>,
    ) -> Result<Option<Vec<Event>>, ConsumerError> {
        let began = Moment::now();
        let snapshot = self.snapshot(tx, shard, position).await?;
        let mut evaluator = self.due(tx, shard, upto).await?;
        let mut said = Vec::new();
        evaluator.ticks(&snapshot, upto, &mut said);
        if lock_head(tx, shard).await? != position {
            return Ok(None);
        }
        self.save(tx, shard, &evaluator, &snapshot).await?;
        let _steps = traced::mark_all(began, &mut said);
        append_if_any(tx, shard, &said).await?;
        Ok(Some(said))
    }

    /// Told after a commit.
    pub(super) fn said(&self, shard: i16, said: &[Event]) {
        if !said.is_empty() {
            metrics::counter!("vitals_alert_events_total").increment(said.len() as u64);
            said.iter().for_each(|event| self.urgency.learn(event));
            self.log.wake().appended(shard, said);
        }
    }
}

async fn append_if_any(
    tx: &mut PgConnection,
    shard: i16,
    said: &[Event],
) -> Result<(), ConsumerError> {
    // Of a window that is one long append there may be more than one append takes.
    for said in said.chunks(EVENTS_PER_APPEND_MAX) {
        append(tx, shard, said).await?;
    }
    Ok(())
}

/// Loads what is remembered of those whose pages a silence holds back that has another end
/// in this window. They have a time at which they are due.
async fn load_held(
    tx: &mut PgConnection,
    shard: i16,
    events: &[Recorded],
    evaluator: &mut Evaluator,
) -> Result<(), ConsumerError> {
    let silences = events.iter().filter(|recorded| recorded.event.kind == SILENCE_SET);
    let tenants: Vec<&str> = silences.map(|recorded| &*recorded.event.tenant).collect();
    if tenants.is_empty() {
        return Ok(());
    }
    let rows =
        sqlx::query(include_str!("load_held.sql")).bind(shard).bind(tenants).fetch_all(tx).await?;
    remember(evaluator, &rows)
}

impl Consumer for RulesConsumer {
    type Done = Raised;

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

    /// What was appended together is judged together, whatever its order.
    fn whole_appends(&self) -> bool {
        true
    }

    fn pace(&self) -> Duration {
        Duration::from_millis(PACE_MS)
    }

    async fn act(&self, tx: &mut PgConnection, window: &Window) -> Result<Raised, ConsumerError> {
        let began = Moment::now();
        let (shard, incarnation) = (window.shard, self.log.incarnations().number());
        let mut snapshot = self.snapshot(tx, shard, window.after).await?;
        // All that is due by then comes before what follows.
        let upto = if snapshot.has_timers() { time_at(tx, shard, window.to).await? } else { None };
        let mut interest = snapshot.interest();
        let (mut events, mut evaluator) = relevant(tx, window, &interest, upto).await?;
        if events.iter().any(|recorded| recorded.event.kind == RULE_CHANGED) {
            // What a rule that begins in this window would have to see was not asked for.
            interest = Interest::everything();
            (events, evaluator) = relevant(tx, window, &interest, upto).await?;
            stored::without_written_anew(tx, shard, &mut events).await?;
        }
        if events.is_empty() && upto.is_none() {
            return Ok(Raised { events: Vec::new(), _steps: Vec::new(), snapshot, incarnation });
        }
        load_held(tx, shard, &events, &mut evaluator).await?;
        in_order(&mut events);
        let mut said = Vec::new();
        for recorded in &events {
            let wrong = |error| stored::misunderstood(shard, recorded.position, error);
            if Evaluator::needs_past(&snapshot, recorded).map_err(wrong)? {
                evaluator.read_back(past::read(tx, recorded, &interest.vitals).await?);
            }
            evaluator.event(&mut snapshot, recorded, &mut said).map_err(wrong)?;
        }
        if let Some(upto) = upto {
            evaluator.ticks(&snapshot, upto, &mut said);
        }
        stored::keep(tx, shard, &events).await?;
        self.save(tx, shard, &evaluator, &snapshot).await?;
        let _steps = traced::mark(tx, window, began, &mut said).await?;
        append_if_any(tx, shard, &said).await?;
        Ok(Raised { events: said, _steps, snapshot, incarnation })
    }

    fn committed(&self, window: &Window, raised: Raised) {
        let mut snapshots = self.snapshots.lock();
        let at = At { incarnation: raised.incarnation, position: window.to };
        snapshots.insert(window.shard, (at, raised.snapshot.clone()));
        drop(snapshots);
        let mut hint = self.urgency.snapshot.write();
        if hint.as_ref().is_none_or(|snapshot| !Arc::ptr_eq(snapshot, &raised.snapshot)) {
            *hint = Some(raised.snapshot);
        }
        drop(hint);
        self.said(window.shard, &raised.events);
    }
}

/// The events of a window that can change anything, in order, with what is remembered of
/// their patients and of those whose time has come by `due_by`.
async fn relevant(
    tx: &mut PgConnection,
    window: &Window,
    interest: &Interest,
    due_by: Option<DateTime<Utc>>,
) -> Result<(Vec<Recorded>, Evaluator), ConsumerError> {
    let (bounds, compared) = (interest.bounds(), interest.compared());
    let mut rows = sqlx::query(include_str!("relevant.sql"))
        .bind(window.shard)
        .bind(window.after)
        .bind(window.to)
        .bind(window.since)
        .bind(window.until)
        .bind(bounds.iter().map(|(vital, ..)| vital.name()).collect::<Vec<_>>())
        .bind(bounds.iter().map(|(_, above, _)| *above).collect::<Vec<_>>())
        .bind(bounds.iter().map(|(.., below)| *below).collect::<Vec<_>>())
        .bind(interest.suspect)
        .bind(interest.vitals.iter().map(|vital| vital.name()).collect::<Vec<_>>())
        .bind(due_by)
        .bind(compared.iter().map(|(vital, ..)| vital.name()).collect::<Vec<_>>())
        .bind(compared.iter().map(|(_, above, _)| *above).collect::<Vec<_>>())
        .bind(compared.iter().map(|(.., below)| *below).collect::<Vec<_>>())
        .bind(interest.lateness.as_seconds_f64())
        .fetch_all(tx)
        .await?;
    // What was judged before and the states come last: they have no position.
    let mut events = 0;
    for row in &rows {
        if row.try_get::<Option<i64>, _>("position")?.is_none() {
            break;
        }
        events += 1;
    }
    let known = rows.split_off(events);
    Ok((decode_events(window.shard, &rows)?, remembered(&known)?))
}

/// Rows with a patient, a rule and its state, or with a reading that was judged.
fn remembered(rows: &[PgRow]) -> Result<Evaluator, ConsumerError> {
    let mut evaluator = Evaluator::default();
    remember(&mut evaluator, rows)?;
    Ok(evaluator)
}

fn remember(evaluator: &mut Evaluator, rows: &[PgRow]) -> Result<(), ConsumerError> {
    for row in rows {
        let (tenant, patient_id): (&str, &str) =
            (row.try_get("tenant")?, row.try_get("patient_id")?);
        let patient = evaluator.patient(&tenant.into(), patient_id);
        let Some(rule) = row.try_get::<Option<&str>, _>("rule")? else {
            let vital: &str = row.try_get("vital")?;
            if let Ok(vital) = vital.parse() {
                patient.judged(vital, row.try_get("source_id")?, row.try_get("occurred_at")?);
            }
            continue;
        };
        let state: &str = row.try_get("state")?;
        let misread =
            |source| ConsumerError::State { patient: format!("{tenant}/{patient_id}"), source };
        if rule == FACTS {
            patient.facts = serde_json::from_str(state).map_err(misread)?;
        } else {
            patient.load(rule, serde_json::from_str(state).map_err(misread)?);
        }
    }
    Ok(())
}
