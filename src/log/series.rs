//! Series: the numbers by which the log names who measures what of whom.
//!
//! Guarantees that a number which [`SeriesCache`] knows was committed, with a reading, before
//! the commit that stands beside it (a [`Mark`]): as long as that commit is in the log, the
//! number means what it meant. Bounded memory, whatever comes. Does not know all series: what
//! it does not know is asked for or made in the statement that appends.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::mem;

use parking_lot::Mutex;
use sqlx::PgConnection;

use super::head::Mark;
use crate::event::Event;

/// Series of all shards after which those that were not used meanwhile are forgotten, at
/// some 25 bytes; as many again are kept until then. 100,000 devices with 12 vitals fit.
pub const SERIES_CACHED: usize = 2_000_000;

/// Of an identity, 128 bits that nobody outside can choose.
type Key = [u32; 4];

/// The numbers that this process knows.
pub(super) struct SeriesCache {
    shards: Box<[Mutex<OfShard>]>,
    hashers: [RandomState; 2],
    /// Of each shard.
    most: usize,
}

#[derive(Default)]
struct OfShard {
    /// By which all that follows was committed.
    by: Option<Mark>,
    lately: HashMap<Key, i32, BuildHasherDefault<OfKey>>,
    before: HashMap<Key, i32, BuildHasherDefault<OfKey>>,
}

/// A key is a hash already.
#[derive(Default)]
struct OfKey(u64);

impl Hasher for OfKey {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        let first = bytes.first_chunk().map_or(0, |first| u64::from_ne_bytes(*first));
        self.0 ^= first;
    }

    /// Of an array, its length.
    fn write_usize(&mut self, _: usize) {}
}

/// What is known of the series of some readings.
pub(super) struct Known {
    /// Of each reading, in order, the number.
    pub(super) numbers: Vec<Option<i32>>,
    /// By which commit, if any is known.
    pub(super) by: Option<Mark>,
    keys: Vec<Key>,
}

impl SeriesCache {
    pub(super) fn new(shards: i16) -> SeriesCache {
        SeriesCache::of_size(shards, SERIES_CACHED)
    }

    fn of_size(shards: i16, size: usize) -> SeriesCache {
        let shards: Box<[_]> = (0..shards).map(|_| Mutex::default()).collect();
        let most = size / shards.len().max(1);
        SeriesCache { shards, hashers: [RandomState::new(), RandomState::new()], most }
    }

    fn key(&self, event: &Event) -> Key {
        let identity = identity(event);
        let [a, b] = self.hashers.each_ref().map(|hasher| hasher.hash_one(identity));
        [a as u32, (a >> 32) as u32, b as u32, (b >> 32) as u32]
    }

    /// The numbers of readings of a shard, as far as they are known.
    pub(super) fn look_up<'e>(
        &self,
        shard: i16,
        readings: impl Iterator<Item = &'e Event>,
    ) -> Known {
        let keys: Vec<Key> = readings.map(|event| self.key(event)).collect();
        let Some(of_shard) = self.of(shard) else {
            return Known { numbers: vec![None; keys.len()], by: None, keys };
        };
        let mut of_shard = of_shard.lock();
        let numbers: Vec<_> = keys.iter().map(|key| of_shard.get(key, self.most)).collect();
        let by = of_shard.by.filter(|_| numbers.iter().any(Option::is_some));
        Known { numbers, by, keys }
    }

    /// Remembers numbers that were found in, or given by, a transaction that is committed.
    pub(super) fn remember(&self, shard: i16, known: &Known, by: Mark) {
        let Some(of_shard) = self.of(shard) else { return };
        let mut of_shard = of_shard.lock();
        for (key, number) in known.keys.iter().zip(&known.numbers) {
            if let Some(number) = number {
                of_shard.put(*key, *number, self.most);
            }
        }
        let later = of_shard.by.is_none_or(|before| before.position < by.position);
        if later {
            of_shard.by = Some(by);
        }
    }

    /// The log was restored: a number may be another's.
    pub(super) fn forget(&self, shard: i16) {
        if let Some(of_shard) = self.of(shard) {
            *of_shard.lock() = OfShard::default();
        }
    }

    fn of(&self, shard: i16) -> Option<&Mutex<OfShard>> {
        self.shards.get(usize::try_from(shard).ok()?)
    }
}

impl OfShard {
    fn get(&mut self, key: &Key, most: usize) -> Option<i32> {
        if let Some(number) = self.lately.get(key) {
            return Some(*number);
        }
        let number = self.before.remove(key)?;
        self.put(*key, number, most);
        Some(number)
    }

    fn put(&mut self, key: Key, number: i32, most: usize) {
        if self.lately.len() >= most {
            self.before = mem::take(&mut self.lately);
        }
        self.lately.insert(key, number);
    }
}

/// What makes a series one.
fn identity(event: &Event) -> (&str, &str, &str, &str) {
    let vital = event.vital.map_or("", |vital| vital.name());
    (&event.tenant, &event.patient_id, vital, &event.source_id)
}

/// The numbers of series that are there; `None` where there is none.
pub(super) async fn find(
    connection: &mut PgConnection,
    shard: i16,
    readings: &[&Event],
) -> Result<Vec<Option<i32>>, sqlx::Error> {
    let (asked, place) = distinct(readings);
    let query = sqlx::query_as(
        "select (select s.series from series s \
                 where s.shard = $1 and s.tenant = a.tenant and s.patient_id = a.patient_id \
                   and s.vital = a.vital::vital and s.source_id = a.source_id) \
         from unnest($2, $3, $4, $5) with ordinality as a (tenant, patient_id, vital, source_id, n) \
         order by n",
    );
    let numbers: Vec<(Option<i32>,)> =
        bind_named(query.bind(shard), &asked).fetch_all(connection).await?;
    Ok(place.iter().map(|place| numbers.get(*place).and_then(|(number,)| *number)).collect())
}

/// Binds the identities of series: tenants, patients, vitals and devices.
pub(super) fn bind_named<'q, T>(query: Asked<'q, T>, named: &[&'q Event]) -> Asked<'q, T> {
    fn column<'a>(named: &[&'a Event], of: impl Fn(&'a Event) -> &'a str) -> Vec<&'a str> {
        named.iter().map(|event| of(event)).collect()
    }
    query
        .bind(column(named, |e| &e.tenant))
        .bind(column(named, |e| &e.patient_id))
        .bind(column(named, |e| e.vital.map_or("", |vital| vital.name())))
        .bind(column(named, |e| &e.source_id))
}

type Asked<'q, T> = sqlx::query::QueryAs<'q, sqlx::Postgres, T, sqlx::postgres::PgArguments>;

/// One reading of each series, and for each reading which of them is of its series.
pub(super) fn distinct<'e>(readings: &[&'e Event]) -> (Vec<&'e Event>, Vec<usize>) {
    let (mut asked, mut places) = (Vec::new(), HashMap::new());
    let place = readings.iter().map(|event| {
        *places.entry(identity(event)).or_insert_with(|| {
            asked.push(*event);
            asked.len() - 1
        })
    });
    let place = place.collect();
    (asked, place)
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::vital::Vital;

    fn reading(patient: &str, device: &str) -> Event {
        let at = DateTime::UNIX_EPOCH;
        let none = Event::non_reading("reading", ("t", patient), device, at, "");
        Event { vital: Some(Vital::HeartRate), value: Some(1.0), data: None, ..none }
    }

    fn look_up(cache: &SeriesCache, event: &Event) -> (Option<i32>, Option<Mark>) {
        let known = cache.look_up(0, [event].into_iter());
        (known.numbers[0], known.by)
    }

    fn put(cache: &SeriesCache, event: &Event, number: i32, position: i64) {
        let mut known = cache.look_up(0, [event].into_iter());
        known.numbers = vec![Some(number)];
        cache.remember(0, &known, Mark { position, recorded_at: DateTime::UNIX_EPOCH });
    }

    #[test]
    fn what_is_used_is_kept_and_what_is_not_is_forgotten_first() {
        let cache = SeriesCache::of_size(1, 10);
        let often = reading("p", "d");
        put(&cache, &often, 7, 1);
        for n in 0..1_000 {
            put(&cache, &reading("p", &format!("d{n}")), n, 2);
            assert_eq!(look_up(&cache, &often).0, Some(7), "{n}");
        }
        assert_eq!(look_up(&cache, &reading("p", "d1")), (None, None));
        let of_shard = cache.shards[0].lock();
        assert!(of_shard.lately.len() <= 10 && of_shard.before.len() <= 10);
    }

    #[test]
    fn a_series_is_told_by_all_of_its_texts_and_by_the_newest_commit() {
        let cache = SeriesCache::new(2);
        put(&cache, &reading("ab", "c"), 1, 5);
        put(&cache, &reading("a", "bc"), 2, 3);
        let mark = Mark { position: 5, recorded_at: DateTime::UNIX_EPOCH };
        assert_eq!(look_up(&cache, &reading("ab", "c")), (Some(1), Some(mark)));
        assert_eq!(look_up(&cache, &reading("a", "bc")), (Some(2), Some(mark)));
        assert_eq!(look_up(&cache, &reading("abc", "")), (None, None));
        cache.forget(0);
        assert_eq!(look_up(&cache, &reading("ab", "c")), (None, None));
    }
}
