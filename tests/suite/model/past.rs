//! Questions about the past against a model that is a list: any history of appends, late
//! readings and retractions, asked on both axes of time.

use std::collections::BTreeMap;

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use futures_util::TryStreamExt;
use proptest::prelude::*;
use vitals::event::{READING, READING_RETRACTED};
use vitals::log::{Log, chain};
use vitals::query::buckets::buckets;
use vitals::query::diff::{DiffQuery, diff};
use vitals::query::history::{HistoryQuery, TimeRange, cursor_of, page};
use vitals::query::moment::Moment;
use vitals::query::replay::{ReplayedRange, replay};
use vitals::query::state::{Newest, state};
use vitals::record::retract::{Retraction, retract};
use vitals::vital::Vital;

use super::inside::event;
use super::{Item, batch, check_log, item, try_programs};
use crate::log::time;
use crate::support::postgres::Database;

const CASES: u32 = 24;

#[derive(Clone, Debug)]
enum Act {
    Append(Vec<Item>),
    Retract(Item),
}

/// What the log holds of a reading.
#[derive(Clone, Debug)]
struct Row {
    item: Item,
    position: i64,
    recorded_at: DateTime<Utc>,
    retracted_at: Option<DateTime<Utc>>,
}

impl Row {
    /// Whether it counts in what was known at a moment.
    fn counts(&self, known_at: DateTime<Utc>) -> bool {
        self.recorded_at <= known_at && self.retracted_at.is_none_or(|at| at > known_at)
    }

    fn is_of(&self, patient: &str, device: Option<&str>) -> bool {
        self.item.patient() == patient && device.is_none_or(|device| self.item.device() == device)
    }

    fn place(&self) -> (DateTime<Utc>, Vital, String) {
        (self.item.at(), self.item.vital(), self.item.device())
    }

    fn said(&self) -> Said {
        let (item, at) = (&self.item, self.recorded_at);
        (item.vital(), item.value(), item.at(), at, item.device())
    }
}

/// What an answer says of a reading.
type Said = (Vital, f64, DateTime<Utc>, DateTime<Utc>, String);

fn said(newest: &Newest) -> Said {
    let device = newest.device_id.clone();
    (newest.vital, newest.value, newest.measured_at, newest.recorded_at, device)
}

/// Everything, in the order of positions within a patient's shard.
#[derive(Default)]
struct Naive {
    rows: Vec<Row>,
    /// Of each act, when the log learned it.
    times: Vec<DateTime<Utc>>,
}

impl Naive {
    async fn act(&mut self, log: &Log, tenant: &str, act: &Act) {
        match act {
            Act::Append(items) => {
                let mut by_shard = BTreeMap::<i16, Vec<&Item>>::new();
                for item in items {
                    by_shard.entry(log.shard_of(tenant, &item.patient())).or_default().push(item);
                }
                for (shard, items) in by_shard {
                    let events: Vec<_> = items.iter().map(|item| event(tenant, item)).collect();
                    let appended = log.append(shard, &events).await.unwrap();
                    let mut is_new = false;
                    for (item, position) in items.into_iter().zip(appended.positions) {
                        let known = self.rows.iter().any(|row| row.item.key() == item.key());
                        assert_eq!(position.is_none(), known, "{item:?}");
                        let Some(position) = position else { continue };
                        let (item, recorded_at) = (item.clone(), appended.recorded_at);
                        self.rows.push(Row { item, position, recorded_at, retracted_at: None });
                        is_new = true;
                    }
                    self.times.extend(is_new.then_some(appended.recorded_at));
                }
            }
            Act::Retract(item) => {
                let retraction = Retraction {
                    patient_id: item.patient(),
                    vital: item.vital(),
                    device_id: item.device(),
                    measured_at: item.at(),
                    by: "nurse".to_owned(),
                    reason: "a test".to_owned(),
                };
                let done = retract(log, tenant, &retraction).await;
                let row = self.rows.iter_mut().find(|row| row.item.key() == item.key());
                match (done, row) {
                    (Err(_), None) => {}
                    (Ok(done), Some(row)) => {
                        let at = *row.retracted_at.get_or_insert(done.retracted_at);
                        assert_eq!(at, done.retracted_at);
                        self.times.push(at);
                    }
                    (done, row) => panic!("{done:?}, and {row:?}"),
                }
            }
        }
    }

    fn state(
        &self,
        who: (&str, Option<&str>),
        as_of: DateTime<Utc>,
        known: DateTime<Utc>,
    ) -> Vec<Said> {
        let rows = self.rows.iter().filter(|row| row.is_of(who.0, who.1) && row.counts(known));
        let mut newest = BTreeMap::<Vital, &Row>::new();
        for row in rows.filter(|row| row.item.at() <= as_of) {
            let best = newest.entry(row.item.vital()).or_insert(row);
            if (row.item.at(), row.position) > (best.item.at(), best.position) {
                *best = row;
            }
        }
        newest.into_values().map(Row::said).collect()
    }

    /// What counts now, in the order of a history.
    fn history(&self, who: (&str, Option<&str>)) -> Vec<&Row> {
        let now = DateTime::<Utc>::MAX_UTC;
        let counts = |row: &&Row| row.is_of(who.0, who.1) && row.counts(now);
        let mut rows: Vec<&Row> = self.rows.iter().filter(counts).collect();
        rows.sort_by_key(|row| row.place());
        rows
    }
}

/// All that can be asked of a patient, against the model.
async fn ask(log: &Log, tenant: &str, naive: &Naive, moments: &[(u8, u8)]) {
    let end = time("2026-03-01T00:04:00Z");
    for patient in ["p0", "p1", "p2"] {
        for device in [None, Some("d0"), Some("d1")] {
            let who = (patient, device);
            pages(log, tenant, naive, who).await;
            for (minute, nth) in moments {
                let as_of = end - TimeDelta::minutes(i64::from(*minute));
                let at = usize::from(*nth) % naive.times.len().max(1);
                let Some(known_at) = naive.times.get(at).copied() else { continue };
                let asked = Moment { as_of: Some(as_of), known_at: Some(known_at) };
                let answer = state(log, tenant, patient, asked, device).await.unwrap();
                let vitals = answer.iter().flat_map(|state| &state.vitals).map(said);
                assert_eq!(
                    vitals.collect::<Vec<_>>(),
                    naive.state(who, as_of, known_at),
                    "{who:?} {asked:?}"
                );
                differences(log, tenant, naive, who, (as_of, known_at)).await;
                if device.is_none() {
                    replayed(log, tenant, naive, patient, known_at).await;
                }
            }
        }
    }
}

async fn pages(log: &Log, tenant: &str, naive: &Naive, who: (&str, Option<&str>)) {
    let range = TimeRange {
        vitals: Vec::new(),
        from: DateTime::UNIX_EPOCH,
        to: vitals::clock::END_OF_TIME,
    };
    let (tenant, patient_id) = (tenant.to_owned(), who.0.to_owned());
    let question = HistoryQuery { tenant, patient_id, range, device: who.1.map(str::to_owned) };
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = page(log, &question, after.as_ref(), 3).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(cursor_of(last));
        found.extend(page.iter().map(said));
    }
    let rows = naive.history(who);
    assert_eq!(found, rows.iter().map(|row| row.said()).collect::<Vec<_>>(), "{who:?}");
    for vital in [Vital::HeartRate, Vital::Spo2] {
        let from = question.range.from;
        let found = buckets(log, &question, vital, from, 300.0, 1_000).await.unwrap();
        let mut sums = BTreeMap::<DateTime<Utc>, Vec<f64>>::new();
        for row in rows.iter().filter(|row| row.item.vital() == vital) {
            let start = row.item.at().duration_trunc(TimeDelta::minutes(5)).unwrap();
            sums.entry(start).or_default().push(row.item.value());
        }
        let expected = sums.into_iter().map(|(start, values)| {
            let sum: f64 = values.iter().sum();
            let (min, max) = values
                .iter()
                .fold((f64::MAX, f64::MIN), |(min, max), value| (min.min(*value), max.max(*value)));
            (start, min, max, (sum / values.len() as f64 * 1e6).round(), values.len() as i64)
        });
        let found = found.iter().map(|b| (b.start, b.min, b.max, (b.avg * 1e6).round(), b.count));
        assert_eq!(found.collect::<Vec<_>>(), expected.collect::<Vec<_>>(), "{who:?}");
    }
}

async fn replayed(log: &Log, tenant: &str, naive: &Naive, patient: &str, known: DateTime<Utc>) {
    let range = ReplayedRange { known_at: Some(known), ..ReplayedRange::default() };
    let events = replay(log.clone(), tenant.to_owned(), patient.to_owned(), range);
    let events: Vec<_> = events.try_collect().await.unwrap();
    let readings = events.iter().filter(|recorded| recorded.event.kind == READING);
    let found: Vec<(DateTime<Utc>, i64)> =
        readings.map(|recorded| (recorded.event.occurred_at, recorded.position)).collect();
    let rows =
        || naive.rows.iter().filter(|row| row.is_of(patient, None) && row.recorded_at <= known);
    let mut expected: Vec<_> = rows().map(|row| (row.item.at(), row.position)).collect();
    expected.sort_unstable();
    assert_eq!(found, expected, "{patient} {known}");
    let retracted =
        events.iter().filter(|recorded| recorded.event.kind == READING_RETRACTED).count();
    let all = naive.rows.iter().filter(|row| row.is_of(patient, None));
    let expected = all.filter(|row| row.retracted_at.is_some_and(|at| at <= known)).count();
    assert_eq!(retracted, expected, "{patient} {known}");
}

async fn differences(
    log: &Log,
    tenant: &str,
    naive: &Naive,
    who: (&str, Option<&str>),
    (as_of, known_at): (DateTime<Utc>, DateTime<Utc>),
) {
    let question = DiffQuery {
        tenant: tenant.to_owned(),
        patient_id: who.0.to_owned(),
        device: who.1.map(str::to_owned),
        as_of,
        known_at,
        from: as_of - TimeDelta::days(40),
        after: None,
        limit: 1_000,
    };
    let Some(found) = diff(log, &question).await.unwrap() else {
        assert!(!naive.rows.iter().any(|row| row.item.patient() == who.0), "{who:?}");
        return;
    };
    let now = DateTime::<Utc>::MAX_UTC;
    let changed = |row: &&Row| {
        row.is_of(who.0, who.1)
            && (question.from..=as_of).contains(&row.item.at())
            && row.counts(known_at) != row.counts(now)
    };
    let mut rows: Vec<&Row> = naive.rows.iter().filter(changed).collect();
    rows.sort_by_key(|row| row.place());
    let found = found.readings.iter().map(|of| (said(&of.reading), of.retracted_at));
    let expected = rows.iter().map(|row| (row.said(), row.retracted_at));
    assert_eq!(found.collect::<Vec<_>>(), expected.collect::<Vec<_>>(), "{who:?} {question:?}");
}

#[test]
fn any_history_is_answered_as_a_list_would_answer_it_on_both_axes() {
    let act = prop_oneof![
        3 => batch(0.0).prop_map(Act::Append),
        2 => item(0.0).prop_map(Act::Retract),
    ];
    let program =
        (prop::collection::vec(act, 1..14), prop::collection::vec((0..9_u8, any::<u8>()), 1..4));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (database, log) = runtime.block_on(async {
        let database = Database::new().await;
        let log = database.log().await;
        (database, log)
    });
    try_programs(CASES, program, |tenant, (acts, moments)| {
        runtime.block_on(async {
            let mut naive = Naive::default();
            for act in &acts {
                naive.act(&log, tenant, act).await;
            }
            ask(&log, tenant, &naive, &moments).await;
        });
    });
    runtime.block_on(async {
        check_log(&log).await;
        for shard in log.shards() {
            assert!(chain::verify(log.pool(), shard, |_| {}).await.unwrap().broken.is_none());
        }
    });
    drop(database);
}
