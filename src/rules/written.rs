//! A rule as people write it, in TOML or in JSON: the same keys, the same refusals.
//!
//! Guarantees that a key which is not understood is refused and never ignored (a rule
//! that silently loses its delay would page too often), and that a refusal names the
//! place and what would be right. Does not know other rules: circles of inhibitions
//! are seen by [`super::registry`].

use chrono::{FixedOffset, TimeDelta};
use serde_json::Value;

use super::model::{Bounds, Escalation, Hours, Leaf, Mode, Per, Rule, Scope};
use super::table::{Read, RuleError, Table, fault};
use super::written_when::{clearing, when};
use crate::event::{ID_RULE, Priority, is_fhir_id};

/// How old a reading may be when it is recorded and still page, unless the rule
/// says otherwise.
const LATENESS_DEFAULT: TimeDelta = TimeDelta::seconds(120);
/// Readings that a rule may want before it raises.
const SAMPLES_MAX: u64 = 1_000;
/// A rule's description.
const DESCRIPTION_CHARS_MAX: usize = 2_000;
/// Every other text of a rule: names, times, signs.
const TEXT_CHARS_MAX: usize = 200;
/// The longest name of an event.
const EVENT_CHARS_MAX: usize = 64;

impl Rule {
    /// Reads a rule's TOML. `version` is the registry's, not the author's.
    pub fn parse(text: &str, version: u32) -> Result<Rule, RuleError> {
        let value: Value = toml::from_str(text).map_err(|error| RuleError {
            pointer: "/".to_owned(),
            line: error.span().map(|span| line_at(text, span.start)),
            what: error.message().to_owned(),
        })?;
        Rule::read(&value, version)
            .map_err(|error| RuleError { line: line_of(text, &error.pointer), ..error })
    }

    /// Reads a rule's JSON form.
    pub fn read(value: &Value, version: u32) -> Result<Rule, RuleError> {
        let mut table = Table::of(value, "")?;
        let id = table.text("id")?;
        let id = table.needed("id", id, "id = \"hr-high\"")?;
        if !is_fhir_id(id) {
            return Err(fault("/id", format!("the id {ID_RULE}")));
        }
        let event = table.text("event")?;
        let event = event_name("/event", table.needed("event", event, "event = \"HIGH_X\"")?)?;
        table.text("description")?;
        let priority = match table.text("priority")? {
            Some("high") => Priority::High,
            Some("medium") => Priority::Medium,
            Some("low") => Priority::Low,
            Some("technical") => Priority::Technical,
            _ => return Err(fault("/priority", "use high, medium, low or technical")),
        };
        let mode = table.text("mode")?.unwrap_or("draft");
        let mode = Mode::ALL
            .into_iter()
            .find(|m| m.name() == mode)
            .ok_or_else(|| fault("/mode", "use draft, shadow, active or retired"))?;
        let tree = table.get("when");
        let tree = table.needed(
            "when",
            tree,
            "when = { vital = \"heart_rate\", op = \">\", value = 130 }",
        )?;
        let mut when = when(tree, "/when")?;
        let off_delay = match table.get("clear") {
            Some(clear) => clearing(clear, &mut when)?,
            None => TimeDelta::zero(),
        };
        let per = match table.text("per")? {
            None => Per::usual(priority, &when),
            Some("patient") => Per::Patient,
            Some("device") => Per::Device,
            Some(_) => return Err(fault("/per", "use \"patient\" or \"device\"")),
        };
        let rule = Rule {
            id: id.to_owned(),
            version,
            event,
            priority,
            mode,
            per,
            when,
            on_delay: table.duration("on_delay")?.unwrap_or_default(),
            samples_min: table.whole("min_samples", 1, SAMPLES_MAX)?.unwrap_or(1) as u32,
            max_gap: table.duration("max_gap")?,
            off_delay,
            re_alarm: table.duration("re_alarm")?,
            latch: table.flag("latch")?.unwrap_or(false),
            lateness: table.duration("lateness")?.unwrap_or(LATENESS_DEFAULT),
            scope: table.get("scope").map(scope).transpose()?.unwrap_or_default(),
            schedule: each(table.list("schedule")?, "/schedule", hours)?,
            escalate: each(table.list("escalate")?, "/escalate", escalation)?,
            inhibited_by: table.texts("inhibited_by")?,
            quality_min: table.number("min_quality")?.map(|n| n as f32),
            bounds: table.get("bounds").map(bounds).transpose()?,
            pages_max: table.number("max_pages_per_patient_day")?,
        };
        table.end()?;
        rule.fits()?;
        Ok(rule)
    }

    /// What each part allows and both together do not.
    fn fits(&self) -> Read<()> {
        let second = TimeDelta::seconds(1);
        if let Some(gap) = self.max_gap {
            for (key, delay) in [("/on_delay", self.on_delay), ("/clear/off_delay", self.off_delay)]
            {
                if !delay.is_zero() && delay < gap {
                    return Err(fault(
                        key,
                        format!(
                            "{}s is shorter than max_gap, {}s, the longest pause between two readings: \
                         make it at least that, or max_gap shorter",
                            delay.num_seconds(),
                            gap.num_seconds()
                        ),
                    ));
                }
            }
        }
        if self.re_alarm.is_some_and(|time| time < second) {
            return Err(fault("/re_alarm", "once a second is the most"));
        }
        if self.escalate.windows(2).any(|two| two[0].after > two[1].after) {
            return Err(fault(
                "/escalate",
                "put the steps in the order of time: shortest after first",
            ));
        }
        if self.inhibited_by.contains(&self.id) {
            return Err(fault("/inhibited_by", "a rule cannot inhibit itself: name another one"));
        }
        if let Some(bounds) = self.bounds {
            let Some((_, _, value, _)) = self.threshold() else {
                return Err(fault("/bounds", "bounds need a condition that is one comparison"));
            };
            if !(bounds.low..=bounds.high).contains(&value) {
                return Err(fault(
                    "/bounds",
                    format!("when.value, {value}, must lie within the bounds"),
                ));
            }
        }
        if self.looks_at_devices() && self.priority != Priority::Technical {
            let what = "what looks at missing or suspect readings tells of a device, not of a \
                        patient: use priority = \"technical\"";
            return Err(fault("/priority", what));
        }
        let is_of_several = |leaf: &Leaf| leaf.is_of_device() || matches!(leaf, Leaf::Score { .. });
        if self.per == Per::Device && self.when.leaves.iter().any(is_of_several) {
            let what = "a score is of several devices, and what looks at missing or suspect \
                        readings tells devices apart by itself: leave this out";
            return Err(fault("/per", what));
        }
        if self.quality_min.is_some_and(|q| !(0.0..=1.0).contains(&q)) {
            return Err(fault("/min_quality", "the quality lies between 0 and 1"));
        }
        if self.pages_max.is_some_and(|n| n <= 0.0) {
            return Err(fault("/max_pages_per_patient_day", "this must be above 0"));
        }
        if self.samples_min > 1
            && self.when.leaves.iter().any(|l| matches!(l, Leaf::Missing { .. }))
        {
            return Err(fault("/min_samples", "a missing reading has no samples: leave this out"));
        }
        Ok(())
    }
}

/// Refuses texts that are longer than anybody would write them. Apart from reading, so that
/// what is stored stays readable whatever the limits become.
pub(super) fn short_enough(value: &Value, at: &str) -> Read<()> {
    match value {
        Value::String(text) => {
            let max = if at == "/description" { DESCRIPTION_CHARS_MAX } else { TEXT_CHARS_MAX };
            match text.chars().count() > max {
                true => Err(fault(at, format!("{max} characters are the most"))),
                false => Ok(()),
            }
        }
        Value::Array(list) => {
            let mut items = list.iter().enumerate();
            items.try_for_each(|(n, value)| short_enough(value, &format!("{at}/{n}")))
        }
        Value::Object(map) => {
            let mut members = map.iter();
            members.try_for_each(|(key, value)| short_enough(value, &format!("{at}/{key}")))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
    }
}

fn each<T>(list: &[Value], at: &str, read: impl Fn(&Value, &str) -> Read<T>) -> Read<Vec<T>> {
    list.iter().enumerate().map(|(n, value)| read(value, &format!("{at}/{n}"))).collect()
}

fn event_name(at: &str, name: &str) -> Read<String> {
    let upper = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let fits = name.starts_with(|c: char| c.is_ascii_uppercase())
        && name.len() <= EVENT_CHARS_MAX
        && name.chars().all(upper)
        && !name.starts_with("ALERT_");
    if !fits {
        let what = "the event must be in upper case, as HIGH_HEART_RATE, at most 64 characters; \
                    names that begin with ALERT_ are the platform's own";
        return Err(fault(at, what));
    }
    Ok(name.to_owned())
}

fn scope(value: &Value) -> Read<Scope> {
    let mut table = Table::of(value, "/scope")?;
    let wards = table.texts("ward")?;
    let age = |n: Option<u64>| n.map(|n| n as u32);
    let (min, max) = (table.whole("min_age", 0, 150)?, table.whole("max_age", 0, 150)?);
    table.end()?;
    if let (Some(min), Some(max)) = (min, max)
        && min > max
    {
        return Err(fault("/scope", "min_age is above max_age: nobody fits"));
    }
    Ok(Scope { wards, age_min: age(min), age_max: age(max) })
}

fn hours(value: &Value, at: &str) -> Read<Hours> {
    let mut table = Table::of(value, at)?;
    let names = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
    let mut days = [false; 7];
    for day in table.texts("days")? {
        let n = names
            .iter()
            .position(|name| *name == day)
            .ok_or_else(|| fault(&format!("{at}/days"), format!("use {}", names.join(", "))))?;
        days[n] = true;
    }
    if days == [false; 7] {
        days = [true; 7];
    }
    let mut minute = |key: &'static str| {
        let place = table.place(key);
        let text = table.text(key)?.unwrap_or("00:00");
        let time = chrono::NaiveTime::parse_from_str(text, "%H:%M");
        let time = time.map_err(|_| fault(&place, "this must be a time of day as \"22:00\""))?;
        Ok(chrono::Timelike::num_seconds_from_midnight(&time) / 60)
    };
    let (from_minute, to_minute) = (minute("from")?, minute("to")?);
    let offset = table.text("offset")?.unwrap_or("+00:00");
    let offset: FixedOffset = offset.parse().map_err(|_| {
        fault(&format!("{at}/offset"), "this must be an offset from UTC as \"+01:00\"")
    })?;
    table.end()?;
    Ok(Hours { days, from_minute, to_minute, offset })
}

fn escalation(value: &Value, at: &str) -> Read<Escalation> {
    let mut table = Table::of(value, at)?;
    let after = table.duration("after")?;
    let after = table.needed("after", after, "after = \"2m\"")?;
    let even_acked = match table.text("unless")? {
        Some("acked") => false,
        None => true,
        Some(_) => return Err(fault(&table.place("unless"), "use \"acked\", or leave it out")),
    };
    let event = table.text("event")?;
    let event = table.needed("event", event, "event = \"HIGH_X_ESCALATED\"")?;
    let event = event_name(&table.place("event"), event)?;
    table.end()?;
    Ok(Escalation { after, even_acked, event })
}

fn bounds(value: &Value) -> Read<Bounds> {
    let mut table = Table::of(value, "/bounds")?;
    let (low, high) = (table.number("min")?, table.number("max")?);
    let low = table.needed("min", low, "bounds = { min = 100, max = 160 }")?;
    let high = table.needed("max", high, "bounds = { min = 100, max = 160 }")?;
    table.end()?;
    if low > high {
        return Err(fault("/bounds", format!("min, {low}, is above max, {high}: exchange them")));
    }
    Ok(Bounds { low, high })
}

fn line_at(text: &str, byte: usize) -> usize {
    text.get(..byte).map_or(1, |before| before.matches('\n').count() + 1)
}

/// The line of a TOML text in which a pointer's last key is written, or as much of
/// its way as is written there.
fn line_of(text: &str, pointer: &str) -> Option<usize> {
    let mut at = 0;
    let mut found = None;
    for key in pointer.split('/').filter(|key| !key.is_empty() && key.parse::<usize>().is_err()) {
        let rest = text.get(at..)?;
        let hit = rest.match_indices(key).find(|(n, _)| {
            let after = rest[n + key.len()..].trim_start_matches([' ', '"', '\'']);
            let before = rest[..*n].chars().next_back();
            let alone = before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != '-');
            alone && after.starts_with(['=', ']', '.'])
        });
        let Some((n, _)) = hit else { break };
        at += n;
        found = Some(line_at(text, at));
    }
    found
}
