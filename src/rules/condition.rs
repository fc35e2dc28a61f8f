//! Whether a condition holds, by what its leaves remember.
//!
//! Guarantees three answers: yes, no, and not known. What is not known neither raises
//! nor clears. A leaf's answer is as old as its newest reading, and is not known any
//! more after [`STALE_AFTER`]. Bounded memory: a delta keeps the extremes of
//! [`PARTS`] parts of its time, so its window's far edge is exact to one part.

use chrono::{DateTime, TimeDelta, Utc};

use super::facts::Facts;
use super::input::Reading;
use super::model::{Leaf, Node, Of, Op, Rule};
use super::news2;
use super::state::{DEVICES_MAX, Device, Ground, Memory, RuleState};

/// A leaf of a joined condition that was not heard of for so long is not known.
const STALE_AFTER: TimeDelta = TimeDelta::hours(12);
/// Into so many parts a delta's time is divided.
const PARTS: i64 = 64;

/// The numbers of a rule's one comparison, for this patient: theirs, within bounds.
pub fn numbers(rule: &Rule, facts: &Facts, at: DateTime<Utc>) -> Option<(Op, f64, f64)> {
    let (vital, op, value, clear) = rule.threshold()?;
    let own = rule.bounds.and_then(|bounds| {
        facts.limit(vital, op, at).map(|own| own.clamp(bounds.low, bounds.high))
    });
    let own = own.unwrap_or(value);
    Some((op, own, clear + (own - value)))
}

/// Takes a reading in, and answers whether the condition holds now. `None`: not known,
/// or nothing new.
pub fn observe(
    rule: &Rule,
    state: &mut RuleState,
    facts: &Facts,
    reading: &Reading<'_>,
) -> Option<bool> {
    if let Some((op, value, clear)) = numbers(rule, facts, reading.occurred_at) {
        let limit = if state.active.is_some() { clear } else { value };
        return Some(op.breaks(reading.value, limit));
    }
    state.memory.resize_with(rule.when.leaves.len(), Memory::default);
    let mut news = false;
    for (leaf, memory) in rule.when.leaves.iter().zip(&mut state.memory) {
        news |= take_in(leaf, memory, facts, reading);
    }
    if news { holds(rule, state, moment(rule, reading)) } else { None }
}

/// When a condition is asked: silences are told by the log's time, everything else by
/// the readings' own.
pub fn moment(rule: &Rule, reading: &Reading<'_>) -> DateTime<Utc> {
    if rule.has_missing() { reading.recorded_at } else { reading.occurred_at }
}

/// Whether the condition holds at a moment.
pub fn holds(rule: &Rule, state: &RuleState, at: DateTime<Utc>) -> Option<bool> {
    fn ask(node: &Node, rule: &Rule, state: &RuleState, at: DateTime<Utc>) -> Option<bool> {
        match node {
            Node::Leaf(n) => {
                let memory = state.memory.get(*n)?;
                let alone = matches!(rule.when.tree, Node::Leaf(_));
                let stale = memory.at.is_none_or(|newest| at - newest > STALE_AFTER);
                let lasts = matches!(rule.when.leaves.get(*n), Some(Leaf::Missing { .. }));
                if stale && !alone && !lasts { None } else { memory.holds }
            }
            Node::All(nodes) => join(nodes.iter().map(|n| ask(n, rule, state, at)), false),
            Node::Any(nodes) => join(nodes.iter().map(|n| ask(n, rule, state, at)), true),
            Node::Not(node) => ask(node, rule, state, at).map(|holds| !holds),
        }
    }
    ask(&rule.when.tree, rule, state, at)
}

/// One that says `decides` decides; else one that is not known leaves all unknown.
fn join(answers: impl Iterator<Item = Option<bool>>, decides: bool) -> Option<bool> {
    let mut known = true;
    for answer in answers {
        match answer {
            Some(answer) if answer == decides => return Some(decides),
            Some(_) => {}
            None => known = false,
        }
    }
    known.then_some(!decides)
}

/// Whether the leaf learned something.
fn take_in(leaf: &Leaf, memory: &mut Memory, facts: &Facts, reading: &Reading<'_>) -> bool {
    let of_vital = leaf.vital().is_none_or(|vital| vital == reading.vital);
    let of_device = leaf.is_of_device();
    if !of_vital || (reading.suspect && !of_device) {
        return false;
    }
    let at = reading.occurred_at;
    if !of_device && !matches!(leaf, Leaf::Score { .. }) {
        // A straggler would turn the order round.
        if memory.at.is_some_and(|newest| at < newest) {
            return false;
        }
        memory.at = Some(at);
    }
    match leaf {
        Leaf::Threshold { op, value, .. } => {
            memory.holds = Some(op.breaks(reading.value, *value));
        }
        Leaf::Delta { op, value, within, .. } => {
            memory.holds = Some(delta(memory, (*op, *value, *within), at, reading.value));
        }
        Leaf::Count { op, value, n, of, .. } => {
            let breaks = op.breaks(reading.value, *value);
            memory.holds = Some(count(memory, *n, *of, at, breaks));
        }
        Leaf::Score { at_least, any_three } => {
            if !news2::PARAMETERS.contains(&reading.vital) {
                return false;
            }
            memory.at = memory.at.max(Some(at));
            memory.holds = score(memory, facts, reading, *at_least, *any_three);
        }
        Leaf::Missing { after, .. } => {
            let seen = at.min(reading.recorded_at);
            let bad = reading.recorded_at - seen >= *after;
            heard_of(memory, reading, seen, bad);
            memory.holds = Some(memory.devices.iter().any(|device| device.bad));
        }
        Leaf::Suspect { .. } => {
            heard_of(memory, reading, at, reading.suspect);
            memory.holds = Some(memory.devices.iter().any(|device| device.bad));
        }
    }
    true
}

fn delta(
    memory: &mut Memory,
    (op, change, within): (Op, f64, TimeDelta),
    at: DateTime<Utc>,
    value: f64,
) -> bool {
    let width = (within.num_microseconds().unwrap_or(i64::MAX) / PARTS).max(1);
    let part = at.timestamp_micros().div_euclid(width);
    memory.parts.retain(|(kept, _)| *kept > part - PARTS);
    let extreme = memory
        .parts
        .iter()
        .map(|(_, value)| *value)
        .reduce(|a, b| if op.is_upward() { a.min(b) } else { a.max(b) });
    match memory.parts.last_mut() {
        Some((last, kept)) if *last == part => {
            *kept = if op.is_upward() { kept.min(value) } else { kept.max(value) };
        }
        _ => memory.parts.push((part, value)),
    }
    extreme.is_some_and(|extreme| op.breaks(value - extreme, change))
}

fn count(memory: &mut Memory, n: u32, of: Of, at: DateTime<Utc>, breaks: bool) -> bool {
    match of {
        Of::Last(last) => {
            let mask = u64::MAX >> (64 - last.clamp(1, 64));
            memory.bits = ((memory.bits << 1) | u64::from(breaks)) & mask;
            memory.bits.count_ones() >= n
        }
        Of::Within(within) => {
            memory.times.retain(|time| at - *time <= within);
            if breaks {
                memory.times.push(at);
                let more = memory.times.len().saturating_sub(n as usize);
                memory.times.drain(..more);
            }
            memory.times.len() >= n as usize
        }
    }
}

/// NEWS2 by what is known when this reading came. A score below the number is not
/// believed while a parameter that was known has gone stale: it neither raises nor clears.
fn score(
    memory: &mut Memory,
    facts: &Facts,
    reading: &Reading<'_>,
    at_least: Option<u32>,
    any_three: bool,
) -> Option<bool> {
    let at = reading.occurred_at;
    match memory.values.iter_mut().find(|(vital, ..)| *vital == reading.vital) {
        Some((_, _, newest)) if *newest > at => {}
        Some(known) => *known = (reading.vital, reading.value, at),
        None => memory.values.push((reading.vital, reading.value, at)),
    }
    let found = scored(memory, facts, memory.at.unwrap_or(at));
    let reached =
        at_least.is_some_and(|n| found.score >= n) || (any_three && found.any_single_three());
    if reached || found.stale.is_empty() { Some(reached) } else { None }
}

/// The score of what a leaf remembers.
pub fn scored(memory: &Memory, facts: &Facts, at: DateTime<Utc>) -> news2::News2 {
    news2::score(
        |vital| {
            let (_, value, newest) = memory.values.iter().find(|(of, ..)| *of == vital)?;
            let age_seconds = (at - *newest).num_milliseconds() as f64 / 1e3;
            Some(news2::Input { value: *value, age_seconds, suspect: false })
        },
        facts.scale(),
    )
}

fn heard_of(memory: &mut Memory, reading: &Reading<'_>, seen: DateTime<Utc>, bad: bool) {
    memory.at = memory.at.max(Some(seen));
    let newest = Ground { at: seen, ..reading.ground() };
    match memory.devices.iter_mut().find(|d| d.newest.device == reading.device_id) {
        Some(device) if device.newest.at > seen => {}
        Some(device) => *device = Device { newest, bad },
        None => {
            if memory.devices.len() == DEVICES_MAX {
                let oldest = memory.devices.iter().enumerate().min_by_key(|(_, d)| d.newest.at);
                if let Some((n, _)) = oldest {
                    memory.devices.remove(n);
                }
            }
            memory.devices.push(Device { newest, bad });
        }
    }
}
