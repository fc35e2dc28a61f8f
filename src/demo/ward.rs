//! The demo ward: simulated patients whose readings look like a hospital's.
//!
//! Guarantees that a reading depends on the seed, the patient, the vital and the
//! second, and on nothing before it: any stretch of time can be asked for, in any
//! pieces, and gives the same readings. Values are within what their vital can be, and
//! plausible, but for a sensor that is off: it reads 0.
//!
//! Does not model physiology: it is made to show the platform, not to test a rule's
//! clinical worth. For that there are recordings.

use std::collections::{BTreeMap, BTreeSet};

use chrono::NaiveDate;
use serde::Deserialize;

use crate::event::is_fhir_id;
use crate::vital::Vital;

/// The ward that comes with the program.
const BUILT_IN: &str = include_str!("../../fixtures/ward.toml");

/// The first reading of a slow device comes within this time, so that a patient is
/// soon complete.
const FIRST_READING_SECONDS_MAX: u64 = 60;

/// What measures a vital; a device's readings fall on the same seconds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Device {
    Watch,
    Patch,
    Cuff,
    Nurse,
}

/// How a vital is measured and how it wanders at rest.
struct Signal {
    vital: Vital,
    device: Device,
    every_s: u64,
    /// Steps a unit: a thermometer shows tenths.
    steps_per_unit: f64,
    /// It strays this far from rest, smoothly, over this time.
    wander: f64,
    wander_s: u64,
    /// What the device shows at least and at most.
    shown: (f64, f64),
}

#[rustfmt::skip]
const SIGNALS: [Signal; 8] = [
    Signal { vital: Vital::HeartRate, device: Device::Watch, every_s: 5, steps_per_unit: 1.0, wander: 2.0, wander_s: 90, shown: (25.0, 220.0) },
    Signal { vital: Vital::RespiratoryRate, device: Device::Patch, every_s: 30, steps_per_unit: 1.0, wander: 1.5, wander_s: 180, shown: (4.0, 60.0) },
    Signal { vital: Vital::Spo2, device: Device::Watch, every_s: 10, steps_per_unit: 1.0, wander: 0.9, wander_s: 120, shown: (55.0, 100.0) },
    Signal { vital: Vital::BodyTemperature, device: Device::Patch, every_s: 600, steps_per_unit: 10.0, wander: 0.15, wander_s: 3600, shown: (32.0, 42.0) },
    // Of blood pressure every_s is a unit: each patient has one, two or three of them.
    Signal { vital: Vital::SystolicBp, device: Device::Cuff, every_s: 300, steps_per_unit: 1.0, wander: 5.0, wander_s: 1800, shown: (50.0, 260.0) },
    Signal { vital: Vital::DiastolicBp, device: Device::Cuff, every_s: 300, steps_per_unit: 1.0, wander: 3.0, wander_s: 1800, shown: (30.0, 160.0) },
    Signal { vital: Vital::OxygenFlow, device: Device::Nurse, every_s: 1200, steps_per_unit: 2.0, wander: 0.0, wander_s: 1, shown: (0.0, 15.0) },
    Signal { vital: Vital::Consciousness, device: Device::Nurse, every_s: 1200, steps_per_unit: 1.0, wander: 0.0, wander_s: 1, shown: (0.0, 4.0) },
];

/// A seeded ward.
#[derive(Clone, Debug)]
pub struct Ward {
    seed: u64,
    patients: Vec<Patient>,
}

/// A simulated patient.
#[derive(Clone, Debug)]
pub struct Patient {
    /// A FHIR id.
    pub id: String,
    /// The ward they lie on.
    pub ward: String,
    /// Adults, for NEWS2.
    pub birth_date: NaiveDate,
    at_rest: BTreeMap<Vital, f64>,
    episodes: Vec<Episode>,
}

/// A simulated measurement.
#[derive(Clone, Debug, PartialEq)]
pub struct SimReading {
    /// Of which patient.
    pub patient_id: String,
    /// A FHIR id: `watch-101`, `nurse-4A`.
    pub device_id: String,
    /// What was measured.
    pub vital: Vital,
    /// In the vital's canonical unit, rounded as a device shows it.
    pub value: f64,
    /// Simulated seconds from the start, 1 and later.
    pub at_s: u64,
}

/// Why a ward cannot be simulated.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum WardError {
    #[error("the ward's TOML cannot be read: {0}")]
    Syntax(#[from] toml::de::Error),
    #[error("\"{0}\" is no id: use 1 to 64 letters, digits, '-' and '.'")]
    Id(String),
    #[error("patient {0} is there twice")]
    Twice(String),
    #[error("patient {patient} has an episode \"{episode}\" that is not described")]
    UnknownEpisode { patient: String, episode: String },
    #[error("episode \"{0}\" takes no time, or repeats before it is over, or waves without wave_s")]
    EpisodeTimes(String),
    #[error("{vital} of {whose} is not simulated, or not from {min} to {max}")]
    Value { whose: String, vital: Vital, min: f64, max: f64 },
}
