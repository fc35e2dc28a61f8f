//! Random programs against a model that is a set: which counts an answer must have, and
//! what the log must hold afterwards.
//!
//! Few patients, devices and moments, so that every program is full of duplicates: in
//! a batch, between batches, between requests of one commit and between instances, with
//! the same value and with another. `inside` appends through the library and drops it in
//! the middle of an append, `outside` sends JSON to the program and kills it.

mod inside;
mod outside;
mod past;

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Months, TimeDelta, Utc};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use sqlx::PgPool;
use vitals::log::{Log, chain};
use vitals::vital::Vital;

use crate::log::time;

/// What makes a reading itself, within a tenant.
pub type Key = (String, &'static str, DateTime<Utc>, String);

/// A reading as a program names it, small enough to print when a case fails.
#[derive(Clone, Debug)]
pub struct Item {
    patient: u8,
    spo2: bool,
    device: u8,
    minute: u8,
    /// Months before the others: its partition may have to be made first.
    late: u8,
    value: u8,
    /// What is wrong with it, for those that can send what is wrong.
    bad: Option<u8>,
}

impl Item {
    fn patient(&self) -> String {
        format!("p{}", self.patient)
    }

    fn vital(&self) -> Vital {
        if self.spo2 { Vital::Spo2 } else { Vital::HeartRate }
    }

    fn at(&self) -> DateTime<Utc> {
        let newest = time("2026-03-01T00:03:00Z") - TimeDelta::minutes(self.minute.into());
        newest.checked_sub_months(Months::new(self.late.into())).expect("a date")
    }

    fn device(&self) -> String {
        format!("d{}", self.device)
    }

    pub fn key(&self) -> Key {
        (self.patient(), self.vital().name(), self.at(), self.device())
    }

    pub fn value(&self) -> f64 {
        60.0 + f64::from(self.value)
    }
}

pub fn item(bad: f64) -> impl Strategy<Value = Item> {
    let late = prop_oneof![6 => Just(0), 1 => 1..20_u8];
    let bad = match bad > 0.0 {
        true => prop::option::weighted(bad, 0..5_u8).boxed(),
        false => Just(None).boxed(),
    };
    (0..3_u8, any::<bool>(), 0..2_u8, 0..6_u8, late, 0..30_u8, bad).prop_map(
        |(patient, spo2, device, minute, late, value, bad)| Item {
            patient,
            spo2,
            device,
            minute,
            late,
            value,
            bad,
        },
    )
}

/// A batch; with `bad`, this part of its items is wrong.
pub fn batch(bad: f64) -> impl Strategy<Value = Vec<Item>> {
    prop_oneof![
        2 => prop::collection::vec(item(bad), 1..2),
        3 => prop::collection::vec(item(bad), 1..14),
    ]
}

/// What was said to one batch of several that ran at once; nothing if nobody can know.
pub struct Answered<'a> {
    pub items: &'a [Item],
    pub stored: Option<usize>,
}

/// What the log of one tenant must hold.
#[derive(Debug, Default, PartialEq)]
pub struct Model(BTreeMap<Key, f64>);

impl Model {
    /// One batch, and nobody else: of each of its items, whether it is new.
    pub fn store(&mut self, items: &[Item]) -> Vec<bool> {
        let is_new = |item: &Item| {
            let entry = self.0.entry(item.key());
            let is_new = matches!(entry, std::collections::btree_map::Entry::Vacant(_));
            // The first one counts, whatever the second one says.
            entry.or_insert(item.value());
            is_new
        };
        items.iter().map(is_new).collect()
    }

    fn new_keys(&self, items: &[Item]) -> BTreeSet<Key> {
        items.iter().map(Item::key).filter(|key| !self.0.contains_key(key)).collect()
    }

    /// Several batches at once. Nobody can know whose reading comes first, but all that
    /// were answered, and what the log `found` afterwards, must fit together.
    pub fn store_together(&mut self, batches: &[Answered<'_>], found: BTreeMap<Key, f64>) {
        let new: Vec<BTreeSet<Key>> = batches.iter().map(|b| self.new_keys(b.items)).collect();
        let mut shares = BTreeMap::<&Key, usize>::new();
        new.iter().flatten().for_each(|key| *shares.entry(key).or_default() += 1);
        for (batch, new) in batches.iter().zip(&new) {
            let Some(stored) = batch.stored else { continue };
            let alone = new.iter().filter(|key| shares[*key] == 1).count();
            assert!(
                (alone..=new.len()).contains(&stored),
                "{stored} were called new; {alone} had to be, {} could be: {:?}",
                new.len(),
                batch.items
            );
            for key in new {
                assert!(found.contains_key(key), "acknowledged and lost: {key:?}");
            }
        }
        let said: Option<usize> = batches.iter().map(|batch| batch.stored).sum();
        let grown = found.len() - self.0.len();
        assert!(said.is_none_or(|said| said == grown), "{said:?} called new, {grown} are");
        for (key, value) in &found {
            let may = |item: &Item| item.key() == *key && item.value() == *value;
            match self.0.get(key) {
                Some(before) => assert_eq!(before, value, "{key:?} was changed"),
                None => assert!(
                    batches.iter().any(|batch| batch.items.iter().any(may)),
                    "{key:?} with {value} was never sent"
                ),
            }
        }
        assert!(self.0.keys().all(|key| found.contains_key(key)), "something is gone");
        self.0 = found;
    }

    pub fn check(&self, found: &BTreeMap<Key, f64>) {
        assert_eq!(&self.0, found);
    }
}

/// What the log holds of a tenant; panics at a key that it holds twice.
pub async fn found(pool: &PgPool, tenant: &str) -> BTreeMap<Key, f64> {
    let rows: Vec<(String, String, DateTime<Utc>, String, f64)> = sqlx::query_as(
        "select patient_id, vital::text, occurred_at, source_id, value \
         from event where tenant = $1 and type = 'reading'",
    )
    .bind(tenant)
    .fetch_all(pool)
    .await
    .unwrap();
    let mut found = BTreeMap::new();
    for (patient, vital, at, device, value) in rows {
        let vital = vital.parse::<Vital>().unwrap().name();
        let before = found.insert((patient, vital, at, device), value);
        assert_eq!(before, None, "stored twice");
    }
    found
}

/// The log as a whole: order, counts and chain.
pub async fn check_log(log: &Log) {
    let unordered: i64 = sqlx::query_scalar(
        "select count(*) from (select recorded_at < lag(recorded_at) \
             over (partition by shard order by position) as sooner from event) e where sooner",
    )
    .fetch_one(log.pool())
    .await
    .unwrap();
    assert_eq!(unordered, 0, "recorded_at decreases along the positions");
    let doubled: i64 = sqlx::query_scalar(
        "select count(*) from (select from event group by shard, position having count(*) > 1) e",
    )
    .fetch_one(log.pool())
    .await
    .unwrap();
    assert_eq!(doubled, 0, "two events at one position");
    let (rows, committed): (i64, i64) = sqlx::query_as(
        "select (select count(*) from event), (select coalesce(sum(events), 0)::bigint from log_commit)",
    )
    .fetch_one(log.pool())
    .await
    .unwrap();
    assert_eq!(rows, committed, "rows, and what the commits say");
    for shard in log.shards() {
        let walk = chain::verify(log.pool(), shard, |_| {}).await.unwrap();
        assert!(walk.broken.is_none(), "{:?}", walk.broken);
    }
}

/// Tries a property of programs, each for a tenant of its own.
pub fn try_programs<P: std::fmt::Debug>(
    cases: u32,
    program: impl Strategy<Value = P>,
    mut run: impl FnMut(&str, P),
) {
    let run = std::cell::RefCell::new(&mut run);
    let tenants = std::cell::Cell::new(0);
    let config =
        Config { cases, failure_persistence: None, max_shrink_iters: 60, ..Config::default() };
    let tried = TestRunner::new(config).run(&program, |program| {
        tenants.set(tenants.get() + 1);
        (run.borrow_mut())(&format!("t{}", tenants.get()), program);
        Ok(())
    });
    if let Err(failure) = tried {
        panic!("{failure}");
    }
}
