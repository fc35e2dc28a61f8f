//! The demo ward: simulated patients whose readings look like a hospital's.
//!
//! Guarantees that a reading depends on the seed, the patient, the vital and the
//! second, and on nothing before it: any stretch of time can be asked for, in any
//! pieces, and gives the same readings. Values are within what their vital can be, and
//! plausible, but for a sensor that is off: it reads 0.
//!
//! Does not model physiology: it is made to show the platform, not to test a rule's
//! clinical worth. For that there are recordings.

mod patient;
mod plan;

use self::patient::{Device, SIGNALS, Signal, smooth};
use crate::vital::Vital;

pub use self::patient::Patient;
pub use self::plan::WardError;

/// The ward that comes with the program.
const BUILT_IN: &str = include_str!("../../fixtures/ward.toml");

/// The first reading of a slow device comes within this time, so that a patient is
/// soon complete.
const FIRST_READING_SECONDS_MAX: u64 = 60;

/// A seeded ward.
#[derive(Clone, Debug)]
pub struct Ward {
    seed: u64,
    patients: Vec<Patient>,
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

impl Ward {
    /// The ward that comes with the program.
    pub fn built_in() -> Result<Ward, WardError> {
        Ward::parse(BUILT_IN)
    }

    /// Reads a ward; `fixtures/ward.toml` shows the format.
    pub fn parse(toml: &str) -> Result<Ward, WardError> {
        let (seed, patients) = plan::read(toml)?;
        Ok(Ward { seed, patients })
    }

    /// The patients, in the order of the file.
    pub fn patients(&self) -> &[Patient] {
        &self.patients
    }

    /// All readings due in the simulated seconds `(from_s, to_s]`, ordered by time,
    /// then patient. Memory grows with the length: ask for minutes or hours, not years.
    pub fn between(&self, from_s: u64, to_s: u64) -> Vec<SimReading> {
        let mut due = Vec::new();
        for (place, patient) in self.patients.iter().enumerate() {
            for signal in SIGNALS.iter().filter(|s| patient.at_rest.contains_key(&s.vital)) {
                let times = self.due(patient, signal, from_s, to_s);
                due.extend(times.map(|at_s| (at_s, place, patient, signal)));
            }
        }
        due.sort_by_key(|&(at_s, place, _, signal)| (at_s, place, signal.vital));
        due.into_iter()
            .map(|(at_s, _, patient, signal)| SimReading {
                patient_id: patient.id.clone(),
                device_id: signal.device.id(patient),
                vital: signal.vital,
                value: self.value(patient, signal, at_s),
                at_s,
            })
            .collect()
    }

    /// The seconds at which `signal` is measured on `patient`.
    fn due(
        &self,
        patient: &Patient,
        signal: &Signal,
        from_s: u64,
        to_s: u64,
    ) -> impl Iterator<Item = u64> + use<> {
        let chance = self.chance(&patient.id, signal.device as u64, 0);
        let every_s = match signal.device {
            Device::Cuff => signal.every_s * (1 + chance % 3),
            Device::Watch | Device::Patch | Device::Nurse => signal.every_s,
        };
        let first_s = 1 + chance % every_s.min(FIRST_READING_SECONDS_MAX);
        let ticks_gone = from_s.saturating_add(1).saturating_sub(first_s).div_ceil(every_s);
        let next_s = first_s.saturating_add(ticks_gone.saturating_mul(every_s));
        (next_s..=to_s).step_by(every_s as usize)
    }

    /// What the device shows at a second.
    fn value(&self, patient: &Patient, signal: &Signal, at_s: u64) -> f64 {
        let vital = signal.vital;
        let active = || patient.episodes.iter().filter_map(|e| Some((e, e.strength(at_s)?)));
        if active().any(|(episode, _)| episode.reads_zero(vital)) {
            return 0.0;
        }
        let rest = patient.at_rest.get(&vital).copied().unwrap_or_default();
        let episodes: f64 =
            active().map(|(episode, strength)| strength * episode.change(vital, at_s)).sum();
        let value = rest + self.wander(patient, signal, at_s) + episodes;
        let (least, most) = signal.shown;
        (value.clamp(least, most) * signal.steps_per_unit).round() / signal.steps_per_unit
    }

    /// A smooth line through a random point every `wander_s`. No noise from reading to
    /// reading: it would make a threshold flap where a patient's heart does not.
    fn wander(&self, patient: &Patient, signal: &Signal, at_s: u64) -> f64 {
        let point = |n| {
            let chance = self.chance(&patient.id, 0x100 + signal.vital as u64, n);
            (chance >> 11) as f64 / (1u64 << 52) as f64 - 1.0
        };
        let n = at_s / signal.wander_s;
        let (before, after) = (point(n), point(n + 1));
        let along = smooth((at_s % signal.wander_s) as f64 / signal.wander_s as f64);
        signal.wander * (before + (after - before) * along)
    }

    /// The same number for the same question, always.
    fn chance(&self, patient_id: &str, what: u64, n: u64) -> u64 {
        let patient = patient_id.bytes().fold(self.seed, |h, byte| mix(h ^ u64::from(byte)));
        mix(mix(patient ^ what) ^ n)
    }
}

/// SplitMix64's step and finaliser (Steele, Lea, Flood: "Fast Splittable Pseudorandom
/// Number Generators", OOPSLA 2014).
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const HOUR_S: u64 = 3600;

    /// The alarms of `heart_rate > 120` as (patient, from, to) of the whole ward.
    fn alarms(readings: &[SimReading]) -> Vec<(String, u64, Option<u64>)> {
        let mut alarms: Vec<(String, u64, Option<u64>)> = Vec::new();
        for reading in readings.iter().filter(|r| r.vital == Vital::HeartRate) {
            let open = alarms.iter_mut().find(|a| a.0 == reading.patient_id && a.2.is_none());
            match (open, reading.value > 120.0) {
                (None, true) => alarms.push((reading.patient_id.clone(), reading.at_s, None)),
                (Some(alarm), false) => alarm.2 = Some(reading.at_s),
                _ => {}
            }
        }
        alarms
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn any_split_of_the_time_gives_the_same_readings(
            mut cuts in proptest::collection::vec(0u64..2 * HOUR_S, 2..12)
        ) {
            cuts.sort_unstable();
            let ward = Ward::built_in().unwrap();
            let whole = ward.between(cuts[0], cuts[cuts.len() - 1]);
            let pieces: Vec<_> =
                cuts.windows(2).flat_map(|cut| ward.between(cut[0], cut[1])).collect();
            prop_assert_eq!(pieces, whole);
        }
    }

    #[test]
    fn every_value_can_be_stored_and_is_plausible_unless_the_sensor_is_off() {
        let (mut off, mut walking) = (0, 0.0);
        for reading in Ward::built_in().unwrap().between(0, 24 * HOUR_S) {
            let SimReading { vital, value, .. } = reading;
            let measured = vital.measure(value, None).unwrap();
            assert_eq!(measured.value, value);
            if measured.suspect {
                assert!(matches!(vital, Vital::HeartRate | Vital::Spo2) && value == 0.0);
                off += 1;
            }
            if vital == Vital::HeartRate && reading.patient_id == "102" {
                walking = value.max(walking);
            }
        }
        assert!(off > 100, "{off} readings of sensors that are off");
        assert!((121.0..=127.0).contains(&walking), "{walking}");
    }

    #[test]
    fn the_first_hour_raises_some_alarms_and_none_flaps() {
        let alarms = alarms(&Ward::built_in().unwrap().between(0, HOUR_S));
        assert!((5..=20).contains(&alarms.len()), "{alarms:?}");
        let patients: std::collections::BTreeSet<_> = alarms.iter().map(|a| &a.0).collect();
        assert!(patients.len() >= 4, "{patients:?}");
        let over: Vec<_> = alarms.iter().filter_map(|a| Some(a.2? - a.1)).collect();
        assert!(over.len() >= 5, "{over:?}");
        assert!(over.iter().all(|length_s| *length_s >= 60), "{over:?}");
    }

    #[test]
    fn every_patient_is_complete_within_a_minute() {
        let ward = Ward::built_in().unwrap();
        let first = ward.between(0, FIRST_READING_SECONDS_MAX);
        assert_eq!(ward.patients().len(), 12);
        for patient in ward.patients() {
            for signal in SIGNALS {
                let of = |r: &&SimReading| r.patient_id == patient.id && r.vital == signal.vital;
                assert!(first.iter().any(|r| of(&r)), "{} {}", patient.id, signal.vital);
            }
        }
        let wards: std::collections::BTreeSet<_> =
            ward.patients().iter().map(|p| p.ward.as_str()).collect();
        assert_eq!(wards.into_iter().collect::<Vec<_>>(), ["4A", "4B"]);
    }

    #[test]
    fn devices_measure_as_often_as_they_should_and_never_twice_at_once() {
        let ward = Ward::built_in().unwrap();
        let day = ward.between(10 * HOUR_S, 34 * HOUR_S);
        let mut seen = std::collections::BTreeSet::new();
        let mut count: BTreeMap<(&str, Vital), u64> = BTreeMap::new();
        for r in &day {
            assert!((10 * HOUR_S + 1..=34 * HOUR_S).contains(&r.at_s));
            assert!(crate::event::is_fhir_id(&r.device_id), "{}", r.device_id);
            assert!(seen.insert((&r.patient_id, r.vital, r.at_s)), "{r:?}");
            *count.entry((&r.patient_id, r.vital)).or_default() += 1;
        }
        assert!(day.is_sorted_by_key(|r| r.at_s));
        for ((patient, vital), n) in count {
            let expect: &[u64] = match vital {
                Vital::HeartRate => &[17280],
                Vital::Spo2 => &[8640],
                Vital::RespiratoryRate => &[2880],
                Vital::BodyTemperature => &[144],
                Vital::SystolicBp | Vital::DiastolicBp => &[288, 144, 96],
                _ => &[72],
            };
            assert!(expect.contains(&n), "{patient} {vital}: {n} a day");
        }
    }

    #[test]
    fn the_seed_decides() {
        let other = BUILT_IN.replace("seed = 20260101", "seed = 7");
        let [a, b, c] =
            [BUILT_IN, BUILT_IN, &other].map(|t| Ward::parse(t).unwrap().between(0, 600));
        assert_eq!(a, b);
        assert_ne!(a, c);
    }
}
