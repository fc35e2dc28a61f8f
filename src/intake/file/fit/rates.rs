//! The heart rates of FIT's messages: of `record`, `monitoring` and `hr`.
//!
//! Guarantees that each message is answered for: its heart rates, or skipped with its name,
//! or bad. Times that are not whole are told from whole ones: the lower half of a time in
//! `monitoring`, and in `hr` the strap's own clock, whose offset a message before has given.
//!
//! Field numbers and the arithmetic are those of the FIT profile and its SDK ("HR messages",
//! "monitoring timestamp_16"). What a watch sums up (laps, resting heart rate) is no reading.

use std::collections::VecDeque;

use chrono::{DateTime, Utc};

use super::records::FitMessage;
use crate::intake::file::contents::{FileReading, FileRow, Wearer};
use crate::vital::Vital;

const RECORD: u16 = 20;
const MONITORING: u16 = 55;
const HR: u16 = 132;

const RECORD_HEART_RATE: u8 = 3;
const MONITORING_TIMESTAMP_16: u8 = 26;
const MONITORING_HEART_RATE: u8 = 27;
const HR_FRACTIONAL_TIMESTAMP: u8 = 0;
const HR_FILTERED_BPM: u8 = 6;
const HR_EVENT_TIMESTAMP: u8 = 9;
const HR_EVENT_TIMESTAMP_12: u8 = 10;

/// The fields that are asked for, of whatever message.
pub const WANTED: [u8; 7] = [
    RECORD_HEART_RATE,
    MONITORING_TIMESTAMP_16,
    MONITORING_HEART_RATE,
    HR_FRACTIONAL_TIMESTAMP,
    HR_FILTERED_BPM,
    HR_EVENT_TIMESTAMP,
    HR_EVENT_TIMESTAMP_12,
];

/// FIT counts seconds from 1989-12-31T00:00:00Z.
const EPOCH_SECONDS: i64 = 631_065_600;
/// Ticks of a strap's clock in a second.
const TICKS_PER_SECOND: i64 = 1_024;
/// Parts of a second in a `fractional_timestamp`.
const FRACTIONS_PER_SECOND: i64 = 32_768;
const MICROS_PER_SECOND: i64 = 1_000_000;

/// What is known of a strap's clock: what it showed when.
#[derive(Clone, Copy)]
struct Anchor {
    micros: i64,
    ticks: u32,
}

/// Reads the messages of one part of a file, in its order.
pub struct FitRates {
    wearer: Wearer,
    anchor: Option<Anchor>,
    /// What the strap's clock showed last.
    ticks: u32,
    /// The last time that was told, from which a time's lower half is counted on.
    last: Option<u32>,
}

impl FitRates {
    /// Of this wearer.
    pub fn new(wearer: Wearer) -> FitRates {
        FitRates { wearer, anchor: None, ticks: 0, last: None }
    }

    /// What the `nth` message says, to the end of `rows`.
    pub fn read(&mut self, message: &FitMessage<'_>, nth: u64, rows: &mut VecDeque<FileRow>) {
        self.last = message.time.or(self.last);
        match message.number() {
            RECORD => {
                let time = message.time.map(whole);
                rows.push_back(self.one(message, RECORD_HEART_RATE, time, "record", nth));
            }
            MONITORING => {
                let time = self.monitored(message).map(whole);
                rows.push_back(self.one(message, MONITORING_HEART_RATE, time, "monitoring", nth));
            }
            HR => self.strap(message, nth, rows),
            number => rows.push_back(FileRow::Skipped(name_of(number))),
        }
    }

    fn one(
        &self,
        message: &FitMessage<'_>,
        field: u8,
        micros: Option<i64>,
        kind: &str,
        nth: u64,
    ) -> FileRow {
        match message.numbers(field).next() {
            None if message.has(field) => {
                bad(nth, "not_a_number", "a heart rate is a whole number of beats a minute")
            }
            None | Some(None) => FileRow::Skipped(format!("{kind} without a heart rate")),
            Some(Some(rate)) => self.reading(rate, micros, nth),
        }
    }

    fn reading(&self, rate: u32, micros: Option<i64>, nth: u64) -> FileRow {
        let Some(measured_at) = micros.and_then(DateTime::<Utc>::from_timestamp_micros) else {
            return bad(
                nth,
                "missing_field",
                "a heart rate without a time: nobody knows when it was",
            );
        };
        FileRow::Reading(FileReading {
            patient_id: self.wearer.patient_id.clone(),
            device_id: self.wearer.device_id.clone(),
            vital: Vital::HeartRate.name().to_owned(),
            value: f64::from(rate),
            unit: None,
            quality: None,
            measured_at,
            context: None,
            line: nth,
        })
    }

    /// When a monitoring message was: it may have the lower half of its time only.
    fn monitored(&mut self, message: &FitMessage<'_>) -> Option<u32> {
        if message.time.is_none() {
            let (half, last) = (message.number_of(MONITORING_TIMESTAMP_16)?, self.last?);
            self.last = Some(last.wrapping_add(half.wrapping_sub(last) & 0xffff));
        }
        self.last
    }

    /// A message of a strap: several heart rates, each at a tick of its clock.
    fn strap(&mut self, message: &FitMessage<'_>, nth: u64, rows: &mut VecDeque<FileRow>) {
        let mut ticks: Vec<Option<u32>> = message.numbers(HR_EVENT_TIMESTAMP).collect();
        if ticks.is_empty() {
            ticks = short_ticks(message.bytes(HR_EVENT_TIMESTAMP_12), self.ticks);
        }
        self.ticks = ticks.iter().flatten().last().copied().unwrap_or(self.ticks);
        if let (Some(time), Some(Some(first))) = (message.time, ticks.first()) {
            let fraction = message.number_of(HR_FRACTIONAL_TIMESTAMP).unwrap_or(0);
            let fraction = i64::from(fraction) * MICROS_PER_SECOND / FRACTIONS_PER_SECOND;
            self.anchor = Some(Anchor { micros: whole(time) + fraction, ticks: *first });
        }
        let before = rows.len();
        for (n, rate) in message.numbers(HR_FILTERED_BPM).enumerate() {
            let Some(rate) = rate else { continue };
            let micros = match (self.anchor, ticks.get(n)) {
                (Some(anchor), Some(Some(ticks))) => {
                    // The clock begins again after 48 days: the shorter way round.
                    let since = i64::from(ticks.wrapping_sub(anchor.ticks).cast_signed());
                    Some(anchor.micros + since * MICROS_PER_SECOND / TICKS_PER_SECOND)
                }
                _ => None,
            };
            rows.push_back(self.reading(rate, micros, nth));
        }
        if rows.len() == before {
            rows.push_back(FileRow::Skipped("hr without a heart rate".to_owned()));
        }
    }
}

/// Ticks of which only the lower twelve bits were sent, two in three bytes, each after the
/// one before.
fn short_ticks(bytes: &[u8], mut last: u32) -> Vec<Option<u32>> {
    let mut ticks = Vec::new();
    for triple in bytes.chunks_exact(3) {
        let [a, b, c] = [triple[0], triple[1], triple[2]].map(u32::from);
        for low in [a | (b & 0x0f) << 8, b >> 4 | c << 4] {
            last = last.wrapping_add(low.wrapping_sub(last) & 0x0fff);
            ticks.push(Some(last));
        }
    }
    ticks
}

/// Microseconds since 1970.
fn whole(fit_seconds: u32) -> i64 {
    (i64::from(fit_seconds) + EPOCH_SECONDS) * MICROS_PER_SECOND
}

fn bad(line: u64, code: &'static str, detail: &str) -> FileRow {
    FileRow::Bad { line, code, detail: detail.to_owned() }
}

/// What the profile calls the messages that a watch's file mostly has.
fn name_of(number: u16) -> String {
    let name = match number {
        0 => "file_id",
        2 => "device_settings",
        3 => "user_profile",
        7 => "zones_target",
        12 => "sport",
        18 => "session",
        19 => "lap",
        21 => "event",
        23 => "device_info",
        34 => "activity",
        49 => "file_creator",
        78 => "hrv",
        101 => "length",
        103 => "monitoring_info",
        206 => "field_description",
        207 => "developer_data_id",
        211 => "monitoring_hr_data",
        227 => "stress_level",
        269 => "spo2_data",
        297 => "respiration_rate",
        _ => return format!("message {number}"),
    };
    name.to_owned()
}
