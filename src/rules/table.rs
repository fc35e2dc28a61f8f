//! Reading a table of keys, and saying where something is wrong with it.
//!
//! Guarantees that a key that is not known is refused, and that a refusal names its
//! place as a JSON pointer.

use chrono::TimeDelta;
use serde_json::{Map, Value};

/// The longest time that a rule may name.
pub(super) const DURATION_MAX: TimeDelta = TimeDelta::days(7);
/// Steps of an escalation, inhibiting rules, wards, hours of a schedule.
const LIST_MAX: usize = 32;

/// Why a text is no rule.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{}{pointer}: {what}", line.map(|n| format!("line {n}, ")).unwrap_or_default())]
pub struct RuleError {
    /// The place, as a JSON pointer.
    pub pointer: String,
    /// The line of the TOML.
    pub line: Option<usize>,
    /// What is wrong, and the mend.
    pub what: String,
}

/// What of a reader fails.
pub(super) type Read<T> = Result<T, RuleError>;

/// A refusal.
pub(super) fn fault(pointer: &str, what: impl Into<String>) -> RuleError {
    let pointer = if pointer.is_empty() { "/" } else { pointer }.to_owned();
    RuleError { pointer, line: None, what: what.into() }
}

/// A table that is being read: what was never asked for does not belong.
pub(super) struct Table<'a> {
    map: &'a Map<String, Value>,
    pub at: String,
    asked: Vec<&'static str>,
}

impl<'a> Table<'a> {
    pub fn of(value: &'a Value, at: &str) -> Read<Table<'a>> {
        let map = value.as_object().ok_or_else(|| fault(at, "this must be a table of keys"))?;
        Ok(Table { map, at: at.to_owned(), asked: Vec::new() })
    }

    pub fn place(&self, key: &str) -> String {
        format!("{}/{key}", self.at)
    }

    pub fn get(&mut self, key: &'static str) -> Option<&'a Value> {
        self.asked.push(key);
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// Whether a key is there, without asking for it.
    pub fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    fn typed<T>(
        &mut self,
        key: &'static str,
        what: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Read<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| fault(&self.place(key), what))
    }

    pub fn text(&mut self, key: &'static str) -> Read<Option<&'a str>> {
        self.typed(key, "this must be a text", Value::as_str)
    }

    pub fn needed<T>(&self, key: &str, value: Option<T>, example: &str) -> Read<T> {
        value.ok_or_else(|| fault(&self.at, format!("{key} is missing: write {example}")))
    }

    pub fn number(&mut self, key: &'static str) -> Read<Option<f64>> {
        let number = self.typed(key, "this must be a number", Value::as_f64)?;
        match number {
            Some(n) if !n.is_finite() => Err(fault(&self.place(key), "this must be finite")),
            number => Ok(number),
        }
    }

    pub fn whole(&mut self, key: &'static str, min: u64, max: u64) -> Read<Option<u64>> {
        let what = format!("this must be a whole number, {min} to {max}");
        self.typed(key, &what, |value| value.as_u64().filter(|n| (min..=max).contains(n)))
    }

    pub fn flag(&mut self, key: &'static str) -> Read<Option<bool>> {
        self.typed(key, "this must be true or false", Value::as_bool)
    }

    pub fn duration(&mut self, key: &'static str) -> Read<Option<TimeDelta>> {
        let what = format!(
            "this must be a time as \"60s\" or \"2m\", at most {} days",
            DURATION_MAX.num_days()
        );
        self.typed(key, &what, |value| {
            let time = humantime::parse_duration(value.as_str()?).ok()?;
            let time = TimeDelta::from_std(time).ok()?;
            (time <= DURATION_MAX).then_some(time)
        })
    }

    pub fn list(&mut self, key: &'static str) -> Read<&'a [Value]> {
        let what = format!("this must be a list of at most {LIST_MAX}");
        let list = self.typed(key, &what, |value| {
            value.as_array().filter(|list| list.len() <= LIST_MAX).map(Vec::as_slice)
        })?;
        Ok(list.unwrap_or_default())
    }

    pub fn texts(&mut self, key: &'static str) -> Read<Vec<String>> {
        let list = self.list(key)?;
        let text = |(n, value): (usize, &Value)| {
            let place = format!("{}/{n}", self.place(key));
            value.as_str().map(str::to_owned).ok_or_else(|| fault(&place, "this must be a text"))
        };
        list.iter().enumerate().map(text).collect()
    }

    /// What was not asked for is refused.
    pub fn end(self) -> Read<()> {
        match self.map.keys().find(|key| !self.asked.contains(&key.as_str())) {
            None => Ok(()),
            Some(key) => {
                let what = format!("unknown key: use {}", self.asked.join(", "));
                Err(fault(&self.place(key), what))
            }
        }
    }
}
