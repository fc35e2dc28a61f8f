//! The condition of a rule as people write it.
//!
//! Guarantees that vitals, units, numbers and counts fit each other, and that a tree
//! has bounded size and depth. Does not evaluate.

use chrono::TimeDelta;
use serde_json::Value;

use super::model::{Leaf, Node, Of, Op, When};
use super::table::{Read, Table, fault};
use crate::vital::{MeasureError, Vital};

/// Leaves of a condition.
const LEAVES_MAX: usize = 16;
/// `all` in `any` in `not` …
const DEPTH_MAX: usize = 6;
/// What a count may look back on, in readings: they are bits of a word.
const LAST_MAX: u64 = 64;
/// How many of a time a count may want: their times are remembered.
const COUNT_MAX: u64 = 100;

/// Reads a condition.
pub(super) fn when(value: &Value, at: &str) -> Read<When> {
    let mut leaves = Vec::new();
    let tree = node(value, at, &mut leaves, 0)?;
    Ok(When { tree, leaves })
}

/// Reads `clear`: sets the clearing number, and answers the delay.
pub(super) fn clearing(value: &Value, when: &mut When) -> Read<TimeDelta> {
    let mut table = Table::of(value, "/clear")?;
    let number = table.number("value")?;
    let off_delay = table.duration("off_delay")?.unwrap_or_default();
    table.end()?;
    let Some(number) = number else { return Ok(off_delay) };
    match (&when.tree, &mut *when.leaves) {
        (Node::Leaf(_), [Leaf::Threshold { op, value, clear, .. }]) => {
            // A clearing number on the breaking side would clear while the rule holds.
            let wrong = if op.is_upward() { number > *value } else { number < *value };
            if wrong {
                let side = if op.is_upward() { "at most" } else { "at least" };
                let what = format!(
                    "{number} does not lie on the safe side of when.value: use {side} {value}"
                );
                return Err(fault("/clear/value", what));
            }
            *clear = number;
            Ok(off_delay)
        }
        _ => Err(fault("/clear/value", "only one comparison has a clearing number: use off_delay")),
    }
}

fn node(value: &Value, at: &str, leaves: &mut Vec<Leaf>, depth: usize) -> Read<Node> {
    if depth > DEPTH_MAX {
        return Err(fault(at, format!("a condition is at most {DEPTH_MAX} deep")));
    }
    let mut table = Table::of(value, at)?;
    for key in ["all", "any"] {
        if !table.has(key) {
            continue;
        }
        let list = table.list(key)?;
        let place = table.place(key);
        table.end()?;
        if list.is_empty() {
            return Err(fault(&place, "this needs at least one condition"));
        }
        let nodes = list
            .iter()
            .enumerate()
            .map(|(n, value)| node(value, &format!("{place}/{n}"), leaves, depth + 1))
            .collect::<Read<Vec<Node>>>()?;
        return Ok(if key == "all" { Node::All(nodes) } else { Node::Any(nodes) });
    }
    if let Some(value) = table.get("not") {
        let place = table.place("not");
        table.end()?;
        return Ok(Node::Not(Box::new(node(value, &place, leaves, depth + 1)?)));
    }
    let leaf = leaf(value, at)?;
    if leaves.len() == LEAVES_MAX {
        return Err(fault(at, format!("a condition looks at no more than {LEAVES_MAX} things")));
    }
    leaves.push(leaf);
    Ok(Node::Leaf(leaves.len() - 1))
}

fn leaf(value: &Value, at: &str) -> Read<Leaf> {
    let mut table = Table::of(value, at)?;
    for (key, read) in [
        ("delta", delta as fn(&mut Table<'_>) -> Read<Leaf>),
        ("count", count),
        ("missing", missing),
        ("score", score),
        ("suspect", suspect),
    ] {
        if let Some(value) = table.get(key) {
            let mut inner = Table::of(value, &table.place(key))?;
            table.end()?;
            let leaf = read(&mut inner)?;
            inner.end()?;
            return Ok(leaf);
        }
    }
    if !table.has("vital") {
        let what = "a condition has vital, op and value, or is one of delta, count, missing, \
                    score, suspect, all, any, not";
        return Err(fault(at, what));
    }
    let (vital, op, value) = comparison(&mut table, true)?;
    table.end()?;
    Ok(Leaf::Threshold { vital, op, value, clear: value })
}

fn vital(table: &mut Table<'_>) -> Read<Option<Vital>> {
    let place = table.place("vital");
    let name = table.text("vital")?;
    name.map(|name| name.parse().map_err(|error| fault(&place, format!("{error}")))).transpose()
}

fn vital_needed(table: &mut Table<'_>) -> Read<Vital> {
    let vital = vital(table)?;
    table.needed("vital", vital, "vital = \"heart_rate\"")
}

/// `vital`, `op`, `value` and, if need be, `unit`. Values of a range are judged.
fn comparison(table: &mut Table<'_>, in_range: bool) -> Read<(Vital, Op, f64)> {
    let vital = vital_needed(table)?;
    let sign = table.text("op")?;
    let sign = table.needed("op", sign, "op = \">\"")?;
    let op = Op::ALL.into_iter().find(|op| op.sign() == sign).ok_or_else(|| {
        fault(&table.place("op"), format!("\"{sign}\" is no comparison: use >, >=, < or <="))
    })?;
    let value = table.number("value")?;
    let value = table.needed("value", value, "value = 130")?;
    let unit = table.text("unit")?;
    if !in_range {
        if let Some(unit) = unit.filter(|unit| *unit != vital.unit()) {
            let what = format!("a change is given in {}, not in {unit}", vital.unit());
            return Err(fault(&table.place("unit"), what));
        }
        return Ok((vital, op, value));
    }
    let measured = vital.measure(value, unit).map_err(|error| {
        let key = if matches!(error, MeasureError::Unit { .. }) { "unit" } else { "value" };
        fault(&table.place(key), error.to_string())
    })?;
    Ok((vital, op, measured.value))
}

fn delta(table: &mut Table<'_>) -> Read<Leaf> {
    let (vital, op, value) = comparison(table, false)?;
    let within = table.duration("within")?;
    let within = table.needed("within", within, "within = \"10m\"")?;
    if (op.is_upward() && value <= 0.0) || (!op.is_upward() && value >= 0.0) || within.is_zero() {
        let what = "a rise is > or >= a number above 0, a fall < or <= one below 0, within a time";
        return Err(fault(&table.place("value"), what));
    }
    Ok(Leaf::Delta { vital, op, value, within })
}

fn count(table: &mut Table<'_>) -> Read<Leaf> {
    let (vital, op, value) = comparison(table, true)?;
    let n = table.whole("n", 1, COUNT_MAX)?;
    let n = table.needed("n", n, "n = 3")?;
    let last = table.whole("of", 1, LAST_MAX)?;
    let within = table.duration("within")?;
    let of = match (last, within) {
        (Some(last), None) if n <= last => Of::Last(last as u32),
        (Some(last), None) => {
            let what = format!("{n} of the last {last} is never reached: make n at most {last}");
            return Err(fault(&table.place("n"), what));
        }
        (None, Some(within)) if !within.is_zero() => Of::Within(within),
        _ => return Err(fault(&table.at, "a count is n of the last, of = 5, or within = \"10m\"")),
    };
    Ok(Leaf::Count { vital, op, value, n: n as u32, of })
}

fn missing(table: &mut Table<'_>) -> Read<Leaf> {
    let vital = vital(table)?;
    let after = table.duration("for")?;
    let after = table.needed("for", after, "for = \"5m\"")?;
    if after < TimeDelta::seconds(1) {
        return Err(fault(&table.place("for"), "a second is the least"));
    }
    Ok(Leaf::Missing { vital, after })
}

fn score(table: &mut Table<'_>) -> Read<Leaf> {
    let at_least = table.whole("at_least", 1, 20)?.map(|n| n as u32);
    let three = table.whole("any_single", 3, 3)?.is_some();
    if at_least.is_none() && !three {
        return Err(fault(&table.at, "write at_least = 7, or any_single = 3, or both"));
    }
    Ok(Leaf::Score { at_least, any_three: three })
}

fn suspect(table: &mut Table<'_>) -> Read<Leaf> {
    Ok(Leaf::Suspect { vital: vital(table)? })
}
