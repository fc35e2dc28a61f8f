//! What a ward's TOML says, read and checked.
//!
//! Guarantees that a ward that was read can be simulated: ids are FHIR ids, every
//! vital is simulated, every episode is described and over before it comes again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::NaiveDate;
use serde::Deserialize;

use super::patient::{Episode, Patient, SIGNALS, Shape};
use crate::event::{ID_BYTES_MAX, is_fhir_id};
use crate::vital::Vital;

/// The longest that anything in a ward lasts: a year. Keeps all sums far from overflow.
const MINUTES_MAX: u64 = 366 * 24 * 60;

/// Why a ward cannot be simulated.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum WardError {
    #[error("the ward cannot be read: {0}")]
    Syntax(#[from] toml::de::Error),
    #[error("\"{0}\" is too long or no id: use letters, digits, '-' and '.'")]
    Id(String),
    #[error("patient {0} is there twice")]
    Twice(String),
    #[error("patient {patient} has an episode \"{episode}\" that is not described")]
    UnknownEpisode { patient: String, episode: String },
    #[error("episode \"{0}\" takes no time, waves without wave_s, or changes by no number")]
    Shape(String),
    #[error("patient {patient}: \"{episode}\" comes again before it is over, or too late")]
    Times { patient: String, episode: String },
    #[error("{vital} of {whose} is not simulated")]
    NotSimulated { whose: String, vital: Vital },
    #[error("{vital} of patient {patient} is outside {min}–{max}")]
    Value { patient: String, vital: Vital, min: f64, max: f64 },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Plan {
    seed: u64,
    #[serde(default)]
    episode: BTreeMap<String, Shape>,
    patient: Vec<PatientPlan>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PatientPlan {
    id: String,
    ward: String,
    birth_date: NaiveDate,
    at_rest: BTreeMap<Vital, f64>,
    #[serde(default)]
    episodes: Vec<EpisodePlan>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EpisodePlan {
    is: String,
    first_min: u64,
    every_min: u64,
}

/// Reads and checks a ward: its seed and its patients.
pub(super) fn read(toml: &str) -> Result<(u64, Vec<Patient>), WardError> {
    let plan: Plan = toml::from_str(toml)?;
    let mut shapes = BTreeMap::new();
    for (name, shape) in plan.episode {
        if !shape.is_sound() {
            return Err(WardError::Shape(name));
        }
        if let Some(vital) = shape.vitals().find(|v| !is_simulated(*v)) {
            return Err(WardError::NotSimulated { whose: format!("episode {name}"), vital });
        }
        shapes.insert(name, Arc::new(shape));
    }
    let mut seen = BTreeSet::new();
    let mut patients = Vec::with_capacity(plan.patient.len());
    for patient in plan.patient {
        if !seen.insert(patient.id.clone()) {
            return Err(WardError::Twice(patient.id));
        }
        patients.push(checked(patient, &shapes)?);
    }
    Ok((plan.seed, patients))
}

fn is_simulated(vital: Vital) -> bool {
    SIGNALS.iter().any(|s| s.vital == vital)
}

fn checked(plan: PatientPlan, shapes: &BTreeMap<String, Arc<Shape>>) -> Result<Patient, WardError> {
    for id in [&plan.id, &plan.ward] {
        // Device ids are made of them, with a prefix of up to six letters.
        if !is_fhir_id(id) || id.len() > ID_BYTES_MAX - "watch-".len() {
            return Err(WardError::Id(id.clone()));
        }
    }
    for (&vital, value) in &plan.at_rest {
        let Some(signal) = SIGNALS.iter().find(|s| s.vital == vital) else {
            return Err(WardError::NotSimulated { whose: format!("patient {}", plan.id), vital });
        };
        let (min, max) = signal.shown;
        if !(min..=max).contains(value) {
            return Err(WardError::Value { patient: plan.id, vital, min, max });
        }
    }
    let mut episodes = Vec::with_capacity(plan.episodes.len());
    for EpisodePlan { is, first_min, every_min } in plan.episodes {
        let Some(shape) = shapes.get(&is) else {
            return Err(WardError::UnknownEpisode { patient: plan.id, episode: is });
        };
        let too_late = first_min > MINUTES_MAX || every_min > MINUTES_MAX;
        if too_late || every_min * 60 < shape.length_s() {
            return Err(WardError::Times { patient: plan.id, episode: is });
        }
        let shape = Arc::clone(shape);
        episodes.push(Episode { shape, first_s: first_min * 60, every_s: every_min * 60 });
    }
    let PatientPlan { id, ward, birth_date, at_rest, .. } = plan;
    Ok(Patient { id, ward, birth_date, at_rest, episodes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::ward::patient::smooth;

    const SMALL: &str = r#"
        seed = 1
        [episode.walking]
        rise_s = 60
        hold_s = 60
        fall_s = 30
        change = { heart_rate = 40 }
        wave_s = 40
        wave = { heart_rate = 8 }
        [[patient]]
        id = "1"
        ward = "A"
        birth_date = "1950-01-01"
        at_rest = { heart_rate = 70 }
        episodes = [{ is = "walking", first_min = 2, every_min = 10 }]
    "#;

    #[test]
    fn an_episode_comes_goes_and_comes_again() {
        let (_, patients) = read(SMALL).unwrap();
        let episode = &patients[0].episodes[0];
        for (at_s, strength) in [
            (0, None),
            (119, None),
            (120, Some(0.0)),
            (150, Some(0.5)),
            (180, Some(1.0)),
            (240, Some(1.0)),
            (255, Some(0.5)),
            (269, Some(smooth(1.0 / 30.0))),
            (270, None),
            (719, None),
            (750, Some(0.5)),
        ] {
            assert_eq!(episode.strength(at_s), strength, "{at_s}");
        }
        let change = |at_s| episode.change(Vital::HeartRate, at_s);
        assert_eq!([120, 130, 140, 160].map(change), [32.0, 40.0, 48.0, 32.0]);
        assert_eq!(episode.change(Vital::Spo2, 140), 0.0);
    }

    #[test]
    fn a_ward_that_cannot_be_simulated_says_why() {
        for (what, instead, expect) in [
            ("seed = 1", "sed = 1", "cannot be read"),
            ("heart_rate = 70", "hart_rate = 70", "cannot be read"),
            ("\"1950-01-01\"", "\"1950-13-01\"", "cannot be read"),
            ("id = \"1\"", "id = \"no id\"", "\"no id\""),
            ("ward = \"A\"", "ward = \"\"", "no id"),
            ("heart_rate = 70", "heart_rate = nan", "heart_rate of patient 1 is outside 25–220"),
            ("heart_rate = 70", "heart_rate = 500", "outside 25–220"),
            ("heart_rate = 70", "body_weight = 70", "body_weight of patient 1"),
            ("{ heart_rate = 40 }", "{ mean_bp = 40 }", "mean_bp of episode walking"),
            ("{ heart_rate = 40 }", "{ heart_rate = inf }", "\"walking\""),
            ("wave_s = 40", "", "waves without wave_s"),
            ("is = \"walking\"", "is = \"dancing\"", "\"dancing\" that is not described"),
            ("every_min = 10", "every_min = 2", "before it is over"),
            ("every_min = 10", "every_min = 0", "before it is over"),
            ("first_min = 2", "first_min = 9000000000000000000", "too late"),
        ] {
            let broken = SMALL.replace(what, instead);
            assert_ne!(broken, SMALL, "{what}");
            let message = read(&broken).unwrap_err().to_string();
            assert!(message.contains(expect), "{instead}: {message}");
        }
        let twice = format!("{SMALL}\n[[patient]]{}", SMALL.split("[[patient]]").nth(1).unwrap());
        assert_eq!(read(&twice).unwrap_err().to_string(), "patient 1 is there twice");
    }
}
