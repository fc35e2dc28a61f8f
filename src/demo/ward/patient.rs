//! A simulated patient: what is measured of them, and what happens to them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::NaiveDate;
use serde::Deserialize;

use crate::vital::Vital;

/// What measures a vital; a device's readings fall on the same seconds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Device {
    Watch,
    Patch,
    Cuff,
    Nurse,
}

/// How a vital is measured and how it wanders at rest.
pub(super) struct Signal {
    pub(super) vital: Vital,
    pub(super) device: Device,
    pub(super) every_s: u64,
    /// Steps a unit: a thermometer shows tenths.
    pub(super) steps_per_unit: f64,
    /// It strays this far from rest, smoothly, over this time.
    pub(super) wander: f64,
    pub(super) wander_s: u64,
    /// What the device shows at least and at most.
    pub(super) shown: (f64, f64),
}

#[rustfmt::skip]
pub(super) const SIGNALS: [Signal; 8] = [
    Signal { vital: Vital::HeartRate, device: Device::Watch, every_s: 5, steps_per_unit: 1.0, wander: 3.0, wander_s: 120, shown: (25.0, 220.0) },
    Signal { vital: Vital::RespiratoryRate, device: Device::Patch, every_s: 30, steps_per_unit: 1.0, wander: 1.5, wander_s: 180, shown: (4.0, 60.0) },
    Signal { vital: Vital::Spo2, device: Device::Watch, every_s: 10, steps_per_unit: 1.0, wander: 0.9, wander_s: 120, shown: (55.0, 100.0) },
    Signal { vital: Vital::BodyTemperature, device: Device::Patch, every_s: 600, steps_per_unit: 10.0, wander: 0.15, wander_s: 3600, shown: (32.0, 42.0) },
    // Of blood pressure every_s is a unit: each patient has one, two or three of them.
    Signal { vital: Vital::SystolicBp, device: Device::Cuff, every_s: 300, steps_per_unit: 1.0, wander: 5.0, wander_s: 1800, shown: (50.0, 260.0) },
    Signal { vital: Vital::DiastolicBp, device: Device::Cuff, every_s: 300, steps_per_unit: 1.0, wander: 3.0, wander_s: 1800, shown: (30.0, 160.0) },
    Signal { vital: Vital::OxygenFlow, device: Device::Nurse, every_s: 1200, steps_per_unit: 2.0, wander: 0.0, wander_s: 1, shown: (0.0, 15.0) },
    Signal { vital: Vital::Consciousness, device: Device::Nurse, every_s: 1200, steps_per_unit: 1.0, wander: 0.0, wander_s: 1, shown: (0.0, 4.0) },
];

impl Device {
    pub(super) fn id(self, patient: &Patient) -> String {
        match self {
            Device::Watch => format!("watch-{}", patient.id),
            Device::Patch => format!("patch-{}", patient.id),
            Device::Cuff => format!("cuff-{}", patient.id),
            Device::Nurse => format!("nurse-{}", patient.ward),
        }
    }
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
    pub(super) at_rest: BTreeMap<Vital, f64>,
    pub(super) episodes: Vec<Episode>,
}

/// How an episode comes and goes, and what it does meanwhile.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Shape {
    pub(super) rise_s: u32,
    pub(super) hold_s: u32,
    pub(super) fall_s: u32,
    pub(super) change: BTreeMap<Vital, f64>,
    pub(super) wave_s: u32,
    pub(super) wave: BTreeMap<Vital, f64>,
    pub(super) reads_zero: BTreeSet<Vital>,
}

impl Shape {
    pub(super) fn length_s(&self) -> u64 {
        u64::from(self.rise_s) + u64::from(self.hold_s) + u64::from(self.fall_s)
    }

    pub(super) fn is_sound(&self) -> bool {
        let mut changes = self.change.values().chain(self.wave.values());
        self.length_s() > 0
            && (self.wave_s > 0 || self.wave.is_empty())
            && changes.all(|change| change.is_finite())
    }

    pub(super) fn vitals(&self) -> impl Iterator<Item = Vital> {
        self.change.keys().chain(self.wave.keys()).chain(&self.reads_zero).copied()
    }
}

/// Something that happens to a patient, again and again.
#[derive(Clone, Debug)]
pub(super) struct Episode {
    pub(super) shape: Arc<Shape>,
    pub(super) first_s: u64,
    pub(super) every_s: u64,
}

impl Episode {
    /// How strong it is at a second, 0–1; `None` when it is not on.
    pub(super) fn strength(&self, at_s: u64) -> Option<f64> {
        let since_s = self.since_s(at_s)?;
        if since_s >= self.shape.length_s() {
            return None;
        }
        let left_s = self.shape.length_s() - since_s;
        let part = |s: u64, of_s: u32| if of_s == 0 { 1.0 } else { s as f64 / f64::from(of_s) };
        Some(smooth(part(since_s, self.shape.rise_s)) * smooth(part(left_s, self.shape.fall_s)))
    }

    /// Whether the sensor of `vital` is off meanwhile.
    pub(super) fn reads_zero(&self, vital: Vital) -> bool {
        self.shape.reads_zero.contains(&vital)
    }

    /// What it adds to `vital` at full strength.
    pub(super) fn change(&self, vital: Vital, at_s: u64) -> f64 {
        let of = |map: &BTreeMap<Vital, f64>| map.get(&vital).copied().unwrap_or_default();
        let wave = of(&self.shape.wave);
        if wave == 0.0 {
            return of(&self.shape.change);
        }
        // Up from the trough for half the wave, and down again.
        let wave_s = u64::from(self.shape.wave_s);
        let along = (self.since_s(at_s).unwrap_or_default() % wave_s) as f64 / wave_s as f64;
        let height = smooth(1.0 - (2.0 * along - 1.0).abs());
        of(&self.shape.change) + wave * (2.0 * height - 1.0)
    }

    fn since_s(&self, at_s: u64) -> Option<u64> {
        Some(at_s.checked_sub(self.first_s)? % self.every_s)
    }
}

/// From 0 to 1 without a kink at either end. A polynomial, so that every machine gets
/// the same bits.
pub(super) fn smooth(x: f64) -> f64 {
    let x = x.clamp(0.0, 1.0);
    x * x * (3.0 - 2.0 * x)
}
