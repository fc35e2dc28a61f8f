//! What was sent and what was said about it: the books that the log is compared with.
//!
//! Knows of every reading which values were sent under its key, whether it was ever
//! acknowledged, and how often an answer claimed that it was new. An answer that
//! cannot be true, whatever else happened, is noted as a lie.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use vitals::clock::rfc3339;

/// The vitals that are sent, with their units.
const VITALS: [(&str, &str); 3] = [("heart_rate", "/min"), ("spo2", "%"), ("mean_bp", "mm[Hg]")];
/// How many readings the others may be tempted to send again.
const RECENT_MAX: usize = 64;
/// How many lies are kept for the report.
const LIES_MAX: usize = 20;

/// What makes a reading itself: patient, vital, moment and device.
pub type Key = (String, &'static str, DateTime<Utc>, String);

/// A reading as a device sends it.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    pub patient: u8,
    pub vital: u8,
    pub at: DateTime<Utc>,
    pub device: u8,
    pub value: u16,
}

impl Reading {
    pub fn key(&self) -> Key {
        let (vital, _) = VITALS[usize::from(self.vital) % VITALS.len()];
        (format!("p{}", self.patient), vital, self.at, format!("d{}", self.device))
    }

    pub fn json(&self) -> Value {
        let (vital, unit) = VITALS[usize::from(self.vital) % VITALS.len()];
        json!({
            "patientId": format!("p{}", self.patient), "deviceId": format!("d{}", self.device),
            "vital": vital, "unit": unit, "value": self.value, "measuredAt": rfc3339(self.at),
        })
    }
}

/// What is known of one key.
#[derive(Debug, Default)]
pub struct Entry {
    /// What was sent under it.
    pub values: BTreeSet<u16>,
    /// How many requests had it.
    attempts: usize,
    /// Somebody was told that it is stored.
    pub acknowledged: bool,
    /// Acknowledged when nobody had sent another value: this one it is.
    pub settled: Option<u16>,
    /// How many answers said that it was new.
    claims: usize,
}

/// A request that is under way.
pub struct Attempt {
    keys: BTreeSet<Key>,
    length: usize,
    /// Of its keys, how many nobody had been told of when it was sent.
    unknown: usize,
}

/// All that the clients know together.
#[derive(Default)]
pub struct Books {
    pub entries: HashMap<Key, Entry>,
    recent: VecDeque<Reading>,
    lies: Vec<String>,
    pub acknowledged_requests: usize,
    pub refused_requests: usize,
    pub broken_requests: usize,
    stored_claimed: usize,
}

impl Books {
    /// Before a request is sent.
    pub fn begin(&mut self, readings: &[Reading]) -> Attempt {
        let keys: BTreeSet<Key> = readings.iter().map(Reading::key).collect();
        for reading in readings {
            self.entries.entry(reading.key()).or_default().values.insert(reading.value);
        }
        let mut unknown = 0;
        for key in &keys {
            let entry = self.entries.entry(key.clone()).or_default();
            entry.attempts += 1;
            unknown += usize::from(!entry.acknowledged);
        }
        if let Some(last) = readings.last() {
            self.recent.push_back(last.clone());
            self.recent.truncate(RECENT_MAX);
            if self.recent.len() == RECENT_MAX {
                self.recent.pop_front();
            }
        }
        Attempt { keys, length: readings.len(), unknown }
    }

    /// Something that somebody has sent or is just sending.
    pub fn recent(&self, nth: usize) -> Option<Reading> {
        let nth = nth.checked_rem(self.recent.len())?;
        self.recent.get(nth).cloned()
    }

    /// After a 201 that said so.
    pub fn acknowledge(&mut self, attempt: Attempt, stored: usize, duplicates: usize) {
        self.acknowledged_requests += 1;
        self.stored_claimed += stored;
        // Nobody else has ever sent these: they can only be new.
        let mine = attempt.keys.iter().filter(|key| self.entries[*key].attempts == 1).count();
        if stored + duplicates != attempt.length || stored > attempt.unknown || stored < mine {
            self.lie(format!(
                "stored {stored} and duplicates {duplicates} of {} readings, {} keys, of which {} \
                 could be new and {mine} had to be",
                attempt.length,
                attempt.keys.len(),
                attempt.unknown,
            ));
        }
        let all_new = stored == attempt.keys.len();
        for key in attempt.keys {
            let entry = self.entries.get_mut(&key).expect("it was sent");
            if let (false, 1) = (entry.acknowledged, entry.values.len()) {
                entry.settled = entry.values.first().copied();
            }
            entry.acknowledged = true;
            entry.claims += usize::from(all_new);
        }
    }

    /// An answer that cannot be true, or none that may be given.
    pub fn lie(&mut self, what: String) {
        if self.lies.len() < LIES_MAX {
            self.lies.push(what);
        }
    }

    pub fn acknowledged(&self) -> usize {
        self.entries.values().filter(|entry| entry.acknowledged).count()
    }
}

/// A row of the log.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct Row {
    pub patient_id: String,
    pub vital: String,
    pub occurred_at: DateTime<Utc>,
    pub source_id: String,
    pub value: f64,
    pub shard: i16,
    pub position: i64,
}

/// What the comparison has found.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Rows of the log.
    pub appended: usize,
    /// Keys that somebody was told of.
    pub acknowledged: usize,
    /// Acknowledged, and not there.
    pub lost: usize,
    /// There twice, or called new twice.
    pub doubled: usize,
    /// There, and never sent.
    pub strangers: usize,
    /// There with a value that this key cannot have.
    pub altered: usize,
    /// Answers that cannot be true.
    pub lies: Vec<String>,
}

impl Verdict {
    pub fn sound(&self) -> bool {
        self.lost + self.doubled + self.strangers + self.altered == 0 && self.lies.is_empty()
    }
}

impl Books {
    /// Compares the books with the log.
    pub fn compare(&self, rows: &[Row]) -> Verdict {
        let mut verdict = Verdict {
            appended: rows.len(),
            acknowledged: self.acknowledged(),
            lies: self.lies.clone(),
            ..Verdict::default()
        };
        let mut found: HashMap<(&str, &str, DateTime<Utc>, &str), usize> = HashMap::new();
        for row in rows {
            let key = (&*row.patient_id, &*row.vital, row.occurred_at, &*row.source_id);
            *found.entry(key).or_default() += 1;
        }
        for (key, entry) in &self.entries {
            let times = found.remove(&(&*key.0, key.1, key.2, &*key.3)).unwrap_or_default();
            verdict.lost += usize::from(entry.acknowledged && times == 0);
            verdict.doubled += usize::from(times > 1 || entry.claims > 1);
        }
        verdict.strangers = found.len();
        for row in rows {
            let vital = VITALS.iter().find(|(name, _)| *name == row.vital).map(|(name, _)| *name);
            let key =
                vital.map(|v| (row.patient_id.clone(), v, row.occurred_at, row.source_id.clone()));
            let Some(entry) = key.and_then(|key| self.entries.get(&key)) else { continue };
            let may = |value: &u16| f64::from(*value) == row.value;
            let is_right = match &entry.settled {
                Some(value) => may(value),
                None => entry.values.iter().any(may),
            };
            verdict.altered += usize::from(!is_right);
        }
        if self.stored_claimed > rows.len() {
            let claimed = self.stored_claimed;
            verdict.lies.push(format!("{claimed} readings were called new, {} exist", rows.len()));
        }
        verdict
    }
}

/// The newest row of each patient and vital: by its moment, then by its position.
pub fn newest(rows: &[Row]) -> BTreeMap<(String, String), Row> {
    let mut newest: BTreeMap<(String, String), Row> = BTreeMap::new();
    for row in rows {
        let place = newest
            .entry((row.patient_id.clone(), row.vital.clone()))
            .or_insert_with(|| row.clone());
        if (row.occurred_at, row.position) > (place.occurred_at, place.position) {
            *place = row.clone();
        }
    }
    newest
}
