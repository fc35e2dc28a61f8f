//! The account at the end of a demo: four books that must agree.
//!
//! Guarantees that what the rule should have said is computed here anew, from what
//! was sent, and not by the rule. Does not repair anything.

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::bedside::{Bedside, BedsideError};
use super::receiver::{Counts, Receiver};
use super::ward::Ward;
use crate::event::AlertEventKind;

/// What HIGH_HEART_RATE means for a fresh tenant, and which readings do not count.
const LIMIT: f64 = 120.0;
const PLAUSIBLE: std::ops::RangeInclusive<f64> = 20.0..=300.0;

/// One thing that was said: whose, raised or not, by the reading of which time.
type Said = (String, bool, DateTime<Utc>);

/// The books.
pub struct Account {
    acknowledged: u64,
    in_log: u64,
    expected: BTreeSet<Said>,
    logged: BTreeSet<Said>,
    verified: BTreeSet<Said>,
    receiver: Counts,
    /// From just before the POST to the verified webhook, sorted.
    latencies_ms: Vec<f64>,
}

impl Account {
    /// Draws it up.
    pub async fn draw(
        bedside: &Bedside,
        ward: &Ward,
        receiver: &Receiver,
    ) -> Result<Account, BedsideError> {
        let (mut in_log, mut logged) = (0, BTreeSet::new());
        for patient in ward.patients() {
            for event in bedside.replay(&patient.id).await? {
                match event["type"].as_str() {
                    Some("reading") => in_log += 1,
                    Some("HIGH_HEART_RATE") => logged.extend(said_by(&patient.id, &event)),
                    _ => {}
                }
            }
        }
        let (verified, latencies_ms) = verified(bedside, receiver);
        Ok(Account {
            acknowledged: bedside.acknowledged(),
            in_log,
            expected: expected(bedside),
            logged,
            verified,
            receiver: receiver.counts(),
            latencies_ms,
        })
    }

    /// Whether all four say the same.
    pub fn agrees(&self) -> bool {
        self.acknowledged == self.in_log
            && self.expected == self.logged
            && self.logged == self.verified
            && self.receiver.verified == self.verified.len() as u64
            && self.receiver.bad_signatures + self.receiver.unreadable == 0
    }

    /// `None` when no webhook was verified.
    fn percentile(&self, part: f64) -> Option<f64> {
        let last = self.latencies_ms.len().checked_sub(1)?;
        self.latencies_ms.get((last as f64 * part).round() as usize).copied()
    }
}

/// The default rule, written down a second time: the first above raises, the first
/// at or below clears.
fn expected(bedside: &Bedside) -> BTreeSet<Said> {
    let mut expected = BTreeSet::new();
    for (patient_id, readings) in bedside.heart_rates() {
        let mut is_raised = false;
        for reading in readings.iter().filter(|r| PLAUSIBLE.contains(&r.value)) {
            if (reading.value > LIMIT) != is_raised {
                is_raised = !is_raised;
                expected.insert((patient_id.to_owned(), is_raised, reading.measured_at));
            }
        }
    }
    expected
}

fn said_by(patient_id: &str, event: &Value) -> Option<Said> {
    let raised = match event["state"].as_str()? {
        "raised" => true,
        "cleared" => false,
        _ => return None,
    };
    Some((patient_id.to_owned(), raised, event["measuredAt"].as_str()?.parse().ok()?))
}

fn verified(bedside: &Bedside, receiver: &Receiver) -> (BTreeSet<Said>, Vec<f64>) {
    let mut sent = HashMap::new();
    for (patient_id, readings) in bedside.heart_rates() {
        sent.extend(readings.iter().map(|r| ((patient_id, r.measured_at), r.sent_at)));
    }
    let (mut verified, mut latencies) = (BTreeSet::new(), Vec::new());
    for received in receiver.deliveries() {
        let (Some(patient_id), Some(at)) = (received.patient_id, received.measured_at) else {
            continue;
        };
        if let Some(sent_at) = sent.get(&(patient_id.as_str(), at)) {
            let latency = received.received_at - *sent_at;
            latencies.push(latency.num_microseconds().unwrap_or(i64::MAX) as f64 / 1e3);
        }
        let raised = received.state == Some(AlertEventKind::Raised);
        verified.insert((patient_id, raised, at));
    }
    latencies.sort_by(f64::total_cmp);
    (verified, latencies)
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let raised = |said: &BTreeSet<Said>| said.iter().filter(|(_, raised, _)| *raised).count();
        let both = |said| format!("{} raised, {} cleared", raised(said), said.len() - raised(said));
        writeln!(f, "readings   {} acknowledged, {} in the log", self.acknowledged, self.in_log)?;
        writeln!(f, "expected   {}", both(&self.expected))?;
        writeln!(f, "alerts     {}", both(&self.logged))?;
        writeln!(
            f,
            "webhooks   {} verified, {} repeats, {} bad signatures",
            self.receiver.verified, self.receiver.repeats, self.receiver.bad_signatures
        )?;
        match self.percentile(0.5).zip(self.percentile(0.99)) {
            Some((p50, p99)) => writeln!(
                f,
                "end to end p50 {p50:.1} ms, p99 {p99:.1} ms from POST to verified webhook"
            )?,
            None => writeln!(f, "end to end no webhook came in this time")?,
        }
        f.write_str(if self.agrees() { "all agree" } else { "THEY DO NOT AGREE" })
    }
}
